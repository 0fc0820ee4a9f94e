//! The new process's side.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use isthmus_agent::DataDir;
use isthmus_proxy::ListeningSocket;
use tokio::net::{TcpListener, UnixStream};

use super::wire::{Message, receive, send};
use super::{SOCKET, VERSION};

/// Time for the old process's answers.
const PATIENCE: Duration = Duration::from_secs(30);

/// What the old process handed over.
pub(crate) struct Inheritance {
    stream: UnixStream,
    pub(crate) data: DataDir,
    pages: Vec<(String, SocketAddr, OwnedFd)>,
    pub(crate) listeners: Vec<ListeningSocket>,
}

/// Asks the gateway that runs with this data directory; none when none does.
pub(crate) async fn ask(directory: &Path) -> anyhow::Result<Option<Inheritance>> {
    let path = directory.join(SOCKET);
    let stream = match UnixStream::connect(&path).await {
        Ok(stream) => stream,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            tracing::info!("no gateway runs with this data directory, nothing to take over");
            return Ok(None);
        }
        Err(error) => return Err(error).with_context(|| path.display().to_string()),
    };
    let asked = tokio::time::timeout(PATIENCE, inherit(directory, stream)).await;
    let inheritance = asked.context("the running gateway does not answer")?;
    inheritance.context("taking over from the running gateway").map(Some)
}

async fn inherit(directory: &Path, mut stream: UnixStream) -> anyhow::Result<Inheritance> {
    let peer = rustix::net::sockopt::socket_peercred(&stream)?;
    anyhow::ensure!(peer.uid == rustix::process::geteuid(), "it runs as another user");
    send(&mut stream, &Message::Ask { version: VERSION }, None).await?;
    let (mut lock, mut pages, mut listeners) = (None, Vec::new(), Vec::new());
    loop {
        match receive(&mut stream).await? {
            (Message::Lock, Some(descriptor)) => lock = Some(descriptor),
            (Message::Page { name, asked }, Some(socket)) => pages.push((name, asked, socket)),
            (Message::Listener { name, asked }, Some(socket)) => {
                listeners.push(ListeningSocket { listener: name.into(), asked, socket });
            }
            (Message::Whole, _) => break,
            (Message::Refused { why }, _) => anyhow::bail!(why),
            (other, _) => anyhow::bail!("{other:?} where a socket belongs"),
        }
    }
    let lock = lock.context("it did not hand over the lock of the data directory")?;
    Ok(Inheritance { stream, data: DataDir::adopt(directory, lock), pages, listeners })
}

impl Inheritance {
    /// The socket of one of the gateway's own pages, when it is where it was.
    pub(crate) fn page(&mut self, name: &str, address: SocketAddr) -> io::Result<Option<TcpListener>> {
        let fits = |page: &(String, SocketAddr, OwnedFd)| page.0 == name && page.1 == address;
        let Some(at) = self.pages.iter().position(fits) else { return Ok(None) };
        let socket = std::net::TcpListener::from(self.pages.swap_remove(at).2);
        socket.set_nonblocking(true)?;
        TcpListener::from_std(socket).map(Some)
    }

    /// Says that this process is ready, and waits until the old one has stopped accepting. Whatever becomes of that one then,
    /// this one serves.
    pub(crate) async fn ready(mut self) -> anyhow::Result<()> {
        send(&mut self.stream, &Message::Ready, None).await.context("the running gateway went away")?;
        match tokio::time::timeout(PATIENCE, receive(&mut self.stream)).await {
            Ok(Ok((Message::Stopped, _))) => {}
            Ok(Ok((other, _))) => {
                tracing::warn!(answer = ?other, "the old process says something else than that it stopped")
            }
            Ok(Err(error)) => tracing::warn!(%error, "the old process is gone"),
            Err(_) => tracing::warn!("the old process does not say that it stopped"),
        }
        self.data.keep();
        Ok(())
    }
}
