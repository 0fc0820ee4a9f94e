//! Unix sockets below the data directory, for what runs beside this agent: `DATA/sockets/xds` and `DATA/sockets/sds` for a proxy,
//! `DATA/sockets/grpc` for clients without one.

mod authority;

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use isthmus_lifecycle::TaskGroup;
use tokio::net::{UnixListener, UnixStream};

use crate::data::{DataDir, DataError};

/// Bytes of one client's requests that wait for being served.
const PASSED_ON: usize = 32 * 1024;
/// Pause when the process has no descriptor left for one more connection.
const EXHAUSTED: Duration = Duration::from_millis(50);
/// The folder of all sockets.
pub const FOLDER: &str = "sockets";

/// A bound socket that its owner alone may use.
#[derive(Debug)]
pub struct Socket {
    listener: UnixListener,
    path: PathBuf,
    /// The user that may connect, besides root and ourselves.
    user: Option<u32>,
}

impl Socket {
    /// Binds `DATA/sockets/NAME` (0600), in place of what an earlier run left there. `user` is the proxy's, when it is not ours:
    /// the socket becomes its, and the folders above let it through without letting it look around.
    ///
    /// # Errors
    /// When the file system refuses, or the path is longer than a socket's may be (107 bytes).
    pub fn bind(data: &DataDir, name: &str, user: Option<u32>) -> Result<Self, DataError> {
        let folder = absolute(&data.file(FOLDER));
        let path = folder.join(name);
        let io = |source| DataError::Io { path: path.clone(), source };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder).map_err(io)?;
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io(error)),
            _ => {}
        }
        let listener = UnixListener::bind(&path).map_err(io)?;
        fs::set_permissions(&path, Permissions::from_mode(0o600)).map_err(io)?;
        if let Some(user) = user {
            std::os::unix::fs::chown(&path, Some(user), None).map_err(io)?;
            for folder in [Some(folder.as_path()), folder.parent()].into_iter().flatten() {
                fs::set_permissions(folder, Permissions::from_mode(0o711)).map_err(io)?;
            }
        }
        Ok(Self { listener, path, user })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Serves HTTP/2 on it until the group's cut.
    pub fn serve<S>(self, what: &'static str, service: S, group: &TaskGroup)
    where
        S: tower::Service<
                http::Request<hyper::body::Incoming>,
                Response = http::Response<tonic::body::Body>,
                Error = std::convert::Infallible,
                Future: Send,
            > + Clone
            + Send
            + 'static,
    {
        let (tasks, stop) = (group.clone(), group.signal());
        group.spawn_infallible(what, async move {
            loop {
                let accepted = tokio::select! {
                    biased; // the proxy drains with its configuration in force
                    () = stop.cut() => return,
                    accepted = self.listener.accept() => accepted,
                };
                let stream = match accepted {
                    Ok((stream, _)) => stream,
                    Err(error) => {
                        tracing::warn!(socket = %self.path.display(), %error, "cannot accept, trying again");
                        tokio::time::sleep(EXHAUSTED).await;
                        continue;
                    }
                };
                if !self.lets_in(&stream) {
                    continue;
                }
                let (service, cut, executor) =
                    (TowerToHyperService::new(service.clone()), stop.clone(), Executor(tasks.clone()));
                tasks.spawn_infallible(what, async move {
                    let mut server = hyper::server::conn::http2::Builder::new(executor);
                    server.timer(TokioTimer::new()).max_concurrent_streams(256);
                    let (from, to) = stream.into_split();
                    let (requests, passed_on) = tokio::io::simplex(PASSED_ON);
                    let serving =
                        server.serve_connection(TokioIo::new(tokio::io::join(requests, to)), service);
                    let passing = async {
                        if let Err(error) = authority::pass(from, passed_on).await {
                            tracing::debug!(%error, "a local client is not heard any longer");
                        }
                        // The server has heard of the end, and ends what it answers.
                        std::future::pending::<()>().await;
                    };
                    tokio::select! {
                        () = cut.cut() => {}
                        () = passing => {}
                        served = serving => {
                            if let Err(error) = served {
                                tracing::debug!(%error, "a local client's connection ended");
                            }
                        }
                    }
                });
            }
        });
    }

    /// Root, ourselves and the proxy: the mode says the same, and this says it of whoever was handed the socket.
    fn lets_in(&self, stream: &UnixStream) -> bool {
        let Ok(peer) = stream.peer_cred() else { return false };
        let own = nix::unistd::geteuid().as_raw();
        let may = [Some(0), Some(own), self.user].contains(&Some(peer.uid()));
        if !may {
            tracing::warn!(socket = %self.path.display(), uid = peer.uid(), "connection of another user refused");
        }
        may
    }
}

/// A path that stays right in another process.
pub(crate) fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf())
}

/// Runs hyper's tasks in our group.
#[derive(Clone)]
struct Executor(TaskGroup);

impl<F: Future<Output: Send> + Send + 'static> hyper::rt::Executor<F> for Executor {
    fn execute(&self, future: F) {
        self.0.spawn_many(async move {
            future.await;
        });
    }
}
