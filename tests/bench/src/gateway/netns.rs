//! A network namespace for the whole run: its ports are free, and nothing outside sees the traffic.

use std::process::Command;

use anyhow::Context as _;
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{getgid, getuid};

/// Moves this process, which must have one thread, into a new namespace with a loopback interface. A user who is not root is
/// root inside.
pub(super) fn enter() -> anyhow::Result<()> {
    let (user, group) = (getuid(), getgid());
    if user.is_root() {
        unshare(CloneFlags::CLONE_NEWNET)?;
    } else {
        unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET)?;
        std::fs::write("/proc/self/setgroups", "deny")?;
        std::fs::write("/proc/self/uid_map", format!("0 {user} 1"))?;
        std::fs::write("/proc/self/gid_map", format!("0 {group} 1"))?;
    }
    let status = Command::new("ip").args(["link", "set", "lo", "up"]).status().context("ip (iproute2)")?;
    anyhow::ensure!(status.success(), "ip link set lo up: {status}");
    forget_ended()
}

/// Few ended connections of this thread's namespace hold their ports. Otherwise whoever is faster has used up more of them, and pays for a
/// longer search at each connect.
pub(super) fn forget_ended() -> anyhow::Result<()> {
    let path = "/proc/sys/net/ipv4/tcp_max_tw_buckets";
    std::fs::write(path, "4096").context(path)
}
