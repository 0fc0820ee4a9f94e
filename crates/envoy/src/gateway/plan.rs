//! Which ports a gateway opens, and for what: the servers of all Gateway objects that select it, oldest object first. Of two that
//! cannot share a port or a host the older stays (Istio's rule), and the other is told of.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

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
    /// The Gateway object that had it first.
    first: Owner<'a>,
    /// Hosts that have a server, each with its Gateway object.
    taken: BTreeMap<String, Owner<'a>>,
}

/// A Gateway object; none stands for no object.
type Owner<'a> = Option<(&'a Namespace, &'a str)>;

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
    pub(super) lost: Vec<Lost>,
}

/// A server that is not served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Lost {
    /// Namespace of its Gateway object.
    pub(crate) namespace: Namespace,
    /// Name of its Gateway object.
    pub(crate) name: Arc<str>,
    /// Whether an older server is the reason.
    pub(crate) by_conflict: bool,
    /// Port and reason.
    pub(crate) message: String,
}

/// Why a server is not served.
struct Why {
    by_conflict: bool,
    problem: String,
}

impl Why {
    fn unserved(problem: impl Into<String>) -> Self {
        Self { by_conflict: false, problem: problem.into() }
    }

    /// An object has already what a server of `own` asks for.
    fn taken(what: &str, by: Owner<'_>, own: &Routed<'_>) -> Self {
        let problem = match by {
            Some((namespace, name)) if namespace == own.namespace && name == own.gateway => {
                format!("an earlier server of this Gateway has {what}")
            }
            Some((namespace, name)) => format!("Gateway {namespace}/{name}, which is older, has {what}"),
            None => format!("another server has {what}"),
        };
        Self { by_conflict: true, problem }
    }
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
        Self::of_gateways(snapshot, &class.namespace, &class.labels)
    }

    /// The ports of gateways in a namespace with these labels.
    pub(super) fn of_gateways(snapshot: &'a Snapshot, own: &Namespace, labels: &Labels) -> Self {
        let mut plan = Self::default();
        let objects = snapshot
            .config
            .iter()
            .flat_map(|(namespace, config)| config.gateways.iter().map(move |object| (namespace, object)));
        let selects = |selector: &Labels| Selector(selector.clone()).matches(labels);
        let mut chosen: Vec<_> = objects.filter(|(_, object)| selects(&object.spec.selector)).collect();
        chosen.sort_by(|(_, a), (_, b)| a.meta.age_key().cmp(&b.meta.age_key()));
        for (namespace, object) in &chosen {
            for server in &object.spec.servers {
                let routed = Routed { namespace, gateway: &object.meta.name, server };
                let added = place(snapshot, own, labels, server).and_then(|place| plan.add(place, routed));
                if let Err(why) = added {
                    plan.lost.push(Lost {
                        namespace: (*namespace).clone(),
                        name: Arc::clone(&object.meta.name),
                        by_conflict: why.by_conflict,
                        message: format!("server of port {}: {}", server.port.number, why.problem),
                    });
                }
            }
        }
        if chosen.is_empty() && labels.get(EAST_WEST.0) == Some(EAST_WEST.1) {
            plan.ports.entry(Place::any(DATA_PORT)).or_insert_with(|| Port::new(true, None)).auto =
                Some(Hosts::all(own));
        }
        plan
    }

    fn add(&mut self, place: Place, routed: Routed<'a>) -> Result<(), Why> {
        let server = routed.server;
        let protocol = server.port.protocol.to_ascii_uppercase();
        let tls = match (&server.tls, protocol.as_str()) {
            (Some(tls), _) if passes_on(tls.mode) => true,
            (None, "TCP" | "MONGO") => false,
            (Some(_), _) => {
                let problem = "TLS is not terminated here; AUTO_PASSTHROUGH and PASSTHROUGH are served";
                return Err(Why::unserved(problem));
            }
            (None, other) => return Err(Why::unserved(format!("protocol {other} is not served yet"))),
        };
        let owner = Some((routed.namespace, routed.gateway));
        let port = self.ports.entry(place).or_insert_with(|| Port::new(tls, owner));
        if port.tls != tls {
            return Err(Why::taken("the port for another protocol", port.first, &routed));
        }
        if !tls && !port.routed.is_empty() {
            return Err(Why::taken("the port, which plain TCP cannot share", port.first, &routed));
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
        if let Some((host, by)) = hosts.iter().find_map(|host| Some((host, *port.taken.get(host)?))) {
            return Err(Why::taken(&format!("host {host} of it"), by, &routed));
        }
        port.taken.extend(hosts.into_iter().map(|host| (host, owner)));
        port.routed.push(routed);
        Ok(())
    }

    /// Tells of servers that were not lost before.
    pub(super) fn tell(&self, before: &[Lost]) {
        for lost in self.lost.iter().filter(|lost| !before.contains(lost)) {
            let Lost { namespace, name, message, .. } = lost;
            tracing::warn!(gateway = format!("{namespace}/{name}"), problem = message, "server not served");
        }
    }
}

impl<'a> Port<'a> {
    fn new(tls: bool, first: Owner<'a>) -> Self {
        Self { tls, auto: None, routed: Vec::new(), first, taken: BTreeMap::new() }
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

fn place(snapshot: &Snapshot, own: &Namespace, labels: &Labels, server: &Server) -> Result<Place, Why> {
    let bind = match server.bind.as_str() {
        "" => None,
        text => {
            let wrong = |_| Why::unserved(format!("bind {text:?} is no IP address"));
            Some(text.parse::<IpAddr>().map_err(wrong)?)
        }
    };
    let port = target_port(snapshot, own, labels, server.port.number);
    Ok(Place { port, bind: bind.filter(|bind| !bind.is_unspecified()) })
}

/// Gateway objects name ports of the gateway's Service; the listener has that port's target.
fn target_port(snapshot: &Snapshot, own: &Namespace, labels: &Labels, number: u16) -> u16 {
    let services = snapshot.services.values();
    let target = services
        .filter(|service| service.service.namespace == *own)
        .filter(|service| {
            let selector = service.service.selector.as_ref();
            selector.is_some_and(|selector| selector.matches(labels))
        })
        .find_map(|service| match service.service.port(number)?.target {
            TargetPort::Number(target) => Some(target),
            TargetPort::Name(_) => None,
        });
    target.unwrap_or(number)
}
