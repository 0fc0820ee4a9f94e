//! One proxy: connects, asks for what our agents ask for, accepts everything, and notes which state of each service it has.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::UnboundedReceiverStream;

use super::requests::{CDS, EDS, LDS, NDS, Requests};
use super::{World, place};
use crate::xds::wire::{Reader, Seen, fields};
use crate::xds::world;

const SERVICE: &str = "/envoy.service.discovery.v3.AggregatedDiscoveryService";
/// As our agents.
const WINDOW: u32 = 1024 * 1024;

/// What one stream has.
struct State {
    proxy: usize,
    sotw: bool,
    /// Of the response that is being read.
    type_url: &'static str,
    version: String,
    nonce: String,
    /// Resources so far, by type.
    clusters: usize,
    endpoints: usize,
    listeners: usize,
    names: usize,
    asked_for_endpoints: bool,
    complete: bool,
}

/// Stays connected; a new round drops the connection.
pub(super) async fn run(
    world: Arc<World>,
    proxy: usize,
    tls: Arc<rustls::ClientConfig>,
    mut round: watch::Receiver<u64>,
) {
    loop {
        tokio::select! {
            ended = session(&world, proxy, &tls) => {
                if let Err(error) = ended {
                    world.failed(format!("{error:#}"));
                }
            }
            changed = round.changed() => match changed {
                Ok(()) => continue,
                Err(_) => return,
            },
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

async fn session(world: &World, proxy: usize, tls: &Arc<rustls::ClientConfig>) -> anyhow::Result<()> {
    let tcp = TcpStream::connect(world.settings.address).await.context("connect")?;
    tcp.set_nodelay(true)?;
    let name = ServerName::try_from("default.bench.federation.isthmus.internal")?;
    let (tls, _) =
        isthmus_tls::connect(tcp, tls, name, Duration::from_secs(60)).await.context("handshake")?;
    let (mut sender, connection) = http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .handshake(TokioIo::new(tls))
        .await?;
    // Ends with this stream.
    let mut driver = JoinSet::new();
    driver.spawn(async move {
        let _ = connection.await;
    });
    let sotw = proxy % 100 < usize::from(world.settings.sotw);
    let method = if sotw { "StreamAggregatedResources" } else { "DeltaAggregatedResources" };
    let (requests, outgoing) = mpsc::unbounded_channel::<Bytes>();
    let outgoing = UnboundedReceiverStream::new(outgoing);
    let body = StreamBody::new(outgoing.map(|bytes| Ok::<_, Infallible>(Frame::data(bytes))));
    let request = Request::post(format!("https://bench{SERVICE}/{method}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(body)?;
    let (service, endpoint) = place(world, proxy);
    requests.send(world.requests.first(sotw, service, endpoint))?;
    requests.send(Requests::all(sotw, LDS))?;
    requests.send(Requests::all(sotw, NDS))?;
    let answer = sender.send_request(request).await?;
    let mut state = State {
        proxy,
        sotw,
        type_url: "",
        version: String::new(),
        nonce: String::new(),
        clusters: 0,
        endpoints: 0,
        listeners: 0,
        names: 0,
        asked_for_endpoints: false,
        complete: false,
    };
    state.read(world, answer.into_body(), &requests).await
}

impl State {
    async fn read(
        &mut self,
        world: &World,
        mut body: Incoming,
        requests: &mpsc::UnboundedSender<Bytes>,
    ) -> anyhow::Result<()> {
        let mut reader = Reader::default();
        while let Some(frame) = body.frame().await {
            match frame?.into_data() {
                Ok(data) => {
                    world.bytes.fetch_add(data.len() as u64, Ordering::Relaxed);
                    reader.feed(&data, |seen| self.see(world, seen, requests));
                }
                Err(other) => {
                    let trailers = other.into_trailers().unwrap_or_default();
                    let text = |name: &str| trailers.get(name).and_then(|value| value.to_str().ok());
                    anyhow::bail!("ended: {:?} {:?}", text("grpc-status"), text("grpc-message"));
                }
            }
        }
        anyhow::bail!("the body ended")
    }

    fn see(&mut self, world: &World, seen: Seen<'_>, requests: &mpsc::UnboundedSender<Bytes>) {
        match seen {
            Seen::Field(1, field) => self.version = String::from_utf8_lossy(field).into_owned(),
            Seen::Field(4, field) => {
                let known = [CDS, EDS, LDS, NDS].into_iter().find(|url| url.as_bytes() == field);
                self.type_url = known.unwrap_or("");
            }
            Seen::Field(5, field) => self.nonce = String::from_utf8_lossy(field).into_owned(),
            Seen::Field(2, resource) => match self.type_url {
                CDS => self.clusters += 1,
                LDS => self.listeners += 1,
                NDS => self.names += 1,
                EDS => self.assignment(world, resource),
                _ => {}
            },
            Seen::Field(..) => {}
            Seen::End => {
                let accept = world.requests.accept(self.sotw, self.type_url, &self.version, &self.nonce);
                send(requests, accept);
                self.progress(world, requests);
            }
        }
    }

    /// Notes the state of a service: `Resource` in delta, `Any` in state of the world.
    fn assignment(&mut self, world: &World, resource: &[u8]) {
        let find = |message, wanted| {
            fields(message).find(|(number, _)| *number == wanted).map_or(&[][..], |(_, field)| field)
        };
        let any = if self.sotw { resource } else { find(resource, 2) };
        let assignment = find(any, 2);
        let Some(service) = world::service_of(find(assignment, 1)) else { return };
        self.endpoints += 1;
        let (Some(mark), Some(known)) = (world::mark_in(assignment), world.mark(self.proxy, service)) else {
            return;
        };
        let before = known.swap(mark, Ordering::Relaxed);
        if self.complete && before != mark {
            let late = if self.sotw { &world.sotw } else { &world.delta };
            late.received(service, before, mark, world.ticks.now());
        }
    }

    fn progress(&mut self, world: &World, requests: &mpsc::UnboundedSender<Bytes>) {
        let services = world.settings.services as usize;
        if !self.asked_for_endpoints && self.clusters >= services {
            self.asked_for_endpoints = true;
            send(requests, world.requests.endpoints(self.sotw));
        }
        if self.complete {
            return;
        }
        self.complete = self.clusters >= services
            && self.endpoints >= services
            && self.listeners >= services
            && self.names > 0;
        if self.complete {
            world.complete.fetch_add(1, Ordering::Relaxed);
            world.completed.notify_one();
        }
    }
}

fn send(requests: &mpsc::UnboundedSender<Bytes>, pieces: Vec<Bytes>) {
    for piece in pieces {
        // A stream that is over is noticed by its reader.
        let _ = requests.send(piece);
    }
}
