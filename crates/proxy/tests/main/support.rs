//! Proxies and workloads of a test.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;
use envoy_types::pb::envoy::config::listener::v3::Listener;
use isthmus_lifecycle::{Drain, TaskGroup};
use isthmus_proxy::{
    Config, HostResolver, Limits, ListeningSocket, Node, OriginalDestination, Proxy, Rejection, Resolve,
    RunError,
};
use isthmus_tls::Identity;
use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use prost::{Message, Name};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Where captured connections were going.
#[derive(Default)]
pub(crate) struct Told(Mutex<Option<SocketAddr>>);

impl OriginalDestination for Told {
    fn of(&self, connection: std::os::fd::BorrowedFd<'_>) -> io::Result<SocketAddr> {
        self.0
            .lock()
            .map_or_else(|| Ok(socket2::SockRef::from(&connection).local_addr()?.as_socket().unwrap()), Ok)
    }
}

/// A proxy that runs.
pub(crate) struct Running {
    pub(crate) proxy: Proxy,
    pub(crate) registry: Registry,
    pub(crate) drain: Drain,
    told: Arc<Told>,
    tasks: TaskGroup,
}

pub(crate) struct Setup {
    pub(crate) identity: Identity,
    pub(crate) limits: Limits,
    pub(crate) resolver: Arc<dyn Resolve>,
    pub(crate) announced_ports: Vec<u16>,
}

impl Setup {
    pub(crate) fn new(identity: Identity) -> Self {
        Self {
            identity,
            limits: Limits::default(),
            resolver: Arc::new(HostResolver),
            announced_ports: Vec::new(),
        }
    }

    pub(crate) fn start(self) -> Running {
        let running = self.succeed(Vec::new());
        running.proxy.open();
        running
    }

    /// As the successor of a proxy that gave its sockets.
    pub(crate) fn succeed(self, inherited: Vec<ListeningSocket>) -> Running {
        let told = Arc::new(Told::default());
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let config = Config {
            identity: self.identity,
            node: Node {
                workload: "productpage-v1".into(),
                namespace: "default".parse().unwrap(),
                cluster: "east".parse().unwrap(),
                network: "east".parse().unwrap(),
                app: "productpage".into(),
                version: "v1".into(),
            },
            outbound: Some(any),
            inbound: Some(any),
            mark: None,
            original_destination: Arc::clone(&told) as Arc<dyn OriginalDestination>,
            resolver: self.resolver,
            announced_ports: self.announced_ports,
            limits: self.limits,
        };
        let mut registry = Registry::default();
        let proxy = Proxy::succeed(config, inherited, &mut registry).unwrap();
        let drain = Drain::new();
        let tasks = TaskGroup::new("test", drain.clone());
        let (running, stop) = (proxy.clone(), drain.clone());
        tasks.spawn("proxy", isthmus_lifecycle::OnFailure::Log, async move {
            running.run(&stop).await?;
            Ok::<(), RunError>(())
        });
        Running { proxy, registry, drain, told, tasks }
    }
}

impl Running {
    pub(crate) fn new(identity: Identity) -> Self {
        Setup::new(identity).start()
    }

    /// Applies resources and expects all of them to be taken.
    pub(crate) fn take(
        &self,
        clusters: Vec<Cluster>,
        loads: Vec<ClusterLoadAssignment>,
        listeners: Vec<Listener>,
    ) {
        assert_eq!(self.give(clusters.into_iter().map(|c| (c.name.clone(), c)).collect()), []);
        assert_eq!(self.give(loads.into_iter().map(|l| (l.cluster_name.clone(), l)).collect()), []);
        assert_eq!(self.give(listeners.into_iter().map(|l| (l.name.clone(), l)).collect()), []);
    }

    pub(crate) fn give<T: Message + Name>(&self, resources: Vec<(String, T)>) -> Vec<Rejection> {
        let encode = |(name, resource): (String, T)| (Arc::from(name), Bytes::from(resource.encode_to_vec()));
        self.proxy.apply(&T::type_url(), resources.into_iter().map(encode).collect(), &[])
    }

    pub(crate) fn remove<T: Name>(&self, name: &str) {
        self.proxy.apply(&T::type_url(), Vec::new(), &[Arc::from(name)]);
    }

    pub(crate) fn address(&self, listener: &str) -> SocketAddr {
        let all = self.proxy.addresses();
        all.iter().find(|(name, _)| &**name == listener).unwrap_or_else(|| panic!("{all:?}")).1
    }

    pub(crate) fn tell(&self, destination: SocketAddr) {
        *self.told.0.lock() = Some(destination);
    }

    /// As an application's connection to `destination` would arrive.
    pub(crate) async fn capture(&self, destination: SocketAddr) -> TcpStream {
        self.tell(destination);
        TcpStream::connect(self.address("virtualOutbound")).await.unwrap()
    }

    /// The value of a counter whose labels include these texts, summed.
    pub(crate) fn count(&self, metric: &str, labels: &[&str]) -> u64 {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry).unwrap();
        let fits = |line: &&str| {
            line.split(['{', ' ']).next() == Some(metric) && labels.iter().all(|label| line.contains(label))
        };
        let value = |line: &str| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap();
        text.lines().filter(fits).map(value).sum()
    }

    /// Waits until a counter has this value.
    pub(crate) async fn counted(&self, metric: &str, labels: &[&str], value: u64) {
        let reached = async {
            while self.count(metric, labels) < value {
                tokio::task::yield_now().await;
            }
        };
        if tokio::time::timeout(Duration::from_secs(10), reached).await.is_err() {
            let mut text = String::new();
            prometheus_client::encoding::text::encode(&mut text, &self.registry).unwrap();
            panic!("{metric} {labels:?} did not reach {value}:\n{text}");
        }
        assert_eq!(self.count(metric, labels), value);
    }

    /// The health of an endpoint, as `isthmus proxy-config endpoints` shows it.
    pub(crate) fn health(&self, address: SocketAddr) -> String {
        let all = self.proxy.endpoints_json();
        let found = all.as_array().unwrap().iter().find(|e| e["address"] == address.to_string());
        found.map_or("absent", |e| e["health"].as_str().unwrap()).to_string()
    }

    /// All metrics as text.
    pub(crate) fn metrics(&self) -> String {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry).unwrap();
        text
    }

    /// Waits until it has ended by itself.
    pub(crate) async fn ended(self) {
        let ended = tokio::time::timeout(Duration::from_secs(10), self.tasks.finished()).await;
        ended.expect("an end within 10 s");
    }

    pub(crate) async fn stopped(self) {
        self.drain.refuse();
        self.tasks.finished().await;
    }
}

/// A server that answers each connection.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    drain: Drain,
    tasks: TaskGroup,
}

/// What a server does.
#[derive(Clone, Copy)]
pub(crate) enum Does {
    /// Sends back what comes, after its name, until the end.
    Echo(&'static str),
    /// Speaks first, as MySQL does, then echoes.
    Greet(&'static str),
    /// Reads something, then resets.
    Reset,
    /// Takes connections and says nothing, as a stopped process whose kernel still accepts.
    Hang,
}

impl Server {
    pub(crate) async fn start(does: Does) -> Self {
        Self::at("127.0.0.1:0".parse().unwrap(), does).await
    }

    pub(crate) async fn at(address: SocketAddr, does: Does) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let drain = Drain::new();
        let tasks = TaskGroup::new("server", drain.clone());
        let (stop, connections) = (drain.signal(), tasks.clone());
        tasks.spawn_infallible("accept", async move {
            loop {
                let stream = tokio::select! {
                    () = stop.stopping() => return,
                    accepted = listener.accept() => accepted.unwrap().0,
                };
                let cut = stop.clone();
                connections.spawn_infallible("connection", async move {
                    tokio::select! {
                        () = cut.stopping() => {}
                        _ = answer(stream, does) => {}
                    }
                });
            }
        });
        Self { address, drain, tasks }
    }

    /// Stops; the port refuses connections then.
    pub(crate) async fn kill(self) -> SocketAddr {
        self.drain.immediate();
        self.tasks.finished().await;
        self.address
    }
}

async fn answer(mut stream: TcpStream, does: Does) -> io::Result<()> {
    match does {
        Does::Echo(name) => {
            let mut first = [0; 1];
            if stream.read(&mut first).await? > 0 {
                stream.write_all(name.as_bytes()).await?;
                stream.write_all(&first).await?;
            }
        }
        Does::Greet(name) => stream.write_all(name.as_bytes()).await?,
        Does::Reset => {
            let mut first = [0; 1];
            stream.read_exact(&mut first).await?;
            socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
            return Ok(());
        }
        Does::Hang => std::future::pending().await,
    }
    let (mut read, mut write) = stream.split();
    tokio::io::copy(&mut read, &mut write).await?;
    write.shutdown().await
}

/// Sends, ends, and reads all that comes back.
pub(crate) async fn ask(mut stream: TcpStream, request: &str) -> io::Result<String> {
    let exchange = async {
        stream.write_all(request.as_bytes()).await?;
        stream.shutdown().await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok(answer)
    };
    tokio::time::timeout(Duration::from_secs(10), exchange).await.expect("an answer within 10 s")
}

/// A ClientHello with this server name, as a mesh client begins.
pub(crate) fn hello(name: &str) -> Vec<u8> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    config.alpn_protocols = vec![b"istio".to_vec()];
    let name = rustls::pki_types::ServerName::try_from(name.to_string()).unwrap();
    let mut client = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
    let mut bytes = Vec::new();
    while client.wants_write() {
        client.write_tls(&mut bytes).unwrap();
    }
    bytes
}

/// Says a hello and ends; what came back.
pub(crate) async fn say(at: SocketAddr, hello: &[u8]) -> io::Result<Vec<u8>> {
    let exchange = async {
        let mut stream = TcpStream::connect(at).await?;
        stream.write_all(hello).await?;
        stream.shutdown().await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        Ok(answer)
    };
    tokio::time::timeout(Duration::from_secs(10), exchange).await.expect("an answer within 10 s")
}
