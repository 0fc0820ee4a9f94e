//! How a peer is called: a closure of the program.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};

/// A byte stream, TLS with both certificates verified.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// Whom to call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dial {
    /// Server name to ask for and to verify.
    pub server_name: String,
    /// `HOST:PORT` of the peer's gateways.
    pub addresses: Vec<Arc<str>>,
}

type Dialing = Pin<Box<dyn Future<Output = io::Result<Box<dyn Io>>> + Send>>;

/// Makes connections. Asked anew for each attempt. It must present our control plane's certificate and verify that the other
/// side's is for `server_name`: the protocol takes that as proven.
#[derive(Clone)]
pub struct Connector(Arc<dyn Fn(Dial) -> Dialing + Send + Sync>);

impl Connector {
    /// Wraps a closure that connects to one of the addresses and finishes the TLS handshake.
    pub fn new<F, C, I>(dial: F) -> Self
    where
        F: Fn(Dial) -> C + Send + Sync + 'static,
        C: Future<Output = io::Result<I>> + Send + 'static,
        I: Io + 'static,
    {
        Self(Arc::new(move |whom| {
            let connecting = dial(whom);
            Box::pin(async move { Ok(Box::new(connecting.await?) as Box<dyn Io>) })
        }))
    }

    pub(super) fn dial(&self, whom: Dial) -> Dialing {
        (self.0)(whom)
    }
}

impl std::fmt::Debug for Connector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Connector")
    }
}
