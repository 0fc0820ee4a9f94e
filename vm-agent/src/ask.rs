//! Asking the agent that runs on this machine, over its admin port.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, bail};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Bytes;
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

const ADMIN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 15000);
const PATIENCE: Duration = Duration::from_secs(5);
const LARGEST: usize = 16 * 1024 * 1024;

pub(crate) async fn status() -> anyhow::Result<serde_json::Value> {
    let body = tokio::time::timeout(PATIENCE, ask(Method::GET, "/status")).await.context("no answer")??;
    serde_json::from_slice(&body).context("the answer is no JSON")
}

pub(crate) async fn quit() -> anyhow::Result<()> {
    tokio::time::timeout(PATIENCE, ask(Method::POST, "/quitquitquit")).await.context("no answer")??;
    Ok(())
}

async fn ask(method: Method, path: &str) -> anyhow::Result<Bytes> {
    let stream = TcpStream::connect(ADMIN).await.with_context(|| format!("admin port {ADMIN}"))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", ADMIN.to_string())
        .header("connection", "close")
        .body(Empty::<Bytes>::new())?;
    let exchange = async {
        let response = sender.send_request(request).await?;
        if !response.status().is_success() {
            bail!("the agent answered {}", response.status());
        }
        match Limited::new(response.into_body(), LARGEST).collect().await {
            Ok(body) => Ok(body.to_bytes()),
            Err(error) => bail!("the agent's answer: {error}"),
        }
    };
    // Both in this task; the connection ends with the answer.
    let (body, _) = tokio::join!(exchange, connection);
    body
}
