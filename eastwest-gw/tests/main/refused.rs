//! A control plane that sends what cannot be used: it is told why, and what was good stays.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use clap::Parser as _;
use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::config::endpoint::v3 as eds;
use envoy_types::pb::envoy::config::listener::v3 as lds;
use isthmus_eastwest_gw::{App, Args};
use isthmus_lifecycle::{Drain, OnFailure, TaskGroup};
use isthmus_model::token::Grant;
use isthmus_proto::resource::Resource;
use isthmus_proto::type_url::{CLUSTER, ENDPOINTS, EXPORTED_NAMES, LISTENER as LISTENERS};
use prost::Message;

use crate::left::{LISTENER, SNI, cluster, listener, load, names};
use crate::plane::{Mesh, Plane};
use crate::running::{echo, hello, say};

fn resource(name: &str, message: &impl Message) -> Resource {
    Resource::new(name, message.encode_to_vec().into())
}

fn exported(all: &[&str]) -> Vec<Resource> {
    names(all).iter().map(|(name, shard)| resource(name, shard)).collect()
}

struct Gateway {
    address: SocketAddr,
    drain: Drain,
    tasks: TaskGroup,
}

impl Gateway {
    async fn start(data: &Path, token: Option<&Path>) -> Self {
        let token = token.map(|token| format!("--token-file {}", token.display())).unwrap_or_default();
        let line = format!(
            "isthmus-eastwest-gw --data-dir {} {token} --network west --name gw-west --address 127.0.0.1 \
             --metrics-address 127.0.0.1:0 --readiness-address 127.0.0.1:0 --admin-address 127.0.0.1:0",
            data.display()
        );
        let args = Args::try_parse_from(line.split_whitespace()).unwrap();
        let drain = Drain::new();
        let app = App::start(&args, &drain).await.unwrap();
        let listens = async {
            loop {
                if let Some((_, address)) = app.listeners().first() {
                    return *address;
                }
                tokio::task::yield_now().await;
            }
        };
        let address = tokio::time::timeout(Duration::from_secs(15), listens).await.expect("a listener");
        let tasks = TaskGroup::new("gateway", drain.clone());
        tasks.spawn("gateway", OnFailure::Log, app.run());
        Self { address, drain, tasks }
    }

    async fn serves(&self) {
        let serves = async {
            while !say(self.address, &hello(SNI)).await.is_ok_and(|answer| answer.starts_with(b"west:")) {}
        };
        tokio::time::timeout(Duration::from_secs(15), serves).await.expect("the name is served");
    }

    async fn stop(self) {
        self.drain.immediate();
        self.tasks.finished().await;
    }
}

/// Waits for the next refusal and gives its words.
async fn refusal(mesh: &Mesh, seen: &mut usize) -> String {
    let mut count = mesh.refused.subscribe();
    let next = count.wait_for(|count| *count > *seen);
    tokio::time::timeout(Duration::from_secs(15), next).await.expect("a refusal").unwrap();
    let all = mesh.refusals.lock();
    *seen = all.len();
    all.last().unwrap().1.clone()
}

#[tokio::test]
async fn a_refusal_says_which_resource_and_why_and_the_last_good_stays_also_over_a_restart() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let world = TaskGroup::new("world", Drain::new());
    let workload = echo(&world).await;
    let plane = Plane::start().await;
    let good = |listener: lds::Listener| {
        vec![
            (CLUSTER, vec![resource(SNI, &cluster())]),
            (ENDPOINTS, vec![resource(SNI, &load(workload))]),
            (EXPORTED_NAMES, exported(&[SNI])),
            (LISTENERS, vec![resource(LISTENER, &listener)]),
        ]
    };
    plane.mesh.publish(good(listener()));
    let directory = tempfile::tempdir().unwrap();
    let token = directory.path().join("token");
    let grant = Grant::Host(vec!["istio-system/istio-eastwestgateway".parse().unwrap()]);
    std::fs::write(&token, plane.token(grant).to_string()).unwrap();
    let data = directory.path().join("data");
    let gateway = Gateway::start(&data, Some(&token)).await;
    gateway.serves().await;

    let mut seen = 0;
    // A listener with a filter that would change what it does; and bytes that are no listener.
    let mut strange = listener();
    strange.listener_filters.push(lds::ListenerFilter { name: "wasm".into(), ..Default::default() });
    plane.mesh.publish(good(strange));
    let words = refusal(&plane.mesh, &mut seen).await;
    assert!(words.contains(LISTENER) && words.contains("listener_filters[0]"), "{words}");
    gateway.serves().await;
    let garbage = Resource::new(LISTENER, vec![0xff; 40].into());
    plane.mesh.publish(vec![
        good(listener())[0].clone(),
        good(listener())[1].clone(),
        (LISTENERS, vec![garbage]),
    ]);
    let words = refusal(&plane.mesh, &mut seen).await;
    assert!(words.contains(LISTENER) && words.contains("does not decode"), "{words}");
    gateway.serves().await;

    // A cluster that cannot be balanced so, and endpoints without an address that is one.
    let bad = envoy_types::pb::envoy::config::cluster::v3::Cluster { lb_policy: 6, ..cluster() };
    let mut nowhere = load(workload);
    let pipe = core::Pipe { path: "/nowhere".into(), mode: 0 };
    let address = Some(core::Address { address: Some(core::address::Address::Pipe(pipe)) });
    let endpoint = eds::Endpoint { address, ..Default::default() };
    nowhere.endpoints[0].lb_endpoints[0].host_identifier =
        Some(eds::lb_endpoint::HostIdentifier::Endpoint(endpoint));
    for (at, set, field) in
        [(0, vec![resource(SNI, &bad)], "lb_policy"), (1, vec![resource(SNI, &nowhere)], "address.pipe")]
    {
        let mut sets = good(listener());
        sets[at].1 = set;
        plane.mesh.publish(sets);
        let words = refusal(&plane.mesh, &mut seen).await;
        assert!(words.contains(SNI) && words.contains(field), "{words}");
        gateway.serves().await;
    }
    // Names in a shard that is not theirs would let strangers in, or lock friends out.
    let mut sets = good(listener());
    let mut shard = names(&[SNI]);
    let (name, _) = shard.iter().find(|(_, shard)| shard.hashes.is_empty()).cloned().unwrap();
    shard.retain(|(_, shard)| !shard.hashes.is_empty());
    let mut moved = exported(&[SNI]);
    moved.retain(|resource| *resource.name != *name);
    moved.push(resource(&name, &shard[0].1));
    sets[2].1 = moved;
    plane.mesh.publish(sets);
    let words = refusal(&plane.mesh, &mut seen).await;
    assert!(words.contains(&name) && words.contains("hashes"), "{words}");
    gateway.serves().await;

    // What was refused is not remembered.
    gateway.stop().await;
    plane.stop().await;
    let again = Gateway::start(&data, None).await;
    again.serves().await;
    again.stop().await;
    world.drain().immediate();
}
