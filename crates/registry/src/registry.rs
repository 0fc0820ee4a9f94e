//! The builder of snapshots: tables in, immutable states and differences out.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use ipnet::IpNet;
use isthmus_model::{ClusterId, Namespace, NetworkGateway, NetworkId, PeerChange, TrustDomain};
use isthmus_resources::convert::{Site, network_gateways};
use isthmus_resources::kubernetes::Service;
use isthmus_resources::mesh::Mesh;
use isthmus_resources::{Change, Event, Kind, Object, Resource};

use crate::allocate::Allocator;
use crate::declared::kubernetes_host;
use crate::mesh::Hidden;
use crate::peer::{Peer, Refused};
use crate::snapshot::{Changes, ServiceKey, Snapshot, WorkloadKey};
use crate::tables::{ObjectKey, Tables, key_of};
use crate::workload::{Reader, label_network};

/// What a registry is told once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Our own cluster: configuration is read from it alone.
    pub cluster: ClusterId,
    /// Its network where its system namespace has no label `topology.istio.io/network`.
    pub network: NetworkId,
    /// Trust domain of workloads, where the mesh's configuration names none.
    pub trust_domain: TrustDomain,
    /// Namespace of the network's label, and of mesh-wide policies where the mesh's configuration names none.
    pub system_namespace: Namespace,
    /// Cluster DNS domain, `cluster.local`.
    pub domain: Arc<str>,
}

/// Kinds that must have been listed before a cluster counts as synced.
pub const CORE_KINDS: [Kind; 4] = [Kind::Namespace, Kind::Service, Kind::Pod, Kind::EndpointSlice];

/// Kinds that our own cluster must have listed besides.
pub const CONFIG_KINDS: [Kind; 8] = [
    Kind::ServiceEntry,
    Kind::WorkloadEntry,
    Kind::DestinationRule,
    Kind::VirtualService,
    Kind::Gateway,
    Kind::Sidecar,
    Kind::PeerAuthentication,
    Kind::AuthorizationPolicy,
];

/// All tables, what was touched since the last snapshot, and the last snapshot.
#[derive(Debug)]
pub struct Registry {
    pub(crate) settings: Settings,
    pub(crate) mesh: Arc<Mesh>,
    pub(crate) ranges: Vec<(IpNet, NetworkId)>,
    /// Addresses of gateways that are known by a host name.
    pub(crate) named: BTreeMap<Arc<str>, Vec<IpAddr>>,
    pub(crate) sources: BTreeMap<ClusterId, Tables>,
    /// Objects of namespaces that the mesh does not discover.
    pub(crate) hidden: BTreeMap<ClusterId, Hidden>,
    pub(crate) peers: BTreeMap<ClusterId, Peer>,
    pub(crate) allocator: Allocator,
    pub(crate) dirty: Dirty,
    pub(crate) latest: Arc<Snapshot>,
    pub(crate) published: Arc<ArcSwap<Snapshot>>,
}

/// What has to be computed again.
#[derive(Debug, Default)]
pub(crate) struct Dirty {
    pub(crate) services: BTreeSet<ServiceKey>,
    pub(crate) workloads: BTreeSet<WorkloadKey>,
    pub(crate) config: BTreeSet<Namespace>,
    pub(crate) namespaces: BTreeSet<Namespace>,
    pub(crate) gateways: bool,
    pub(crate) knowledge: bool,
    pub(crate) mesh: bool,
}

impl Registry {
    /// An empty registry, which knows nothing yet.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        let latest = Arc::new(Snapshot::empty(settings.cluster.clone(), settings.system_namespace.clone()));
        let published = Arc::new(ArcSwap::from(Arc::clone(&latest)));
        Self {
            settings,
            mesh: Arc::clone(&latest.mesh),
            ranges: Vec::new(),
            named: BTreeMap::new(),
            sources: BTreeMap::new(),
            hidden: BTreeMap::new(),
            peers: BTreeMap::new(),
            allocator: Allocator::default(),
            dirty: Dirty { gateways: true, knowledge: true, ..Dirty::default() },
            latest,
            published,
        }
    }

    /// Takes over what one cluster's API server reports. Nothing is visible before [`Registry::publish`].
    pub fn apply(&mut self, event: Event) {
        let cluster = event.cluster;
        if !self.sources.contains_key(&cluster) {
            self.sources.insert(cluster.clone(), Tables::default());
            self.dirty.knowledge = true;
        }
        match event.change {
            Change::Applied(object) => self.receive(&cluster, object),
            Change::Removed(kind, namespace, name) => self.gone(&cluster, &(kind, namespace, name)),
            Change::Listed(kind, objects) => {
                let listed: BTreeSet<ObjectKey> = objects.iter().map(key_of).collect();
                let tables = &self.sources[&cluster];
                let gone: Vec<ObjectKey> = tables.keys(kind).filter(|key| !listed.contains(key)).collect();
                for key in gone {
                    self.gone(&cluster, &key);
                }
                if let Some(hidden) = self.hidden.get_mut(&cluster) {
                    hidden.retain(|key, _| key.0 != kind || listed.contains(key));
                }
                for object in objects.into_iter().filter(|object| object.kind() == kind) {
                    self.receive(&cluster, object);
                }
                if let Some(tables) = self.sources.get_mut(&cluster) {
                    tables.compact(kind);
                    self.dirty.knowledge |= tables.mark_listed(kind);
                }
            }
        }
    }

    /// A cluster is read no more (its remote secret was deleted): all that it declared goes.
    pub fn forget_cluster(&mut self, cluster: &ClusterId) {
        let Some(tables) = self.sources.get(cluster) else { return };
        let keys: Vec<ObjectKey> = Kind::ALL.iter().flat_map(|kind| tables.keys(*kind)).collect();
        for key in keys {
            self.remove(cluster, &key);
        }
        self.sources.remove(cluster);
        self.hidden.remove(cluster);
        self.dirty.knowledge = true;
        self.dirty.gateways = true;
    }

    /// A link exists, whether or not its peer ever spoke: until then the peer is known as unknown.
    pub fn link(&mut self, peer: &ClusterId) {
        if !self.peers.contains_key(peer) {
            self.peers.insert(peer.clone(), Peer::default());
            self.dirty.knowledge = true;
        }
    }

    /// Takes over what a peer says of itself. A peer that is disconnected says nothing: its last good records stay.
    ///
    /// # Errors
    /// When the peer speaks in another's name; nothing is changed then.
    pub fn apply_peer(&mut self, peer: &ClusterId, change: PeerChange) -> Result<(), Refused> {
        if *peer == self.settings.cluster {
            return Err(Refused::Ourselves { peer: peer.clone() });
        }
        if change == PeerChange::Unlinked {
            if let Some(gone) = self.peers.remove(peer) {
                self.dirty.services.extend(gone.exports.into_keys());
                self.dirty.gateways |= !gone.gateways.is_empty();
                self.dirty.knowledge = true;
            }
            return Ok(());
        }
        self.link(peer);
        let Some(records) = self.peers.get_mut(peer) else { return Ok(()) };
        let touched = records.apply(peer, change)?;
        self.dirty.services.extend(touched.services);
        self.dirty.gateways |= touched.gateways;
        self.dirty.knowledge = true;
        Ok(())
    }

    /// Addresses given to imported hosts: what the caller persists.
    #[must_use]
    pub fn allocator(&self) -> &Allocator {
        &self.allocator
    }

    /// As [`Registry::allocator`], to restore assignments at start and to ask whether they changed.
    pub fn allocator_mut(&mut self) -> &mut Allocator {
        &mut self.allocator
    }

    /// The last published snapshot.
    #[must_use]
    pub fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.latest)
    }

    /// Where the last published snapshot is always found.
    #[must_use]
    pub fn handle(&self) -> Arc<ArcSwap<Snapshot>> {
        Arc::clone(&self.published)
    }

    /// Whether something was touched since the last snapshot.
    #[must_use]
    pub fn is_dirty(&self) -> bool {
        let dirty = &self.dirty;
        dirty.gateways
            || dirty.knowledge
            || dirty.mesh
            || !dirty.services.is_empty()
            || !dirty.workloads.is_empty()
            || !dirty.config.is_empty()
            || !dirty.namespaces.is_empty()
    }

    /// Computes what was touched. None when nothing that a proxy could see changed.
    pub fn publish(&mut self) -> Option<(Arc<Snapshot>, Changes)> {
        if !self.is_dirty() {
            return None;
        }
        let (snapshot, changes) = self.build();
        if changes.is_empty() {
            return None;
        }
        self.latest = Arc::new(snapshot);
        self.published.store(Arc::clone(&self.latest));
        Some((Arc::clone(&self.latest), changes))
    }

    /// The network of a cluster's workloads that say nothing else.
    pub(crate) fn default_network(&self, cluster: &ClusterId) -> NetworkId {
        let labelled = self
            .sources
            .get(cluster)
            .and_then(|tables| tables.namespace(self.settings.system_namespace.as_str()))
            .and_then(|namespace| label_network(&namespace.meta.labels));
        match labelled.or_else(|| self.mesh.networks.of_cluster(cluster).cloned()) {
            Some(network) => network,
            None if *cluster == self.settings.cluster => self.settings.network.clone(),
            None => NetworkId::unnamed(),
        }
    }

    pub(crate) fn reader<'a>(&'a self, cluster: &'a ClusterId, network: &'a NetworkId) -> Reader<'a> {
        Reader { site: self.site(cluster, network), tables: &self.sources[cluster] }
    }

    fn site<'a>(&'a self, cluster: &'a ClusterId, network: &'a NetworkId) -> Site<'a> {
        let Settings { trust_domain, domain, .. } = &self.settings;
        let trust_domain = self.mesh.config.trust_domain.as_ref().unwrap_or(trust_domain);
        Site { cluster, trust_domain, domain, network, ranges: &self.ranges }
    }

    pub(crate) fn kubernetes_key(&self, name: &str, namespace: &Namespace) -> Option<ServiceKey> {
        let host = kubernetes_host(name, namespace, &self.settings.domain)?;
        Some(ServiceKey::new(host, namespace.clone()))
    }

    /// All gateways that Services, peers and the mesh's networks declare, sorted.
    pub(crate) fn declared_gateways(&self) -> Vec<NetworkGateway> {
        let mut all: BTreeSet<NetworkGateway> =
            self.peers.values().flat_map(|peer| peer.gateways.iter().cloned()).collect();
        for (cluster, tables) in &self.sources {
            let network = self.default_network(cluster);
            let site = self.site(cluster, &network);
            for object in tables.all(Kind::Service) {
                if let Object::Service(service) = object {
                    if label_network(&service.meta.labels).is_some() {
                        all.extend(network_gateways(site, service, tables.nodes()));
                    } else {
                        all.extend(self.named_gateways(cluster, service));
                    }
                }
            }
        }
        all.extend(self.mesh.networks.fixed_gateways());
        all.into_iter().collect()
    }

    /// Gateways that MeshNetworks name by their Service.
    fn named_gateways(&self, cluster: &ClusterId, service: &Resource<Service>) -> Vec<NetworkGateway> {
        if self.mesh.networks.0.is_empty() {
            return Vec::new();
        }
        let key =
            service.meta.namespace.as_ref().and_then(|own| self.kubernetes_key(&service.meta.name, own));
        key.map(|key| self.mesh.networks.service_gateways(cluster, key.host.as_str(), service))
            .unwrap_or_default()
    }

    /// These gateways with addresses in place of host names that were looked up.
    pub(crate) fn looked_up(&self, declared: &[NetworkGateway]) -> Vec<NetworkGateway> {
        let mut all = BTreeSet::new();
        for gateway in declared {
            match self.named.get(&gateway.address) {
                None => drop(all.insert(gateway.clone())),
                Some(addresses) => all.extend(
                    addresses
                        .iter()
                        .map(|ip| NetworkGateway { address: ip.to_string().into(), ..gateway.clone() }),
                ),
            }
        }
        all.into_iter().collect()
    }

    /// Host names by which gateways are known: what somebody should look up.
    #[must_use]
    pub fn gateway_names(&self) -> BTreeSet<Arc<str>> {
        let declared = self.latest.gateways.declared.iter();
        let names = declared.filter(|gateway| gateway.address.parse::<IpAddr>().is_err());
        names.map(|gateway| Arc::clone(&gateway.address)).collect()
    }

    /// The addresses of a gateway's host name. None at all says nothing: the last ones stay.
    pub fn found(&mut self, name: &Arc<str>, mut addresses: Vec<IpAddr>) {
        addresses.sort();
        addresses.dedup();
        if addresses.is_empty() || self.named.get(name) == Some(&addresses) {
            return;
        }
        self.named.insert(Arc::clone(name), addresses);
        self.dirty.gateways = true;
    }

    pub(crate) fn put(&mut self, cluster: &ClusterId, object: Object) {
        let Some(tables) = self.sources.get_mut(cluster) else { return };
        let old = tables.put(object.clone());
        if old.as_ref() == Some(&object) {
            return;
        }
        // before and after: what the old state was part of changes too
        if let Some(old) = &old {
            self.touch(cluster, old);
        }
        self.touch(cluster, &object);
        self.touch_network(cluster, old.as_ref(), Some(&object));
    }

    pub(crate) fn remove(&mut self, cluster: &ClusterId, key: &ObjectKey) {
        let Some(old) = self.sources.get_mut(cluster).and_then(|tables| tables.take(key)) else { return };
        self.touch(cluster, &old);
        self.touch_network(cluster, Some(&old), None);
    }
}
