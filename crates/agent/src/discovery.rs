//! Resources from the control plane into proxy and DNS, and into the last-good cache.

pub mod eds;
pub mod names;
mod on_demand;
pub mod strict;

use std::collections::BTreeSet;
use std::io;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::Node;
use isthmus_capture::Strict;
use isthmus_lifecycle::{Backoff, Guard, Readiness, TaskGroup};
use isthmus_model::ClusterId;
use isthmus_proto::type_url;
use isthmus_proxy::OnDemandLimits;
use isthmus_xds::client::Version;
use isthmus_xds::{Client, Handle, Handler, Rejection, Update};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::cache::{Entry, MUCH, ResourceCache};
use crate::connect::Connector;
use crate::data_path::DataPath;
use on_demand::OnDemand;

/// What discovery feeds.
pub struct Sinks {
    /// The data path.
    pub proxy: DataPath,
    /// The DNS proxy; a gateway has none.
    pub dns: Option<isthmus_dns::Handle>,
    /// Memory of what was accepted.
    pub cache: ResourceCache,
    /// Where readiness is held until everything needed has come once.
    pub readiness: Readiness,
}

/// A running subscription.
#[derive(Debug, Clone)]
pub struct Discovery {
    /// Steers the stream: health reports go through it.
    pub stream: Handle,
    /// What takes mutual TLS only, from the listener `virtualInbound`.
    pub strict: watch::Receiver<Strict>,
}

/// Restores what an earlier run left, then subscribes to listeners, clusters, their endpoints and (with a DNS proxy) names.
/// Guards named `clusters`, `endpoints`, `listeners` and `names` are dropped as each has come, from disk or from the stream.
pub fn start(
    node: Node,
    cluster: &ClusterId,
    connector: &Connector,
    sinks: Sinks,
    tasks: &TaskGroup,
) -> Discovery {
    let (strict, strict_seen) = watch::channel(Strict::default());
    let stream = Arc::new(OnceLock::new());
    let with_names = sinks.dns.is_some();
    let mut feed = Feed::new(sinks, strict, Arc::clone(&stream));
    feed.restore();
    let names = feed.endpoints.lock().all();
    let handle = feed.listen(node, cluster, connector, tasks);
    // Make before break: clusters and their endpoints before the listeners that use them.
    handle.subscribe_all(type_url::CLUSTER);
    handle.subscribe(type_url::ENDPOINTS, names);
    handle.subscribe_all(type_url::LISTENER);
    if with_names {
        handle.subscribe_all(type_url::NAME_TABLE);
    }
    // The handler asks for endpoints through it; it was not set before.
    let _ = stream.set(handle.clone());
    Discovery { stream: handle, strict: strict_seen }
}

/// As [`start`], for a gateway that fetches on demand: it holds the hashes of all names that it may pass on, clusters and endpoints
/// of those in use alone. The guard `names` waits for the hashes.
pub fn start_on_demand(
    mut node: Node,
    cluster: &ClusterId,
    connector: &Connector,
    sinks: Sinks,
    limits: OnDemandLimits,
    tasks: &TaskGroup,
) -> Discovery {
    let (strict, strict_seen) = watch::channel(Strict::default());
    let stream = Arc::new(OnceLock::new());
    let proxy = sinks.proxy.clone();
    let mut feed = Feed::new(sinks, strict, Arc::clone(&stream));
    feed.awaited.names = Some(feed.sinks.readiness.hold("names"));
    let cache = feed.sinks.cache.clone();
    let on_demand = Arc::new(OnDemand::new(cache, stream, Arc::clone(&feed.endpoints)));
    let fetched = on_demand.restore();
    // An Envoy has all that it may need.
    if let DataPath::Isthmus(proxy) = &proxy {
        proxy.fetch_on_demand(Arc::clone(&on_demand) as Arc<dyn isthmus_proxy::Demand>, limits, &fetched);
    }
    feed.on_demand = Some(Arc::clone(&on_demand));
    feed.restore();
    on_demand::announce(&mut node);
    let handle = feed.listen(node, cluster, connector, tasks);
    on_demand.begin(&handle);
    Discovery { stream: handle, strict: strict_seen }
}

/// Guards that wait for the first state of each kind.
#[derive(Debug)]
struct Awaited {
    clusters: Option<Guard>,
    endpoints: Option<Guard>,
    listeners: Option<Guard>,
    names: Option<Guard>,
}

struct Feed {
    sinks: Sinks,
    strict: watch::Sender<Strict>,
    stream: Arc<OnceLock<Handle>>,
    endpoints: Arc<Mutex<eds::Wanted>>,
    awaited: Awaited,
    /// Where clusters are asked for by name.
    on_demand: Option<Arc<OnDemand>>,
}

/// What is subscribed to and kept, in the order in which it is put in force: a listener comes after what it leads to.
const URLS: [&str; 5] = [
    type_url::CLUSTER,
    type_url::ENDPOINTS,
    type_url::EXPORTED_NAMES,
    type_url::LISTENER,
    type_url::NAME_TABLE,
];

impl Feed {
    fn new(sinks: Sinks, strict: watch::Sender<Strict>, stream: Arc<OnceLock<Handle>>) -> Self {
        let awaited = Awaited {
            clusters: Some(sinks.readiness.hold("clusters")),
            endpoints: Some(sinks.readiness.hold("endpoints")),
            listeners: Some(sinks.readiness.hold("listeners")),
            names: sinks.dns.as_ref().map(|_| sinks.readiness.hold("names")),
        };
        Self { sinks, strict, stream, endpoints: Arc::default(), awaited, on_demand: None }
    }

    /// Opens the stream; nothing is asked for yet.
    fn listen(self, node: Node, cluster: &ClusterId, connector: &Connector, tasks: &TaskGroup) -> Handle {
        let mut config = isthmus_xds::client::Config::new(node, connector.server_name().to_string());
        config.backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(10));
        config.known = self.known();
        if let Ok(value) = http::HeaderValue::from_str(cluster.as_str()) {
            config.headers.insert("clusterid", value);
        }
        let dial = connector.clone();
        let dialing = isthmus_xds::client::Connector::new(move || {
            let dial = dial.clone();
            async move { dial.connect().await.map_err(io::Error::other) }
        });
        Client::start(config, dialing, self, tasks)
    }

    /// Puts in force what an earlier run accepted.
    fn restore(&mut self) {
        if self.sinks.cache.is_empty() {
            return;
        }
        for url in URLS {
            let entries = self.sinks.cache.entries(url);
            tracing::info!(r#type = url, resources = entries.len(), "last-good resources from disk");
            for rejection in self.take(url, &entries, &[]) {
                tracing::warn!(
                    name = &*rejection.name,
                    reason = rejection.reason,
                    "last-good resource not usable"
                );
            }
            if !entries.is_empty() {
                self.arrived(url);
            }
        }
        isthmus_process::memory::give_back();
    }

    /// Versions of what is in force, so that the control plane sends only what changed, and what vanished.
    fn known(&self) -> Vec<(&'static str, Arc<str>, Version)> {
        let of = |url: &'static str| {
            let entries = self.sinks.cache.entries(url).into_iter();
            entries.map(move |entry| (url, entry.name, entry.version))
        };
        URLS.into_iter().flat_map(of).collect()
    }

    /// Applies to the sinks and says what is not usable.
    fn take(&mut self, url: &str, upserts: &[Entry], removed: &[Arc<str>]) -> Vec<Rejection> {
        if url == type_url::NAME_TABLE {
            return self.take_names(upserts);
        }
        // Before the proxy hears of it: a connection that then asks for a cluster anew must not be forgotten again.
        if url == type_url::CLUSTER
            && let Some(on_demand) = &self.on_demand
        {
            on_demand.told(upserts, removed);
        }
        let resources = upserts.iter().map(|entry| (Arc::clone(&entry.name), entry.body.clone())).collect();
        let rejections: Vec<Rejection> = self
            .sinks
            .proxy
            .apply(url, resources, removed)
            .into_iter()
            .map(|rejection| Rejection { name: rejection.name, reason: rejection.reason })
            .collect();
        match url {
            type_url::CLUSTER => self.follow_clusters(upserts, removed),
            type_url::ENDPOINTS => {
                self.endpoints.lock().seen(upserts.iter().map(|entry| &*entry.name), removed)
            }
            type_url::LISTENER => self.follow_listeners(upserts, removed),
            _ => {}
        }
        rejections
    }

    fn take_names(&self, upserts: &[Entry]) -> Vec<Rejection> {
        let (Some(dns), Some(entry)) = (&self.sinks.dns, upserts.last()) else { return Vec::new() };
        match names::hosts(&entry.body) {
            Ok(hosts) => {
                let refused = dns.replace(&hosts);
                if !refused.is_empty() {
                    tracing::warn!(names = ?refused, "names in the name table that are no DNS names");
                }
                Vec::new()
            }
            Err(reason) => vec![Rejection { name: Arc::clone(&entry.name), reason }],
        }
    }

    /// Subscribes to the endpoints that the clusters name.
    fn follow_clusters(&mut self, upserts: &[Entry], removed: &[Arc<str>]) {
        let change = self.endpoints.lock().follow(upserts, removed);
        if let Some(stream) = self.stream.get() {
            stream.subscribe(type_url::ENDPOINTS, change.added);
            stream.unsubscribe(type_url::ENDPOINTS, &change.dropped);
        }
        let gone: Vec<Arc<str>> = change.dropped.into_iter().collect();
        if !gone.is_empty() {
            self.sinks.proxy.apply(type_url::ENDPOINTS, Vec::new(), &gone);
            self.sinks.cache.change(type_url::ENDPOINTS, Vec::new(), &gone);
        }
    }

    fn follow_listeners(&self, upserts: &[Entry], removed: &[Arc<str>]) {
        self.follow_inbound(upserts, removed);
        if let Some(on_demand) = &self.on_demand {
            let former = on_demand.follow_listeners(upserts, removed);
            self.sinks.proxy.apply(type_url::CLUSTER, Vec::new(), &former);
        }
    }

    fn follow_inbound(&self, upserts: &[Entry], removed: &[Arc<str>]) {
        if let Some(inbound) = upserts.iter().find(|entry| *entry.name == *strict::INBOUND) {
            match strict::read(&inbound.body) {
                Ok(found) => {
                    self.strict.send_if_modified(|now| std::mem::replace(now, found.clone()) != found);
                }
                Err(error) => {
                    tracing::warn!(%error, "listener virtualInbound is unreadable, strict ports unchanged")
                }
            }
        }
        if removed.iter().any(|name| &**name == strict::INBOUND) {
            self.strict.send_replace(Strict::default());
        }
    }

    /// Drops the guard of a kind that has come once.
    fn arrived(&mut self, url: &str) {
        match url {
            type_url::CLUSTER if self.on_demand.is_none() => self.awaited.clusters = None,
            type_url::LISTENER => self.awaited.listeners = None,
            type_url::NAME_TABLE | type_url::EXPORTED_NAMES => self.awaited.names = None,
            _ => {}
        }
        if let Some(on_demand) = &self.on_demand
            && self.awaited.listeners.is_none()
            && on_demand.complete()
        {
            self.awaited.clusters = None;
        }
        if self.awaited.clusters.is_none() && self.endpoints.lock().complete() {
            self.awaited.endpoints = None;
        }
    }
}

#[tonic::async_trait]
impl Handler for Feed {
    async fn apply(&mut self, update: Update) -> Vec<Rejection> {
        let Update { type_url: url, upserts, removed, .. } = update;
        let bytes: usize = upserts.iter().map(|entry| entry.body.len()).sum();
        self.sinks.proxy.prepare(&url, upserts.iter().map(|entry| &entry.body)).await;
        let rejections = self.take(&url, &upserts, &removed);
        let refused: BTreeSet<&str> = rejections.iter().map(|rejection| &*rejection.name).collect();
        let mut accepted = upserts;
        if let Some(on_demand) = &self.on_demand {
            // Given back while it was on its way.
            let unwanted = on_demand.unwanted(&url, &accepted);
            self.sinks.proxy.apply(&url, Vec::new(), &unwanted);
            accepted.retain(|entry| !unwanted.contains(&entry.name));
        }
        accepted.retain(|entry| !refused.contains(&*entry.name));
        if !self.sinks.proxy.remembers(&url) {
            self.sinks.cache.change(&url, accepted, &removed);
        }
        self.arrived(&url);
        if bytes > MUCH {
            // On the thread that has it: the next response may come to another.
            isthmus_process::memory::give_back();
        }
        rejections
    }
}
