//! A control plane's registry and translator, fed with YAML, and resources read back.

use std::collections::BTreeMap;
use std::sync::Arc;

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::config::endpoint::v3::{
    ClusterLoadAssignment, LbEndpoint, LocalityLbEndpoints, lb_endpoint,
};
use envoy_types::pb::envoy::config::listener::v3::{Filter, FilterChain, Listener, filter};
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3::{TcpProxy, tcp_proxy};
use envoy_types::pb::google::protobuf::value::Kind as ValueKind;
use isthmus_envoy::{
    AccessLog, ControlPlane, Defaults, MeshSettings, OutboundPolicy, Proxy, ProxyKind, Translator,
};
use isthmus_model::{ClusterId, Labels, Locality, Namespace, NetworkId, PeerChange};
use isthmus_proto::nds::NameTable;
use isthmus_proto::resource::View;
use isthmus_proto::type_url;
use isthmus_registry::{Registry, Settings, Snapshot, exports, own_gateways};
use isthmus_resources::{Change, Event, Kind, parse_yaml};
use prost::Message;

pub(crate) const COMMON: &str = include_str!("objects/common.yaml");
pub(crate) const EAST: &str = include_str!("objects/east.yaml");
pub(crate) const WEST: &str = include_str!("objects/west.yaml");

/// One control plane.
pub(crate) struct World {
    pub(crate) cluster: ClusterId,
    pub(crate) registry: Registry,
    pub(crate) settings: MeshSettings,
    pub(crate) translator: Translator,
}

impl World {
    /// A control plane of a cluster on the network of the same name, with these objects.
    pub(crate) fn new(name: &str, objects: &[&str]) -> Self {
        let cluster = ClusterId::new(name).unwrap();
        let registry = Registry::new(Settings {
            cluster: cluster.clone(),
            network: NetworkId::new(name).unwrap(),
            trust_domain: "cluster.local".parse().unwrap(),
            system_namespace: Namespace::new("istio-system").unwrap(),
            domain: "cluster.local".into(),
        });
        let settings = MeshSettings {
            trust_domain: "cluster.local".parse().unwrap(),
            trust_domain_aliases: vec!["old.example".parse().unwrap()],
            cluster: cluster.clone(),
            root_namespace: Namespace::new("istio-system").unwrap(),
            domain: "cluster.local".to_string(),
            control_plane: ControlPlane {
                names: vec![
                    format!("default.{name}.federation.isthmus.internal"),
                    "istiod.istio-system.svc".to_string(),
                ],
                addresses: vec!["10.9.9.9:15012".parse().unwrap()],
            },
            outbound_policy: OutboundPolicy::AllowAny,
            defaults: Defaults::default(),
            access_log: AccessLog::default(),
        };
        let translator = Translator::new(settings.clone());
        let mut world = Self { cluster, registry, settings, translator };
        for text in objects {
            world.apply(text);
        }
        world
    }

    /// Creates or replaces objects.
    pub(crate) fn apply(&mut self, text: &str) {
        for object in parse_yaml(text) {
            let change = Change::Applied(object.unwrap());
            self.registry.apply(Event { cluster: self.cluster.clone(), change });
        }
    }

    /// Deletes an object.
    pub(crate) fn delete(&mut self, kind: Kind, namespace: &str, name: &str) {
        let change = Change::Removed(kind, Some(Namespace::new(namespace).unwrap()), name.into());
        self.registry.apply(Event { cluster: self.cluster.clone(), change });
    }

    /// The state now.
    pub(crate) fn snapshot(&mut self) -> Arc<Snapshot> {
        self.registry.publish();
        self.registry.snapshot()
    }

    /// What a proxy gets now.
    pub(crate) fn view(&mut self, proxy: &Proxy) -> Arc<View> {
        let snapshot = self.snapshot();
        self.translator.view(&snapshot, proxy)
    }

    /// As [`World::view`], decoded.
    pub(crate) fn resources(&mut self, proxy: &Proxy) -> Resources {
        Resources::decode(&self.view(proxy))
    }

    /// Hears from another control plane all that it exports.
    pub(crate) fn hear(&mut self, other: &mut Self) {
        let snapshot = other.snapshot();
        let mut say = |change| self.registry.apply_peer(&other.cluster, change).unwrap();
        for export in exports(&snapshot, &other.cluster) {
            say(PeerChange::Service(export));
        }
        for gateway in own_gateways(&snapshot, &other.cluster) {
            say(PeerChange::Gateway(gateway));
        }
        say(PeerChange::Synced);
    }

    /// A proxy of this cluster on its network.
    pub(crate) fn proxy(&self, kind: ProxyKind, namespace: &str, name: &str, ip: &str) -> Proxy {
        Proxy {
            kind,
            namespace: Namespace::new(namespace).unwrap(),
            name: name.into(),
            service_account: name.into(),
            cluster: self.cluster.clone(),
            network: NetworkId::new(self.cluster.as_str()).unwrap(),
            locality: Locality::default(),
            ips: vec![ip.parse().unwrap()],
            labels: Labels::default(),
            requested_network_view: Vec::new(),
            dns_capture: true,
            on_demand: false,
            node: None,
        }
    }

    /// A gateway of a network.
    pub(crate) fn gateway(&self, network: &str) -> Proxy {
        let network = NetworkId::new(network).unwrap();
        Proxy {
            network: network.clone(),
            requested_network_view: vec![network],
            labels: [("istio", "eastwestgateway")].into_iter().collect(),
            ..self.proxy(ProxyKind::Router, "istio-system", "gw", "10.8.0.1")
        }
    }
}

/// East and west, linked.
pub(crate) fn bookinfo() -> (World, World) {
    let mut east = World::new("east", &[COMMON, EAST]);
    let mut west = World::new("west", &[COMMON, WEST]);
    east.hear(&mut west);
    west.hear(&mut east);
    (east, west)
}

/// A view's resources by name.
#[derive(Debug)]
pub(crate) struct Resources {
    pub(crate) listeners: BTreeMap<String, Listener>,
    pub(crate) clusters: BTreeMap<String, Cluster>,
    pub(crate) endpoints: BTreeMap<String, ClusterLoadAssignment>,
    pub(crate) names: NameTable,
}

impl Resources {
    pub(crate) fn decode(view: &View) -> Self {
        Self {
            listeners: of(view, type_url::LISTENER),
            clusters: of(view, type_url::CLUSTER),
            endpoints: of(view, type_url::ENDPOINTS),
            names: of(view, type_url::NAME_TABLE).into_values().next().unwrap_or_default(),
        }
    }

    /// `PRIORITY ADDRESS:PORT xWEIGHT [mtls] [unhealthy]` of every host of a cluster.
    pub(crate) fn hosts(&self, cluster: &str) -> Vec<String> {
        let Some(assignment) = self.endpoints.get(cluster) else { panic!("no endpoints for {cluster}") };
        assignment.endpoints.iter().flat_map(describe).collect()
    }
}

fn of<M: Message + Default>(view: &View, url: &str) -> BTreeMap<String, M> {
    let Some(set) = view.set(url) else { return BTreeMap::new() };
    set.iter()
        .map(|resource| (resource.name.to_string(), M::decode(resource.body.clone()).unwrap()))
        .collect()
}

fn describe(locality: &LocalityLbEndpoints) -> Vec<String> {
    let one = |host: &LbEndpoint| {
        let Some(lb_endpoint::HostIdentifier::Endpoint(endpoint)) = &host.host_identifier else { panic!() };
        let Some(core::address::Address::SocketAddress(socket)) = &endpoint.address.as_ref().unwrap().address
        else {
            panic!()
        };
        let Some(core::socket_address::PortSpecifier::PortValue(port)) = socket.port_specifier else {
            panic!()
        };
        let metadata = &host.metadata.as_ref().unwrap().filter_metadata;
        let mutual = metadata.contains_key("envoy.transport_socket_match");
        let unhealthy = host.health_status == core::HealthStatus::Unhealthy as i32;
        format!(
            "{} {}:{port} x{}{}{}",
            locality.priority,
            socket.address,
            host.load_balancing_weight.unwrap().value,
            if mutual { " mtls" } else { "" },
            if unhealthy { " unhealthy" } else { "" },
        )
    };
    locality.lb_endpoints.iter().map(one).collect()
}

/// The cluster of a chain's TCP proxy.
pub(crate) fn cluster_of(chain: &FilterChain) -> String {
    let last = chain.filters.last().unwrap();
    match typed::<TcpProxy>(last).cluster_specifier.unwrap() {
        tcp_proxy::ClusterSpecifier::Cluster(name) => name,
        tcp_proxy::ClusterSpecifier::WeightedClusters(clusters) => {
            let parts = clusters.clusters.iter().map(|part| format!("{}={}", part.name, part.weight));
            parts.collect::<Vec<_>>().join(" ")
        }
    }
}

/// A filter's configuration.
pub(crate) fn typed<M: Message + Default>(filter: &Filter) -> M {
    let Some(filter::ConfigType::TypedConfig(any)) = &filter.config_type else { panic!() };
    M::decode(&*any.value).unwrap()
}

/// A text field of a cluster's or host's metadata.
pub(crate) fn metadata_text(metadata: &core::Metadata, filter: &str, key: &str) -> String {
    match &metadata.filter_metadata[filter].fields[key].kind {
        Some(ValueKind::StringValue(text)) => text.clone(),
        other => panic!("{other:?}"),
    }
}
