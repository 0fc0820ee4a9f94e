//! A server's pod: a network namespace with a link to the client's, and the origin in it.

use std::fs::File;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::Context as _;
use nix::sched::{CloneFlags, setns};

use crate::gateway::netns::forget_ended;
use crate::gateway::origin::Origin;
use crate::xds::processes::Running;

/// It goes when this is dropped.
pub(super) struct Pod {
    number: u8,
    // The origin first: it is inside.
    _origin: Origin,
    holder: Running,
}

impl Pod {
    pub(super) fn start(number: u8, congestion: &str, folder: &Path) -> anyhow::Result<Self> {
        let name = format!("pod{number}");
        let arguments = ["--net", "sleep", "infinity"].map(ToString::to_string);
        let holder = Running::start(Path::new("unshare"), &name, &arguments, folder)?;
        let (own, pid) = (std::fs::read_link("/proc/self/ns/net")?, holder.pid());
        // unshare(1) is in its new namespace when it runs what it holds.
        let place = format!("/proc/{pid}/ns/net");
        for _ in 0..1000 {
            if std::fs::read_link(&place)? != own {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        let (near, far) = addresses(number);
        let link = format!("pod{number}");
        run("ip", &format!("link add {link} type veth peer name eth0 netns {pid}"))?;
        run("ip", &format!("addr add {near}/24 dev {link}"))?;
        run("ip", &format!("link set {link} up"))?;
        run("ip", &format!("route add 10.{}.0.0/16 dev {link}", 90 + number))?;
        let inside = |command: &str| run("nsenter", &format!("--net={place} ip {command}"));
        inside("link set lo up")?;
        inside(&format!("addr add {far}/24 dev eth0"))?;
        inside("link set eth0 up")?;
        inside(&format!("route add default via {near}"))?;
        let (namespace, congestion) = (File::open(&place)?, congestion.to_string());
        // A thread that has entered another namespace stays there: it starts the origin and ends.
        let started = std::thread::spawn(move || {
            setns(namespace, CloneFlags::CLONE_NEWNET)?;
            set_congestion_control(&congestion)?;
            forget_ended()?;
            Origin::start()
        });
        let origin = started.join().map_err(|_| anyhow::anyhow!("the origin's thread panicked"))??;
        Ok(Self { number, _origin: origin, holder })
    }

    /// Of the client and of the server.
    pub(super) fn addresses(&self) -> (Ipv4Addr, Ipv4Addr) {
        addresses(self.number)
    }

    /// The service whose only endpoint the pod is.
    pub(super) fn service(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 90 + self.number, 0, 9)
    }

    /// Starts a program inside.
    pub(super) fn program(
        &self,
        program: &Path,
        name: &str,
        arguments: &[String],
        folder: &Path,
    ) -> anyhow::Result<Running> {
        let mut all =
            vec![format!("--net=/proc/{}/ns/net", self.holder.pid()), program.display().to_string()];
        all.extend_from_slice(arguments);
        Running::start(Path::new("nsenter"), name, &all, folder)
    }

    /// Loads rules inside.
    pub(super) fn rules(&self, text: &str) -> anyhow::Result<()> {
        rules("nsenter", &[&format!("--net=/proc/{}/ns/net", self.holder.pid()), "nft", "-f", "-"], text)
    }
}

fn addresses(number: u8) -> (Ipv4Addr, Ipv4Addr) {
    (Ipv4Addr::new(10, 80 + number, 0, 1), Ipv4Addr::new(10, 80 + number, 0, 2))
}

/// Of the connections of this thread's namespace that begin later.
pub(super) fn set_congestion_control(name: &str) -> anyhow::Result<()> {
    let path = "/proc/sys/net/ipv4/tcp_congestion_control";
    std::fs::write(path, name).with_context(|| format!("{path}: {name}"))
}

/// Loads rules in the client's namespace.
pub(super) fn client_rules(text: &str) -> anyhow::Result<()> {
    rules("nft", &["-f", "-"], text)
}

fn rules(program: &str, arguments: &[&str], text: &str) -> anyhow::Result<()> {
    let mut child = Command::new(program).args(arguments).stdin(Stdio::piped()).spawn().context("nft")?;
    child.stdin.take().context("a pipe was asked for")?.write_all(text.as_bytes())?;
    let status = child.wait()?;
    anyhow::ensure!(status.success(), "nft: {status}");
    Ok(())
}

fn run(program: &str, arguments: &str) -> anyhow::Result<()> {
    let status = Command::new(program).args(arguments.split(' ')).status().context(program.to_string())?;
    anyhow::ensure!(status.success(), "{program} {arguments}: {status}");
    Ok(())
}
