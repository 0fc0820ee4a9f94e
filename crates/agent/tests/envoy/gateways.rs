use std::path::Path;
use std::sync::Arc;

use isthmus_agent::mirror::Mirror;
use isthmus_agent::secrets::Secrets;
use isthmus_agent::sockets::Socket;
use isthmus_agent::{DataDir, ResourceCache, ads};
use isthmus_envoy::Proxy;
use isthmus_lifecycle::{Drain, TaskGroup};
use isthmus_proto::resource::View;
use isthmus_resources::Kind;
use isthmus_testkit::MeshCa;
use isthmus_testkit::namespace::{inside, sh};

use crate::beside::{Alone, Dialect};
use crate::views::MORE;
use crate::world::bookinfo;

/// A gateway may be an Envoy of somebody else: it gets the whole view.
#[test]
fn a_gateways_whole_view_is_taken_in_both_dialects() {
    const TEST: &str = "gateways::a_gateways_whole_view_is_taken_in_both_dialects";
    inside(TEST, || {
        let Some(program) = isthmus_testkit::envoy::program(TEST) else { return };
        sh("ip link set lo up; mount -t tmpfs none /run");
        tokio::runtime::Runtime::new().unwrap().block_on(async {
            for (index, network) in ["west", "site"].into_iter().enumerate() {
                serve(&program, Path::new(&format!("/run/{index}")), network).await;
            }
        });
    });
}

/// As ours does: listeners at once, clusters and their endpoints as server names ask for them.
#[test]
fn a_gateways_clusters_come_as_server_names_ask_for_them() {
    const TEST: &str = "gateways::a_gateways_clusters_come_as_server_names_ask_for_them";
    inside(TEST, || {
        let Some(program) = isthmus_testkit::envoy::program(TEST) else { return };
        sh("ip link set lo up; mount -t tmpfs none /run");
        tokio::runtime::Runtime::new().unwrap().block_on(async {
            let data = Path::new("/run/gateway");
            let (_, mut west) = bookinfo();
            let proxy = Proxy { on_demand: true, ..west.gateway("west") };
            let (mirror, group) = gateway(data);
            tell(&mirror, &west.view(&proxy), &[]);
            let envoy = Alone::start_on_demand(&program, data);
            let name = "outbound_.9080_._.ratings.bookinfo.svc.cluster.local";
            envoy
                .has_clusters("its own alone", |text| text.contains("xds-grpc") && !text.contains(name))
                .await;
            let hello = async {
                // Until Envoy listens.
                loop {
                    let dial = format!(
                        "openssl s_client -connect 127.0.0.1:15443 -servername {name} -alpn istio </dev/null"
                    );
                    let _ = tokio::process::Command::new("sh").args(["-c", &dial]).output().await;
                }
            };
            tokio::select! {
                () = hello => {}
                () = envoy.has_clusters("what was asked for", |text| text.contains(name)) => {}
            }
            envoy.has_clusters("nothing else", |text| !text.contains("_.reviews.bookinfo")).await;
            group.drain().immediate();
        });
    });
}

/// A gateway's sockets.
fn gateway(data: &Path) -> (Mirror, TaskGroup) {
    let directory = DataDir::open(data).unwrap();
    let mirror = Mirror::new(ResourceCache::open(&directory, "gateway").unwrap());
    let secrets = Secrets::new(MeshCa::new().workload("west", "istio-system/istio-eastwestgateway"));
    let group = TaskGroup::new("gateway", Drain::new());
    ads::serve(Socket::bind(&directory, "xds", None).unwrap(), &mirror, &group);
    ads::serve_secrets(Socket::bind(&directory, "sds", None).unwrap(), &secrets, &group);
    (mirror, group)
}

fn tell(mirror: &Mirror, view: &View, gone: &[Arc<str>]) {
    for (url, set) in &view.sets {
        let all: Vec<_> = set.iter().map(|one| (Arc::clone(&one.name), one.body.clone())).collect();
        mirror.apply(url, &all, gone);
    }
}

async fn serve(program: &Path, data: &Path, network: &str) {
    let (_, mut west) = bookinfo();
    west.apply(MORE);
    let proxy = west.gateway(network);
    let (mirror, group) = gateway(data);
    let view = west.view(&proxy);
    tell(&mirror, &view, &[]);
    let envoys = [Alone::start(program, data, Dialect::World), Alone::start(program, data, Dialect::Delta)];
    for envoy in &envoys {
        envoy.takes(&view).await;
    }
    // A service goes, and with it what passes it on.
    let before: Vec<Arc<str>> =
        view.sets.iter().flat_map(|(_, set)| set.iter().map(|one| Arc::clone(&one.name))).collect();
    west.delete(Kind::Service, "bookinfo", "ratings");
    let after = west.view(&proxy);
    let known = |name: &Arc<str>| after.sets.iter().any(|(_, set)| set.get(name).is_some());
    let gone: Vec<Arc<str>> = before.into_iter().filter(|name| !known(name)).collect();
    let view = west.view(&proxy);
    tell(&mirror, &view, &gone);
    for envoy in &envoys {
        envoy.takes(&view).await;
    }
    group.drain().immediate();
}
