//! What one proxy is served, for people: `isthmus proxy-config`. Short forms of Envoy's resources, not a second format for them.

use base64::Engine as _;
use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::cluster::v3::cluster::{ClusterDiscoveryType, DiscoveryType};
use envoy_types::pb::envoy::config::core::v3::address::Address as AddressKind;
use envoy_types::pb::envoy::config::core::v3::socket_address::PortSpecifier;
use envoy_types::pb::envoy::config::core::v3::{Address, HealthStatus, Metadata};
use envoy_types::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;
use envoy_types::pb::envoy::config::endpoint::v3::lb_endpoint::HostIdentifier;
use envoy_types::pb::envoy::config::listener::v3::filter::ConfigType;
use envoy_types::pb::envoy::config::listener::v3::{FilterChain, Listener};
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3::TcpProxy;
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3::tcp_proxy::ClusterSpecifier;
use envoy_types::pb::google::protobuf::value::Kind;
use isthmus_proto::nds::NameTable;
use isthmus_proto::resource::{Resource, View};
use isthmus_proto::type_url;
use prost::Message as _;
use serde_json::{Value, json};

/// One section of a view: `listeners`, `clusters`, `endpoints` or `names`; none for another word.
#[must_use]
pub fn section(view: &View, what: &str) -> Option<Vec<Value>> {
    let (url, one): (_, fn(&Resource) -> Vec<Value>) = match what {
        "listeners" => (type_url::LISTENER, listener),
        "clusters" => (type_url::CLUSTER, cluster),
        "endpoints" => (type_url::ENDPOINTS, endpoints),
        "names" => (type_url::NAME_TABLE, names),
        _ => return None,
    };
    Some(view.set(url).map(|set| set.iter().flat_map(one).collect()).unwrap_or_default())
}

/// One section's resources as they are sent: name, type URL, and the encoded message in base64; none for another word. To show them is
/// for programs that carry their descriptors.
#[must_use]
pub fn resources(view: &View, what: &str) -> Option<Vec<Value>> {
    let url = match what {
        "listeners" => type_url::LISTENER,
        "clusters" => type_url::CLUSTER,
        "endpoints" => type_url::ENDPOINTS,
        "routes" => type_url::ROUTE,
        "names" => type_url::NAME_TABLE,
        _ => return None,
    };
    let one = |resource: &Resource| {
        let body = base64::engine::general_purpose::STANDARD.encode(&resource.body);
        json!({"name": &*resource.name, "typeUrl": url, "body": body})
    };
    Some(view.set(url).map(|set| set.iter().map(one).collect()).unwrap_or_default())
}

fn unreadable(resource: &Resource, error: &prost::DecodeError) -> Vec<Value> {
    vec![json!({"name": &*resource.name, "error": error.to_string()})]
}

fn listener(resource: &Resource) -> Vec<Value> {
    let listener = match Listener::decode(resource.body.clone()) {
        Ok(listener) => listener,
        Err(error) => return unreadable(resource, &error),
    };
    let address = listener.address.as_ref().map(socket).unwrap_or_default();
    let chains: Vec<Value> =
        listener.filter_chains.iter().chain(listener.default_filter_chain.as_ref()).map(chain).collect();
    vec![json!({"name": listener.name, "address": address, "chains": chains})]
}

fn chain(chain: &FilterChain) -> Value {
    let mut filters = Vec::new();
    let mut clusters = Vec::new();
    for filter in &chain.filters {
        filters.push(filter.name.clone());
        let Some(ConfigType::TypedConfig(any)) = &filter.config_type else { continue };
        if !any.type_url.ends_with(".TcpProxy") {
            continue;
        }
        match TcpProxy::decode(&*any.value).ok().and_then(|tcp| tcp.cluster_specifier) {
            Some(ClusterSpecifier::Cluster(name)) => clusters.push(json!(name)),
            Some(ClusterSpecifier::WeightedClusters(weighted)) => clusters.extend(
                weighted.clusters.into_iter().map(|one| json!({"cluster": one.name, "weight": one.weight})),
            ),
            None => {}
        }
    }
    let mut out = json!({"name": chain.name, "filters": filters, "clusters": clusters, "tls": chain.transport_socket.is_some()});
    if let Some(matches) = &chain.filter_chain_match {
        out["match"] = json!({
            "port": matches.destination_port.as_ref().map(|port| port.value),
            "serverNames": matches.server_names,
            "transport": matches.transport_protocol,
            "alpn": matches.application_protocols,
        });
    }
    out
}

fn cluster(resource: &Resource) -> Vec<Value> {
    let cluster = match Cluster::decode(resource.body.clone()) {
        Ok(cluster) => cluster,
        Err(error) => return unreadable(resource, &error),
    };
    let kind = match cluster.cluster_discovery_type {
        Some(ClusterDiscoveryType::Type(kind)) => DiscoveryType::try_from(kind)
            .map_or_else(|_| kind.to_string(), |kind| kind.as_str_name().to_string()),
        Some(ClusterDiscoveryType::ClusterType(custom)) => custom.name,
        None => DiscoveryType::Static.as_str_name().to_string(),
    };
    let sockets: Vec<&str> = cluster.transport_socket_matches.iter().map(|one| one.name.as_str()).collect();
    let timeout = cluster
        .connect_timeout
        .as_ref()
        .map(|time| format!("{}.{:03}s", time.seconds, time.nanos / 1_000_000));
    vec![json!({
        "name": cluster.name,
        "type": kind,
        "connectTimeout": timeout,
        "transportSockets": sockets,
        "outlierDetection": cluster.outlier_detection.is_some(),
    })]
}

fn endpoints(resource: &Resource) -> Vec<Value> {
    let assignment = match ClusterLoadAssignment::decode(resource.body.clone()) {
        Ok(assignment) => assignment,
        Err(error) => return unreadable(resource, &error),
    };
    let mut out = Vec::new();
    for group in &assignment.endpoints {
        let locality = group.locality.as_ref().map(|l| format!("{}/{}/{}", l.region, l.zone, l.sub_zone));
        for endpoint in &group.lb_endpoints {
            let address = match &endpoint.host_identifier {
                Some(HostIdentifier::Endpoint(endpoint)) => endpoint.address.as_ref().map(socket),
                _ => None,
            };
            let health = HealthStatus::try_from(endpoint.health_status).unwrap_or(HealthStatus::Unknown);
            out.push(json!({
                "cluster": assignment.cluster_name,
                "address": address,
                "priority": group.priority,
                "locality": locality.as_deref().filter(|text| *text != "//"),
                "weight": endpoint.load_balancing_weight.as_ref().map(|weight| weight.value),
                "health": health.as_str_name(),
                "tls": metadata(endpoint.metadata.as_ref(), "envoy.transport_socket_match", "tlsMode"),
                "workload": metadata(endpoint.metadata.as_ref(), "istio", "workload"),
            }));
        }
    }
    if out.is_empty() {
        out.push(json!({"cluster": assignment.cluster_name, "address": Value::Null}));
    }
    out
}

fn names(resource: &Resource) -> Vec<Value> {
    let table = match NameTable::decode(resource.body.clone()) {
        Ok(table) => table,
        Err(error) => return unreadable(resource, &error),
    };
    let mut rows: Vec<_> = table.table.into_iter().collect();
    rows.sort_by(|a, b| a.0.cmp(&b.0));
    rows.into_iter()
        .map(|(host, info)| json!({"host": host, "addresses": info.ips, "registry": info.registry}))
        .collect()
}

fn socket(address: &Address) -> String {
    match &address.address {
        Some(AddressKind::SocketAddress(socket)) => match socket.port_specifier {
            Some(PortSpecifier::PortValue(port)) => format!("{}:{port}", socket.address),
            _ => socket.address.clone(),
        },
        Some(AddressKind::Pipe(pipe)) => format!("unix:{}", pipe.path),
        _ => String::new(),
    }
}

fn metadata(metadata: Option<&Metadata>, filter: &str, key: &str) -> Option<String> {
    match metadata?.filter_metadata.get(filter)?.fields.get(key)?.kind.as_ref()? {
        Kind::StringValue(text) => Some(text.clone()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use isthmus_proto::resource::ResourceSet;

    use super::*;

    #[test]
    fn an_unreadable_resource_is_shown_as_such() {
        let set = ResourceSet::new(vec![Resource::new("broken", Bytes::from_static(&[0xff]))]);
        let view = View { version: 1, sets: vec![(type_url::CLUSTER, Arc::new(set))] };
        assert!(section(&view, "clusters").unwrap()[0]["error"].is_string());
        assert_eq!(section(&view, "listeners"), Some(vec![]));
        assert_eq!(section(&view, "routes"), None);
        let raw = &resources(&view, "clusters").unwrap()[0];
        assert_eq!(*raw, json!({"name": "broken", "typeUrl": type_url::CLUSTER, "body": "/w=="}));
    }
}
