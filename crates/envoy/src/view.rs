//! One proxy's whole view, joined from what its class and its workload get.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use isthmus_model::{ClusterId, Namespace};
use isthmus_proto::resource::{Resource, ResourceSet, View};
use isthmus_proto::type_url;
use isthmus_registry::shared::Map;
use isthmus_registry::{MeshService, ServiceKey, Snapshot, TrafficDistribution, Workload, WorkloadKind};
use isthmus_resources::mesh::Mesh;
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
use crate::outbound::{Known, Outbound, Source, same_but_endpoints};
use crate::settings::{MeshSettings, Proxy, ProxyKind};

/// Snapshots after which a proxy, class or workload that nobody asked for is forgotten.
const FORGOTTEN: u64 = 64;

/// Translates, and shares what was translated before.
#[derive(Debug)]
pub struct Translator {
    /// What holds where the mesh's configuration says nothing.
    base: MeshSettings,
    state: Mutex<State>,
}

/// What was translated.
#[derive(Debug, Default)]
struct State {
    number: u64,
    /// What the mesh's configuration was, and what it comes to.
    mesh: Arc<Mesh>,
    settings: Option<Arc<MeshSettings>>,
    config: Config,
    /// Services that were looked at for `nodes_matter`.
    services: Map<ServiceKey, Arc<MeshService>>,
    /// Whether some service looks at nodes: proxies of different nodes are different classes then.
    nodes_matter: bool,
    encoded: Encoded,
    outbound: HashMap<Class, Kept<Outbound>>,
    /// By class in no namespace in particular, the class of it that was built last.
    alike: HashMap<Class, Alike>,
    routers: HashMap<Class, Kept<Router>>,
    grpc: HashMap<Class, Kept<Grpc>>,
    inbound: Vec<Kept<InboundResources>>,
    proxies: HashMap<(ProxyKind, ClusterId, Namespace, Arc<str>), Last>,
    /// Views that somebody holds, by the addresses of their parts; the parts are held so that an address cannot come to mean another.
    views: HashMap<[usize; 5], (Parts, Weak<View>)>,
}

/// A value with the snapshot that it was computed from.
#[derive(Debug)]
struct Kept<T> {
    snapshot: Arc<Snapshot>,
    value: Arc<T>,
}

/// What a class of those that are alike has, and had before.
#[derive(Debug)]
struct Alike {
    snapshot: Arc<Snapshot>,
    value: Arc<Outbound>,
    before: Option<(Arc<Snapshot>, Arc<Outbound>)>,
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
    class: Class,
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
    /// The addresses of all that a view is joined from.
    fn key(&self) -> [usize; 5] {
        match self {
            Self::Sidecar(outbound, inbound) => [
                address(&outbound.clusters),
                address(&outbound.listeners),
                address(&outbound.endpoints),
                address(&outbound.names),
                address(inbound),
            ],
            Self::Router(router) => [
                address(&router.clusters),
                address(&router.listeners),
                address(&router.endpoints),
                router.names.as_ref().map_or(0, address),
                0,
            ],
            Self::Grpc(grpc) => [
                address(&grpc.clusters),
                address(&grpc.listeners),
                address(&grpc.endpoints),
                address(&grpc.routes),
                0,
            ],
        }
    }
}

fn address<T>(value: &Arc<T>) -> usize {
    Arc::as_ptr(value).addr()
}

impl Translator {
    /// A translator with an empty cache.
    #[must_use]
    pub fn new(settings: MeshSettings) -> Self {
        Self { base: settings, state: Mutex::new(State::default()) }
    }

    /// All resources of one proxy at one snapshot. Proxies with equal inputs get the same `Arc`, and so does a proxy whose
    /// resources did not change since the last snapshot.
    #[must_use]
    pub fn view(&self, snapshot: &Arc<Snapshot>, proxy: &Proxy) -> Arc<View> {
        let mut state = self.state.lock();
        let settings = state.settings(snapshot, &self.base);
        state.advance(snapshot, &settings);
        let id = (proxy.kind, proxy.cluster.clone(), proxy.namespace.clone(), Arc::clone(&proxy.name));
        let last = state.proxies.remove(&id).filter(|last| last.proxy == *proxy);
        let next = match last {
            Some(last) if Arc::ptr_eq(&last.snapshot, snapshot) => last,
            last => state.next(snapshot, &settings, proxy, last),
        };
        let view = Arc::clone(&next.view);
        state.proxies.insert(id, next);
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
    /// What the view was joined from beside these inbound resources.
    fn outbound_beside(&self, inbound: &Arc<InboundResources>) -> Option<&Arc<Outbound>> {
        match &self.parts {
            Parts::Sidecar(outbound, with) if Arc::ptr_eq(with, inbound) => Some(outbound),
            _ => None,
        }
    }

    /// The proxy's workload at another snapshot, and whether it is the one of the last.
    fn workload(&self, snapshot: &Snapshot) -> (Option<Arc<Workload>>, bool) {
        if snapshot.workloads.same(&self.snapshot.workloads) {
            return (self.workload.clone(), true);
        }
        let proxy = &self.proxy;
        // A Pod of the proxy's name comes before all else that may be its workload.
        if let Some(known) = &self.workload
            && known.key.kind == WorkloadKind::Pod
            && known.key.name == proxy.name
            && snapshot.workloads.get(&known.key).is_some_and(|now| Arc::ptr_eq(now, known))
        {
            return (Some(Arc::clone(known)), true);
        }
        let found = snapshot.workload(&proxy.cluster, &proxy.namespace, &proxy.name, &proxy.ips);
        let same = found.map(Arc::as_ptr) == self.workload.as_ref().map(Arc::as_ptr);
        (found.cloned(), same)
    }
}

impl State {
    /// The settings at a snapshot. Where they changed, nothing that was translated before counts: all of it may differ.
    fn settings(&mut self, snapshot: &Snapshot, base: &MeshSettings) -> Arc<MeshSettings> {
        if let Some(known) = &self.settings
            && Arc::ptr_eq(&self.mesh, &snapshot.mesh)
        {
            return Arc::clone(known);
        }
        self.mesh = Arc::clone(&snapshot.mesh);
        let new = base.under(&snapshot.mesh.config);
        match &self.settings {
            Some(known) if **known == new => Arc::clone(known),
            _ => {
                let new = Arc::new(new);
                *self = Self {
                    mesh: Arc::clone(&snapshot.mesh),
                    settings: Some(Arc::clone(&new)),
                    ..Self::default()
                };
                new
            }
        }
    }

    /// What a proxy gets at a snapshot that is not the one of `last`.
    fn next(
        &mut self,
        snapshot: &Arc<Snapshot>,
        settings: &MeshSettings,
        proxy: &Proxy,
        last: Option<Last>,
    ) -> Last {
        let find = || snapshot.workload(&proxy.cluster, &proxy.namespace, &proxy.name, &proxy.ips).cloned();
        let (workload, same) = last.as_ref().map_or_else(|| (find(), false), |last| last.workload(snapshot));
        let class = match &last {
            // A class depends on services, configuration and networks only, beside the proxy and its workload.
            Some(last)
                if same
                    && same_but_endpoints(&last.snapshot, snapshot)
                    && Arc::ptr_eq(&last.snapshot.networks, &snapshot.networks)
                    && Arc::ptr_eq(&last.snapshot.mesh, &snapshot.mesh) =>
            {
                last.class.clone()
            }
            _ => {
                let labels = inbound::labels(workload.as_deref(), proxy);
                let locality = match workload.as_ref().map(|workload| &workload.locality) {
                    Some(known) if !known.is_empty() => known,
                    _ => &proxy.locality,
                };
                let network = proxy.network_of(snapshot, workload.as_ref());
                Class::of(proxy, (labels, locality, network), &self.config, self.nodes_matter)
            }
        };
        let (parts, inbound) = match proxy.kind {
            ProxyKind::Sidecar => {
                let outbound = self.outbound(&class, snapshot, settings);
                let inbound = self.inbound(snapshot, settings, proxy, workload.as_ref(), last.as_ref());
                (Parts::Sidecar(outbound, Arc::clone(&inbound)), Some(inbound))
            }
            ProxyKind::Router => (Parts::Router(self.router(&class, snapshot, settings)), None),
            ProxyKind::Grpc => (Parts::Grpc(self.grpc(&class, snapshot, settings)), None),
        };
        let view = match &last {
            Some(last) if last.parts.key() == parts.key() => Arc::clone(&last.view),
            _ => self.join(&parts, last.as_ref(), snapshot.number),
        };
        let proxy = last.map_or_else(|| proxy.clone(), |last| last.proxy);
        Last { proxy, class, snapshot: Arc::clone(snapshot), workload, inbound, parts, view }
    }

    /// A new snapshot: merged rules are refreshed, what nobody asked for in a while is forgotten.
    fn advance(&mut self, snapshot: &Arc<Snapshot>, settings: &MeshSettings) {
        if snapshot.number == self.number {
            return;
        }
        self.number = snapshot.number;
        self.config.refresh(snapshot, settings);
        if !self.services.same(&snapshot.services) {
            self.services = snapshot.services.clone();
            self.nodes_matter = self.services.values().any(|service| {
                service.node_local || service.traffic_distribution == Some(TrafficDistribution::SameNode)
            });
        }
        self.encoded.listeners.advance(snapshot.number);
        self.encoded.clusters.advance(snapshot.number);
        self.encoded.endpoints.advance(snapshot.number);
        let recent = |number: u64| number + FORGOTTEN >= snapshot.number;
        self.outbound.retain(|_, kept| recent(kept.snapshot.number));
        self.alike.retain(|_, alike| recent(alike.snapshot.number));
        self.routers.retain(|_, kept| recent(kept.snapshot.number));
        self.grpc.retain(|_, kept| recent(kept.snapshot.number));
        self.inbound.retain(|kept| recent(kept.snapshot.number));
        self.proxies.retain(|_, last| recent(last.snapshot.number));
        self.views.retain(|_, (_, view)| view.strong_count() > 0);
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
        let anywhere = class.anywhere();
        let alike = self.alike.get(&anywhere).filter(|alike| Arc::ptr_eq(&alike.snapshot, snapshot));
        // A class that had the same as one that is alike has the same again where nothing but endpoints changed.
        let followed = alike.zip(old).filter(|(alike, old)| {
            let before = alike.before.as_ref();
            before.is_some_and(|(snapshot, value)| {
                Arc::ptr_eq(snapshot, &old.snapshot) && Arc::ptr_eq(value, &old.value)
            }) && same_but_endpoints(&old.snapshot, snapshot)
        });
        let value = match followed {
            Some((alike, _)) => Arc::clone(&alike.value),
            None => {
                let source = Source { snapshot, settings, config: &self.config };
                let known = Known {
                    old: old.map(|kept| (&kept.value, &*kept.snapshot)),
                    alike: alike.map(|alike| &alike.value),
                };
                Outbound::build(&source, class, &mut self.encoded, known)
            }
        };
        if alike.is_none() {
            let before = old.map(|kept| (Arc::clone(&kept.snapshot), Arc::clone(&kept.value)));
            let built = Alike { snapshot: Arc::clone(snapshot), value: Arc::clone(&value), before };
            self.alike.insert(anywhere, built);
        }
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
        clusters.extend(inputs.clusters());
        let listener = virtual_inbound(&inputs, &settings.access_log);
        let value = Arc::new(InboundResources { inputs, listener, clusters });
        self.inbound.push(Kept { snapshot: Arc::clone(snapshot), value: Arc::clone(&value) });
        value
    }

    /// The view of these parts: another proxy's where it has the same, else a new one that shares with the proxy's last view each
    /// type that did not change.
    fn join(&mut self, parts: &Parts, last: Option<&Last>, number: u64) -> Arc<View> {
        if let Some(view) = self.views.get(&parts.key()).and_then(|(_, view)| view.upgrade()) {
            return view;
        }
        let old = last.map(|last| &*last.view);
        let sets = match parts {
            Parts::Sidecar(outbound, inbound) => {
                let before = last.and_then(|last| last.outbound_beside(inbound));
                let clusters = || {
                    let mut clusters = (*outbound.clusters).clone();
                    clusters.extend(inbound.clusters.iter().cloned());
                    clusters
                };
                let listeners = || {
                    let mut listeners = (*outbound.listeners).clone();
                    listeners.push(inbound.listener.clone());
                    listeners
                };
                let same_clusters = before.is_some_and(|was| Arc::ptr_eq(&was.clusters, &outbound.clusters));
                let same_listeners =
                    before.is_some_and(|was| Arc::ptr_eq(&was.listeners, &outbound.listeners));
                vec![
                    (type_url::CLUSTER, shared(old, type_url::CLUSTER, same_clusters, clusters)),
                    (type_url::ENDPOINTS, Arc::clone(&outbound.endpoints)),
                    (type_url::LISTENER, shared(old, type_url::LISTENER, same_listeners, listeners)),
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
        self.views.insert(parts.key(), (parts.clone(), Arc::downgrade(&view)));
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

/// The set that the old view had, when it is equal. Where it was joined from the same parts it is, and nothing is joined.
fn shared(
    old: Option<&View>,
    type_url: &str,
    same_parts: bool,
    resources: impl FnOnce() -> Vec<Resource>,
) -> Arc<ResourceSet> {
    match old.and_then(|old| old.set(type_url)) {
        Some(set) if same_parts => Arc::clone(set),
        old => kept_set(old, resources()),
    }
}
