//! The fabric: PID 1 of everything, with a bridge for each network and no address on any of them. It boots hosts,
//! plugs them in, and tells the story.

use std::collections::BTreeMap;
use std::io::{BufReader, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::process::{Command, ExitCode, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, bail};
use nix::sys::signal::SigSet;

use crate::host::{Host, Process};
use crate::topology::{BORDER, BORDER_RANGE, Network, Plan, Role, SERVICE_RANGES, free_octet};
use crate::wire::{Ask, Opening, Tell, receive, send};

/// Interfaces made from now on have no IPv6.
const NO_IPV6: &str = "/proc/sys/net/ipv6/conf/default/disable_ipv6";
/// Exit code when the launcher is gone.
const ORPHANED: i32 = 70;

/// All hosts of a run.
#[derive(Debug)]
pub struct Fabric {
    opening: Opening,
    hosts: Mutex<BTreeMap<String, Arc<Host>>>,
    resolvers: Mutex<Vec<Process>>,
    plugged: Mutex<usize>,
}

/// The launcher's end of the line.
#[derive(Debug)]
pub struct Line {
    /// What it asks for.
    pub asks: Receiver<Ask>,
    tell: UnixStream,
}

impl Line {
    /// Tells the launcher something.
    ///
    /// # Errors
    /// When it is gone.
    pub fn tell(&mut self, what: &Tell) -> anyhow::Result<()> {
        send(&mut self.tell, what)
    }
}

/// Runs in the new namespaces, with the line to the launcher as standard input.
///
/// # Errors
/// When the fabric cannot be made.
pub fn run() -> anyhow::Result<ExitCode> {
    // The launcher's mask is not for those that start here.
    SigSet::all().thread_unblock().context("signals")?;
    let stream =
        UnixStream::from(std::io::stdin().as_fd().try_clone_to_owned().context("line to the launcher")?);
    let mut reader = BufReader::new(stream.try_clone()?);
    let Some(Ask::Open(opening)) = receive(&mut reader)? else { bail!("the launcher said nothing") };
    let (to, asks) = channel();
    // The lifeline: at its end everything here ends, because this process is PID 1.
    std::thread::spawn(move || {
        while let Ok(Some(ask)) = receive(&mut reader) {
            if to.send(ask).is_err() {
                break;
            }
        }
        std::process::exit(ORPHANED);
    });
    let line = Line { asks, tell: stream };
    let fabric = Fabric::new(*opening)?;
    crate::demo::run(&fabric, line)
}

impl Fabric {
    fn new(opening: Opening) -> anyhow::Result<Self> {
        // Only IPv4 crosses the bridges. Absent on a kernel without IPv6.
        let _ = std::fs::write(NO_IPV6, "1");
        let mut batch = String::from("link set lo up\n");
        for bridge in Network::ALL.map(Network::name).into_iter().chain([BORDER]) {
            batch.push_str(&format!("link add br-{bridge} type bridge\nlink set br-{bridge} up\n"));
        }
        // The border is a hub: whoever listens there hears everything.
        batch.push_str(&format!("link set br-{BORDER} type bridge ageing_time 0\n"));
        ip_batch(&batch)?;
        Ok(Self { opening, hosts: Mutex::default(), resolvers: Mutex::default(), plugged: Mutex::new(0) })
    }

    /// What was asked for.
    #[must_use]
    pub fn opening(&self) -> &Opening {
        &self.opening
    }

    /// Boots these hosts side by side and plugs them in.
    ///
    /// # Errors
    /// Naming the host that does not come up.
    pub fn boot(&self, plans: Vec<Plan>) -> anyhow::Result<()> {
        let booted: Vec<anyhow::Result<Arc<Host>>> = std::thread::scope(|scope| {
            let running: Vec<_> = plans
                .into_iter()
                .map(|plan| {
                    scope.spawn(move || {
                        let host = {
                            let kubeconfig = kubeconfig_of(&plan);
                            Host::boot(plan, &self.opening, kubeconfig)?
                        };
                        self.plug_in(&host)?;
                        Ok(host)
                    })
                })
                .collect();
            running
                .into_iter()
                .map(|thread| thread.join().unwrap_or_else(|_| bail!("a host's thread panicked")))
                .collect()
        });
        for host in booted {
            let host = host?;
            self.hosts.lock().unwrap_or_else(PoisonError::into_inner).insert(host.name().to_string(), host);
        }
        Ok(())
    }

    /// A host by name.
    ///
    /// # Errors
    /// When there is none, with the names that there are.
    pub fn host(&self, name: &str) -> anyhow::Result<Arc<Host>> {
        let hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        hosts.get(name).cloned().with_context(|| {
            let names: Vec<&str> = hosts.keys().map(String::as_str).collect();
            format!("there is no host {name:?}; hosts are {}", names.join(", "))
        })
    }

    /// All hosts, by name.
    #[must_use]
    pub fn hosts(&self) -> Vec<Arc<Host>> {
        self.hosts.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// Boots one more host; its address.
    ///
    /// # Errors
    /// When the name is taken or no name.
    pub fn add(&self, name: &str, network: Network) -> anyhow::Result<String> {
        let taken: Vec<_> = self.hosts().iter().map(|host| host.plan.address).collect();
        if self.host(name).is_ok() {
            bail!("there is a host {name} already");
        }
        let plan = Plan::guest(name, network, free_octet(network, &taken)?)?;
        let address = plan.address.to_string();
        self.boot(vec![plan])?;
        Ok(address)
    }

    fn plug_in(&self, host: &Arc<Host>) -> anyhow::Result<()> {
        let mut inside = String::from("link set lo up\n");
        if host.plan.role == Role::Offline {
            return in_host(host, &inside);
        }
        let number = {
            let mut plugged = self.plugged.lock().unwrap_or_else(PoisonError::into_inner);
            *plugged += 1;
            *plugged
        };
        // Loopback keeps ::1.
        host.must(&format!("test ! -e {NO_IPV6} || echo 1 > {NO_IPV6}"))?;
        let Some(network) = host.plan.network else {
            ip_batch(&cable(&format!("b{number}"), BORDER, "border", host.pid))?;
            return in_host(host, "link set lo up\nlink set border up\n");
        };
        let mut outside = cable(&format!("h{number}"), network.name(), "eth0", host.pid);
        inside.push_str(&leg("eth0", &host.plan.address.to_string()));
        if host.plan.role == Role::Gateway {
            outside.push_str(&cable(&format!("b{number}"), BORDER, "border", host.pid));
            inside.push_str(&leg("border", &network.border().to_string()));
        } else {
            for range in SERVICE_RANGES.into_iter().chain([BORDER_RANGE]) {
                inside.push_str(&format!("route add {range} via {}\n", network.gateway()));
            }
        }
        ip_batch(&outside).with_context(|| format!("cables of host {}", host.name()))?;
        in_host(host, &inside)?;
        if host.plan.role == Role::Gateway {
            become_gateway(host)?;
            // An ordinary DNS server of the network, which knows no name of the mesh.
            let resolver = host.start(
                "resolver",
                &format!("isthmus-testbed resolver --listen {}:53", host.plan.address),
                &[],
            )?;
            self.resolvers.lock().unwrap_or_else(PoisonError::into_inner).push(resolver);
        }
        Ok(())
    }
}

fn kubeconfig_of(plan: &Plan) -> &'static str {
    if plan.name.ends_with("-cp") { "/var/lib/isthmus/primary/admin.kubeconfig" } else { "" }
}

/// A cable from a bridge to a host's interface.
fn cable(outer: &str, bridge: &str, inner: &str, pid: u32) -> String {
    format!(
        "link add {outer} type veth peer name {inner} netns {pid}\n\
         link set {outer} master br-{bridge} up\n"
    )
}

fn leg(interface: &str, address: &str) -> String {
    format!("link set {interface} up\naddr add {address}/24 dev {interface}\n")
}

/// Routes for its network's hosts to the gateways on the border, and to nothing else.
fn become_gateway(host: &Arc<Host>) -> anyhow::Result<()> {
    let others = Network::ALL.map(|network| network.border().to_string()).join(", ");
    let rules = format!(
        "table ip testbed {{
  chain forward {{
    type filter hook forward priority filter; policy drop;
    ct state established,related accept
    iifname eth0 oifname border ip daddr {{ {others} }} accept
    iifname eth0 reject with icmp net-unreachable
  }}
  chain postrouting {{
    type nat hook postrouting priority srcnat;
    oifname border masquerade
  }}
}}
"
    );
    let command = "echo 1 > /proc/sys/net/ipv4/ip_forward && nft -f -";
    let output = host.run_within(crate::host::COMMAND_WITHIN, command, &rules)?;
    if !output.is_success() {
        bail!("{}: the gateway's rules are refused: {}", host.name(), output.stderr);
    }
    Ok(())
}

fn in_host(host: &Arc<Host>, batch: &str) -> anyhow::Result<()> {
    let output = host.run_within(crate::host::COMMAND_WITHIN, "ip -batch -", batch)?;
    if !output.is_success() {
        bail!("{}: its network cannot be set up: {}", host.name(), output.stderr);
    }
    Ok(())
}

fn ip_batch(batch: &str) -> anyhow::Result<()> {
    let mut ip = Command::new("ip")
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("ip (of iproute2) does not start")?;
    if let Some(mut stdin) = ip.stdin.take() {
        stdin.write_all(batch.as_bytes()).context("ip")?;
    }
    let output = ip.wait_with_output().context("ip")?;
    if !output.status.success() {
        bail!("ip: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
