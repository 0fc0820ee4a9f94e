use std::path::Path;
use std::sync::Arc;

use isthmus_agent::mirror::Mirror;
use isthmus_agent::secrets::Secrets;
use isthmus_agent::sockets::Socket;
use isthmus_agent::{DataDir, ResourceCache, ads};
use isthmus_lifecycle::{Drain, TaskGroup};
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

async fn serve(program: &Path, data: &Path, network: &str) {
    let (_, mut west) = bookinfo();
    west.apply(MORE);
    let proxy = west.gateway(network);
    let directory = DataDir::open(data).unwrap();
    let mirror = Mirror::new(ResourceCache::open(&directory, "gateway").unwrap());
    let secrets = Secrets::new(MeshCa::new().workload("west", "istio-system/istio-eastwestgateway"));
    let group = TaskGroup::new("gateway", Drain::new());
    ads::serve(Socket::bind(&directory, "xds", None).unwrap(), &mirror, &group);
    ads::serve_secrets(Socket::bind(&directory, "sds", None).unwrap(), &secrets, &group);
    let tell = |world: &mut crate::world::World, gone: &[Arc<str>]| {
        let view = world.view(&proxy);
        for (url, set) in &view.sets {
            let all: Vec<_> = set.iter().map(|one| (Arc::clone(&one.name), one.body.clone())).collect();
            mirror.apply(url, &all, gone);
        }
        view
    };
    let view = tell(&mut west, &[]);
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
    let view = tell(&mut west, &gone);
    for envoy in &envoys {
        envoy.takes(&view).await;
    }
    group.drain().immediate();
}
