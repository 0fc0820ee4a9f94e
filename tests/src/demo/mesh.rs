//! The programs of the demo: where each runs and how it is started. Their command lines are what a user would type.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;

use super::check::{Teller, says, shown, succeeds};
use crate::fabric::Fabric;
use crate::host::{Host, Process};
use crate::topology::Network;
use crate::wire::Proxies;

/// Where an agent keeps its key, its certificate and its last good configuration.
pub(super) const AGENT_DATA: &str = "/var/lib/isthmus/agent";
/// Where a gateway keeps the same.
pub(super) const GATEWAY_DATA: &str = "/var/lib/isthmus/gateway";
/// Where a host's token is.
pub(super) const TOKEN_FILE: &str = "/run/isthmus/host.token";
/// Short, so that the story sees leaves rotate; a day is usual.
const LEAF_TTL: &str = "40s";
/// How long a program may take until it is ready.
const READY_WITHIN: Duration = Duration::from_secs(20);

/// One of Bookinfo's workloads.
#[derive(Debug, Clone, Copy)]
pub(super) struct Workload {
    /// Its host.
    pub(super) host: &'static str,
    /// Its cluster.
    pub(super) cluster: Network,
    app: &'static str,
    version: &'static str,
    flags: &'static str,
    /// Whether it has an Envoy where the proxies are mixed.
    turn: bool,
}

/// All of them. Where proxies are mixed, an Envoy calls ours and another Envoy, and ours calls an Envoy, within a cluster and over
/// the border; the VM's is ours.
pub(super) const WORKLOADS: [Workload; 5] = [
    Workload {
        host: "productpage",
        cluster: Network::East,
        app: "productpage",
        version: "v1",
        flags: "",
        turn: true,
    },
    Workload {
        host: "details",
        cluster: Network::East,
        app: "details",
        version: "v1",
        flags: "",
        turn: false,
    },
    Workload {
        host: "reviews-v2",
        cluster: Network::East,
        app: "reviews",
        version: "v2",
        flags: "",
        turn: true,
    },
    Workload {
        host: "reviews-v3",
        cluster: Network::West,
        app: "reviews",
        version: "v3",
        flags: "",
        turn: false,
    },
    Workload {
        host: "ratings",
        cluster: Network::West,
        app: "ratings",
        version: "v2-mysql-vm",
        flags: " --mysql-host mysqldb.vm.mesh.internal --mysql-password password",
        turn: true,
    },
];

impl Workload {
    /// By host.
    pub(super) fn on(host: &str) -> anyhow::Result<Self> {
        WORKLOADS
            .into_iter()
            .find(|workload| workload.host == host)
            .with_context(|| format!("no workload on {host}"))
    }

    /// `NAMESPACE/NAME` of its service account.
    pub(super) fn account(self) -> String {
        format!("bookinfo/bookinfo-{}", self.app)
    }

    fn command(self, proxy: &str) -> String {
        let Self { app, version, cluster, flags, host, .. } = self;
        let cluster = cluster.name();
        format!(
            "isthmus-sidecar run --token-file {TOKEN_FILE} --service-account {} --labels app={app},version={version} \
             --name {host} --port http=9080 --probe http:9080/health --locality {cluster}/zone1 --leaf-ttl {LEAF_TTL} \
             --data-dir {AGENT_DATA}{proxy} -- bookinfo {app} --service-version {version} --cluster {cluster}{flags}",
            self.account()
        )
    }
}

/// What runs, by `HOST/PROGRAM`.
#[derive(Debug)]
pub(super) struct Mesh<'a> {
    pub(super) fabric: &'a Fabric,
    running: RefCell<BTreeMap<String, Process>>,
}

impl<'a> Mesh<'a> {
    pub(super) fn new(fabric: &'a Fabric) -> Self {
        Self { fabric, running: RefCell::default() }
    }

    /// Whether this part is to be broken.
    pub(super) fn breaks(&self, part: &str) -> bool {
        self.fabric.opening().break_part.as_deref() == Some(part)
    }

    pub(super) fn host(&self, name: &str) -> anyhow::Result<Arc<Host>> {
        self.fabric.host(name)
    }

    /// The host of a cluster's control plane.
    pub(super) fn control_plane(&self, cluster: Network) -> anyhow::Result<Arc<Host>> {
        self.host(&format!("{}-cp", cluster.name()))
    }

    /// The gateway host of a network.
    pub(super) fn gateway(&self, network: Network) -> anyhow::Result<Arc<Host>> {
        self.host(&format!("{}-gw", network.name()))
    }

    /// Starts a program, which replaces one of the same name that has ended.
    pub(super) fn start(&self, host: &Arc<Host>, name: &str, command: &str) -> anyhow::Result<()> {
        self.start_with(host, name, command, &[])
    }

    pub(super) fn start_with(
        &self,
        host: &Arc<Host>,
        name: &str,
        command: &str,
        env: &[(&str, &str)],
    ) -> anyhow::Result<()> {
        let process = host.start(name, command, env)?;
        self.keep(process);
        Ok(())
    }

    /// Holds a process that was started elsewhere.
    pub(super) fn keep(&self, process: Process) {
        let key = format!("{}/{}", process.host().name(), process.name);
        self.running.borrow_mut().insert(key, process);
    }

    /// Kills a program as `kill -9` does.
    pub(super) fn kill(&self, host: &Arc<Host>, name: &str) -> anyhow::Result<()> {
        let key = format!("{}/{name}", host.name());
        let process =
            self.running.borrow_mut().remove(&key).with_context(|| format!("{key} does not run"))?;
        process.kill()
    }

    pub(super) fn primary_command(cluster: Network) -> String {
        format!(
            "isthmus-primary --standalone --cluster {name} --network {name} --data-dir /var/lib/isthmus/primary \
             --cacerts /var/lib/isthmus/cacerts --advertise {} --registration-grace 3s",
            cluster.address(10),
            name = cluster.name(),
        )
    }

    pub(super) fn gateway_command(network: Network) -> String {
        format!(
            "isthmus-eastwest-gw --token-file {TOKEN_FILE} --data-dir {GATEWAY_DATA} --network {name} --name gw-{name} \
             --leaf-ttl {LEAF_TTL}",
            name = network.name()
        )
    }

    /// Starts both control planes and waits until kubectl gets an answer.
    pub(super) fn start_primaries(&self, teller: &Teller<'_>, clusters: &[Network]) -> anyhow::Result<()> {
        for cluster in clusters {
            let host = self.control_plane(*cluster)?;
            let command = Self::primary_command(*cluster);
            self.start(&host, "isthmus-primary", &command)?;
            teller.report.did(
                &format!("{}'s control plane starts", cluster.name()),
                &[shown(&host, &command)],
                Duration::ZERO,
            );
        }
        for cluster in clusters {
            let what = format!("{}'s API server is ready", cluster.name());
            let host = self.control_plane(*cluster)?;
            teller.within(READY_WITHIN, &what, &host, "kubectl get --raw /readyz", says("ok"))?;
        }
        Ok(())
    }

    /// Starts a network's gateway.
    pub(super) fn start_gateway(&self, teller: &Teller<'_>, network: Network) -> anyhow::Result<()> {
        let host = self.gateway(network)?;
        let command = Self::gateway_command(network);
        self.start(&host, "isthmus-eastwest-gw", &command)?;
        teller.report.did(
            &format!("{}'s gateway starts", network.name()),
            &[shown(&host, &command)],
            Duration::ZERO,
        );
        Ok(())
    }

    /// Waits until a host's agent or gateway says that it is ready.
    pub(super) fn await_ready(
        &self,
        teller: &Teller<'_>,
        hosts: &[Arc<Host>],
        what: &str,
    ) -> anyhow::Result<()> {
        let began = Instant::now();
        let command = "curl -sf -m 2 http://127.0.0.1:15021/healthz/ready";
        for host in hosts {
            teller.silently(READY_WITHIN, what, host, command, succeeds)?;
        }
        let commands: Vec<String> = hosts.iter().map(|host| shown(host, command)).collect();
        teller.report.checked(what, &commands, "", began.elapsed());
        Ok(())
    }

    /// Whether the VM has an Envoy.
    pub(super) fn vm_has_envoy(&self) -> bool {
        self.has_envoy(false)
    }

    fn has_envoy(&self, turn: bool) -> bool {
        match self.fabric.opening().proxies {
            Proxies::Isthmus => false,
            Proxies::Envoy => true,
            Proxies::Mixed => turn,
        }
    }

    fn proxy_flag(&self, turn: bool) -> &'static str {
        if self.has_envoy(turn) { " --proxy envoy" } else { "" }
    }

    /// The VM agent's command, with a token to redeem or as the member that it is.
    pub(super) fn vm_command(&self, token: bool) -> String {
        let verb = if token { "join $TOKEN" } else { "run" };
        format!("isthmus-vm-agent {verb} --data-dir {AGENT_DATA}{}", self.proxy_flag(false))
    }

    /// Starts a workload under its sidecar.
    pub(super) fn start_workload(&self, teller: &Teller<'_>, host: &str) -> anyhow::Result<()> {
        let workload = Workload::on(host)?;
        let command = workload.command(self.proxy_flag(workload.turn));
        let host = self.host(host)?;
        self.start(&host, "isthmus-sidecar", &command)?;
        teller.report.did(
            &format!("{} {} starts in {}", workload.app, workload.version, workload.cluster.name()),
            &[shown(&host, &command)],
            Duration::ZERO,
        );
        Ok(())
    }

    /// Starts the VM's agent again, which needs no token any more.
    pub(super) fn restart_vm_agent(&self) -> anyhow::Result<String> {
        let host = self.host("vm")?;
        let command = self.vm_command(false);
        self.start(&host, "isthmus-vm-agent", &command)?;
        Ok(shown(&host, &command))
    }
}
