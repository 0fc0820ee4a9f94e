//! Calls to other services: a new connection for each, with bounds on time and size.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, Request, StatusCode, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

const MAX_REPLY: usize = 1024 * 1024;

/// Headers that every hop copies: request and trace identifiers, and the user's own.
const PASSED_ON: [&str; 21] = [
    "x-request-id",
    "x-ot-span-context",
    "x-datadog-trace-id",
    "x-datadog-parent-id",
    "x-datadog-sampling-priority",
    "x-cloud-trace-context",
    "x-b3-traceid",
    "x-b3-spanid",
    "x-b3-parentspanid",
    "x-b3-sampled",
    "x-b3-flags",
    "b3",
    "traceparent",
    "tracestate",
    "grpc-trace-bin",
    "sw8",
    "end-user",
    "user-agent",
    "cookie",
    "authorization",
    "jwt",
];

/// Where a service is.
#[derive(Debug, Clone)]
pub(crate) struct Upstream {
    host: String,
    port: u16,
}

impl Upstream {
    /// `HOSTNAME` with the domain, if there is one, at `PORT`.
    pub(crate) fn new(host: &str, domain: &str, port: u16) -> Self {
        let host = if domain.is_empty() { host.to_string() } else { format!("{host}.{domain}") };
        Self { host, port }
    }

    /// `http://HOST:PORT`.
    pub(crate) fn url(&self) -> String {
        format!("http://{}:{}", self.host, self.port)
    }

    /// GET, with the headers that hops pass on.
    pub(crate) async fn get(
        &self,
        path: &str,
        passed_on: &HeaderMap,
        within: Duration,
    ) -> Result<(StatusCode, Bytes), String> {
        match tokio::time::timeout(within, self.exchange(path, passed_on)).await {
            Ok(Ok(reply)) => Ok(reply),
            Ok(Err(error)) => Err(format!("{}{path}: {error}", self.url())),
            Err(_) => Err(format!("{}{path}: no answer within {} s", self.url(), within.as_secs_f32())),
        }
    }

    async fn exchange(&self, path: &str, passed_on: &HeaderMap) -> anyhow::Result<(StatusCode, Bytes)> {
        let stream = TcpStream::connect((self.host.as_str(), self.port)).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let mut request = Request::get(path)
            .header(header::HOST, format!("{}:{}", self.host, self.port))
            .header(header::CONNECTION, "close")
            .body(Empty::<Bytes>::new())?;
        for name in PASSED_ON {
            for value in passed_on.get_all(name) {
                request.headers_mut().append(HeaderName::from_static(name), value.clone());
            }
        }
        let talk = async move {
            let reply = sender.send_request(request).await?;
            let status = reply.status();
            let body = Limited::new(reply.into_body(), MAX_REPLY)
                .collect()
                .await
                .map_err(|error| anyhow::anyhow!("body: {error}"))?;
            Ok((status, body.to_bytes()))
        };
        // The connection's own error reaches the request as well.
        let (reply, _) = tokio::join!(talk, connection);
        reply
    }
}
