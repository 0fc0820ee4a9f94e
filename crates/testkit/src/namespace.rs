//! Hosts of a test as network namespaces that the test makes itself, as root or in a user namespace.

use std::io::Read;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};

/// Runs the test again inside new namespaces, or runs `body` when already there. Where the kernel allows none, says so in one line
/// and passes.
///
/// # Panics
/// When the test fails inside.
pub fn inside(test: &str, body: fn()) {
    // The test harness takes it for a filter that matches nothing.
    const MARKER: &str = "this-process-is-inside";
    if std::env::args().any(|argument| argument == MARKER) {
        return body();
    }
    let flags = if nix::unistd::geteuid().is_root() { "-nm" } else { "-Urnm" };
    let possible = Command::new("unshare").args([flags, "nft", "list", "ruleset"]).output();
    if !possible.is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: {test} needs unshare, nft and leave to make namespaces");
        return;
    }
    let output = Command::new("unshare")
        .arg(flags)
        .arg(std::env::current_exe().expect("a test has an executable"))
        .args(["--exact", test, "--nocapture", "--skip", MARKER])
        .output()
        .expect("unshare ran a moment ago");
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

/// Runs a command of the shell here.
///
/// # Panics
/// When it fails.
pub fn sh(command: &str) {
    let status = Command::new("sh").args(["-ec", command]).status();
    assert!(status.is_ok_and(|status| status.success()), "{command}");
}

/// Another host, joined to this one by a cable, for as long as this value lives.
pub struct Host {
    holder: Child,
    namespace: OwnedFd,
}

impl Host {
    /// This host gets the address `here`, the other `there`, both of a /24; each is the other's default route. The other host's
    /// `/etc/resolv.conf` names this one.
    ///
    /// # Panics
    /// When a command fails.
    #[must_use]
    pub fn new(here: Ipv4Addr, there: Ipv4Addr) -> Self {
        let own = format!(
            "mount -t tmpfs none /run; echo nameserver {here} >/run/resolv.conf
             mount --bind /run/resolv.conf /etc/resolv.conf
             echo ready; exec cat"
        );
        let mut holder = Command::new("unshare")
            .args(["-nm", "sh", "-ec", &own])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("unshare is there");
        let mut ready = [0; 5];
        let said = holder.stdout.as_mut().map(|stdout| stdout.read_exact(&mut ready));
        assert!(matches!(said, Some(Ok(()))), "the other host does not come up");
        let id = holder.id();
        sh(&format!(
            "ip link set lo up
             ip link add eth0 type veth peer name eth0 netns {id}
             ip addr add {here}/24 dev eth0
             ip link set eth0 up
             ip route add default via {there}
             nsenter -t {id} -n sh -ec '
                 ip link set lo up; ip addr add {there}/24 dev eth0; ip link set eth0 up
                 ip route add default via {here}'"
        ));
        let namespace = std::fs::File::open(format!("/proc/{id}/ns/net"));
        Self { holder, namespace: namespace.expect("a running process has a namespace").into() }
    }

    /// Makes sockets on the other host: a socket stays in the namespace that it was made in.
    ///
    /// # Panics
    /// When `work` does.
    pub fn there<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let enter = scope.spawn(|| {
                let entered = nix::sched::setns(&self.namespace, nix::sched::CloneFlags::CLONE_NEWNET);
                entered.expect("the other host is ours");
                work()
            });
            match enter.join() {
                Ok(value) => value,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    /// A command on the other host.
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["-t", &self.holder.id().to_string(), "-n", "-m", program]);
        command
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // Its process may be gone already.
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}
