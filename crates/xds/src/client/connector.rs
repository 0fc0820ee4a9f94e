//! How a connection is made: a closure of the caller, asked anew for every attempt.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};

/// A byte stream, usually TLS over TCP.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

type Dialing = Pin<Box<dyn Future<Output = io::Result<Box<dyn Io>>> + Send>>;

/// Makes connections. Called for each attempt, so that a renewed certificate and another address are used by the next one.
#[derive(Clone)]
pub struct Connector(Arc<dyn Fn() -> Dialing + Send + Sync>);

impl Connector {
    /// Wraps a closure that connects and finishes any TLS handshake.
    pub fn new<F, C, I>(dial: F) -> Self
    where
        F: Fn() -> C + Send + Sync + 'static,
        C: Future<Output = io::Result<I>> + Send + 'static,
        I: Io + 'static,
    {
        Self(Arc::new(move || {
            let connecting = dial();
            Box::pin(async move { Ok(Box::new(connecting.await?) as Box<dyn Io>) })
        }))
    }

    pub(super) fn dial(&self) -> Dialing {
        (self.0)()
    }
}

impl std::fmt::Debug for Connector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Connector")
    }
}
