//! Which ports a gateway opens, and for what: the servers of all Gateway objects that select it, oldest object first. Of two that
//! cannot share a port or a host the older stays (Istio's rule), and the other is told of.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use isthmus_model::{Hostname, Labels, Namespace, Selector, TargetPort};
use isthmus_proto::resource::fnv1a;
use isthmus_registry::{MeshService, Snapshot};
use isthmus_resources::istio::{Server, ServerTlsMode};

use super::{DATA_PORT, EAST_WEST, is_for};
use crate::class::Class;
use crate::routes::server_host;

/// Where a listener listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) port: u16,
    /// None: everywhere.
    pub(super) bind: Option<IpAddr>,
}

impl Place {
    /// A port of all addresses.
    pub(super) fn any(port: u16) -> Self {
        Self { port, bind: None }
    }
}

/// One port and what it is for.
#[derive(Debug)]
pub(super) struct Port<'a> {
    /// TLS by server name, or plain TCP.
    pub(super) tls: bool,
    /// AUTO_PASSTHROUGH, and the services that it lets pass.
    pub(super) auto: Option<Hosts>,
    /// Servers that VirtualServices route.
    pub(super) routed: Vec<Routed<'a>>,
    /// Hosts that have a server.
    taken: BTreeSet<String>,
}

/// A server that VirtualServices route, with its Gateway object.
#[derive(Clone, Copy, Debug)]
pub(super) struct Routed<'a> {
    pub(super) namespace: &'a Namespace,
    pub(super) gateway: &'a str,
    pub(super) server: &'a Server,
}

/// All ports.
#[derive(Debug, Default)]
pub(super) struct Plan<'a> {
    pub(super) ports: BTreeMap<Place, Port<'a>>,
    /// Servers that are not served, and why.
    pub(super) conflicts: Vec<String>,
}

/// Which services AUTO_PASSTHROUGH lets pass: `NAMESPACE/HOST` patterns.
#[derive(Debug, Default)]
pub(super) struct Hosts(BTreeSet<(String, Hostname)>);

impl Hosts {
    fn add(&mut self, text: &str, own: &Namespace) {
        let (namespace, host) = text.split_once('/').unwrap_or(("*", text));
        let namespace = if namespace == "." { own.as_str() } else { namespace };
        // a host that is none matches nothing
        self.0.extend(Hostname::new(host).map(|host| (namespace.to_string(), host)));
    }

    fn all(own: &Namespace) -> Self {
        let mut hosts = Self::default();
        hosts.add("*", own);
        hosts
    }

    fn has_all(&self) -> bool {
        self.0.iter().any(|(namespace, host)| namespace == "*" && host.as_str() == "*")
    }

    /// Whether a service may pass.
    pub(super) fn allow(&self, service: &MeshService) -> bool {
        self.0.iter().any(|(namespace, host)| {
            let there = namespace == "*" || namespace == service.service.namespace.as_str();
            there && host.covers(service.service.host.as_str())
        })
    }

    /// The name of their table: equal for equal hosts.
    pub(super) fn table(&self) -> String {
        if self.has_all() {
            return "all".to_string();
        }
        let texts: Vec<String> =
            self.0.iter().map(|(namespace, host)| format!("{namespace}/{host}")).collect();
        format!("{:016x}", fnv1a(texts.join(",").as_bytes()))
    }
}

impl<'a> Plan<'a> {
    /// The ports of a class. A gateway between networks that no Gateway object selects passes everything on.
    pub(super) fn of(snapshot: &'a Snapshot, class: &Class) -> Self {
        let mut plan = Self::default();
        let objects = snapshot
            .config
            .iter()
            .flat_map(|(namespace, config)| config.gateways.iter().map(move |object| (namespace, object)));
        let selects = |selector: &Labels| Selector(selector.clone()).matches(&class.labels);
        let mut chosen: Vec<_> = objects.filter(|(_, object)| selects(&object.spec.selector)).collect();
        chosen.sort_by(|(_, a), (_, b)| a.meta.age_key().cmp(&b.meta.age_key()));
        for (namespace, object) in &chosen {
            for server in &object.spec.servers {
                let routed = Routed { namespace, gateway: &object.meta.name, server };
                let added = place(snapshot, class, server).and_then(|place| plan.add(place, routed));
                if let Err(why) = added {
                    let number = server.port.number;
                    plan.conflicts
                        .push(format!("{namespace}/{}: server of port {number}: {why}", object.meta.name));
                }
            }
        }
        if chosen.is_empty() && class.labels.get(EAST_WEST.0) == Some(EAST_WEST.1) {
            plan.ports.entry(Place::any(DATA_PORT)).or_insert_with(|| Port::new(true)).auto =
                Some(Hosts::all(&class.namespace));
        }
        plan
    }

    fn add(&mut self, place: Place, routed: Routed<'a>) -> Result<(), String> {
        let server = routed.server;
        let protocol = server.port.protocol.to_ascii_uppercase();
        let tls = match (&server.tls, protocol.as_str()) {
            (Some(tls), _) if passes_on(tls.mode) => true,
            (None, "TCP" | "MONGO") => false,
            (Some(_), _) => {
                return Err("TLS is not terminated here; AUTO_PASSTHROUGH and PASSTHROUGH are served".into());
            }
            (None, other) => return Err(format!("protocol {other} is not served yet")),
        };
        let port = self.ports.entry(place).or_insert_with(|| Port::new(tls));
        if port.tls != tls || (!tls && !port.routed.is_empty()) {
            return Err("an older server has the port for another protocol".into());
        }
        if !tls {
            port.routed.push(routed);
            return Ok(());
        }
        let auto = server.tls.as_ref().is_some_and(|tls| tls.mode == ServerTlsMode::AutoPassthrough);
        let normal = |text: &String| match text.split_once('/') {
            Some((".", host)) => format!("{}/{host}", routed.namespace),
            Some(_) => text.clone(),
            None => format!("*/{text}"),
        };
        let hosts: Vec<String> = server.hosts.iter().map(normal).collect();
        if auto {
            let known = port.auto.get_or_insert_default();
            server.hosts.iter().for_each(|host| known.add(host, routed.namespace));
            return Ok(());
        }
        if let Some(host) = hosts.iter().find(|host| port.taken.contains(*host)) {
            return Err(format!("an older server has the host {host}"));
        }
        port.taken.extend(hosts);
        port.routed.push(routed);
        Ok(())
    }

    /// Tells of conflicts that were not there before.
    pub(super) fn tell(&self, before: &[String]) {
        for conflict in self.conflicts.iter().filter(|conflict| !before.contains(conflict)) {
            tracing::warn!(gateway = conflict, "server not served");
        }
    }
}

impl Port<'_> {
    fn new(tls: bool) -> Self {
        Self { tls, auto: None, routed: Vec::new(), taken: BTreeSet::new() }
    }
}

impl Routed<'_> {
    /// Whether the server is for this server name, from a VirtualService of this namespace.
    pub(super) fn allows(&self, name: &str, own: &Namespace) -> bool {
        self.server.hosts.iter().any(|text| {
            let (namespace, host) = server_host(text);
            is_for(namespace, self.namespace, own)
                && host.is_some_and(|host| host.as_str() == "*" || host.as_str() == name || host.covers(name))
        })
    }
}

fn passes_on(mode: ServerTlsMode) -> bool {
    matches!(mode, ServerTlsMode::AutoPassthrough | ServerTlsMode::Passthrough)
}

fn place(snapshot: &Snapshot, class: &Class, server: &Server) -> Result<Place, String> {
    let bind = match server.bind.as_str() {
        "" => None,
        text => Some(text.parse::<IpAddr>().map_err(|_| format!("bind {text:?} is no IP address"))?),
    };
    let port = target_port(snapshot, class, server.port.number);
    Ok(Place { port, bind: bind.filter(|bind| !bind.is_unspecified()) })
}

/// Gateway objects name ports of the gateway's Service; the listener has that port's target.
fn target_port(snapshot: &Snapshot, class: &Class, number: u16) -> u16 {
    let services = snapshot.services.values();
    let target = services
        .filter(|service| service.service.namespace == class.namespace)
        .filter(|service| {
            let selector = service.service.selector.as_ref();
            selector.is_some_and(|selector| selector.matches(&class.labels))
        })
        .find_map(|service| match service.service.port(number)?.target {
            TargetPort::Number(target) => Some(target),
            TargetPort::Name(_) => None,
        });
    target.unwrap_or(number)
}
