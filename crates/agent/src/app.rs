//! Everything that runs beside one workload, put together.

mod capture;
mod data_path;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use isthmus_capture::Resolvers;
use isthmus_dns::Perspective;
use isthmus_lifecycle::{Clock, Drain, OnFailure, Readiness, TaskGroup};
use isthmus_process::SharedRegistry;
use isthmus_proxy::BuildError;
use isthmus_xds::{Handle, HealthReport};
use thiserror::Error;
use tokio::sync::watch;

use crate::admin::{self, BindError, View};
use crate::cache::ResourceCache;
use crate::data::DataError;
use crate::discovery::{self, Sinks};
use crate::enroll::Enrolled;
use crate::envoy::{self, EnvoyError};
use crate::grpc;
use crate::health::spec::What;
use crate::health::{self, Schedule};
use crate::identity;
use crate::node::{self, Workload};
use crate::resolver;

/// Peers are told that this workload leaves, and have so long to hear it, before its proxy refuses.
const FAREWELL: Duration = Duration::from_secs(1);

/// The agent's own ports.
#[derive(Debug, Clone)]
pub struct Ports {
    /// Captured outbound connections.
    pub outbound: SocketAddr,
    /// Captured inbound connections.
    pub inbound: SocketAddr,
    /// DNS.
    pub dns: Vec<SocketAddr>,
    /// Metrics and health.
    pub metrics: SocketAddr,
    /// Readiness alone, for others to ask.
    pub readiness: SocketAddr,
    /// Admin.
    pub admin: SocketAddr,
}

impl Ports {
    /// Istio's numbers. DNS over IPv6 too where a resolver has such an address.
    #[must_use]
    pub fn standard(resolvers: &Resolvers) -> Self {
        let any = |port| SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port);
        let local = |port| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port);
        let mut dns = vec![local(isthmus_capture::DNS_PORT)];
        if resolvers.servers.iter().any(IpAddr::is_ipv6) {
            dns.push(SocketAddr::new(IpAddr::V6(Ipv6Addr::LOCALHOST), isthmus_capture::DNS_PORT));
        }
        Self {
            outbound: any(isthmus_capture::OUTBOUND_PORT),
            inbound: any(isthmus_capture::INBOUND_PORT),
            dns,
            metrics: local(15020),
            readiness: any(15021),
            admin: local(15000),
        }
    }
}

/// What an agent is given.
pub struct Config {
    /// Membership and identity.
    pub enrolled: Enrolled,
    /// What the workload says of itself.
    pub workload: Workload,
    /// Own ports.
    pub ports: Ports,
    /// The host's resolvers at the start.
    pub resolvers: Resolvers,
    /// The file that names them, followed while the agent runs; none keeps the first.
    pub resolv_conf: Option<PathBuf>,
    /// Traffic capture; none leaves the host alone. What it says of DNS is decided here.
    pub capture: Option<isthmus_capture::Config>,
    /// What carries connections.
    pub proxy: Choice,
    /// How health is found out.
    pub probe: Option<(Schedule, What)>,
    /// Whether the workload's process runs, when the agent runs it.
    pub alive: Option<watch::Receiver<bool>>,
    /// Mark of own sockets; none without privileges.
    pub mark: Option<u32>,
    /// Wall clock.
    pub clock: Arc<dyn Clock>,
}

/// What carries a workload's connections.
#[derive(Debug, Clone)]
pub enum Choice {
    /// Our own proxy, within this process.
    Isthmus,
    /// An Envoy.
    Envoy(envoy::Config),
}

/// Why an agent does not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// A port of the data path.
    #[error(transparent)]
    Proxy(#[from] BuildError),
    /// Envoy.
    #[error(transparent)]
    Envoy(#[from] EnvoyError),
    /// The DNS port.
    #[error(transparent)]
    Dns(#[from] isthmus_dns::BindError),
    /// One of the others.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The last-good cache.
    #[error(transparent)]
    Data(#[from] DataError),
}

/// A running agent.
pub struct Agent {
    group: TaskGroup,
    stream: Handle,
    resources: Readiness,
    readiness: Readiness,
    health_reported: bool,
    addresses: Addresses,
    // Held for as long as the agent runs: the lock on the data directory.
    _enrolled: Enrolled,
}

/// Where an agent listens, for tests that bind port 0.
#[derive(Debug, Clone)]
pub struct Addresses {
    /// DNS.
    pub dns: Vec<SocketAddr>,
    /// Metrics.
    pub metrics: Option<SocketAddr>,
    /// Readiness.
    pub readiness: Option<SocketAddr>,
    /// Admin.
    pub admin: Option<SocketAddr>,
}

impl Agent {
    /// Binds every port, then starts everything in one group. Capture is put in force once the first full configuration is.
    ///
    /// # Errors
    /// When a port is taken or the data directory unreadable.
    pub async fn start(config: Config, drain: Drain) -> Result<Self, StartError> {
        let group = TaskGroup::new("agent", drain.clone());
        let registry = SharedRegistry::default();
        let (resources, readiness) = (Readiness::new(), Readiness::new());
        let enrolled = config.enrolled;
        let membership = enrolled.membership.clone();

        let dns = dns_server(&config.ports, &config.resolvers, &membership, config.mark, &registry).await?;
        let dns_handle = dns.handle();
        let admin = admin::bind("admin", config.ports.admin).await?;
        let metrics = admin::bind("metrics", config.ports.metrics).await?;
        let ready = admin::bind("readiness", config.ports.readiness).await?;
        let addresses = Addresses {
            dns: dns.addresses(),
            metrics: metrics.local_addr().ok(),
            readiness: ready.local_addr().ok(),
            admin: admin.local_addr().ok(),
        };

        let owner = format!("{}/{}@{}", membership.namespace, config.workload.name, membership.cluster);
        let cache = ResourceCache::open(&enrolled.data, &owner)?;
        group.spawn_infallible("last-good cache", cache.clone().keep(group.signal()));
        let node = config.workload.node(&membership);
        let asking = data_path::Asking {
            enrolled: &enrolled,
            workload: &config.workload,
            node: &node,
            ports: &config.ports,
            resolvers: &config.resolvers,
            mark: config.mark,
            dns: &dns_handle,
            cache: cache.clone(),
            registry: &registry,
        };
        let (carrier, resolving) = data_path::prepare(config.proxy, asking, &group).await?;
        let proxy = carrier.data_path();
        let sinks = Sinks {
            proxy: proxy.clone(),
            dns: Some(dns_handle.clone()),
            cache,
            readiness: resources.clone(),
        };
        if let Err(error) = grpc::serve(&enrolled.data, node.clone(), &enrolled.connector, &group) {
            // The workload's own connections do not need it.
            tracing::warn!(%error, "gRPC clients without a proxy are not served");
        }
        let discovery = discovery::start(node, &membership.cluster, &enrolled.connector, sinks, &group);
        dns.run(&group);
        carrier.run(&readiness, &discovery.stream, &group);
        let cert_metrics = registry.register(|registry| {
            identity::Metrics::register(registry.sub_registry_with_prefix("istio_agent"))
        });
        enrolled.keep_alive(&group, cert_metrics);
        let (resolvers, followed) = watch::channel(config.resolvers);
        if let Some(path) = config.resolv_conf {
            let servers = std::iter::once(dns_handle.clone()).chain(resolving).collect();
            let task = resolver::follow(path, resolvers, servers, group.signal());
            group.spawn_infallible("resolvers", task);
        }
        if let Some(base) = config.capture {
            let inputs = capture::Inputs { base, resolvers: followed, strict: discovery.strict.clone() };
            let guard = readiness.hold("capture");
            let task = capture::hold(inputs, resources.clone(), guard, group.signal());
            group.spawn("capture", OnFailure::Stop, task);
        }
        let health_reported = config.probe.is_some() || config.alive.is_some();
        let verdict = start_health(
            config.probe,
            config.alive,
            &config.workload,
            config.mark,
            &discovery.stream,
            &group,
        );
        let envoy = proxy.envoy().cloned();
        let view = Arc::new(View {
            membership,
            name: Arc::clone(&config.workload.name),
            identity: enrolled.identity.clone(),
            proxy,
            dns: Some(dns_handle),
            stream: discovery.stream.clone(),
            health: verdict,
            readiness: vec![resources.clone(), readiness.clone()],
            drain,
            clock: config.clock,
        });
        let both = [resources.clone(), readiness.clone()];
        admin::serve("admin", admin, admin::admin(view), &group);
        let measured = match envoy {
            Some(envoy) => admin::metrics_with(envoy, &registry, &both),
            None => admin::metrics(&registry, &both),
        };
        admin::serve("metrics", metrics, measured, &group);
        admin::serve("readiness", ready, admin::readiness(&both), &group);
        Ok(Self {
            group,
            stream: discovery.stream,
            resources,
            readiness,
            health_reported,
            addresses,
            _enrolled: enrolled,
        })
    }

    /// Completes when the configuration has come once and capture is in force.
    pub async fn ready(&self) {
        self.resources.ready().await;
        self.readiness.ready().await;
    }

    /// What is still awaited.
    #[must_use]
    pub fn awaited(&self) -> Vec<&'static str> {
        [self.resources.awaited(), self.readiness.awaited()].concat()
    }

    /// Where it listens.
    #[must_use]
    pub fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// Tells peers that this workload leaves, and gives them a moment to hear it. Then drain.
    pub async fn farewell(&self) {
        let connected = *self.stream.connection().borrow() == isthmus_xds::client::Connection::Connected;
        if self.health_reported && connected {
            self.stream.report_health(HealthReport::Unhealthy("the workload is stopping".to_string()));
            tokio::time::sleep(FAREWELL).await;
        }
    }

    /// Completes when everything has ended after a drain; the failure that caused it, if one did.
    pub async fn finished(&self) -> Option<String> {
        self.group.finished().await;
        self.group.failure()
    }
}

async fn dns_server(
    ports: &Ports,
    resolvers: &Resolvers,
    membership: &crate::state::Membership,
    mark: Option<u32>,
    registry: &SharedRegistry,
) -> Result<isthmus_dns::Server, isthmus_dns::BindError> {
    let perspective = Perspective {
        namespace: membership.namespace.to_string(),
        domain: node::domain(membership),
        search: resolvers.search.first().cloned(),
    };
    let upstreams = resolver::upstreams(resolvers);
    let mut config = isthmus_dns::Config::new(ports.dns.clone(), upstreams, perspective);
    config.mark = mark;
    let metrics = registry.register(|registry| {
        isthmus_dns::Metrics::register(registry.sub_registry_with_prefix("istio_agent"))
    });
    isthmus_dns::Server::bind(config, metrics).await
}

/// Watches health and reports it on the stream.
fn start_health(
    probe: Option<(Schedule, What)>,
    alive: Option<watch::Receiver<bool>>,
    workload: &Workload,
    mark: Option<u32>,
    stream: &Handle,
    group: &TaskGroup,
) -> health::Verdict {
    let (verdict, seen) = watch::channel(None);
    if probe.is_none() && alive.is_none() {
        return seen;
    }
    let own = workload.addresses.first().copied().unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
    let (schedule, probe) = match probe {
        Some((schedule, what)) => (schedule, Some(what.at(own, mark))),
        None => (Schedule { period: Duration::from_secs(1), ..Schedule::default() }, None),
    };
    // Without a process of ours the workload counts as running; its probe decides.
    let alive = alive.unwrap_or_else(|| watch::channel(true).1);
    group.spawn_infallible("health", health::watch(schedule, probe, alive, verdict, group.signal()));
    let (mut reports, stream, stop) = (seen.clone(), stream.clone(), group.signal());
    group.spawn_infallible("health reports", async move {
        loop {
            tokio::select! {
                biased;
                () = stop.stopping() => return,
                changed = reports.changed() => if changed.is_err() { return },
            }
            let report = reports.borrow_and_update().clone();
            if let Some(report) = report {
                stream.report_health(report);
            }
        }
    });
    seen
}
