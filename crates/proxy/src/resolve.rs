//! Keeps the addresses of clusters that name hosts.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::Duration;

use crate::cluster::Cluster;
use crate::config::Resolve;
use crate::resource::assignment::{Address, Assignment};
use crate::resource::cluster::Kind;
use crate::shared::Shared;

/// Time for one answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Resolves a cluster's hosts again and again while the cluster is in use. A host that does not resolve keeps the addresses
/// that it had.
pub(crate) fn start(shared: &Shared, cluster: &Arc<Cluster>) {
    let Kind::Dns(_) = cluster.config.kind else { return };
    let (weak, stop) = (Arc::downgrade(cluster), shared.tasks.signal());
    let keep = keep(weak, Arc::clone(&shared.config.resolver), cluster.config.refresh);
    shared.tasks.spawn_infallible("resolver", async move {
        tokio::select! {
            () = stop.stopping() => {}
            () = keep => {}
        }
    });
}

async fn keep(cluster: Weak<Cluster>, resolver: Arc<dyn Resolve>, refresh: Duration) {
    let mut known: HashMap<(Arc<str>, u16), Vec<SocketAddr>> = HashMap::new();
    let mut last: Option<Assignment> = None;
    loop {
        {
            let Some(cluster) = cluster.upgrade() else { return };
            let Kind::Dns(named) = &cluster.config.kind else { return };
            let resolved = resolve(named, &*resolver, &mut known, cluster.name()).await;
            // Before the first answer nothing is known; that is not the same as none.
            if let Some(resolved) = resolved
                && last.as_ref() != Some(&resolved)
            {
                cluster.assign(&Arc::new(resolved.clone()));
                last = Some(resolved);
            }
        }
        tokio::time::sleep(refresh).await;
    }
}

async fn resolve(
    named: &Assignment,
    resolver: &dyn Resolve,
    known: &mut HashMap<(Arc<str>, u16), Vec<SocketAddr>>,
    cluster: &str,
) -> Option<Assignment> {
    let mut resolved = named.clone();
    let mut answered = false;
    for group in &mut resolved.groups {
        let mut endpoints = Vec::with_capacity(group.endpoints.len());
        for listed in &group.endpoints {
            let Address::Name(host, port) = &listed.address else {
                answered = true;
                endpoints.push(listed.clone());
                continue;
            };
            let key = (Arc::clone(host), *port);
            match tokio::time::timeout(PATIENCE, resolver.resolve(Arc::clone(host), *port)).await {
                Ok(Ok(mut addresses)) => {
                    addresses.sort_unstable();
                    addresses.dedup();
                    known.insert(key.clone(), addresses);
                }
                Ok(Err(error)) => {
                    tracing::debug!(cluster, %host, %error, "host does not resolve, keeping its addresses");
                }
                Err(_) => tracing::debug!(cluster, %host, "no answer from the resolver, keeping addresses"),
            }
            let Some(addresses) = known.get(&key) else { continue };
            answered = true;
            let at = |address: &SocketAddr| {
                let mut endpoint = listed.clone();
                endpoint.address = Address::Ip(*address);
                endpoint
            };
            endpoints.extend(addresses.iter().map(at));
        }
        group.endpoints = endpoints;
    }
    answered.then_some(resolved)
}
