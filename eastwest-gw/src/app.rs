//! All parts of a gateway put together.
//!
//! The gateway holds one key, its own, and shows it to its control plane alone: what it relays stays sealed end to end. What it
//! serves comes by xDS, and is kept on disk, so that it restarts with every control plane gone.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context as _;
use isthmus_agent::admin::{self, View};
use isthmus_agent::args::{hostname, token_file};
use isthmus_agent::discovery::{self, Sinks};
use isthmus_agent::node::host_addresses;
use isthmus_agent::{Enrolled, Enrollment, Membership, Registration, ResourceCache, Workload, enroll};
use isthmus_lifecycle::{Clock, Drain, OnFailure, Readiness, SystemClock, TaskGroup};
use isthmus_model::Locality;
use isthmus_process::SharedRegistry;
use isthmus_proxy::{Config, HostResolver, Limits, Netfilter, Node, Proxy};
use tokio::sync::watch;

use crate::args::Args;

/// A gateway, ready to serve.
pub struct App {
    group: TaskGroup,
    drain: Drain,
    proxy: Proxy,
    readiness: Readiness,
    metrics: Option<SocketAddr>,
    // Held for as long as the gateway runs: the lock on the data directory.
    _enrolled: Enrolled,
}

impl App {
    /// Joins the mesh (or finds that it has), binds its own ports and starts all parts.
    ///
    /// # Errors
    /// When it is not let into the mesh, a port is taken or the data directory is unusable.
    pub async fn start(args: &Args, drain: &Drain) -> anyhow::Result<Self> {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let enrolled = Box::pin(enroll(enrollment(args, Arc::clone(&clock))?)).await?;
        let membership = membership(args, &enrolled);
        let workload = workload(args, &membership)?;
        let (admin, metrics, ready) = (
            admin::bind("admin", args.admin_address).await?,
            admin::bind("metrics", args.metrics_address).await?,
            admin::bind("readiness", args.readiness_address).await?,
        );
        let metrics_address = metrics.local_addr().ok();
        let group = TaskGroup::new("gateway", drain.clone());
        let registry = SharedRegistry::default();
        let proxy = {
            let config = proxy_config(args, &enrolled, &membership, &workload);
            registry.register(|registry| Proxy::build(config, registry))?
        };
        let owner = format!("{}/{}@{}", membership.namespace, workload.name, membership.cluster);
        let cache = ResourceCache::open(&enrolled.data, &owner)?;
        group.spawn_infallible("last-good cache", cache.clone().keep(group.signal()));
        let readiness = Readiness::new();
        let sinks = Sinks { proxy: proxy.clone(), dns: None, cache, readiness: readiness.clone() };
        let node = workload.node(&membership);
        let discovery = discovery::start(node, &membership.cluster, &enrolled.connector, sinks, &group);
        group.spawn("data path", OnFailure::Stop, {
            let (proxy, drain) = (proxy.clone(), drain.clone());
            async move { proxy.run(&drain).await }
        });
        let renewals = registry.register(|registry| {
            isthmus_agent::identity::Metrics::register(registry.sub_registry_with_prefix("istio_agent"))
        });
        enrolled.keep_alive(&group, renewals);
        let view = Arc::new(View {
            membership,
            name: workload.name,
            identity: enrolled.identity.clone(),
            proxy: proxy.clone(),
            dns: None,
            stream: discovery.stream,
            // A gateway's health is that it is there.
            health: watch::channel(None).1,
            readiness: vec![readiness.clone()],
            drain: drain.clone(),
            clock,
        });
        let awaited = [readiness.clone()];
        admin::serve("admin", admin, admin::admin(view), &group);
        admin::serve("metrics", metrics, admin::metrics(&registry, &awaited), &group);
        admin::serve("readiness", ready, admin::readiness(&awaited), &group);
        Ok(Self {
            group,
            drain: drain.clone(),
            proxy,
            readiness,
            metrics: metrics_address,
            _enrolled: enrolled,
        })
    }

    /// Serves until the drain, or until a part fails that it cannot do without.
    ///
    /// # Errors
    /// The failure.
    pub async fn run(self) -> anyhow::Result<()> {
        let ready = async {
            self.readiness.ready().await;
            tracing::info!(listeners = ?self.listeners(), "ready");
            std::future::pending::<()>().await;
        };
        let stop = self.drain.signal();
        tokio::select! {
            () = stop.stopping() => {}
            () = ready => {}
        }
        self.group.finished().await;
        match self.group.failure() {
            Some(failure) => anyhow::bail!("{failure}"),
            None => Ok(()),
        }
    }

    /// Where it listens for traffic, by listener name.
    #[must_use]
    pub fn listeners(&self) -> Vec<(Arc<str>, SocketAddr)> {
        self.proxy.addresses()
    }

    /// Where metrics are served.
    #[must_use]
    pub fn metrics(&self) -> Option<SocketAddr> {
        self.metrics
    }

    /// What is still awaited.
    #[must_use]
    pub fn awaited(&self) -> Vec<&'static str> {
        self.readiness.awaited()
    }
}

fn enrollment(args: &Args, clock: Arc<dyn Clock>) -> anyhow::Result<Enrollment> {
    Ok(Enrollment {
        data_dir: args.data_dir.clone(),
        token: args.token_file.as_deref().map(token_file).transpose()?,
        service_account: Some(args.service_account.clone()),
        hostname: hostname(),
        // Nothing is captured where a gateway runs.
        mark: None,
        leaf_ttl: args.leaf_ttl,
        patience: None,
        clock,
    })
}

/// The gateway's place in the mesh; a network that was named wins over the token's.
fn membership(args: &Args, enrolled: &Enrolled) -> Membership {
    let mut membership = enrolled.membership.clone();
    if let Some(network) = &args.network {
        if *network != membership.network {
            tracing::info!(%network, token = %membership.network, "the network that was named wins over the token's");
        }
        membership.network = network.clone();
    }
    membership
}

fn workload(args: &Args, membership: &Membership) -> anyhow::Result<Workload> {
    let mut addresses = host_addresses().context("this host's addresses")?;
    if let Some(first) = args.address {
        addresses.retain(|address| *address != first);
        addresses.insert(0, first);
    }
    anyhow::ensure!(
        !addresses.is_empty(),
        "this host has no address that others reach; name one with --address"
    );
    Ok(Workload {
        kind: "router",
        name: args.own_name(&hostname()).into(),
        workload: Arc::clone(&args.service_account.name),
        labels: args.labels.iter().cloned().collect(),
        ports: Vec::new(),
        addresses,
        locality: Locality::parse(args.locality.as_deref().unwrap_or_default()),
        registration: Registration::None,
        health_checked: false,
        dns_capture: false,
        network_view: Some(membership.network.as_str().into()),
    })
}

fn proxy_config(args: &Args, enrolled: &Enrolled, membership: &Membership, workload: &Workload) -> Config {
    Config {
        identity: enrolled.identity.clone(),
        node: Node {
            workload: Arc::clone(&workload.workload),
            namespace: membership.namespace.clone(),
            cluster: membership.cluster.clone(),
            network: membership.network.clone(),
            app: Arc::clone(&workload.workload),
            version: "latest".into(),
        },
        outbound: None,
        inbound: None,
        mark: None,
        original_destination: Arc::new(Netfilter),
        resolver: Arc::new(HostResolver),
        limits: Limits {
            connections: args.limits.max_connections,
            connections_per_source: args.limits.max_connections_per_source,
            handshake: args.limits.hello_timeout,
            idle: args.limits.idle_timeout,
            ..Limits::default()
        },
    }
}
