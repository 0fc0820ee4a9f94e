//! Taking resources over.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use envoy_types::pb::envoy::config::cluster::v3::Cluster as ClusterProto;
use envoy_types::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;
use envoy_types::pb::envoy::config::listener::v3::Listener as ListenerProto;
use prost::Name;

use super::{Proxy, Rejection};
use crate::announced::Accepted;
use crate::resource::listener::Listener;
use crate::resource::{Checked, Invalid};

type Upserts = Vec<(Arc<str>, Bytes)>;

pub(super) fn apply(proxy: &Proxy, type_url: &str, upserts: Upserts, removed: &[Arc<str>]) -> Vec<Rejection> {
    type Put = fn(&Proxy, &Arc<str>, &Bytes) -> Checked<()>;
    type Remove = fn(&Proxy, &str);
    let (kind, put, remove): (&'static str, Put, Remove) = if type_url == ListenerProto::type_url() {
        ("listener", put_listener, remove_listener)
    } else if type_url == ClusterProto::type_url() {
        ("cluster", put_cluster, remove_cluster)
    } else if type_url == ClusterLoadAssignment::type_url() {
        ("endpoints", put_endpoints, remove_endpoints)
    } else if type_url == isthmus_proto::type_url::EXPORTED_NAMES {
        ("exported names", put_names, remove_names)
    } else {
        return Vec::new();
    };
    let mut rejections = Vec::new();
    for (name, bytes) in upserts {
        if let Err(invalid) = put(proxy, &name, &bytes) {
            tracing::warn!(kind, %name, reason = %invalid, "resource rejected, what was in force stays");
            proxy.shared.metrics.rejected(kind);
            // Whoever waits for its first form would wait in vain.
            if kind == "cluster"
                && !proxy.shared.tables.clusters.has(&name)
                && let Some(on_demand) = proxy.shared.on_demand.get()
            {
                on_demand.absent(&name);
            }
            rejections.push(Rejection { name, reason: invalid.to_string() });
        }
    }
    for name in removed {
        remove(proxy, name);
    }
    rejections
}

fn put_listener(proxy: &Proxy, name: &Arc<str>, bytes: &Bytes) -> Checked<()> {
    let mut listener = Listener::compile(name, bytes, &proxy.shared.tls)?;
    if listener.bound && proxy.shared.config.announced_ports.contains(&listener.address.port()) {
        listener.announced.get_or_insert(Accepted { v1: true, v2: true });
    }
    let listener = Arc::new(listener);
    if listener.bound {
        proxy
            .sockets
            .lock()
            .listen(&listener, &proxy.shared)
            .map_err(|error| Invalid::new("address", error.to_string()))?;
    }
    let mut listeners = proxy.shared.tables.listeners.write();
    for address in unbound(&listener) {
        if let Some(other) = listeners.by_address.get(&address)
            && other.name != *name
        {
            let problem = format!("{address} is already that of listener {:?}", other.name);
            return Err(Invalid::new("address", problem));
        }
    }
    let former = listeners.by_name.insert(Arc::clone(name), Arc::clone(&listener));
    for address in former.iter().flat_map(|former| unbound(former)) {
        listeners.by_address.remove(&address);
    }
    for address in unbound(&listener) {
        listeners.by_address.insert(address, Arc::clone(&listener));
    }
    drop(listeners);
    if !listener.bound && former.is_some_and(|former| former.bound) {
        proxy.sockets.lock().unlisten(name);
    }
    Ok(())
}

fn remove_listener(proxy: &Proxy, name: &str) {
    let mut listeners = proxy.shared.tables.listeners.write();
    let Some(former) = listeners.by_name.remove(name) else { return };
    for address in unbound(&former) {
        listeners.by_address.remove(&address);
    }
    drop(listeners);
    if former.bound {
        proxy.sockets.lock().unlisten(name);
    }
}

/// Destinations by which a listener without sockets of its own is found.
fn unbound(listener: &Listener) -> impl Iterator<Item = SocketAddr> {
    let places = if listener.bound { &[][..] } else { &listener.places };
    places.iter().map(|place| place.address)
}

fn put_cluster(proxy: &Proxy, name: &Arc<str>, body: &Bytes) -> Checked<()> {
    proxy.shared.tables.clusters.put(&proxy.shared, name, body)?;
    if let Some(on_demand) = proxy.shared.on_demand.get() {
        on_demand.arrived(name);
    }
    Ok(())
}

fn remove_cluster(proxy: &Proxy, name: &str) {
    proxy.shared.tables.clusters.remove(name);
    if let Some(on_demand) = proxy.shared.on_demand.get() {
        on_demand.absent(name);
    }
}

fn put_endpoints(proxy: &Proxy, name: &Arc<str>, body: &Bytes) -> Checked<()> {
    proxy.shared.tables.clusters.put_endpoints(name, body)
}

fn remove_endpoints(proxy: &Proxy, name: &str) {
    proxy.shared.tables.clusters.remove_endpoints(name);
}

fn put_names(proxy: &Proxy, name: &Arc<str>, bytes: &Bytes) -> Checked<()> {
    proxy.shared.names.put(name, bytes)
}

fn remove_names(proxy: &Proxy, name: &str) {
    proxy.shared.names.remove(name);
}
