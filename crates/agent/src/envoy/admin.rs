//! Envoy's admin interface, over its Unix socket.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::rt::TokioIo;
use thiserror::Error;
use tokio::net::UnixStream;

/// Time for one answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Largest answer: the configuration of a mesh of thousands of services.
const LARGEST: usize = 256 * 1024 * 1024;

/// Why Envoy did not answer.
#[derive(Debug, Error)]
pub enum AdminError {
    /// It does not listen (yet).
    #[error("Envoy's admin socket {}: {source}", path.display())]
    Connect {
        /// Which socket.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is silent.
    #[error("Envoy's admin interface has not answered within {PATIENCE:?}")]
    Silent,
    /// The exchange failed.
    #[error("Envoy's admin interface: {0}")]
    Http(String),
    /// It said no.
    #[error("Envoy's admin interface answers {status} to {path}: {text}")]
    Status {
        /// HTTP status.
        status: u16,
        /// What was asked for.
        path: String,
        /// What it says.
        text: String,
    },
}

/// Asks one Envoy. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Admin(Arc<Path>);

impl Admin {
    /// The one with its admin interface at this socket.
    #[must_use]
    pub fn new(socket: PathBuf) -> Self {
        Self(socket.into())
    }

    /// Its socket.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The text of a page.
    ///
    /// # Errors
    /// When it does not answer with 200.
    pub async fn get(&self, path: &str) -> Result<String, AdminError> {
        self.ask(http::Method::GET, path).await
    }

    /// Makes it do something.
    ///
    /// # Errors
    /// When it does not answer with 200.
    pub async fn post(&self, path: &str) -> Result<String, AdminError> {
        self.ask(http::Method::POST, path).await
    }

    async fn ask(&self, method: http::Method, path: &str) -> Result<String, AdminError> {
        tokio::time::timeout(PATIENCE, self.exchange(method, path)).await.map_err(|_| AdminError::Silent)?
    }

    async fn exchange(&self, method: http::Method, path: &str) -> Result<String, AdminError> {
        let failed = |error: &dyn std::fmt::Display| AdminError::Http(error.to_string());
        let stream = UnixStream::connect(&*self.0)
            .await
            .map_err(|source| AdminError::Connect { path: self.0.to_path_buf(), source })?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| failed(&error))?;
        let request = http::Request::builder()
            .method(method)
            .uri(path)
            .header(http::header::HOST, "envoy")
            .header(http::header::CONNECTION, "close")
            .body(Empty::<Bytes>::new())
            .map_err(|error| failed(&error))?;
        let answer = async {
            let response = sender.send_request(request).await.map_err(|error| failed(&error))?;
            let status = response.status().as_u16();
            let body = Limited::new(response.into_body(), LARGEST)
                .collect()
                .await
                .map_err(|error| failed(&error))?;
            let text = String::from_utf8_lossy(&body.to_bytes()).into_owned();
            if status == 200 {
                Ok(text)
            } else {
                Err(AdminError::Status { status, path: path.to_string(), text: text.trim().to_string() })
            }
        };
        tokio::pin!(answer);
        // The connection only moves bytes: its end without an answer shows in the answer.
        tokio::select! {
            biased;
            answer = &mut answer => answer,
            _ = connection => answer.await,
        }
    }
}
