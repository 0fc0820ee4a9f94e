//! The proxy that was chosen: made ready, then run.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use envoy_types::pb::envoy::config::core::v3::Node;
use isthmus_capture::Resolvers;
use isthmus_dns::Perspective;
use isthmus_lifecycle::{Guard, OnFailure, Readiness, TaskGroup};
use isthmus_process::SharedRegistry;
use isthmus_proxy::Proxy;
use isthmus_xds::Handle;
use prometheus_client::registry::Registry;

use super::{Choice, Ports, StartError};
use crate::cache::ResourceCache;
use crate::data_path::DataPath;
use crate::enroll::Enrolled;
use crate::envoy::{self, Prepared};
use crate::node::Workload;
use crate::resolver::{self, Captured, Upstream};
use crate::state::Membership;

/// Who asks for a proxy.
pub(super) struct Asking<'a> {
    pub(super) enrolled: &'a Enrolled,
    pub(super) workload: &'a Workload,
    pub(super) node: &'a Node,
    pub(super) ports: &'a Ports,
    pub(super) resolvers: &'a Resolvers,
    pub(super) mark: Option<u32>,
    pub(super) dns: &'a isthmus_dns::Handle,
    pub(super) cache: ResourceCache,
    pub(super) registry: &'a SharedRegistry,
}

/// One that does not run yet.
pub(super) enum Carrier {
    Isthmus(Proxy),
    Envoy(Box<Prepared>),
}

/// Makes it ready. With an Envoy comes a resolver of its own, to be told when the host's change.
pub(super) async fn prepare(
    choice: Choice,
    asking: Asking<'_>,
    group: &TaskGroup,
) -> Result<(Carrier, Option<isthmus_dns::Handle>), StartError> {
    let config = match choice {
        Choice::Isthmus => return Ok((Carrier::Isthmus(own(&asking)?), None)),
        Choice::Envoy(config) => config,
    };
    let (resolver, dns) = outside_names(&asking, group).await?;
    let surroundings = envoy::Surroundings {
        data: &asking.enrolled.data,
        node: asking.node,
        identity: &asking.enrolled.identity,
        cache: asking.cache,
        mark: asking.mark,
        resolver,
    };
    let prepared = Prepared::new(config, surroundings).await?;
    Ok((Carrier::Envoy(Box::new(prepared)), Some(dns)))
}

impl Carrier {
    /// What the other parts talk to.
    pub(super) fn data_path(&self) -> DataPath {
        match self {
            Self::Isthmus(proxy) => DataPath::Isthmus(proxy.clone()),
            Self::Envoy(prepared) => DataPath::Envoy(prepared.envoy()),
        }
    }

    /// Runs until the drain. The agent is not ready before it is.
    pub(super) fn run(self, readiness: &Readiness, stream: &Handle, group: &TaskGroup) {
        let drain = group.drain().clone();
        match self {
            Self::Isthmus(proxy) => group.spawn("proxy", OnFailure::Stop, async move {
                let ended = proxy.run(&drain).await;
                // Its last connection has ended: what still runs only waits for the grace to pass.
                drain.immediate();
                ended
            }),
            Self::Envoy(prepared) => {
                let guard: Guard = readiness.hold("envoy");
                group.spawn_infallible(
                    "refusals",
                    prepared.envoy().tell_refusals(stream.clone(), group.signal()),
                );
                let (readiness, tasks) = (readiness.clone(), group.clone());
                group.spawn_infallible("envoy", async move {
                    prepared.run(readiness, guard, drain.signal(), &tasks).await;
                    drain.immediate();
                });
            }
        }
    }
}

fn own(asking: &Asking<'_>) -> Result<Proxy, StartError> {
    let config = isthmus_proxy::Config {
        identity: asking.enrolled.identity.clone(),
        node: proxy_node(asking.workload, &asking.enrolled.membership),
        outbound: Some(asking.ports.outbound),
        inbound: Some(asking.ports.inbound),
        mark: asking.mark,
        original_destination: Arc::new(Captured),
        resolver: Arc::new(Upstream(asking.dns.clone())),
        announced_ports: Vec::new(),
        limits: isthmus_proxy::Limits::default(),
    };
    Ok(asking.registry.register(|registry| Proxy::build(config, registry))?)
}

/// A resolver on loopback that knows nothing of the mesh: Envoy cannot mark its queries, so that its own would be captured, and a
/// mesh's name would lead it back to itself.
async fn outside_names(
    asking: &Asking<'_>,
    group: &TaskGroup,
) -> Result<(SocketAddr, isthmus_dns::Handle), StartError> {
    let any = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
    let upstreams = resolver::upstreams(asking.resolvers);
    let mut config = isthmus_dns::Config::new(vec![any], upstreams, Perspective::default());
    config.mark = asking.mark;
    // Counted nowhere: they are Envoy's queries, not the workload's.
    let metrics = isthmus_dns::Metrics::register(&mut Registry::default());
    let server = isthmus_dns::Server::bind(config, metrics).await?;
    let handle = server.handle();
    handle.replace(&[]);
    let address = server.addresses().first().copied().unwrap_or(any);
    server.run(group);
    Ok((address, handle))
}

fn proxy_node(workload: &Workload, membership: &Membership) -> isthmus_proxy::Node {
    let label = |keys: [&str; 3]| keys.iter().find_map(|key| workload.labels.get(key)).map(Arc::from);
    let app = label(["service.istio.io/canonical-name", "app.kubernetes.io/name", "app"]);
    let version = label(["service.istio.io/canonical-revision", "app.kubernetes.io/version", "version"]);
    isthmus_proxy::Node {
        workload: Arc::clone(&workload.workload),
        namespace: membership.namespace.clone(),
        cluster: membership.cluster.clone(),
        network: membership.network.clone(),
        app: app.unwrap_or_else(|| Arc::clone(&workload.workload)),
        version: version.unwrap_or_else(|| "latest".into()),
    }
}
