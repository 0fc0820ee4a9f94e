//! What the data path asks of this host: original destinations and host names.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use futures::future::BoxFuture;
use isthmus_proxy::{OriginalDestination, Resolve};
use tokio::net::TcpStream;

/// Where a captured connection was going.
#[derive(Debug, Clone, Copy, Default)]
pub struct Captured;

impl OriginalDestination for Captured {
    fn of(&self, connection: &TcpStream) -> io::Result<SocketAddr> {
        isthmus_capture::original_destination(connection)
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
