//! What a kube-apiserver keeps in etcd of an object that was created there. Objects that are written below it in this form are shown as
//! if they had been created: it reads JSON as well as protobuf, and sets the defaults of a kind's fields while it reads.

use std::net::Ipv4Addr;

use serde_json::{Value, json};

use super::world::{self, Shape};

/// A key of etcd and its value.
#[derive(Clone, Debug)]
pub struct Stored {
    /// Below `/registry`.
    pub key: String,
    /// The object in JSON.
    pub value: Vec<u8>,
}

/// The first address that is given to a service, of `10.96.0.0/16`: what comes before is the API server's own to give.
const FIRST_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 96, 16, 0);
/// Services that have addresses.
pub const MOST_SERVICES: u32 = 60_000;

/// Everything of a shape.
pub fn world(shape: Shape, created: &str) -> impl Iterator<Item = anyhow::Result<Stored>> {
    let foundations = world::foundations(shape).into_iter().map(|write| write.object);
    let services = (0..shape.services).flat_map(move |service| of_service(shape, service));
    foundations.chain(services).enumerate().map(move |(number, object)| stored(object, number, created))
}

/// How many objects that are.
#[must_use]
pub fn count(shape: Shape) -> usize {
    // A Service, its IPAddress, its EndpointSlice.
    world::foundations(shape).len() + shape.services as usize * (shape.endpoints as usize + 3)
}

/// All objects of one service, with the address that an API server would have given it.
fn of_service(shape: Shape, service: u32) -> Vec<Value> {
    let ip = Ipv4Addr::from(u32::from(FIRST_ADDRESS) + service).to_string();
    let mut objects: Vec<Value> =
        world::service(shape, service).into_iter().map(|write| write.object).collect();
    if let Some(spec) =
        objects.iter_mut().find(|object| object["kind"] == "Service").map(|object| &mut object["spec"])
    {
        spec["clusterIP"] = json!(ip);
        spec["clusterIPs"] = json!([ip]);
        spec["ipFamilies"] = json!(["IPv4"]);
        spec["ipFamilyPolicy"] = json!("SingleStack");
    }
    // Without it the API server would make one for each Service that it finds, while it is measured.
    let labels = json!({
        "ipaddress.kubernetes.io/ip-family": "IPv4",
        "ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io",
    });
    let parent = json!({
        "resource": "services",
        "namespace": world::namespace(shape, service),
        "name": format!("svc-{service}"),
    });
    objects.push(json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "IPAddress",
        "metadata": {"name": ip, "labels": labels},
        "spec": {"parentRef": parent},
    }));
    objects
}

/// An object with what an API server adds when it is created, apart from defaults. `number` makes its uid.
fn stored(mut object: Value, number: usize, created: &str) -> anyhow::Result<Stored> {
    let text =
        |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_string();
    let (kind, name, namespace) = (text("/kind"), text("/metadata/name"), text("/metadata/namespace"));
    let key = match kind.as_str() {
        "Namespace" => format!("namespaces/{name}"),
        "Node" => format!("minions/{name}"),
        "IPAddress" => format!("ipaddresses/{name}"),
        "Service" => format!("services/specs/{namespace}/{name}"),
        "Pod" => format!("pods/{namespace}/{name}"),
        "EndpointSlice" => format!("endpointslices/{namespace}/{name}"),
        other => anyhow::bail!("{other} {name} has no known place in etcd"),
    };
    match kind.as_str() {
        "Namespace" => object["spec"] = json!({"finalizers": ["kubernetes"]}),
        "Node" => {
            object["spec"] =
                json!({"taints": [{"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}]})
        }
        "Pod" => admitted(&mut object),
        _ => {}
    }
    let managed = managed(&object, created);
    let metadata = &mut object["metadata"];
    metadata["uid"] = json!(format!("b0000000-0000-4000-8000-{number:012x}"));
    metadata["creationTimestamp"] = json!(created);
    metadata["managedFields"] = managed;
    if matches!(kind.as_str(), "Pod" | "EndpointSlice") {
        metadata["generation"] = json!(1);
    }
    Ok(Stored { key: format!("/registry/{key}"), value: serde_json::to_vec(&object)? })
}

/// What admission writes into a pod.
fn admitted(pod: &mut Value) {
    let tolerated = |condition: &str| {
        json!({
            "key": format!("node.kubernetes.io/{condition}"),
            "operator": "Exists",
            "effect": "NoExecute",
            "tolerationSeconds": 300,
        })
    };
    let spec = &mut pod["spec"];
    spec["priority"] = json!(0);
    spec["preemptionPolicy"] = json!("PreemptLowerPriority");
    spec["tolerations"] = json!([tolerated("not-ready"), tolerated("unreachable")]);
    pod["status"]["qosClass"] = json!("BestEffort");
}

/// Who wrote which fields: a third of what a watcher reads of a pod.
fn managed(object: &Value, created: &str) -> Value {
    let entry = |fields: Value| {
        json!({
            "manager": "unknown",
            "operation": "Update",
            "apiVersion": object["apiVersion"],
            "time": created,
            "fieldsType": "FieldsV1",
            "fieldsV1": fields,
        })
    };
    let labels = object["metadata"]["labels"].as_object().into_iter().flatten();
    let mut own: serde_json::Map<String, Value> =
        labels.map(|(key, _)| (format!("f:{key}"), json!({}))).collect();
    own.insert(".".into(), json!({}));
    let labels = json!({"f:labels": own});
    match object["kind"].as_str().unwrap_or_default() {
        "Service" => json!([entry(json!({"f:spec": {
            "f:internalTrafficPolicy": {},
            "f:ports": {".": {}, "k:{\"port\":80,\"protocol\":\"TCP\"}": {
                ".": {}, "f:name": {}, "f:port": {}, "f:protocol": {}, "f:targetPort": {},
            }},
            "f:selector": {}, "f:sessionAffinity": {}, "f:type": {},
        }}))]),
        "EndpointSlice" => json!([entry(json!({
            "f:addressType": {}, "f:endpoints": {}, "f:metadata": labels, "f:ports": {},
        }))]),
        "IPAddress" => {
            let mut written = entry(json!({
                "f:metadata": labels,
                "f:spec": {"f:parentRef": {".": {}, "f:name": {}, "f:namespace": {}, "f:resource": {}}},
            }));
            written["manager"] = json!("kube-apiserver");
            json!([written])
        }
        "Namespace" => {
            let own = json!({".": {}, "f:kubernetes.io/metadata.name": {}});
            json!([entry(json!({"f:metadata": {"f:labels": own}}))])
        }
        "Pod" => {
            let mut status = entry(status_of_pod(object["status"]["podIP"].as_str().unwrap_or_default()));
            status["subresource"] = json!("status");
            json!([entry(json!({"f:metadata": labels, "f:spec": spec_of_pod()})), status])
        }
        _ => json!([entry(json!({"f:metadata": labels}))]),
    }
}

fn spec_of_pod() -> Value {
    let ports = json!({".": {}, "k:{\"containerPort\":8080,\"protocol\":\"TCP\"}": {
        ".": {}, "f:containerPort": {}, "f:protocol": {},
    }});
    json!({
        "f:containers": {"k:{\"name\":\"app\"}": {
            ".": {}, "f:image": {}, "f:imagePullPolicy": {}, "f:name": {}, "f:ports": ports, "f:resources": {},
            "f:terminationMessagePath": {}, "f:terminationMessagePolicy": {},
        }},
        "f:dnsPolicy": {}, "f:enableServiceLinks": {}, "f:nodeName": {}, "f:restartPolicy": {},
        "f:schedulerName": {}, "f:securityContext": {}, "f:serviceAccount": {}, "f:serviceAccountName": {},
        "f:terminationGracePeriodSeconds": {},
    })
}

fn status_of_pod(ip: &str) -> Value {
    let address = format!("k:{{\"ip\":\"{ip}\"}}");
    json!({"f:status": {
        "f:conditions": {".": {}, "k:{\"type\":\"Ready\"}": {
            ".": {}, "f:lastProbeTime": {}, "f:lastTransitionTime": {}, "f:status": {}, "f:type": {},
        }},
        "f:phase": {}, "f:podIP": {}, "f:podIPs": {".": {}, address: {".": {}, "f:ip": {}}},
    }})
}
