//! Discovery of a gateway that fetches on demand: all exported names as hashes, all listeners, the clusters that listeners name, and
//! of the rest those that connections ask for.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::{Arc, OnceLock};

use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::config::listener::v3::{Listener, filter};
use envoy_types::pb::envoy::extensions::filters::network::sni_cluster::v3::SniCluster;
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3::{TcpProxy, tcp_proxy};
use envoy_types::pb::google::protobuf::value::Kind;
use envoy_types::pb::google::protobuf::{Struct, Value};
use isthmus_proto::type_url;
use isthmus_proxy::Demand;
use isthmus_xds::Handle;
use parking_lot::Mutex;
use prost::{DecodeError, Message, Name};

use super::eds;
use crate::cache::{Entry, ResourceCache};

/// Metadata by which a gateway says that it asks for clusters as it needs them.
const METADATA: &str = "ISTHMUS_ON_DEMAND";

/// What is asked for; shared by the stream's handler and the proxy.
pub(super) struct OnDemand {
    pub(super) endpoints: Arc<Mutex<eds::Wanted>>,
    cache: ResourceCache,
    stream: Arc<OnceLock<Handle>>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Clusters that listeners name.
    named: BTreeMap<Arc<str>, BTreeSet<Arc<str>>>,
    /// Of these, those that the control plane has not told of.
    awaited: BTreeSet<Arc<str>>,
    /// Clusters that connections asked for.
    wanted: HashSet<Arc<str>>,
}

impl State {
    fn is_named(&self, cluster: &str) -> bool {
        self.named.values().any(|names| names.contains(cluster))
    }
}

/// Says in a node that this proxy fetches on demand.
pub(super) fn announce(node: &mut Node) {
    let metadata = node.metadata.get_or_insert_with(Struct::default);
    let yes = Value { kind: Some(Kind::StringValue("true".to_string())) };
    metadata.fields.insert(METADATA.to_string(), yes);
}

impl OnDemand {
    pub(super) fn new(
        cache: ResourceCache,
        stream: Arc<OnceLock<Handle>>,
        endpoints: Arc<Mutex<eds::Wanted>>,
    ) -> Self {
        Self { endpoints, cache, stream, state: Mutex::default() }
    }

    /// What an earlier run fetched is fetched again: clusters on disk that no listener on disk names.
    pub(super) fn restore(&self) -> Vec<Arc<str>> {
        for entry in self.cache.entries(type_url::LISTENER) {
            // What cannot be read is told of when it is put in force.
            drop(self.follow(&entry));
        }
        let mut state = self.state.lock();
        let known = self.cache.entries(type_url::CLUSTER);
        let known = known.into_iter().map(|entry| entry.name);
        let fetched: Vec<Arc<str>> = known.filter(|name| !state.is_named(name)).collect();
        state.wanted.extend(fetched.iter().cloned());
        fetched
    }

    /// The stream is there: asks for all that was wanted before.
    pub(super) fn begin(&self, stream: &Handle) {
        let state = self.state.lock();
        let clusters = || state.named.values().flatten().chain(&state.wanted).cloned();
        stream.subscribe_all(type_url::EXPORTED_NAMES);
        stream.subscribe(type_url::CLUSTER, clusters());
        stream.subscribe(type_url::ENDPOINTS, self.endpoints.lock().all());
        stream.subscribe_all(type_url::LISTENER);
        // Set under the lock: whoever asks from now on finds it.
        let _ = self.stream.set(stream.clone());
    }

    /// Listeners have changed: asks for the clusters that they name. Those that none names any longer, and no connection asked for,
    /// are to leave the proxy.
    pub(super) fn follow_listeners(&self, upserts: &[Entry], removed: &[Arc<str>]) -> Vec<Arc<str>> {
        let mut former = BTreeSet::new();
        for name in removed {
            former.extend(self.state.lock().named.remove(name).into_iter().flatten());
        }
        for entry in upserts {
            match self.follow(entry) {
                Ok(dropped) => former.extend(dropped),
                Err(error) => tracing::debug!(listener = %entry.name, %error, "listener is unreadable"),
            }
        }
        let mut state = self.state.lock();
        former.retain(|name| !state.is_named(name) && !state.wanted.contains(name));
        state.awaited.retain(|name| !former.contains(name));
        let former: Vec<_> = former.into_iter().collect();
        // Under the lock, so that it does not undo what is asked for anew.
        self.leave(&former);
        former
    }

    /// Takes in what one listener names, and gives what it named before.
    fn follow(&self, entry: &Entry) -> Result<BTreeSet<Arc<str>>, DecodeError> {
        let names = clusters_of(&Listener::decode(entry.body.clone())?);
        let mut state = self.state.lock();
        let fresh: Vec<Arc<str>> = names.iter().filter(|name| !state.is_named(name)).cloned().collect();
        state.awaited.extend(fresh.iter().cloned());
        let former = state.named.insert(Arc::clone(&entry.name), names).unwrap_or_default();
        if let Some(stream) = self.stream.get() {
            stream.subscribe(type_url::CLUSTER, fresh);
        }
        Ok(former)
    }

    /// The control plane told of clusters. Those that are gone are asked for no longer, unless a listener names them.
    pub(super) fn told(&self, upserts: &[Entry], removed: &[Arc<str>]) {
        let mut state = self.state.lock();
        if !state.awaited.is_empty() {
            let told = upserts.iter().map(|entry| &*entry.name).chain(removed.iter().map(|name| &**name));
            for name in told {
                state.awaited.remove(name);
            }
        }
        let gone: Vec<Arc<str>> = removed.iter().filter(|name| state.wanted.remove(*name)).cloned().collect();
        let gone: Vec<Arc<str>> = gone.into_iter().filter(|name| !state.is_named(name)).collect();
        if let Some(stream) = self.stream.get() {
            stream.unsubscribe(type_url::CLUSTER, &gone);
            stream.unsubscribe(type_url::ENDPOINTS, &gone);
        }
    }

    /// Whether all clusters that listeners name have been told of.
    pub(super) fn complete(&self) -> bool {
        self.state.lock().awaited.is_empty()
    }

    /// Of resources that have just been put in force, those that were given back meanwhile.
    pub(super) fn unwanted(&self, url: &str, upserts: &[Entry]) -> Vec<Arc<str>> {
        let state = self.state.lock();
        let wanted = |name: &str| state.wanted.contains(name) || state.is_named(name);
        let unwanted = |name: &str| match url {
            type_url::CLUSTER => !wanted(name),
            type_url::ENDPOINTS => !wanted(name) && !self.endpoints.lock().names(name),
            _ => false,
        };
        upserts.iter().filter(|entry| unwanted(&entry.name)).map(|entry| Arc::clone(&entry.name)).collect()
    }

    /// Clusters leave what is asked for, and the memory of it.
    fn leave(&self, clusters: &[Arc<str>]) {
        if clusters.is_empty() {
            return;
        }
        let dropped: Vec<Arc<str>> =
            self.endpoints.lock().follow(&[], clusters).dropped.into_iter().collect();
        if let Some(stream) = self.stream.get() {
            stream.unsubscribe(type_url::CLUSTER, clusters);
            stream.unsubscribe(type_url::ENDPOINTS, clusters);
            stream.unsubscribe(type_url::ENDPOINTS, &dropped);
        }
        self.cache.change(type_url::CLUSTER, Vec::new(), clusters);
        self.cache.change(type_url::ENDPOINTS, Vec::new(), clusters);
        self.cache.change(type_url::ENDPOINTS, Vec::new(), &dropped);
    }
}

impl Demand for OnDemand {
    fn want(&self, cluster: &Arc<str>) {
        let mut state = self.state.lock();
        if !state.is_named(cluster) {
            state.wanted.insert(Arc::clone(cluster));
        }
        let Some(stream) = self.stream.get() else { return };
        // Endpoints usually have the cluster's name: both come in one answer. What was asked for before is answered anew.
        for url in [type_url::CLUSTER, type_url::ENDPOINTS] {
            stream.unsubscribe(url, [cluster]);
            stream.subscribe(url, [Arc::clone(cluster)]);
        }
    }

    fn give_back(&self, clusters: &[Arc<str>]) -> Vec<Arc<str>> {
        let mut state = self.state.lock();
        for name in clusters {
            state.wanted.remove(name);
        }
        let gone: Vec<Arc<str>> = clusters.iter().filter(|name| !state.is_named(name)).cloned().collect();
        // Under the lock, so that it does not undo what is asked for anew.
        self.leave(&gone);
        gone
    }
}

/// Clusters that a listener's chains lead to, but for chains that go by server name.
fn clusters_of(listener: &Listener) -> BTreeSet<Arc<str>> {
    let mut found = BTreeSet::new();
    for chain in listener.filter_chains.iter().chain(&listener.default_filter_chain) {
        let configs = chain.filters.iter().filter_map(|filter| match &filter.config_type {
            Some(filter::ConfigType::TypedConfig(any)) => Some(any),
            _ => None,
        });
        if configs.clone().any(|any| any.type_url == SniCluster::type_url()) {
            continue;
        }
        for any in configs.filter(|any| any.type_url == TcpProxy::type_url()) {
            match TcpProxy::decode(&*any.value).ok().and_then(|proxy| proxy.cluster_specifier) {
                Some(tcp_proxy::ClusterSpecifier::Cluster(name)) => drop(found.insert(name.into())),
                Some(tcp_proxy::ClusterSpecifier::WeightedClusters(weighted)) => {
                    found.extend(weighted.clusters.into_iter().map(|cluster| cluster.name.into()));
                }
                None => {}
            }
        }
    }
    found
}
