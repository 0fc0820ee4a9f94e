//! Gateways: TLS passed on by server name, never terminated.

mod routes;

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use envoy_types::pb::envoy::config::listener::v3 as pb;
use isthmus_model::{Location, Namespace, Selector};
use isthmus_proto::resource::{Resource, ResourceSet};
use isthmus_registry::{MeshService, Snapshot, is_exported};
use isthmus_resources::istio::{Gateway, ServerTlsMode};
use isthmus_sni::ISTIO_ALPN;
use prost::Message;

use crate::class::Class;
use crate::cluster::fixed::{self, CONTROL_PLANE};
use crate::cluster::{Target, Use};
use crate::config::Config;
use crate::encoded::{Encoded, Inputs, inputs, targets};
use crate::listener::{Route, tcp_proxy, tls_inspector};
use crate::lists::kept_set;
use crate::outbound::Source;
use crate::routes::server_host;
use crate::settings::MeshSettings;
use crate::wire::socket;

/// Port of mutual TLS between networks.
const DATA_PORT: u16 = 15443;
/// Port of the control plane.
const CONTROL_PORT: u16 = 15012;
/// The label by which gateways between networks are known.
const EAST_WEST: (&str, &str) = ("istio", "eastwestgateway");

/// What one class of gateways gets.
#[derive(Debug)]
pub(crate) struct Router {
    pub(crate) clusters: Arc<ResourceSet>,
    pub(crate) listeners: Arc<ResourceSet>,
    pub(crate) endpoints: Arc<ResourceSet>,
}

/// One port that is opened.
#[derive(Default)]
struct Port {
    chains: Vec<pb::FilterChain>,
    /// Server names that have a chain, by whether it is for mesh TLS alone.
    taken: HashSet<(String, bool)>,
}

/// Everything gathered on the way.
struct Builder<'a> {
    snapshot: &'a Snapshot,
    class: &'a Class,
    config: &'a Config,
    encoded: &'a mut Encoded,
    domain: Arc<str>,
    ports: BTreeMap<u16, Port>,
    known: HashSet<Arc<str>>,
    clusters: Vec<Resource>,
    endpoints: Vec<Resource>,
}

impl Router {
    /// The resources of a class of gateways.
    pub(crate) fn build(
        source: &Source<'_>,
        class: &Class,
        encoded: &mut Encoded,
        old: Option<&Self>,
    ) -> Self {
        let Source { snapshot, settings, config } = *source;
        let domain: Arc<str> = settings.domain.as_str().into();
        let mut builder = Builder {
            snapshot,
            class,
            config,
            encoded,
            domain,
            ports: BTreeMap::new(),
            known: HashSet::new(),
            clusters: Vec::new(),
            endpoints: Vec::new(),
        };
        builder.control_plane(settings);
        let mut selected = false;
        for (namespace, objects) in snapshot.config.iter() {
            for gateway in objects.gateways.iter() {
                if !Selector(gateway.spec.selector.clone()).matches(&class.labels) {
                    continue;
                }
                selected = true;
                builder.gateway(namespace, &gateway.meta.name, &gateway.spec);
            }
        }
        if !selected && class.labels.get(EAST_WEST.0) == Some(EAST_WEST.1) {
            builder.passthrough(DATA_PORT, None);
        }
        let listeners = builder.ports.into_iter().map(|(number, port)| listener(number, port)).collect();
        Self {
            clusters: kept_set(old.map(|old| &old.clusters), builder.clusters),
            listeners: kept_set(old.map(|old| &old.listeners), listeners),
            endpoints: kept_set(old.map(|old| &old.endpoints), builder.endpoints),
        }
    }
}

impl Builder<'_> {
    /// A gateway of the control plane's own network lets it through, whatever Gateway objects say: else nobody outside could
    /// repair what they say.
    fn control_plane(&mut self, settings: &MeshSettings) {
        let own = self.snapshot.networks.get(&self.snapshot.cluster).cloned().unwrap_or_default();
        let control = &settings.control_plane;
        if control.addresses.is_empty() || control.names.is_empty() || !own.reaches(&self.class.network) {
            return;
        }
        self.clusters.push(fixed::control_plane(control));
        for port in [CONTROL_PORT, DATA_PORT] {
            self.add(port, CONTROL_PLANE, &control.names, &[], &Route::Cluster(CONTROL_PLANE.to_string()));
        }
    }

    fn gateway(&mut self, namespace: &Namespace, name: &str, gateway: &Gateway) {
        for server in &gateway.servers {
            let port = self.target_port(server.port.number);
            let protocol = server.port.protocol.to_ascii_uppercase();
            match &server.tls {
                Some(tls) if tls.mode == ServerTlsMode::AutoPassthrough => {
                    self.passthrough(port, Some(&server.hosts));
                }
                Some(tls) if tls.mode == ServerTlsMode::Passthrough => {
                    self.by_server_name(port, namespace, name, server);
                }
                None if matches!(protocol.as_str(), "TCP" | "MONGO") => {
                    self.plain_tcp(port, namespace, name, server);
                }
                _ => {
                    tracing::debug!(%namespace, gateway = name, port = server.port.number, protocol, "server of this kind is not served yet");
                }
            }
        }
    }

    /// Gateway objects name ports of the gateway's Service; the listener has that port's target.
    fn target_port(&self, number: u16) -> u16 {
        let services = self.snapshot.services.values();
        let target = services
            .filter(|service| service.service.namespace == self.class.namespace)
            .filter(|service| {
                let selector = service.service.selector.as_ref();
                selector.is_some_and(|selector| selector.matches(&self.class.labels))
            })
            .find_map(|service| match service.service.port(number)?.target {
                isthmus_model::TargetPort::Number(target) => Some(target),
                isthmus_model::TargetPort::Name(_) => None,
            });
        target.unwrap_or(number)
    }

    /// AUTO_PASSTHROUGH: a chain for each port and subset of each exported service of the mesh whose host is among `hosts`.
    fn passthrough(&mut self, port: u16, hosts: Option<&[String]>) {
        let mut visible = self.snapshot.visible(&self.class.namespace);
        visible.retain(|service| self.passes(service, hosts));
        for service in visible {
            let inputs = self.inputs(service);
            let rule = inputs.rule.clone();
            for target in targets(service, rule.as_deref(), Use::Passthrough) {
                let name = target.name();
                self.cluster(target, &inputs);
                self.add(
                    port,
                    &name,
                    std::slice::from_ref(&name),
                    &ISTIO_ALPN,
                    &Route::Cluster(name.clone()),
                );
            }
        }
    }

    fn passes(&self, service: &MeshService, hosts: Option<&[String]>) -> bool {
        let exported = is_exported(service, &self.snapshot.cluster)
            && service.service.location == Location::MeshInternal;
        exported && hosts.is_none_or(|hosts| hosts.iter().any(|text| host_allows(text, service)))
    }

    fn inputs(&self, service: &Arc<MeshService>) -> Inputs {
        inputs(self.snapshot, self.class, service, self.config, &self.domain)
    }

    /// Adds the cluster and endpoints of a target, once.
    fn cluster(&mut self, target: Target<'_>, inputs: &Inputs) {
        let (cluster, assignment) = self.encoded.target(target, inputs, self.class);
        if self.known.insert(Arc::clone(&cluster.name)) {
            self.clusters.push(cluster);
            self.endpoints.extend(assignment);
        }
    }

    /// Adds a chain for those server names that no earlier chain has: Envoy refuses a listener with two equal matches.
    fn add(&mut self, port: u16, name: &str, server_names: &[String], alpn: &[&str], route: &Route) {
        let opened = self.ports.entry(port).or_default();
        let mesh = !alpn.is_empty();
        let wanted: Vec<String> = match server_names {
            [] => Vec::new(),
            names => {
                let free = names.iter().filter(|name| opened.taken.insert(((*name).clone(), mesh)));
                free.cloned().collect()
            }
        };
        let anything = server_names.is_empty() && opened.taken.insert((String::new(), mesh));
        if wanted.is_empty() && !anything {
            return;
        }
        opened.chains.push(pb::FilterChain {
            name: format!("{port}_{name}"),
            filter_chain_match: Some(pb::FilterChainMatch {
                server_names: wanted,
                application_protocols: alpn.iter().map(ToString::to_string).collect(),
                ..Default::default()
            }),
            filters: vec![tcp_proxy(name, route)],
            ..Default::default()
        });
    }
}

/// Whether `NAMESPACE/HOST` or `HOST` of a server lets a service in.
fn host_allows(text: &str, service: &MeshService) -> bool {
    let (namespace, host) = server_host(text);
    let there = namespace == "*" || namespace == service.service.namespace.as_str();
    there && host.is_some_and(|host| host.covers(service.service.host.as_str()))
}

fn listener(number: u16, port: Port) -> Resource {
    let name = format!("0.0.0.0_{number}");
    // a port of plain TCP alone must not wait for a ClientHello: the server may speak first
    let reads_tls = port.taken.iter().any(|(server_name, _)| !server_name.is_empty());
    let listener = pb::Listener {
        name: name.clone(),
        address: Some(socket("0.0.0.0", number)),
        filter_chains: port.chains,
        listener_filters: if reads_tls { vec![tls_inspector()] } else { Vec::new() },
        traffic_direction: envoy_types::pb::envoy::config::core::v3::TrafficDirection::Outbound as i32,
        ..Default::default()
    };
    Resource::new(name, listener.encode_to_vec().into())
}
