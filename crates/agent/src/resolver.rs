//! What the data path asks of this host: original destinations and host names.

use std::io;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use isthmus_capture::Resolvers;
use isthmus_lifecycle::Signal;
use isthmus_proxy::{OriginalDestination, Resolve};
use tokio::sync::watch;

/// Where a captured connection was going.
#[derive(Debug, Clone, Copy, Default)]
pub struct Captured;

impl OriginalDestination for Captured {
    fn of(&self, connection: BorrowedFd<'_>) -> io::Result<SocketAddr> {
        isthmus_capture::original_destination(&connection)
    }
}

/// Resolves by the host's own resolvers, past the mesh's names: a host with an allocated address would resolve to it, and so to
/// the proxy that asks.
#[derive(Debug, Clone)]
pub struct Upstream(pub isthmus_dns::Handle);

impl Resolve for Upstream {
    fn resolve(&self, host: Arc<str>, port: u16) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>> {
        let dns = self.0.clone();
        Box::pin(async move {
            if let Ok(address) = host.parse() {
                return Ok(vec![SocketAddr::new(address, port)]);
            }
            let found = dns.resolve(&host).await?;
            Ok(found.into_iter().map(|address| SocketAddr::new(address, port)).collect())
        })
    }
}

/// Machines change their resolvers when their network does; the file is looked at this often.
const GLANCE: Duration = Duration::from_secs(2);

/// Where a host's resolvers are asked.
#[must_use]
pub fn upstreams(resolvers: &Resolvers) -> Vec<SocketAddr> {
    resolvers.servers.iter().map(|server| SocketAddr::new(*server, 53)).collect()
}

/// Follows `resolv.conf`: forwarding and capture know of a new resolver soon after the host does. A file that cannot be read changes
/// nothing.
pub(crate) async fn follow(
    path: PathBuf,
    resolvers: watch::Sender<Resolvers>,
    dns: Vec<isthmus_dns::Handle>,
    stop: Signal,
) {
    loop {
        tokio::select! {
            biased; // stopping beats looking
            () = stop.stopping() => return,
            () = tokio::time::sleep(GLANCE) => {}
        }
        let Ok(text) = tokio::fs::read_to_string(&path).await else { continue };
        let now = Resolvers::parse(&text);
        let changed = resolvers.send_if_modified(|known| {
            let changed = known.servers != now.servers;
            known.clone_from(&now);
            changed
        });
        if changed {
            tracing::info!(servers = ?now.servers, "this host's resolvers changed");
            for server in &dns {
                server.set_upstreams(upstreams(&now));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use isthmus_dns::{Config, Metrics, Perspective, Server};
    use isthmus_lifecycle::Drain;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_change_of_resolv_conf_is_followed_and_its_absence_changes_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("resolv.conf");
        let metrics = Metrics::register(&mut prometheus_client::registry::Registry::default());
        let server =
            Server::bind(Config::new(vec![], vec![], Perspective::default()), metrics).await.unwrap();
        let (resolvers, mut seen) = watch::channel(Resolvers::parse("nameserver 192.0.2.1"));
        let drain = Drain::new();
        let following = follow(path.clone(), resolvers, vec![server.handle()], drain.signal());
        let story = async {
            tokio::time::advance(GLANCE * 3).await;
            assert!(!seen.has_changed().unwrap());
            std::fs::write(&path, "nameserver 192.0.2.2\n").unwrap();
            seen.changed().await.unwrap();
            assert_eq!(seen.borrow().servers, ["192.0.2.2".parse::<std::net::IpAddr>().unwrap()]);
            drain.refuse();
        };
        tokio::join!(following, story);
    }
}
