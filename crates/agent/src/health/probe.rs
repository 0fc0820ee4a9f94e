//! One probe: HTTP(S), TCP, gRPC or a command.

mod grpc;
mod tls;

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::Stdio;

use futures::future::BoxFuture;
use http::{Request, Uri};
use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpSocket, TcpStream};

pub use grpc::Grpc;

/// The proxy reaches its application from this address: what capture leaves alone.
const SOURCE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 6);

/// Asks the workload once. Cancelled at its timeout.
pub trait Probe: Send + Sync {
    /// Nothing when it works, else why not.
    fn probe(&self) -> BoxFuture<'_, Result<(), String>>;

    /// What is asked, for messages.
    fn describe(&self) -> String;
}

/// Where and how an address is reached: as the proxy reaches its application, so that the probe proves that way.
#[derive(Debug, Clone)]
pub struct Target {
    /// The workload's own address.
    pub address: SocketAddr,
    /// Mark of the socket; none without privileges.
    pub mark: Option<u32>,
}

impl Target {
    pub(super) async fn connect(&self) -> io::Result<TcpStream> {
        let socket = if self.address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        if let Some(mark) = self.mark {
            isthmus_capture::mark(&socket, mark)?;
            if self.address.is_ipv4() {
                socket.bind(SocketAddr::new(IpAddr::V4(SOURCE), 0))?;
            }
        }
        socket.connect(self.address).await
    }
}

/// `GET`; 200 to 399 is good.
#[derive(Debug, Clone)]
pub struct Http {
    /// Whom.
    pub target: Target,
    /// Over TLS; its certificate is not looked at, as in Kubernetes: only the workload's life is asked.
    pub tls: bool,
    /// Path and query.
    pub path: String,
    /// `Host` header.
    pub host: String,
    /// Further headers.
    pub headers: BTreeMap<String, String>,
}

impl Probe for Http {
    fn probe(&self) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async {
            let status = self.get().await.map_err(|error| format!("{}: {error}", self.describe()))?;
            if (200..400).contains(&status) {
                return Ok(());
            }
            Err(format!("{}: answered {status}", self.describe()))
        })
    }

    fn describe(&self) -> String {
        let scheme = if self.tls { "https" } else { "http" };
        format!("GET {scheme}://{}{}", self.target.address, self.path)
    }
}

impl Http {
    async fn get(&self) -> Result<u16, Box<dyn std::error::Error + Send + Sync>> {
        let stream = self.target.connect().await?;
        if self.tls {
            let stream = tls::connect(stream, self.target.address.ip()).await?;
            return self.ask(stream).await;
        }
        self.ask(stream).await
    }

    async fn ask<S>(&self, stream: S) -> Result<u16, Box<dyn std::error::Error + Send + Sync>>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let mut request = Request::builder()
            .uri(self.path.parse::<Uri>()?)
            .header("host", &self.host)
            .header("user-agent", "istio-probe/1.0")
            .header("connection", "close");
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        let request = request.body(Empty::<bytes::Bytes>::new())?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        // Both in this task: dropping it at the timeout ends the connection too.
        let answer = sender.send_request(request);
        tokio::pin!(answer);
        tokio::select! {
            biased;
            response = &mut answer => return Ok(response?.status().as_u16()),
            ended = connection => ended?,
        }
        // The connection may have ended with the answer, or without one.
        Ok(answer.await?.status().as_u16())
    }
}

/// A connection is good.
#[derive(Debug, Clone)]
pub struct Tcp {
    /// Whom.
    pub target: Target,
}

impl Probe for Tcp {
    fn probe(&self) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async {
            let connected = self.target.connect().await;
            connected.map(drop).map_err(|error| format!("{}: {error}", self.describe()))
        })
    }

    fn describe(&self) -> String {
        format!("connect to {}", self.target.address)
    }
}

/// A command; exit status 0 is good. It is killed at its timeout.
#[derive(Debug, Clone)]
pub struct Exec {
    /// Program and arguments, without a shell.
    pub command: Vec<String>,
}

impl Probe for Exec {
    fn probe(&self) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async {
            let Some((program, arguments)) = self.command.split_first() else {
                return Err("the probe's command is empty".to_string());
            };
            let status = tokio::process::Command::new(program)
                .args(arguments)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .kill_on_drop(true)
                .status()
                .await;
            match status {
                Ok(status) if status.success() => Ok(()),
                Ok(status) => Err(format!("{}: {status}", self.describe())),
                Err(error) => Err(format!("{}: {error}", self.describe())),
            }
        })
    }

    fn describe(&self) -> String {
        self.command.join(" ")
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    async fn served(answer: &'static str) -> (Http, impl Future<Output = String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = Target { address: listener.local_addr().unwrap(), mark: None };
        let headers = BTreeMap::from([("x-probe".to_string(), "yes".to_string())]);
        let http =
            Http { target, tls: false, path: "/health?full=1".into(), host: "reviews".into(), headers };
        let server = async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 1024];
            let length = stream.read(&mut request).await.unwrap();
            stream.write_all(answer.as_bytes()).await.unwrap();
            String::from_utf8_lossy(&request[..length]).into_owned()
        };
        (http, server)
    }

    #[tokio::test]
    async fn http_answers_up_to_399_are_good() {
        for (answer, good) in [
            ("HTTP/1.1 204 No Content\r\n\r\n", true),
            ("HTTP/1.1 302 Found\r\nlocation: /x\r\ncontent-length: 0\r\n\r\n", true),
            ("HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n", false),
            ("nonsense\r\n\r\n", false),
            ("", false),
        ] {
            let (http, server) = served(answer).await;
            let (result, request) = tokio::join!(http.probe(), server);
            assert_eq!(result.is_ok(), good, "{answer:?}: {result:?}");
            assert!(request.starts_with("GET /health?full=1 HTTP/1.1\r\n"), "{request}");
            assert!(
                request.contains("host: reviews\r\n") && request.contains("x-probe: yes\r\n"),
                "{request}"
            );
        }
    }

    #[tokio::test]
    async fn https_is_asked_whoever_signed_its_certificate() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = Target { address: listener.local_addr().unwrap(), mark: None };
        let http = Http { target, tls: true, path: "/".into(), host: "x".into(), headers: BTreeMap::new() };
        let stranger = isthmus_testkit::MeshCa::new().control_plane("east");
        let config = isthmus_tls::Terminator::without_sessions(&stranger, isthmus_tls::ClientAuth::None, &[]);
        let server = async {
            let (stream, _) = listener.accept().await.unwrap();
            let patience = std::time::Duration::from_secs(5);
            let (mut stream, _) = config.accept(stream, patience).await.unwrap();
            let mut request = [0; 1024];
            assert!(stream.read(&mut request).await.unwrap() > 0);
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
        };
        let (result, ()) = tokio::join!(http.probe(), server);
        assert_eq!(result, Ok(()));
    }

    #[tokio::test]
    async fn a_closed_port_is_named() {
        let address = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let tcp = Tcp { target: Target { address, mark: None } };
        let problem = tcp.probe().await.unwrap_err();
        assert!(problem.contains(&address.to_string()) && problem.contains("refused"), "{problem}");
    }

    #[tokio::test]
    async fn a_command_is_judged_by_its_exit_status() {
        let exec = |command: &[&str]| Exec { command: command.iter().map(ToString::to_string).collect() };
        assert_eq!(exec(&["true"]).probe().await, Ok(()));
        assert!(exec(&["false"]).probe().await.unwrap_err().contains("exit status: 1"));
        assert!(exec(&["/no/such/program"]).probe().await.is_err());
        assert!(exec(&[]).probe().await.is_err());
    }
}
