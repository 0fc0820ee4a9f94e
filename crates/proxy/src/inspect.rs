//! What is in force, as JSON for people.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use crate::cluster::Cluster;
use crate::resource::chain::{Chain, Target};
use crate::resource::cluster::Kind;
use crate::shared::Shared;

/// Chains shown of one listener; a gateway may have one for each service of the mesh.
const MOST_CHAINS: usize = 2000;

pub(crate) fn listeners(shared: &Shared) -> Value {
    let listeners = shared.tables.listeners.read();
    let mut all: Vec<_> = listeners.by_name.values().collect();
    all.sort_by(|a, b| a.name.cmp(&b.name));
    let show = |listener: &&Arc<crate::resource::listener::Listener>| {
        let mut chains = listener.chains.some(MOST_CHAINS);
        chains.sort_by(|a, b| a.0.cmp(&b.0));
        json!({
            "name": &*listener.name,
            "address": listener.address,
            "additionalAddresses": listener.places[1..].iter().map(|place| place.address).collect::<Vec<_>>(),
            "proxyProtocol": listener.announced.is_some(),
            "bound": listener.bound,
            "direction": format!("{:?}", listener.direction).to_lowercase(),
            "chainCount": listener.chains.len(),
            "chains": chains.iter().map(|(matched, chain)| show_chain(matched, chain)).collect::<Vec<_>>(),
        })
    };
    Value::Array(all.iter().map(show).collect())
}

fn show_chain(matched: &str, chain: &Chain) -> Value {
    let target = match &chain.target {
        Target::Close => Value::Null,
        Target::Cluster(name) => json!(&**name),
        Target::ServerName(table) => json!({"serverName": true, "exportedNames": table.as_deref()}),
        Target::Weighted(clusters) => {
            json!(
                clusters
                    .iter()
                    .map(|(name, weight)| json!({"cluster": &**name, "weight": weight}))
                    .collect::<Vec<_>>()
            )
        }
    };
    let rbac = chain.rbac.iter().map(|rbac| {
        json!({"action": if rbac.is_allow() { "ALLOW" } else { "DENY" }, "policies": rbac.names().collect::<Vec<_>>()})
    });
    json!({
        "match": matched,
        "name": &*chain.name,
        "tls": if chain.tls.is_some() { "terminated" } else { "passed" },
        "rbac": rbac.collect::<Vec<_>>(),
        "cluster": target,
    })
}

pub(crate) fn clusters(shared: &Shared) -> Value {
    Value::Array(all(shared).map(|cluster| show_cluster(&cluster)).collect())
}

fn show_cluster(cluster: &Cluster) -> Value {
    let config = &cluster.config;
    let kind = match &config.kind {
        Kind::Eds(_) => "EDS",
        Kind::Static(_) => "STATIC",
        Kind::Dns(_) => "STRICT_DNS",
        Kind::OriginalDestination => "ORIGINAL_DST",
    };
    let outlier = config.outlier.map(|outlier| {
        json!({
            "consecutive": outlier.consecutive,
            "intervalMs": millis(outlier.interval),
            "baseEjectionMs": millis(outlier.base),
            "maxEjectionPercent": outlier.max_percent,
        })
    });
    json!({
        "name": &*config.name,
        "type": kind,
        "policy": format!("{:?}", config.policy),
        "connectTimeoutMs": millis(config.connect_timeout),
        "mutualTls": config.may_encrypt(),
        "outlierDetection": outlier,
        "service": config.service.as_ref().map(|service| &*service.host),
        "endpoints": cluster.endpoints().len(),
        "priorityLoad": cluster.loads(),
        "connections": cluster.active(),
    })
}

pub(crate) fn endpoints(shared: &Shared) -> Value {
    Value::Array(all(shared).flat_map(|cluster| show_endpoints(&cluster)).collect())
}

fn show_endpoints(cluster: &Cluster) -> Vec<Value> {
    let now = Instant::now();
    let show = |endpoint: Arc<crate::balance::Endpoint>| {
        let ejected = endpoint.host.ejected_until();
        let (connected, failed) = endpoint.host.totals();
        let health = match (endpoint.healthy, ejected) {
            (false, _) => "unhealthy",
            (true, Some(_)) => "ejected",
            (true, None) => "healthy",
        };
        json!({
            "cluster": &**cluster.name(),
            "address": endpoint.address(),
            "health": health,
            "ejectedForMs": ejected.map(|until| millis(until.saturating_duration_since(now))),
            "priority": endpoint.priority,
            "locality": &*endpoint.locality,
            "weight": endpoint.weight,
            "tls": endpoint.transport.is_tls(),
            "workload": endpoint.workload.as_ref().map(|workload| &*workload.name),
            "workloadCluster": endpoint.workload.as_ref().map(|workload| &*workload.cluster),
            "connections": endpoint.host.active(),
            "connected": connected,
            "failed": failed,
        })
    };
    cluster.endpoints().into_iter().map(show).collect()
}

/// One by one: a cluster that nobody needs is compiled to be shown, and no more.
fn all(shared: &Shared) -> impl Iterator<Item = Arc<Cluster>> {
    let clusters = &shared.tables.clusters;
    clusters.names().into_iter().filter_map(|name| clusters.look(shared, &name))
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
