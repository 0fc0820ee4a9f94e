//! Envoy's state as the agent's admin interface shows it, in the words of our own proxy.

use std::collections::BTreeSet;

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::cluster::v3::cluster::{ClusterDiscoveryType, DiscoveryType, LbPolicy};
use envoy_types::pb::envoy::config::core::v3::address::Address as Kind;
use envoy_types::pb::envoy::config::core::v3::socket_address::PortSpecifier;
use envoy_types::pb::envoy::config::core::v3::{Address, TrafficDirection};
use envoy_types::pb::envoy::config::listener::v3::Listener;
use isthmus_proto::resource::View;
use isthmus_proto::type_url;
use prost::Message;
use serde_json::{Value, json};

/// The names of listeners that have a socket of their own; none while no listener has come.
pub(super) fn bound(view: &View) -> Option<Vec<String>> {
    let listeners = view.set(type_url::LISTENER)?.iter();
    let listeners = listeners.filter_map(|resource| Listener::decode(resource.body.clone()).ok());
    Some(listeners.filter(is_bound).map(|listener| listener.name).collect())
}

fn is_bound(listener: &Listener) -> bool {
    listener.bind_to_port.as_ref().is_none_or(|bind| bind.value)
}

/// The names in `/listeners?format=json`.
pub(super) fn active(text: &str) -> BTreeSet<String> {
    let parsed: Value = serde_json::from_str(text).unwrap_or_default();
    let all = parsed["listener_statuses"].as_array().into_iter().flatten();
    all.filter_map(|listener| listener["name"].as_str().map(str::to_string)).collect()
}

/// Open connections by `/stats?format=json` of listeners, the admin interface's left out.
pub(super) fn connections(text: &str) -> u64 {
    let parsed: Value = serde_json::from_str(text).unwrap_or_default();
    let all = parsed["stats"].as_array().into_iter().flatten();
    let own = |stat: &&Value| !stat["name"].as_str().is_some_and(|name| name.starts_with("listener.admin."));
    all.filter(own).filter_map(|stat| stat["value"].as_u64()).sum()
}

pub(super) fn listeners(view: &View) -> Value {
    let Some(set) = view.set(type_url::LISTENER) else { return json!([]) };
    let all = set.iter().filter_map(|resource| Listener::decode(resource.body.clone()).ok());
    all.map(|listener| {
        let direction = match listener.traffic_direction() {
            TrafficDirection::Inbound => "inbound",
            TrafficDirection::Outbound => "outbound",
            TrafficDirection::Unspecified => "unspecified",
        };
        json!({
            "name": listener.name,
            "address": listener.address.as_ref().and_then(address),
            "bound": is_bound(&listener),
            "direction": direction,
            "chainCount": listener.filter_chains.len(),
        })
    })
    .collect()
}

pub(super) fn clusters(view: &View) -> Value {
    let Some(set) = view.set(type_url::CLUSTER) else { return json!([]) };
    let all = set.iter().filter_map(|resource| Cluster::decode(resource.body.clone()).ok());
    all.map(|cluster| {
        let kind = match cluster.cluster_discovery_type {
            Some(ClusterDiscoveryType::Type(kind)) => DiscoveryType::try_from(kind).unwrap_or_default().as_str_name(),
            _ => "OTHER",
        };
        json!({
            "name": cluster.name,
            "type": kind,
            "policy": LbPolicy::try_from(cluster.lb_policy).unwrap_or_default().as_str_name(),
            "connectTimeoutMs": cluster.connect_timeout.as_ref().map(|time| time.seconds * 1000 + i64::from(time.nanos / 1_000_000)),
            "mutualTls": cluster.transport_socket.is_some() || !cluster.transport_socket_matches.is_empty(),
            "outlierDetection": cluster.outlier_detection.is_some(),
        })
    })
    .collect()
}

/// From `/clusters?format=json`.
pub(super) fn endpoints(text: &str) -> Value {
    let parsed: Value = serde_json::from_str(text).unwrap_or_default();
    let clusters = parsed["cluster_statuses"].as_array().into_iter().flatten();
    let of = |cluster: &Value| {
        let name = cluster["name"].clone();
        let hosts = cluster["host_statuses"].as_array().cloned().unwrap_or_default().into_iter();
        hosts.filter_map(move |host| endpoint(&name, &host)).collect::<Vec<_>>()
    };
    clusters.flat_map(of).collect()
}

fn endpoint(cluster: &Value, host: &Value) -> Option<Value> {
    let socket = &host["address"]["socket_address"];
    let (ip, port) = (socket["address"].as_str()?, socket["port_value"].as_u64()?);
    let ip = if ip.contains(':') { format!("[{ip}]") } else { ip.to_string() };
    let stat = |name: &str| {
        let all = host["stats"].as_array().into_iter().flatten();
        let value = all
            .filter(|stat| stat["name"] == name)
            .find_map(|stat| stat["value"].as_str()?.parse::<u64>().ok());
        value.unwrap_or(0)
    };
    let status = &host["health_status"];
    let health = if status["failed_outlier_check"] == true {
        "ejected"
    } else if status["eds_health_status"] == "HEALTHY" {
        "healthy"
    } else {
        "unhealthy"
    };
    let place = |part: &str| host["locality"][part].as_str().unwrap_or_default();
    let locality = [place("region"), place("zone"), place("sub_zone")].join("/");
    Some(json!({
        "cluster": cluster,
        "address": format!("{ip}:{port}"),
        "health": health,
        "priority": host["priority"].as_u64().unwrap_or(0),
        "locality": locality.trim_end_matches('/'),
        "weight": host["weight"].as_u64().unwrap_or(1),
        "connections": stat("cx_active"),
        "connected": stat("cx_total").saturating_sub(stat("cx_connect_fail")),
        "failed": stat("cx_connect_fail"),
    }))
}

fn address(address: &Address) -> Option<String> {
    let Some(Kind::SocketAddress(socket)) = &address.address else { return None };
    let Some(PortSpecifier::PortValue(port)) = socket.port_specifier else { return None };
    let ip = &socket.address;
    Some(if ip.contains(':') { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn envoys_hosts_read_as_our_own_endpoints() {
        let text = r#"{"cluster_statuses":[{"name":"outbound|80||a","host_statuses":[
            {"address":{"socket_address":{"address":"10.0.0.1","port_value":80}},"priority":1,"weight":3,
             "stats":[{"name":"cx_connect_fail","value":"2"},{"type":"GAUGE","name":"cx_active","value":"1"},{"name":"cx_total","value":"5"}],
             "health_status":{"eds_health_status":"HEALTHY"},"locality":{"region":"r","zone":"z"}},
            {"address":{"socket_address":{"address":"fd00::1","port_value":80}},
             "health_status":{"eds_health_status":"HEALTHY","failed_outlier_check":true}},
            {"address":{"pipe":{"path":"/x"}}}]}]}"#;
        let found = endpoints(text);
        assert_eq!(found[0]["address"], "10.0.0.1:80");
        assert_eq!((&found[0]["locality"], &found[0]["connected"]), (&json!("r/z"), &json!(3)));
        assert_eq!((&found[1]["address"], &found[1]["health"]), (&json!("[fd00::1]:80"), &json!("ejected")));
        assert_eq!(found.as_array().unwrap().len(), 2);
        assert_eq!(endpoints("not json"), json!([]));
    }

    #[test]
    fn the_admin_interfaces_own_connections_do_not_count() {
        let text = r#"{"stats":[{"name":"listener.admin.downstream_cx_active","value":1},
                                {"name":"listener.0.0.0.0_15006.downstream_cx_active","value":2}]}"#;
        assert_eq!(connections(text), 2);
    }
}
