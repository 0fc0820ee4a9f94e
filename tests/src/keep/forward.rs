//! From the real host's 127.0.0.1 into a host's network.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::Context;
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::unistd::Pid;

const MAX_FORWARDED: usize = 512;

/// Passes connections of the listener that is standard input on, from within a host's network.
///
/// # Errors
/// When standard input is no listener.
pub fn forward(to: SocketAddr) -> anyhow::Result<()> {
    set_pdeathsig(Signal::SIGKILL).context("parent-death signal")?;
    if nix::unistd::getppid() == Pid::from_raw(1) {
        return Ok(());
    }
    let listener = TcpListener::from(std::io::stdin().as_fd().try_clone_to_owned().context("listener")?);
    let open = Arc::new(AtomicUsize::new(0));
    for client in listener.incoming() {
        let Ok(client) = client else { continue };
        if open.fetch_add(1, Ordering::Relaxed) >= MAX_FORWARDED {
            open.fetch_sub(1, Ordering::Relaxed);
            continue;
        }
        let open = Arc::clone(&open);
        std::thread::spawn(move || {
            // Either side may break off: that ends this connection and nothing else.
            let _ = relay(client, to);
            open.fetch_sub(1, Ordering::Relaxed);
        });
    }
    Ok(())
}

fn relay(mut client: TcpStream, to: SocketAddr) -> anyhow::Result<()> {
    let mut server = TcpStream::connect(to)?;
    let (mut from_client, mut to_server) = (client.try_clone()?, server.try_clone()?);
    let up = std::thread::spawn(move || {
        let _ = std::io::copy(&mut from_client, &mut to_server);
        let _ = to_server.shutdown(std::net::Shutdown::Write);
    });
    let _ = std::io::copy(&mut server, &mut client);
    let _ = client.shutdown(std::net::Shutdown::Both);
    let _ = up.join();
    Ok(())
}
