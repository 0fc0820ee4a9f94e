//! The columns of Kubernetes' own kinds.

use serde_json::Value;

use super::age;
use crate::kinds::Builtin;

type Columns = &'static [(&'static str, &'static str, i64)];

/// Name, type and priority of each column after the name; priority 1 is shown with `-o wide`.
pub(super) fn columns(kind: Builtin) -> Columns {
    match kind {
        Builtin::Namespace => &[("Status", "string", 0), ("Age", "string", 0)],
        Builtin::Service => &[
            ("Type", "string", 0),
            ("Cluster-IP", "string", 0),
            ("External-IP", "string", 0),
            ("Port(s)", "string", 0),
            ("Age", "string", 0),
            ("Selector", "string", 1),
        ],
        Builtin::Pod => &[
            ("Ready", "string", 0),
            ("Status", "string", 0),
            ("Restarts", "string", 0),
            ("Age", "string", 0),
            ("IP", "string", 1),
            ("Node", "string", 1),
            ("Nominated Node", "string", 1),
            ("Readiness Gates", "string", 1),
        ],
        Builtin::Node => {
            &[("Status", "string", 0), ("Roles", "string", 0), ("Age", "string", 0), ("Version", "string", 0)]
        }
        Builtin::ServiceAccount => &[("Age", "string", 0)],
        Builtin::ConfigMap => &[("Data", "string", 0), ("Age", "string", 0)],
        Builtin::Secret => &[("Type", "string", 0), ("Data", "string", 0), ("Age", "string", 0)],
        Builtin::Event => &[
            ("Last Seen", "string", 0),
            ("Type", "string", 0),
            ("Reason", "string", 0),
            ("Object", "string", 0),
            ("Message", "string", 0),
        ],
        Builtin::Endpoints => &[("Endpoints", "string", 0), ("Age", "string", 0)],
        Builtin::EndpointSlice => &[
            ("AddressType", "string", 0),
            ("Ports", "string", 0),
            ("Endpoints", "string", 0),
            ("Age", "string", 0),
        ],
        Builtin::Lease => &[("Holder", "string", 0), ("Age", "string", 0)],
        Builtin::CustomResourceDefinition => &[("Created At", "date", 0)],
        _ => &[("Age", "string", 0)],
    }
}

/// The cells after the name.
pub(super) fn cells(kind: Builtin, object: &Value, now: i64) -> Vec<Value> {
    let age = || Value::from(age(object, now));
    let text = |value: &Value| value.as_str().unwrap_or_default().to_string();
    let count = |value: &Value| value.as_object().map_or(0, serde_json::Map::len);
    match kind {
        Builtin::Namespace => vec![object["status"]["phase"].clone(), age()],
        Builtin::Service => service(object, age()),
        Builtin::Pod => pod(object, age()),
        Builtin::Node => {
            let ready = object["status"]["conditions"]
                .as_array()
                .into_iter()
                .flatten()
                .find(|condition| condition["type"] == "Ready")
                .map_or(
                    "Unknown",
                    |condition| if condition["status"] == "True" { "Ready" } else { "NotReady" },
                );
            vec![
                ready.into(),
                "<none>".into(),
                age(),
                text(&object["status"]["nodeInfo"]["kubeletVersion"]).into(),
            ]
        }
        Builtin::ConfigMap => {
            vec![(count(&object["data"]) + count(&object["binaryData"])).into(), age()]
        }
        Builtin::Secret => vec![object["type"].clone(), count(&object["data"]).into(), age()],
        Builtin::Event => {
            let involved = &object["involvedObject"];
            let about = format!("{}/{}", text(&involved["kind"]).to_lowercase(), text(&involved["name"]));
            vec![
                age(),
                object["type"].clone(),
                object["reason"].clone(),
                about.into(),
                text(&object["message"]).into(),
            ]
        }
        Builtin::Endpoints => {
            let subsets = object["subsets"].as_array().into_iter().flatten();
            let all = subsets.flat_map(|subset| {
                let ports: Vec<String> = subset["ports"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .map(|port| port["port"].to_string())
                    .collect();
                let addresses = subset["addresses"].as_array().into_iter().flatten();
                addresses.flat_map(move |address| {
                    let ip = address["ip"].as_str().unwrap_or_default().to_string();
                    ports.clone().into_iter().map(move |port| format!("{ip}:{port}"))
                })
            });
            vec![some_of(all.collect()).into(), age()]
        }
        Builtin::EndpointSlice => {
            let ports = object["ports"].as_array().into_iter().flatten().map(|port| port["port"].to_string());
            let addresses = object["endpoints"]
                .as_array()
                .into_iter()
                .flatten()
                .flat_map(|endpoint| endpoint["addresses"].as_array().into_iter().flatten().map(text))
                .collect();
            let ports: Vec<String> = ports.collect();
            let ports = if ports.is_empty() { "<unset>".to_string() } else { some_of(ports) };
            vec![object["addressType"].clone(), ports.into(), unset_or(some_of(addresses)).into(), age()]
        }
        Builtin::Lease => vec![text(&object["spec"]["holderIdentity"]).into(), age()],
        Builtin::CustomResourceDefinition => vec![object["metadata"]["creationTimestamp"].clone()],
        _ => vec![age()],
    }
}

/// The first three, and how many more.
fn some_of(all: Vec<String>) -> String {
    match all.len() {
        0 => "<none>".to_string(),
        1..=3 => all.join(","),
        more => format!("{} + {} more...", all[..3].join(","), more - 3),
    }
}

fn unset_or(text: String) -> String {
    if text == "<none>" { "<unset>".to_string() } else { text }
}

fn or_none(list: Vec<String>) -> String {
    if list.is_empty() { "<none>".to_string() } else { list.join(",") }
}

fn service(object: &Value, age: Value) -> Vec<Value> {
    let spec = &object["spec"];
    let kind = spec["type"].as_str().unwrap_or("ClusterIP");
    let cluster_ip = match spec["clusterIP"].as_str() {
        Some(ip) if !ip.is_empty() => ip.to_string(),
        _ => "<none>".to_string(),
    };
    let texts = |value: &Value, key: &str| -> Vec<String> {
        let list = value.as_array().into_iter().flatten();
        let pick = |item: &Value| {
            if key.is_empty() {
                item.as_str().map(str::to_string)
            } else {
                item[key].as_str().map(str::to_string)
            }
        };
        list.filter_map(pick).collect()
    };
    let mut external = texts(&object["status"]["loadBalancer"]["ingress"], "ip");
    external.extend(texts(&object["status"]["loadBalancer"]["ingress"], "hostname"));
    external.extend(texts(&spec["externalIPs"], ""));
    let external = match kind {
        "ExternalName" => spec["externalName"].as_str().unwrap_or_default().to_string(),
        "LoadBalancer" if external.is_empty() => "<pending>".to_string(),
        _ => or_none(external),
    };
    let ports = spec["ports"].as_array().into_iter().flatten().map(|port| {
        let protocol = port["protocol"].as_str().unwrap_or("TCP");
        match port["nodePort"].as_i64() {
            Some(node) if node > 0 => format!("{}:{node}/{protocol}", port["port"]),
            _ => format!("{}/{protocol}", port["port"]),
        }
    });
    let selector = spec["selector"].as_object().into_iter().flatten();
    let selector = selector.map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()));
    vec![
        kind.into(),
        cluster_ip.into(),
        external.into(),
        or_none(ports.collect()).into(),
        age,
        or_none(selector.collect()).into(),
    ]
}

fn pod(object: &Value, age: Value) -> Vec<Value> {
    let (spec, status) = (&object["spec"], &object["status"]);
    let statuses: Vec<&Value> = status["containerStatuses"].as_array().into_iter().flatten().collect();
    let total = spec["containers"].as_array().map_or(0, Vec::len);
    let ready = statuses.iter().filter(|container| container["ready"] == true).count();
    let restarts: i64 = statuses.iter().filter_map(|container| container["restartCount"].as_i64()).sum();
    let waiting = statuses.iter().find_map(|container| container["state"]["waiting"]["reason"].as_str());
    let phase = status["reason"].as_str().or(waiting).or(status["phase"].as_str()).unwrap_or("Unknown");
    let phase = if object["metadata"]["deletionTimestamp"].is_string() { "Terminating" } else { phase };
    let or_none =
        |value: &Value| value.as_str().filter(|text| !text.is_empty()).unwrap_or("<none>").to_string();
    vec![
        format!("{ready}/{total}").into(),
        phase.into(),
        restarts.to_string().into(),
        age,
        or_none(&status["podIP"]).into(),
        or_none(&spec["nodeName"]).into(),
        or_none(&status["nominatedNodeName"]).into(),
        "<none>".into(),
    ]
}
