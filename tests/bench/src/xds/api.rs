//! Just enough of a client for a Kubernetes-style API: objects over a few kept-alive connections with a client certificate.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use isthmus_tls::{ClientCertificate, Expected, Identity, Material, client_config};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::world::Write;

/// Connections that objects are loaded over.
const CONNECTIONS: usize = 16;

/// An API server and who we are there.
#[derive(Clone)]
pub struct Api {
    address: SocketAddr,
    tls: Arc<rustls::ClientConfig>,
}

/// One connection.
pub struct Connection {
    sender: SendRequest<Full<Bytes>>,
    driver: JoinSet<()>,
}

impl Api {
    /// The server at an address, with an administrator's key and chain.
    ///
    /// # Errors
    /// When they do not fit together.
    pub fn new(address: SocketAddr, admin: &Material) -> anyhow::Result<Self> {
        let identity = Identity::from_material(admin).context("the administrator's certificate")?;
        let expected = Expected::ServerName("127.0.0.1".into());
        let tls = client_config(&identity, expected, &[b"http/1.1"], ClientCertificate::Send);
        Ok(Self { address, tls })
    }

    /// Connects.
    ///
    /// # Errors
    /// When the server is not there.
    pub async fn connect(&self) -> anyhow::Result<Connection> {
        let tcp = TcpStream::connect(self.address).await?;
        tcp.set_nodelay(true)?;
        let name = rustls_pki_types::ServerName::IpAddress(self.address.ip().into());
        let (tls, _) = isthmus_tls::connect(tcp, &self.tls, name, Duration::from_secs(10)).await?;
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(tls)).await?;
        let mut driver = JoinSet::new();
        driver.spawn(async move {
            // Its error is what the next request says.
            let _ = connection.await;
        });
        Ok(Connection { sender, driver })
    }

    /// Whether a path is answered with success.
    pub async fn serves(&self, path: &str) -> bool {
        let Ok(mut connection) = self.connect().await else { return false };
        connection.exchange(Method::GET, path, None).await.is_ok_and(|(status, _)| status.is_success())
    }

    /// Writes all of these, over several connections, in no order. `progress` is told how many are done.
    ///
    /// # Errors
    /// When one is refused; one that is there already is not.
    pub async fn load(&self, writes: Vec<Write>, progress: impl Fn(usize, usize)) -> anyhow::Result<()> {
        let total = writes.len();
        let writes = Arc::new(writes);
        let next = Arc::new(AtomicUsize::new(0));
        let mut workers = JoinSet::new();
        for _ in 0..CONNECTIONS {
            let (api, writes, next) = (self.clone(), Arc::clone(&writes), Arc::clone(&next));
            workers.spawn(async move {
                let mut connection = api.connect().await?;
                while let Some(write) = writes.get(next.fetch_add(1, Ordering::Relaxed)) {
                    connection.write(write).await?;
                }
                anyhow::Ok(())
            });
        }
        let mut tick = tokio::time::interval(Duration::from_secs(2));
        loop {
            tokio::select! {
                joined = workers.join_next() => match joined {
                    Some(worker) => worker??,
                    None => return Ok(()),
                },
                _ = tick.tick() => progress(next.load(Ordering::Relaxed).min(total), total),
            }
        }
    }
}

impl Connection {
    /// Creates an object, and writes its status where it has one.
    ///
    /// # Errors
    /// When it is refused; one that is there already is not.
    pub async fn write(&mut self, write: &Write) -> anyhow::Result<()> {
        self.check(Method::POST, &write.path, &write.object).await?;
        match &write.status {
            Some(path) => self.check(Method::PUT, path, &write.object).await,
            None => Ok(()),
        }
    }

    /// Sends an object, which must be taken.
    ///
    /// # Errors
    /// When it is not.
    pub async fn check(&mut self, method: Method, path: &str, object: &Value) -> anyhow::Result<()> {
        let (status, answer) = self.exchange(method.clone(), path, Some(object)).await?;
        let there = method == Method::POST && status == StatusCode::CONFLICT;
        anyhow::ensure!(
            status.is_success() || there,
            "{method} {path}: {status}: {}",
            String::from_utf8_lossy(&answer)
        );
        Ok(())
    }

    /// An object, as it is shown.
    ///
    /// # Errors
    /// When there is none or the connection fails.
    pub async fn get(&mut self, path: &str) -> anyhow::Result<Value> {
        let (status, answer) = self.exchange(Method::GET, path, None).await?;
        anyhow::ensure!(status.is_success(), "GET {path}: {status}: {}", String::from_utf8_lossy(&answer));
        Ok(serde_json::from_slice(&answer)?)
    }

    async fn exchange(
        &mut self,
        method: Method,
        path: &str,
        object: Option<&Value>,
    ) -> anyhow::Result<(StatusCode, Bytes)> {
        anyhow::ensure!(!self.driver.is_empty(), "the connection has no driver");
        let body = object.map(serde_json::to_vec).transpose()?.unwrap_or_default();
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "127.0.0.1")
            .header("content-type", "application/json")
            .body(Full::new(body.into()))?;
        let answer = self.sender.send_request(request).await?;
        let status = answer.status();
        Ok((status, answer.into_body().collect().await?.to_bytes()))
    }
}
