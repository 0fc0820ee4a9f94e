//! What a gateway with every service of a large mesh holds for each, counted to the byte: a test binary of its own, since the allocator
//! counts for all of a process.
#![expect(clippy::unwrap_used, reason = "what helps tests is a test")]
#![expect(unsafe_code, reason = "an allocator that counts")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use clap::Parser as _;
use envoy_types::pb::envoy::config::cluster::v3 as cds;
use envoy_types::pb::envoy::config::listener::v3 as lds;
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3 as tcp;
use envoy_types::util::pack_any;
use isthmus_agent::cache::{Entry, FILE};
use isthmus_agent::{DataDir, ResourceCache};
use isthmus_eastwest_gw::{App, Args};
use isthmus_lifecycle::{Drain, OnFailure, TaskGroup};
use isthmus_proto::type_url;
use isthmus_testkit::MeshCa;
use prost::Message;

#[path = "main/left.rs"]
mod left;
#[path = "main/running.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod running;

/// Bytes that are allocated now, and the most there were.
struct Counted;

static LIVE: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

#[global_allocator]
static ALLOCATOR: Counted = Counted;

// SAFETY: everything is passed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counted {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let live = LIVE.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        MOST.fetch_max(live, Ordering::Relaxed);
        // SAFETY: the caller's promises are those that it asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

fn live() -> usize {
    LIVE.load(Ordering::Relaxed)
}

/// What is used beyond what was live before, at most.
async fn most<T>(of: impl Future<Output = T>) -> (T, usize) {
    let before = live();
    MOST.store(before, Ordering::Relaxed);
    let done = of.await;
    (done, MOST.load(Ordering::Relaxed) - before)
}

fn name(number: usize) -> String {
    format!("outbound_.80_._.s{number:05}.mesh.internal")
}

fn entry(name: &str, message: &impl Message) -> Entry {
    Entry { name: name.into(), version: 7.into(), body: message.encode_to_vec().into() }
}

/// A chain for one service, as a gateway that has them all gets it.
fn chain(number: usize) -> lds::FilterChain {
    let proxy = tcp::TcpProxy {
        stat_prefix: name(number),
        cluster_specifier: Some(tcp::tcp_proxy::ClusterSpecifier::Cluster(name(number))),
        ..Default::default()
    };
    lds::FilterChain {
        name: name(number),
        filter_chain_match: Some(lds::FilterChainMatch {
            server_names: vec![name(number)],
            application_protocols: vec!["istio".into(), "istio-peer-exchange".into()],
            ..Default::default()
        }),
        filters: vec![lds::Filter {
            config_type: Some(lds::filter::ConfigType::TypedConfig(pack_any(proxy))),
            ..Default::default()
        }],
        ..Default::default()
    }
}

fn cache(directory: &Path) -> ResourceCache {
    ResourceCache::open(&DataDir::open(directory).unwrap(), "istio-system/gw-west@west").unwrap()
}

/// Leaves so many services in a data directory. Returns the bytes of their messages.
async fn leave(directory: &Path, services: usize, workload: std::net::SocketAddr) -> usize {
    left::left_behind(directory, &MeshCa::new(), workload).await;
    let cache = cache(directory);
    let (cluster, load) = (left::cluster(), left::load(workload));
    let clusters: Vec<Entry> = (0..services)
        .map(|number| entry(&name(number), &cds::Cluster { name: name(number), ..cluster.clone() }))
        .collect();
    let loads: Vec<Entry> = (0..services)
        .map(|number| {
            let mut load = load.clone();
            load.cluster_name = name(number);
            let four = load.endpoints[0].lb_endpoints[0].clone();
            load.endpoints[0].lb_endpoints = vec![four; 4];
            entry(&name(number), &load)
        })
        .collect();
    let mut listener = left::listener();
    listener.filter_chains = (0..services).map(chain).collect();
    let listeners = vec![entry(left::LISTENER, &listener)];
    let of = |entries: &[Entry]| entries.iter().map(|entry| entry.body.len()).sum::<usize>();
    let bytes = of(&clusters) + of(&loads) + of(&listeners);
    cache.change(type_url::CLUSTER, clusters, &[]);
    cache.change(type_url::ENDPOINTS, loads, &[]);
    cache.change(type_url::LISTENER, listeners, &[]);
    cache.flush().await;
    bytes
}

/// Bytes that a gateway with so many services holds beside their messages.
async fn held(services: usize) -> usize {
    let echo = TaskGroup::new("workload", Drain::new());
    let workload = running::echo(&echo).await;
    let directory = tempfile::tempdir().unwrap();
    let messages = leave(directory.path(), services, workload).await;
    let line = format!(
        "isthmus-eastwest-gw --data-dir {} --network west --name gw-west --address 127.0.0.1 --full-view \
         --metrics-address 127.0.0.1:0 --readiness-address 127.0.0.1:0 --admin-address 127.0.0.1:0",
        directory.path().display()
    );
    let args = Args::try_parse_from(line.split_whitespace()).unwrap();
    let drain = Drain::new();
    let before = live();
    let app = App::start(&args, &drain).await.unwrap();
    assert_eq!(app.awaited(), Vec::<&str>::new());
    let held = live() - before - messages;
    let gateway = app.listeners()[0].1;
    let tasks = TaskGroup::new("test", drain.clone());
    tasks.spawn("gateway", OnFailure::Log, app.run());
    // All of them are served, of which few are compiled.
    for number in [0, services / 2, services - 1] {
        let hello = running::hello(&name(number));
        let answer = running::say(gateway, &hello).await.unwrap();
        assert_eq!(answer, [b"west:".as_slice(), &hello].concat());
    }
    drain.immediate();
    tasks.finished().await;
    echo.drain().immediate();
    echo.finished().await;
    held
}

/// In a runtime of its own, with which all of it ends.
fn apart<T>(of: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(of)
}

#[test]
fn a_service_costs_little_more_than_its_messages_and_their_file_is_never_in_memory() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    // What a process makes once is there from the first gateway on.
    apart(held(10));
    let (few, many) = (1_000, 3_000);
    let (small, large) = (apart(held(few)), apart(held(many)));
    let each = (large - small) / (many - few);
    println!("{each} bytes for each service beside its messages");
    assert!(each < 650, "{each} bytes for each service beside its messages");
    apart(file_in_pieces());
}

async fn file_in_pieces() {
    let directory = tempfile::tempdir().unwrap();
    let large = |number| Entry { name: name(number).into(), version: 7.into(), body: vec![7; 4_000].into() };
    let written = cache(directory.path());
    written.change(type_url::ENDPOINTS, (0..2_000).map(large).collect(), &[]);
    let ((), writing) = most(written.flush()).await;
    drop(written);
    let file = usize::try_from(std::fs::metadata(directory.path().join(FILE)).unwrap().len()).unwrap();
    let before = live();
    let (read, reading) = most(async { cache(directory.path()) }).await;
    let reading = reading - (live() - before);
    println!("a file of {file} bytes: {writing} to write it, {reading} to read it beside what is kept");
    assert!(writing < file / 16, "{writing} bytes to write a file of {file}");
    assert!(reading < file / 16, "{reading} bytes to read a file of {file}");
    drop(read);
}
