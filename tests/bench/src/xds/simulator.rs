//! Many proxies in one process, so that the control plane's CPU and memory are its own. Told what to do by lines on standard input:
//!
//! - `connect`: every proxy connects, all at once; answered when all have everything
//! - `again`: every proxy drops its connection and connects anew, all at once; answered as `connect`
//! - `w SERVICE MARK`: that service is about to be written with this mark; no answer
//! - `settle MS`: waits until no proxy is behind, at most so long; answered with how many services of how many proxies are, and how late
//!   all receipts since the last `settle` were

mod proxy;
mod requests;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use isthmus_ca::{Authority, KeyAndCsr, Names, Policy};
use isthmus_model::{Namespace, SpiffeId, TrustDomain};
use isthmus_tls::{ClientCertificate, Expected, Identity, Material, client_config};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::clock::{Ticks, system_time};
use super::late::{Late, Quantiles};
use super::world::{self, Shape};
use requests::Requests;

/// What the process is started with.
#[derive(Clone, Debug, clap::Args)]
pub struct Settings {
    /// Where the control plane is
    #[arg(long)]
    pub address: SocketAddr,
    /// The CA that signs the proxies' certificates
    #[arg(long)]
    pub ca: PathBuf,
    /// Services
    #[arg(long)]
    pub services: u32,
    /// Endpoints of each
    #[arg(long)]
    pub endpoints: u32,
    /// Namespaces
    #[arg(long)]
    pub namespaces: u32,
    /// Proxies
    #[arg(long)]
    pub proxies: usize,
    /// How many in a hundred speak state of the world
    #[arg(long)]
    pub sotw: u8,
    /// The clock's base
    #[arg(long)]
    pub base: i128,
}

/// Answer to `connect` and `again`.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Connected {
    /// Proxies that have everything.
    pub complete: usize,
    /// Until the last had.
    pub seconds: f64,
    /// Bytes of response bodies, over all proxies.
    pub bytes: u64,
    /// Connections or streams that failed, and one of the reasons.
    pub failures: usize,
    /// One of the reasons.
    pub problem: Option<String>,
}

/// Answer to `settle`.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Settled {
    /// Pairs of proxy and service that are not at the service's last state.
    pub behind: usize,
    /// How late receipts were, of proxies that speak delta.
    pub delta: Quantiles,
    /// Of those that speak state of the world.
    pub sotw: Quantiles,
    /// Bytes of response bodies since the last answer.
    pub bytes: u64,
}

/// What all proxies share.
struct World {
    settings: Settings,
    shape: Shape,
    ticks: Ticks,
    requests: Requests,
    /// Receipts of proxies that speak delta.
    delta: Late,
    /// Receipts of those that speak state of the world.
    sotw: Late,
    /// By service, its last mark.
    last: Vec<AtomicU32>,
    /// By proxy and service, the mark that the proxy has.
    marks: Vec<AtomicU32>,
    complete: AtomicUsize,
    completed: Notify,
    bytes: AtomicU64,
    failures: AtomicUsize,
    problem: Mutex<Option<String>>,
}

impl World {
    fn failed(&self, problem: String) {
        self.failures.fetch_add(1, Ordering::Relaxed);
        self.problem.lock().get_or_insert(problem);
    }

    fn mark(&self, proxy: usize, service: usize) -> Option<&AtomicU32> {
        self.marks.get(proxy * self.last.len() + service)
    }

    fn behind(&self) -> usize {
        let written: Vec<(usize, u32)> = self
            .last
            .iter()
            .enumerate()
            .map(|(service, mark)| (service, mark.load(Ordering::Relaxed)))
            .filter(|(_, mark)| *mark > 0)
            .collect();
        let has = |proxy: usize, service: usize| {
            self.mark(proxy, service).map_or(0, |mark| mark.load(Ordering::Relaxed))
        };
        let each = (0..self.settings.proxies)
            .map(|proxy| written.iter().filter(|(service, mark)| has(proxy, *service) != *mark).count());
        each.sum()
    }
}

/// Runs until standard input ends.
///
/// # Errors
/// When no certificates can be made.
pub async fn run(settings: Settings) -> anyhow::Result<()> {
    let shape = Shape {
        services: settings.services,
        endpoints: settings.endpoints,
        namespaces: settings.namespaces,
        selectors: false,
    };
    let services = settings.services as usize;
    let world = Arc::new(World {
        shape,
        ticks: Ticks { base: settings.base },
        requests: Requests::new(shape),
        delta: Late::new(services),
        sotw: Late::new(services),
        last: atomics(services),
        marks: atomics(services * settings.proxies),
        complete: AtomicUsize::new(0),
        completed: Notify::new(),
        bytes: AtomicU64::new(0),
        failures: AtomicUsize::new(0),
        problem: Mutex::new(None),
        settings,
    });
    let authority = Authority::load(&world.settings.ca, Policy::default())?;
    let mut identities = Vec::new();
    for proxy in 0..world.settings.proxies {
        identities.push(identity(&world, &authority, proxy)?);
    }
    println!("{{}}");
    let round = watch::Sender::new(0u64);
    let mut tasks = JoinSet::new();
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    while let Some(line) = lines.next_line().await? {
        match line.split(' ').collect::<Vec<_>>()[..] {
            ["w", service, mark] => {
                let (service, mark): (usize, u32) = (service.parse()?, mark.parse()?);
                world.delta.written(service, mark);
                world.sotw.written(service, mark);
                world.last[service].store(mark, Ordering::Relaxed);
            }
            ["connect"] => {
                let started = Instant::now();
                for (proxy, tls) in identities.drain(..).enumerate() {
                    tasks.spawn(proxy::run(Arc::clone(&world), proxy, tls, round.subscribe()));
                }
                answer(&connected(&world, started).await)?;
            }
            ["again"] => {
                let started = Instant::now();
                world.complete.store(0, Ordering::Relaxed);
                round.send_modify(|round| *round += 1);
                answer(&connected(&world, started).await)?;
            }
            ["settle", milliseconds] => {
                let until = Instant::now() + Duration::from_millis(milliseconds.parse()?);
                while world.behind() > 0 && Instant::now() < until {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                answer(&Settled {
                    behind: world.behind(),
                    delta: world.delta.take(),
                    sotw: world.sotw.take(),
                    bytes: world.bytes.swap(0, Ordering::Relaxed),
                })?;
            }
            _ => anyhow::bail!("{line:?} is nothing that can be asked for"),
        }
    }
    Ok(())
}

fn atomics(count: usize) -> Vec<AtomicU32> {
    std::iter::repeat_with(AtomicU32::default).take(count).collect()
}

fn answer(value: &impl Serialize) -> anyhow::Result<()> {
    println!("{}", serde_json::to_string(value)?);
    Ok(())
}

async fn connected(world: &World, started: Instant) -> Connected {
    let wait = async {
        while world.complete.load(Ordering::Relaxed) < world.settings.proxies {
            let _ = tokio::time::timeout(Duration::from_millis(100), world.completed.notified()).await;
        }
    };
    let _ = tokio::time::timeout(Duration::from_secs(300), wait).await;
    Connected {
        complete: world.complete.load(Ordering::Relaxed),
        seconds: started.elapsed().as_secs_f64(),
        bytes: world.bytes.swap(0, Ordering::Relaxed),
        failures: world.failures.swap(0, Ordering::Relaxed),
        problem: world.problem.lock().take(),
    }
}

/// Where a proxy is: one pod after the other of all services.
fn place(world: &World, proxy: usize) -> (u32, u32) {
    let proxy = u32::try_from(proxy).unwrap_or(u32::MAX);
    (proxy % world.settings.services, proxy / world.settings.services)
}

fn identity(world: &World, authority: &Authority, proxy: usize) -> anyhow::Result<Arc<rustls::ClientConfig>> {
    let (service, _) = place(world, proxy);
    let spiffe = SpiffeId {
        trust_domain: TrustDomain::new("cluster.local")?,
        namespace: Namespace::new(world::namespace(world.shape, service))?,
        service_account: format!("svc-{service}").into(),
    };
    let key = KeyAndCsr::generate();
    let issued = authority.issue(&key.csr_pem, &Names::workload(spiffe), None, system_time())?;
    let material =
        Material { key: key.key_pem, chain: issued.chain_pem(), roots: authority.roots_pem().to_string() };
    let expected = Expected::ServerName("default.bench.federation.isthmus.internal".into());
    let identity = Identity::from_material(&material)?;
    Ok(client_config(&identity, expected, &[b"h2"], ClientCertificate::Send))
}
