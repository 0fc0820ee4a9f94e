//! One proxy's whole view, joined from what its class and its workload get.

use std::collections::HashMap;
use std::sync::Arc;

use isthmus_model::{ClusterId, Namespace};
use isthmus_proto::resource::{Resource, ResourceSet, View};
use isthmus_proto::type_url;
use isthmus_registry::{Snapshot, TrafficDistribution, Workload};
use parking_lot::Mutex;

use crate::class::Class;
use crate::cluster::fixed;
use crate::config::Config;
use crate::encoded::Encoded;
use crate::gateway::Router;
use crate::grpc::Grpc;
use crate::inbound;
use crate::listener::inbound::{Inbound, virtual_inbound};
use crate::lists::kept_set;
use crate::outbound::{Outbound, Source};
use crate::settings::{MeshSettings, Proxy, ProxyKind};

/// Snapshots after which a proxy, class or workload that nobody asked for is forgotten.
const FORGOTTEN: u64 = 64;

/// Translates, and shares what was translated before.
#[derive(Debug)]
pub struct Translator {
    settings: MeshSettings,
    state: Mutex<State>,
}

/// What was translated.
#[derive(Debug, Default)]
struct State {
    number: u64,
    config: Config,
    /// Whether some service looks at nodes: proxies of different nodes are different classes then.
    nodes_matter: bool,
    encoded: Encoded,
    outbound: HashMap<Class, Kept<Outbound>>,
    routers: HashMap<Class, Kept<Router>>,
    grpc: HashMap<Class, Kept<Grpc>>,
    inbound: Vec<Kept<InboundResources>>,
    proxies: HashMap<(ProxyKind, ClusterId, Namespace, Arc<str>), Last>,
    views: Vec<(Parts, Arc<View>)>,
}

/// A value with the snapshot that it was computed from.
#[derive(Debug)]
struct Kept<T> {
    snapshot: Arc<Snapshot>,
    value: Arc<T>,
}

/// The inbound resources of workloads that are alike.
#[derive(Debug)]
struct InboundResources {
    inputs: Inbound,
    listener: Resource,
    clusters: Vec<Resource>,
}

/// What one proxy last got.
#[derive(Debug)]
struct Last {
    proxy: Proxy,
    snapshot: Arc<Snapshot>,
    workload: Option<Arc<Workload>>,
    inbound: Option<Arc<InboundResources>>,
    parts: Parts,
    view: Arc<View>,
}

/// What a view is joined from; equal addresses are equal views.
#[derive(Clone, Debug)]
enum Parts {
    Sidecar(Arc<Outbound>, Arc<InboundResources>),
    Router(Arc<Router>),
    Grpc(Arc<Grpc>),
}

impl Parts {
    fn same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Sidecar(a, x), Self::Sidecar(b, y)) => {
                Arc::ptr_eq(&a.clusters, &b.clusters)
                    && Arc::ptr_eq(&a.listeners, &b.listeners)
                    && Arc::ptr_eq(&a.endpoints, &b.endpoints)
                    && Arc::ptr_eq(&a.names, &b.names)
                    && Arc::ptr_eq(x, y)
            }
            (Self::Router(a), Self::Router(b)) => {
                Arc::ptr_eq(&a.clusters, &b.clusters)
                    && Arc::ptr_eq(&a.listeners, &b.listeners)
                    && Arc::ptr_eq(&a.endpoints, &b.endpoints)
                    && a.names.as_ref().map(Arc::as_ptr) == b.names.as_ref().map(Arc::as_ptr)
            }
            (Self::Grpc(a), Self::Grpc(b)) => a.same(b),
            _ => false,
        }
    }
}

impl Translator {
    /// A translator with an empty cache.
    #[must_use]
    pub fn new(settings: MeshSettings) -> Self {
        Self { settings, state: Mutex::new(State::default()) }
    }

    /// All resources of one proxy at one snapshot. Proxies with equal inputs get the same `Arc`, and so does a proxy whose
    /// resources did not change since the last snapshot.
    #[must_use]
    pub fn view(&self, snapshot: &Arc<Snapshot>, proxy: &Proxy) -> Arc<View> {
        let mut state = self.state.lock();
        state.advance(snapshot, &self.settings);
        let id = (proxy.kind, proxy.cluster.clone(), proxy.namespace.clone(), Arc::clone(&proxy.name));
        let last = state.proxies.remove(&id).filter(|last| last.proxy == *proxy);
        if let Some(last) = &last
            && Arc::ptr_eq(&last.snapshot, snapshot)
        {
            let view = Arc::clone(&last.view);
            state.proxies.extend([(id, last.again(snapshot))]);
            return view;
        }
        let workload = snapshot.workload(&proxy.cluster, &proxy.namespace, &proxy.name, &proxy.ips).cloned();
        let labels = inbound::labels(workload.as_deref(), proxy);
        let locality = match workload.as_ref().map(|workload| &workload.locality) {
            Some(known) if !known.is_empty() => known,
            _ => &proxy.locality,
        };
        let class = Class::of(proxy, labels, locality, &state.config, state.nodes_matter);
        let (parts, inbound) = match proxy.kind {
            ProxyKind::Sidecar => {
                let outbound = state.outbound(&class, snapshot, &self.settings);
                let inbound =
                    state.inbound(snapshot, &self.settings, proxy, workload.as_ref(), last.as_ref());
                (Parts::Sidecar(outbound, Arc::clone(&inbound)), Some(inbound))
            }
            ProxyKind::Router => (Parts::Router(state.router(&class, snapshot, &self.settings)), None),
            ProxyKind::Grpc => (Parts::Grpc(state.grpc(&class, snapshot, &self.settings)), None),
        };
        let view = match &last {
            Some(last) if last.parts.same(&parts) => Arc::clone(&last.view),
            _ => state.join(&parts, last.as_ref(), snapshot.number),
        };
        let last = Last {
            proxy: proxy.clone(),
            snapshot: Arc::clone(snapshot),
            workload,
            inbound,
            parts,
            view: Arc::clone(&view),
        };
        state.proxies.insert(id, last);
        view
    }

    /// How many clusters and assignments were encoded so far: what a change costs.
    #[must_use]
    pub fn encoded(&self) -> (u64, u64) {
        let state = self.state.lock();
        (state.encoded.clusters.encoded, state.encoded.endpoints.encoded)
    }
}

impl Last {
    fn again(&self, snapshot: &Arc<Snapshot>) -> Self {
        Self {
            proxy: self.proxy.clone(),
            snapshot: Arc::clone(snapshot),
            workload: self.workload.clone(),
            inbound: self.inbound.clone(),
            parts: self.parts.clone(),
            view: Arc::clone(&self.view),
        }
    }
}

impl State {
    /// A new snapshot: merged rules are refreshed, what nobody asked for in a while is forgotten.
    fn advance(&mut self, snapshot: &Arc<Snapshot>, settings: &MeshSettings) {
        if snapshot.number == self.number {
            return;
        }
        self.number = snapshot.number;
        self.config.refresh(snapshot, &settings.domain);
        self.nodes_matter = snapshot.services.values().any(|service| {
            service.node_local || service.traffic_distribution == Some(TrafficDistribution::SameNode)
        });
        self.encoded.listeners.advance(snapshot.number);
        self.encoded.clusters.advance(snapshot.number);
        self.encoded.endpoints.advance(snapshot.number);
        let recent = |number: u64| number + FORGOTTEN >= snapshot.number;
        self.outbound.retain(|_, kept| recent(kept.snapshot.number));
        self.routers.retain(|_, kept| recent(kept.snapshot.number));
        self.grpc.retain(|_, kept| recent(kept.snapshot.number));
        self.inbound.retain(|kept| recent(kept.snapshot.number));
        self.proxies.retain(|_, last| recent(last.snapshot.number));
        self.views.clear();
    }

    fn outbound(
        &mut self,
        class: &Class,
        snapshot: &Arc<Snapshot>,
        settings: &MeshSettings,
    ) -> Arc<Outbound> {
        let old = self.outbound.get(class);
        if let Some(kept) = old.filter(|kept| Arc::ptr_eq(&kept.snapshot, snapshot)) {
            return Arc::clone(&kept.value);
        }
        let old = old.map(|kept| (&*kept.value, &*kept.snapshot));
        let source = Source { snapshot, settings, config: &self.config };
        let new = Outbound::build(&source, class, &mut self.encoded, old);
        let value = Arc::new(new);
        let kept = Kept { snapshot: Arc::clone(snapshot), value: Arc::clone(&value) };
        self.outbound.insert(class.clone(), kept);
        value
    }

    fn router(&mut self, class: &Class, snapshot: &Arc<Snapshot>, settings: &MeshSettings) -> Arc<Router> {
        let source = Source { snapshot, settings, config: &self.config };
        of_class(&mut self.routers, class, snapshot, |old| {
            Router::build(&source, class, &mut self.encoded, old)
        })
    }

    fn grpc(&mut self, class: &Class, snapshot: &Arc<Snapshot>, settings: &MeshSettings) -> Arc<Grpc> {
        let source = Source { snapshot, settings, config: &self.config };
        of_class(&mut self.grpc, class, snapshot, |old| {
            Grpc::build(&source, class, &mut self.encoded, old.map(|(old, _)| old))
        })
    }

    fn inbound(
        &mut self,
        snapshot: &Arc<Snapshot>,
        settings: &MeshSettings,
        proxy: &Proxy,
        workload: Option<&Arc<Workload>>,
        last: Option<&Last>,
    ) -> Arc<InboundResources> {
        if let Some(last) = last
            && let Some(known) = &last.inbound
            && last.workload.as_ref().map(Arc::as_ptr) == workload.map(Arc::as_ptr)
            && !inbound::may_differ(&last.snapshot, snapshot, &proxy.namespace)
        {
            return Arc::clone(known);
        }
        let labels = inbound::labels(workload.map(Arc::as_ref), proxy);
        let inputs = inbound::inbound(snapshot, settings, proxy, workload.map(Arc::as_ref), labels);
        if let Some(kept) = self.inbound.iter_mut().find(|kept| kept.value.inputs == inputs) {
            kept.snapshot = Arc::clone(snapshot);
            return Arc::clone(&kept.value);
        }
        let mut clusters = fixed::sidecar();
        clusters.extend(inputs.ports.keys().map(|port| fixed::inbound(*port)));
        let listener = virtual_inbound(&inputs);
        let value = Arc::new(InboundResources { inputs, listener, clusters });
        self.inbound.push(Kept { snapshot: Arc::clone(snapshot), value: Arc::clone(&value) });
        value
    }

    /// The view of these parts: another proxy's where it has the same, else a new one that shares with the proxy's last view each
    /// type that did not change.
    fn join(&mut self, parts: &Parts, last: Option<&Last>, number: u64) -> Arc<View> {
        if let Some((_, view)) = self.views.iter().find(|(known, _)| known.same(parts)) {
            return Arc::clone(view);
        }
        let old = last.map(|last| &*last.view);
        let sets = match parts {
            Parts::Sidecar(outbound, inbound) => {
                let mut clusters = (*outbound.clusters).clone();
                clusters.extend(inbound.clusters.iter().cloned());
                let mut listeners = (*outbound.listeners).clone();
                listeners.push(inbound.listener.clone());
                vec![
                    (type_url::CLUSTER, shared(old, type_url::CLUSTER, clusters)),
                    (type_url::ENDPOINTS, Arc::clone(&outbound.endpoints)),
                    (type_url::LISTENER, shared(old, type_url::LISTENER, listeners)),
                    (type_url::NAME_TABLE, Arc::clone(&outbound.names)),
                ]
            }
            Parts::Router(router) => {
                let mut sets = vec![
                    (type_url::CLUSTER, Arc::clone(&router.clusters)),
                    (type_url::ENDPOINTS, Arc::clone(&router.endpoints)),
                    (type_url::LISTENER, Arc::clone(&router.listeners)),
                ];
                sets.extend(router.names.as_ref().map(|names| (type_url::EXPORTED_NAMES, Arc::clone(names))));
                sets
            }
            Parts::Grpc(grpc) => vec![
                (type_url::CLUSTER, Arc::clone(&grpc.clusters)),
                (type_url::ENDPOINTS, Arc::clone(&grpc.endpoints)),
                (type_url::LISTENER, Arc::clone(&grpc.listeners)),
                (type_url::ROUTE, Arc::clone(&grpc.routes)),
            ],
        };
        let view = Arc::new(View { version: number, sets });
        self.views.push((parts.clone(), Arc::clone(&view)));
        view
    }
}

/// What a class has at a snapshot, built anew from what it had when the snapshot is another.
fn of_class<T>(
    known: &mut HashMap<Class, Kept<T>>,
    class: &Class,
    snapshot: &Arc<Snapshot>,
    build: impl FnOnce(Option<(&T, &Snapshot)>) -> T,
) -> Arc<T> {
    let old = known.get(class);
    if let Some(kept) = old.filter(|kept| Arc::ptr_eq(&kept.snapshot, snapshot)) {
        return Arc::clone(&kept.value);
    }
    let value = Arc::new(build(old.map(|kept| (&*kept.value, &*kept.snapshot))));
    let kept = Kept { snapshot: Arc::clone(snapshot), value: Arc::clone(&value) };
    known.insert(class.clone(), kept);
    value
}

/// The set that the old view had, when it is equal.
fn shared(old: Option<&View>, type_url: &str, resources: Vec<Resource>) -> Arc<ResourceSet> {
    kept_set(old.and_then(|old| old.set(type_url)), resources)
}
