//! Services: types, ports, addresses.

use std::collections::HashSet;
use std::net::IpAddr;

use serde_json::{Value, json};

use super::list_mut;
use crate::meta;
use crate::status::Cause;

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

fn is_headless(spec: &Value) -> bool {
    text(spec, "clusterIP") == "None" || spec["clusterIPs"][0] == "None"
}

/// Whether the server gives it an address of the service range.
pub(crate) fn needs_address(spec: &Value) -> bool {
    text(spec, "type") != "ExternalName" && !is_headless(spec)
}

/// The addresses that it asks for or has.
pub(crate) fn wanted_addresses(spec: &Value) -> Vec<String> {
    let list: Vec<String> = spec["clusterIPs"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|ip| ip.as_str().map(str::to_string))
        .collect();
    if !list.is_empty() {
        return list;
    }
    match text(spec, "clusterIP") {
        "" => Vec::new(),
        ip => vec![ip.to_string()],
    }
}

pub(super) fn apply_defaults(object: &mut Value) {
    if !object["spec"].is_object() {
        object["spec"] = json!({});
    }
    let spec = &mut object["spec"];
    let set = |spec: &mut Value, key: &str, value: Value| {
        if spec[key].is_null() || spec[key] == "" {
            spec[key] = value;
        }
    };
    set(spec, "type", "ClusterIP".into());
    set(spec, "sessionAffinity", "None".into());
    if spec["sessionAffinity"] == "ClientIP" && spec["sessionAffinityConfig"].is_null() {
        spec["sessionAffinityConfig"] = json!({"clientIP": {"timeoutSeconds": 10800}});
    }
    let kind = text(spec, "type").to_string();
    let outside = spec["externalIPs"].as_array().is_some_and(|ips| !ips.is_empty());
    if kind == "NodePort" || kind == "LoadBalancer" || (kind == "ClusterIP" && outside) {
        set(spec, "externalTrafficPolicy", "Cluster".into());
    }
    if kind == "LoadBalancer" {
        set(spec, "allocateLoadBalancerNodePorts", true.into());
    }
    if kind == "ExternalName" {
        list_mut(spec, "ports").into_iter().flatten().for_each(default_port);
        return;
    }
    set(spec, "internalTrafficPolicy", "Cluster".into());
    list_mut(spec, "ports").into_iter().flatten().for_each(default_port);
}

fn default_port(port: &mut Value) {
    if !port.is_object() {
        return;
    }
    if port["protocol"].is_null() || port["protocol"] == "" {
        port["protocol"] = "TCP".into();
    }
    if port["targetPort"].is_null() || port["targetPort"] == 0 || port["targetPort"] == "" {
        port["targetPort"] = port["port"].clone();
    }
}

/// An update that leaves out what the server has allocated keeps it.
pub(super) fn keep_allocated(object: &mut Value, old: &Value) {
    let old = &old["spec"];
    if object["spec"]["type"] == "ExternalName" && old["type"] != "ExternalName" {
        // What belonged to the other type goes with it.
        if let Some(spec) = object["spec"].as_object_mut() {
            spec.remove("internalTrafficPolicy");
        }
    }
    if old["type"] == "LoadBalancer" && object["spec"]["type"] != "LoadBalancer" {
        object["status"] = json!({"loadBalancer": {}});
    }
    if needs_address(&object["spec"]) && needs_address(old) {
        for key in ["clusterIP", "clusterIPs"] {
            let absent = match &object["spec"][key] {
                Value::Null => true,
                Value::String(ip) => ip.is_empty(),
                Value::Array(ips) => ips.is_empty(),
                _ => false,
            };
            if absent && !old[key].is_null() {
                object["spec"][key] = old[key].clone();
            }
        }
    }
    if text(&object["spec"], "type") != "ExternalName" {
        for key in ["ipFamilies", "ipFamilyPolicy"] {
            if object["spec"][key].is_null() && !old[key].is_null() {
                object["spec"][key] = old[key].clone();
            }
        }
    }
    // One address field alone was changed to another service type's: the list follows.
    let single = object["spec"]["clusterIP"].clone();
    if single == "None" && object["spec"]["clusterIPs"][0] != "None" {
        object["spec"]["clusterIPs"] = json!(["None"]);
    }
    if needs_port(&object["spec"]) && needs_port(old) {
        let old_ports = old["ports"].as_array().cloned().unwrap_or_default();
        for port in list_mut(&mut object["spec"], "ports").into_iter().flatten() {
            let same =
                |other: &&Value| other["port"] == port["port"] && other["protocol"] == port["protocol"];
            if port["nodePort"].is_null()
                && let Some(kept) = old_ports.iter().find(same).map(|other| other["nodePort"].clone())
                && !kept.is_null()
            {
                port["nodePort"] = kept;
            }
        }
    }
}

fn needs_port(spec: &Value) -> bool {
    matches!(text(spec, "type"), "NodePort" | "LoadBalancer")
}

pub(super) fn validate(object: &Value, old: Option<&Value>) -> Vec<Cause> {
    let mut causes = Vec::new();
    let spec = &object["spec"];
    let ports: Vec<&Value> = spec["ports"].as_array().into_iter().flatten().collect();
    let kind = text(spec, "type");
    if ports.is_empty() && !is_headless(spec) && kind != "ExternalName" {
        causes.push(Cause::required("spec.ports", ""));
    }
    const TYPES: [&str; 4] = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
    if !TYPES.contains(&kind) {
        causes.push(Cause::unsupported("spec.type", &spec["type"], &TYPES.map(str::to_string)));
    }
    if !["None", "ClientIP"].contains(&text(spec, "sessionAffinity")) {
        let supported = ["ClientIP", "None"].map(str::to_string);
        causes.push(Cause::unsupported("spec.sessionAffinity", &spec["sessionAffinity"], &supported));
    }
    if kind == "ExternalName" {
        if text(spec, "externalName").is_empty() {
            causes.push(Cause::required("spec.externalName", ""));
        }
        if !text(spec, "clusterIP").is_empty() {
            causes.push(Cause::forbidden("spec.clusterIP", "may not be set for ExternalName services"));
        }
    }
    validate_ports(&ports, &mut causes);
    for (index, ip) in spec["externalIPs"].as_array().into_iter().flatten().enumerate() {
        let field = format!("spec.externalIPs[{index}]");
        match ip.as_str().and_then(|ip| ip.parse::<IpAddr>().ok()) {
            None => causes.push(Cause::invalid(
                field,
                ip,
                "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
            )),
            Some(ip_address) if ip_address.is_unspecified() => {
                causes.push(Cause::invalid(field, ip, "may not be unspecified (0.0.0.0 or ::)"));
            }
            Some(ip_address) if ip_address.is_loopback() => {
                causes.push(Cause::invalid(
                    field,
                    ip,
                    "may not be in the loopback range (127.0.0.0/8, ::1/128)",
                ));
            }
            Some(_) => {}
        }
    }
    for (key, value) in spec["selector"].as_object().into_iter().flatten() {
        if !value.as_str().is_some_and(meta::is_label_value) {
            causes.push(Cause::invalid(
                format!("spec.selector[{key}]"),
                value,
                "must be a valid label value",
            ));
        }
    }
    let addresses = wanted_addresses(spec);
    for (index, ip) in addresses.iter().enumerate().filter(|(_, ip)| *ip != "None") {
        if ip.parse::<IpAddr>().is_err() {
            let field = format!("spec.clusterIPs[{index}]");
            let detail = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
            causes.push(Cause::invalid(field, &ip.clone().into(), detail));
        }
    }
    if addresses.len() > 1 {
        let detail = "may only hold up to 1 value: this server has one address range";
        causes.push(Cause::invalid("spec.clusterIPs", &spec["clusterIPs"], detail));
    }
    if let (Some(first), single) = (addresses.first(), text(spec, "clusterIP"))
        && first != single
        && !single.is_empty()
    {
        causes.push(Cause::invalid(
            "spec.clusterIPs",
            &spec["clusterIPs"],
            "first value must match `clusterIP`",
        ));
    }
    let ingress = &object["status"]["loadBalancer"]["ingress"];
    if kind != "LoadBalancer" && ingress.as_array().is_some_and(|list| !list.is_empty()) {
        let detail = "may only be used when `spec.type` is 'LoadBalancer'";
        causes.push(Cause::forbidden("status.loadBalancer.ingress", detail));
    }
    if let Some(old) = old {
        let (before, after) = (wanted_addresses(&old["spec"]), addresses);
        let both_addressed = kind != "ExternalName" && text(&old["spec"], "type") != "ExternalName";
        if both_addressed && !before.is_empty() && before != after {
            let shown = json!(after);
            causes.push(Cause::invalid("spec.clusterIPs[0]", &shown, "may not change once set"));
        }
    }
    causes
}

fn validate_ports(ports: &[&Value], causes: &mut Vec<Cause>) {
    const RANGE: &str = "must be between 1 and 65535, inclusive";
    let in_range = |value: &Value| value.as_i64().is_some_and(|port| (1..=65535).contains(&port));
    let mut names = HashSet::new();
    let mut seen = HashSet::new();
    for (index, port) in ports.iter().enumerate() {
        let at = |field: &str| format!("spec.ports[{index}].{field}");
        let name = text(port, "name");
        if name.is_empty() {
            if ports.len() > 1 {
                causes.push(Cause::required(at("name"), ""));
            }
        } else {
            if !meta::is_label(name) {
                causes.push(Cause::invalid(at("name"), &port["name"], "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"));
            }
            if !names.insert(name) {
                causes.push(Cause::duplicate(at("name"), &port["name"]));
            }
        }
        if !in_range(&port["port"]) {
            let shown = if port["port"].is_null() { json!(0) } else { port["port"].clone() };
            causes.push(Cause::invalid(at("port"), &shown, RANGE));
        }
        if !["TCP", "UDP", "SCTP"].contains(&text(port, "protocol")) {
            let supported = ["SCTP", "TCP", "UDP"].map(str::to_string);
            causes.push(Cause::unsupported(at("protocol"), &port["protocol"], &supported));
        }
        match &port["targetPort"] {
            Value::Number(_) if !in_range(&port["targetPort"]) => {
                causes.push(Cause::invalid(at("targetPort"), &port["targetPort"], RANGE));
            }
            Value::String(name) if !is_port_name(name) => {
                let detail = "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)";
                causes.push(Cause::invalid(at("targetPort"), &port["targetPort"], detail));
            }
            _ => {}
        }
        if !seen.insert((port["port"].as_i64(), text(port, "protocol"))) {
            let shown = json!({"port": port["port"], "protocol": port["protocol"]});
            causes.push(Cause::duplicate(format!("spec.ports[{index}]"), &shown));
        }
    }
}

/// RFC 6335: at most 15 characters, one letter at least.
fn is_port_name(name: &str) -> bool {
    name.len() <= 15
        && !name.is_empty()
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
        && name.chars().any(|c| c.is_ascii_lowercase())
        && !name.starts_with('-')
        && !name.ends_with('-')
        && !name.contains("--")
}
