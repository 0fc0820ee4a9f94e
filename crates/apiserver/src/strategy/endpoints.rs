//! EndpointSlices.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde_json::Value;

use super::list_mut;
use crate::status::Cause;

pub(super) fn apply_defaults(object: &mut Value) {
    for port in list_mut(object, "ports").into_iter().flatten() {
        if !port.is_object() {
            continue;
        }
        if port["name"].is_null() {
            port["name"] = "".into();
        }
        if port["protocol"].is_null() {
            port["protocol"] = "TCP".into();
        }
    }
}

pub(super) fn validate(object: &Value, old: Option<&Value>) -> Vec<Cause> {
    let mut causes = Vec::new();
    let address_type = object["addressType"].as_str().unwrap_or_default();
    match address_type {
        "IPv4" | "IPv6" | "FQDN" => {}
        "" => causes.push(Cause::required("addressType", "")),
        _ => {
            let supported = ["FQDN", "IPv4", "IPv6"].map(str::to_string);
            causes.push(Cause::unsupported("addressType", &object["addressType"], &supported));
        }
    }
    if old.is_some_and(|old| old["addressType"] != object["addressType"]) {
        causes.push(Cause::invalid("addressType", &object["addressType"], "field is immutable"));
    }
    for (index, endpoint) in object["endpoints"].as_array().into_iter().flatten().enumerate() {
        let addresses: Vec<&Value> = endpoint["addresses"].as_array().into_iter().flatten().collect();
        if addresses.is_empty() {
            let detail = "must contain at least 1 address";
            causes.push(Cause::required(format!("endpoints[{index}].addresses"), detail));
        }
        for (at, address) in addresses.into_iter().enumerate() {
            let text = address.as_str().unwrap_or_default();
            let (good, detail) = match address_type {
                "IPv4" | "IPv6" if text.parse::<IpAddr>().is_err() => {
                    (false, "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)")
                }
                "IPv4" => (text.parse::<Ipv4Addr>().is_ok(), "must be an IPv4 address"),
                "IPv6" => (text.parse::<Ipv6Addr>().is_ok(), "must be an IPv6 address"),
                _ => (!text.is_empty(), "must be a domain name"),
            };
            if !good {
                causes.push(Cause::invalid(format!("endpoints[{index}].addresses[{at}]"), address, detail));
            }
        }
    }
    for (index, port) in object["ports"].as_array().into_iter().flatten().enumerate() {
        let in_range = |port: i64| (1..=65535).contains(&port);
        if !port["port"].is_null() && !port["port"].as_i64().is_some_and(in_range) {
            let detail = "must be between 1 and 65535, inclusive";
            causes.push(Cause::invalid(format!("ports[{index}].port"), &port["port"], detail));
        }
    }
    causes
}
