//! All parts of a gateway put together.
//!
//! The gateway holds one key, its own, and shows it to its control plane alone: what it relays stays sealed end to end. What it
//! serves comes by xDS, and is kept on disk, so that it restarts with every control plane gone.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use isthmus_agent::admin::{self, View};
use isthmus_agent::args::{hostname, token_file};
use isthmus_agent::data::DataError;
use isthmus_agent::discovery::{self, Sinks};
use isthmus_agent::enroll::EnrollError;
use isthmus_agent::node::host_addresses;
use isthmus_agent::{
    Enrolled, Enrollment, Membership, Registration, ResourceCache, Workload, enroll, enroll_in,
};
use isthmus_lifecycle::{Clock, Drain, OnFailure, Readiness, SystemClock, TaskGroup};
use isthmus_model::Locality;
use isthmus_process::SharedRegistry;
use isthmus_proxy::{
    Config, HostResolver, Keepalive, Limits, Netfilter, Networks, Node, OnDemandLimits, Proxy,
};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::args::Args;
use crate::takeover::{self, Estate, Giver, Inheritance};

/// Time for a new process to become ready before it takes over.
const PREPARATION: Duration = Duration::from_secs(60);

/// How often memory that a burst of configuration took goes back to the system; it costs a millisecond or two.
const GIVE_BACK: Duration = Duration::from_secs(10);

/// A gateway, ready to serve.
pub struct App {
    group: TaskGroup,
    /// What one process alone does for a data directory.
    duties: TaskGroup,
    /// The gateway's own pages.
    serving: TaskGroup,
    drain: Drain,
    proxy: Proxy,
    readiness: Readiness,
    metrics: Option<SocketAddr>,
    /// A new process has taken over.
    succeeded: CancellationToken,
    /// The last connection has ended.
    done: CancellationToken,
    handover_drain: Duration,
    // Held for as long as the gateway runs: the lock on the data directory.
    _enrolled: Enrolled,
}

impl App {
    /// Joins the mesh (or finds that it has), binds its own ports and starts all parts. Where it takes over, it serves when this
    /// returns, and the old process no longer does.
    ///
    /// # Errors
    /// When it is not let into the mesh, a port is taken or the data directory is unusable; when it takes over and does not become
    /// ready in time.
    pub async fn start(args: &Args, drain: &Drain) -> anyhow::Result<Self> {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let mut inherited = if args.takeover { takeover::ask(&args.data_dir).await? } else { None };
        let enrollment = enrollment(args, Arc::clone(&clock))?;
        let enrolled = match &inherited {
            Some(inherited) => Box::pin(enroll_in(inherited.data.clone(), enrollment)).await?,
            None => Box::pin(enroll(enrollment)).await.map_err(in_use)?,
        };
        let membership = membership(args, &enrolled);
        let workload = workload(args, &membership)?;
        let admin = Page::open("admin", args.admin_address, &mut inherited).await?;
        let metrics = Page::open("metrics", args.metrics_address, &mut inherited).await?;
        let ready = Page::open("readiness", args.readiness_address, &mut inherited).await?;
        let metrics_address = metrics.listener.local_addr().ok();
        let group = TaskGroup::new("gateway", drain.clone());
        let duties = TaskGroup::new("duties", Drain::new());
        let serving = TaskGroup::new("pages", Drain::new());
        follow(&group, &duties, &serving);
        let registry = SharedRegistry::default();
        let proxy = {
            let config = proxy_config(args, &enrolled, &membership, &workload);
            let sockets = inherited.as_mut().map(|inherited| std::mem::take(&mut inherited.listeners));
            registry.register(|registry| Proxy::succeed(config, sockets.unwrap_or_default(), registry))?
        };
        proxy.name_networks(Networks::new(args.source_network.clone()));
        let owner = format!("{}/{}@{}", membership.namespace, workload.name, membership.cluster);
        let cache = ResourceCache::open(&enrolled.data, &owner)?;
        let readiness = Readiness::new();
        let sinks = Sinks {
            proxy: proxy.clone().into(),
            dns: None,
            cache: cache.clone(),
            readiness: readiness.clone(),
        };
        let node = workload.node(&membership);
        let discovery = if args.full_view {
            discovery::start(node, &membership.cluster, &enrolled.connector, sinks, &duties)
        } else {
            let limits = OnDemandLimits { unused: args.unused_after, ..OnDemandLimits::default() };
            let (cluster, connector) = (&membership.cluster, &enrolled.connector);
            discovery::start_on_demand(node, cluster, connector, sinks, limits, &duties)
        };
        if let Some(inherited) = inherited {
            let prepared = tokio::time::timeout(PREPARATION, readiness.ready()).await;
            let awaited = || readiness.awaited().join(", ");
            prepared.map_err(|_| anyhow::anyhow!("not ready to take over: still awaiting {}", awaited()))?;
            inherited.ready().await?;
        }
        proxy.open();
        let done = CancellationToken::new();
        group.spawn("data path", OnFailure::Stop, {
            let (proxy, drain, done) = (proxy.clone(), drain.clone(), done.clone());
            async move {
                let ended = proxy.run(&drain).await;
                done.cancel();
                ended
            }
        });
        duties.spawn_infallible("last-good cache", cache.clone().keep(duties.signal()));
        let renewals = registry.register(|registry| {
            isthmus_agent::identity::Metrics::register(registry.sub_registry_with_prefix("istio_agent"))
        });
        enrolled.keep_alive(&duties, renewals);
        let succeeded = CancellationToken::new();
        let pages = [&admin, &metrics, &ready].map(Page::duplicate).into_iter().collect::<Result<_, _>>()?;
        let estate = Estate {
            data: enrolled.data.clone(),
            cache,
            proxy: proxy.clone(),
            pages,
            duties: duties.clone(),
            serving: serving.clone(),
        };
        await_successor(estate, &group, succeeded.clone());
        let view = Arc::new(View {
            membership,
            name: workload.name,
            identity: enrolled.identity.clone(),
            proxy: proxy.clone().into(),
            dns: None,
            stream: discovery.stream,
            // A gateway's health is that it is there.
            health: watch::channel(None).1,
            readiness: vec![readiness.clone()],
            drain: drain.clone(),
            clock,
        });
        let awaited = [readiness.clone()];
        admin::serve("admin", admin.listener, admin::admin(view), &serving);
        admin::serve("metrics", metrics.listener, admin::metrics(&registry, &awaited), &serving);
        admin::serve("readiness", ready.listener, admin::readiness(&awaited), &serving);
        Ok(Self {
            group,
            duties,
            serving,
            drain: drain.clone(),
            proxy,
            readiness,
            metrics: metrics_address,
            succeeded,
            done,
            handover_drain: args.takeover_drain,
            _enrolled: enrolled,
        })
    }

    /// Serves until the drain, until a new process has taken over and the last connection has ended here, or until a part fails
    /// that it cannot do without.
    ///
    /// # Errors
    /// The failure.
    pub async fn run(self) -> anyhow::Result<()> {
        let ready = async {
            self.readiness.ready().await;
            tracing::info!(listeners = ?self.listeners(), "ready");
            let mut ticks = tokio::time::interval(GIVE_BACK);
            loop {
                ticks.tick().await;
                isthmus_process::memory::give_back();
            }
        };
        let stop = self.drain.signal();
        tokio::select! {
            () = stop.stopping() => {}
            () = self.succeeded.cancelled() => {
                let (connections, longest_s) = (self.proxy.connections(), self.handover_drain.as_secs());
                tracing::info!(connections, longest_s, "taken over, serving what is open");
                tokio::select! {
                    () = self.done.cancelled() => {}
                    () = tokio::time::sleep(self.handover_drain) => self.drain.immediate(),
                    () = stop.stopping() => {}
                }
            }
            () = ready => {}
        }
        tokio::select! {
            () = self.done.cancelled() => {}
            () = stop.cut() => {}
        }
        // Nobody is served any more: nothing is left to wait for.
        self.drain.immediate();
        self.group.finished().await;
        let groups = [&self.group, &self.duties, &self.serving];
        match groups.into_iter().find_map(TaskGroup::failure) {
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

/// One of the gateway's own ports.
struct Page {
    name: &'static str,
    asked: SocketAddr,
    listener: TcpListener,
}

impl Page {
    async fn open(
        name: &'static str,
        asked: SocketAddr,
        inherited: &mut Option<Inheritance>,
    ) -> anyhow::Result<Self> {
        let page = inherited.as_mut().map(|inherited| inherited.page(name, asked));
        let listener = match page.transpose().with_context(|| name.to_string())?.flatten() {
            Some(listener) => listener,
            None => admin::bind(name, asked).await?,
        };
        Ok(Self { name, asked, listener })
    }

    /// The socket once more, for a successor.
    fn duplicate(&self) -> io::Result<(&'static str, SocketAddr, OwnedFd)> {
        Ok((self.name, self.asked, self.listener.as_fd().try_clone_to_owned()?))
    }
}

/// Ends duties and pages with the gateway, and the gateway when one of them fails.
fn follow(group: &TaskGroup, duties: &TaskGroup, serving: &TaskGroup) {
    let (stop, duties, serving) = (group.signal(), duties.clone(), serving.clone());
    let vital = async move {
        let (ended, closed) = (duties.signal(), serving.signal());
        tokio::select! {
            () = stop.stopping() => duties.drain().refuse(),
            () = ended.stopping() => {}
            () = closed.stopping() => {}
        }
        if let Some(failure) = duties.failure().or_else(|| serving.failure()) {
            return Err(failure);
        }
        stop.cut().await;
        duties.drain().immediate();
        serving.drain().immediate();
        duties.finished().await;
        serving.finished().await;
        Ok(())
    };
    group.spawn("duties", OnFailure::Stop, vital);
}

/// Waits for a new process that takes over, and says when one has.
fn await_successor(estate: Estate, group: &TaskGroup, succeeded: CancellationToken) {
    let giver = match Giver::bind(&estate.data) {
        Ok(giver) => giver,
        Err(error) => {
            tracing::warn!(%error, "no socket in the data directory: --takeover will not find this process");
            return;
        }
    };
    let stop = group.signal();
    group.spawn_infallible("successor", async move {
        if giver.run(estate, stop).await {
            succeeded.cancel();
        }
    });
}

fn in_use(error: EnrollError) -> anyhow::Error {
    let hint = matches!(&error, EnrollError::Data(DataError::InUse(_)));
    let error = anyhow::Error::from(error);
    if hint { error.context("--takeover takes over from a gateway that runs") } else { error }
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
        announced_ports: args.proxy_protocol_in.clone(),
        limits: Limits {
            connections: args.limits.max_connections,
            connections_per_source: args.limits.max_connections_per_source,
            handshake: args.limits.hello_timeout,
            idle: args.limits.idle_timeout,
            age: args.limits.max_connection_age,
            keepalive: Keepalive {
                probes: Some(args.limits.keepalive_probes),
                time: Some(args.limits.keepalive_time),
                interval: Some(args.limits.keepalive_interval),
            },
            ..Limits::default()
        },
    }
}
