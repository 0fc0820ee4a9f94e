//! The old process's side.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use isthmus_agent::{DataDir, ResourceCache};
use isthmus_lifecycle::{Signal, TaskGroup};
use isthmus_proxy::Proxy;
use tokio::net::{UnixListener, UnixStream};

use super::wire::{Message, receive, send};
use super::{VERSION, socket};

/// Time for the new process to become ready, in all.
const PATIENCE: Duration = Duration::from_secs(120);
/// Time for what only one process may do to come to its end, and to say so.
const DUTIES: Duration = Duration::from_secs(5);
/// Pause when the process has no descriptor left for one more connection.
const EXHAUSTED: Duration = Duration::from_millis(50);

/// Everything that is handed over.
pub(crate) struct Estate {
    pub(crate) data: DataDir,
    pub(crate) cache: ResourceCache,
    pub(crate) proxy: Proxy,
    /// The gateway's own pages: name, address asked for, socket.
    pub(crate) pages: Vec<(&'static str, SocketAddr, OwnedFd)>,
    /// What only one process may do: it ends before the new one begins.
    pub(crate) duties: TaskGroup,
    /// What serves the pages.
    pub(crate) serving: TaskGroup,
}

/// Waits for a new process.
pub(crate) struct Giver {
    listener: UnixListener,
}

impl Giver {
    /// Listens in the data directory, which nobody else uses.
    pub(crate) fn bind(data: &DataDir) -> io::Result<Self> {
        let path = socket(data);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(&path)?;
        owner_only(&path)?;
        Ok(Self { listener })
    }

    /// Serves those who ask until one has taken over, or the stop. Whether one has.
    pub(crate) async fn run(self, estate: Estate, stop: Signal) -> bool {
        loop {
            let accepted = tokio::select! {
                () = stop.stopping() => return false,
                accepted = self.listener.accept() => accepted,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept who asks to take over, trying again");
                    tokio::time::sleep(EXHAUSTED).await;
                    continue;
                }
            };
            match tokio::time::timeout(PATIENCE, offer(stream, &estate)).await {
                Ok(Ok(stream)) => {
                    // There is no way back, and no limit of time from here on but those of the steps.
                    leave(stream, &estate).await;
                    return true;
                }
                Ok(Err(error)) => {
                    tracing::warn!(error = format!("{error:#}"), "not taken over, serving on");
                }
                Err(_) => tracing::warn!("the new process did not become ready, serving on"),
            }
        }
    }
}

/// Hands everything over. Returns when the new process is ready.
async fn offer(mut stream: UnixStream, estate: &Estate) -> anyhow::Result<UnixStream> {
    let peer = rustix::net::sockopt::socket_peercred(&stream).context("who asks")?;
    anyhow::ensure!(
        peer.uid == rustix::process::geteuid(),
        "user {} asks to take over, which is not the own one",
        peer.uid.as_raw()
    );
    match receive(&mut stream).await?.0 {
        Message::Ask { version: VERSION } => {}
        Message::Ask { version } => {
            let why = format!("the running gateway speaks version {VERSION} of the takeover, not {version}");
            send(&mut stream, &Message::Refused { why: why.clone() }, None).await?;
            anyhow::bail!(why);
        }
        other => anyhow::bail!("{other:?} where a question belongs"),
    }
    tracing::info!(process = peer.pid.as_raw_nonzero().get(), "a new process takes over");
    // It begins with what is in force here.
    estate.cache.flush().await;
    send(&mut stream, &Message::Lock, Some(estate.data.share_lock()?.as_fd())).await?;
    for (name, asked, socket) in &estate.pages {
        let page = Message::Page { name: (*name).to_string(), asked: *asked };
        send(&mut stream, &page, Some(socket.as_fd())).await?;
    }
    for socket in estate.proxy.sockets()? {
        let listener = Message::Listener { name: socket.listener.to_string(), asked: socket.asked };
        send(&mut stream, &listener, Some(socket.as_fd())).await?;
    }
    send(&mut stream, &Message::Whole, None).await?;
    match receive(&mut stream).await?.0 {
        Message::Ready => Ok(stream),
        other => anyhow::bail!("{other:?} where readiness belongs"),
    }
}

/// Leaves everything to the new process, which serves from now on, whatever becomes of this one.
async fn leave(mut stream: UnixStream, estate: &Estate) {
    estate.duties.drain().refuse();
    if tokio::time::timeout(DUTIES, estate.duties.finished()).await.is_err() {
        estate.duties.drain().immediate();
    }
    estate.data.leave();
    estate.serving.drain().immediate();
    estate.proxy.leave();
    match tokio::time::timeout(DUTIES, send(&mut stream, &Message::Stopped, None)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            tracing::warn!(%error, "the new process does not hear that this one has stopped accepting");
        }
        Err(_) => tracing::warn!("the new process does not listen to this one any longer"),
    }
}

fn owner_only(path: &Path) -> io::Result<()> {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))
}
