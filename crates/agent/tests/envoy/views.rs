use std::path::PathBuf;
use std::sync::Arc;

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::google::protobuf::Duration;
use isthmus_agent::envoy::admin::Admin;
use isthmus_envoy::{Proxy, ProxyKind::Sidecar};
use isthmus_proto::resource::{Resource, ResourceSet, View};
use isthmus_proto::type_url;
use isthmus_resources::Kind;
use isthmus_testkit::namespace::{inside, sh};
use prost::Message;

use crate::beside::{Alone, Beside, Dialect};
use crate::plane::{Mesh, Plane};
use crate::world::{World, bookinfo};

/// Names resolved by DNS, headless services, TLS to the outside by files, shares, policies of every kind.
pub(crate) const MORE: &str = "
{apiVersion: networking.istio.io/v1, kind: ServiceEntry, metadata: {name: dns, namespace: bookinfo}, spec: {hosts: [api.example], location: MESH_EXTERNAL, resolution: DNS, ports: [{number: 443, name: tls, protocol: TLS}], endpoints: [{address: a.example}, {address: b.example, locality: r/z}]}, status: {addresses: [{value: 240.240.0.9, host: api.example}]}}
---
{apiVersion: networking.istio.io/v1, kind: ServiceEntry, metadata: {name: rr, namespace: bookinfo}, spec: {hosts: [rr.example], addresses: [10.7.7.7], resolution: DNS_ROUND_ROBIN, ports: [{number: 80, name: tcp, protocol: TCP}]}}
---
{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {name: dns, namespace: bookinfo}, spec: {host: api.example, trafficPolicy: {tls: {mode: SIMPLE, subjectAltNames: [api.example], caCertificates: /run/roots.pem}}}}
---
{apiVersion: v1, kind: Service, metadata: {name: db, namespace: bookinfo}, spec: {clusterIP: None, selector: {app: db}, ports: [{name: tcp, port: 5432}]}}
---
{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: db-a, namespace: bookinfo, labels: {kubernetes.io/service-name: db}}, addressType: IPv4, ports: [{name: tcp, port: 5432}], endpoints: [{addresses: [10.1.0.50]}, {addresses: [10.1.0.51], conditions: {ready: false}}]}
---
{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: split, namespace: bookinfo}, spec: {hosts: [reviews], http: [{route: [{destination: {host: reviews, subset: v3}, weight: 90}, {destination: {host: ratings}, weight: 10}]}]}}
---
{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {name: details, namespace: bookinfo}, spec: {host: details, trafficPolicy: {connectionPool: {tcp: {maxConnections: 10, tcpKeepalive: {time: 30s, interval: 5s, probes: 2}}, http: {http1MaxPendingRequests: 5}}, outlierDetection: {splitExternalLocalOriginErrors: true, consecutiveLocalOriginFailures: 2, consecutiveGatewayErrors: 0, minHealthPercent: 20}, loadBalancer: {simple: RANDOM, localityLbSetting: {distribute: [{from: '*', to: {'east/*': 70, 'west/*': 30}}]}}}}}
---
{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: all, namespace: bookinfo}, spec: {action: DENY, rules: [
  {from: [{source: {principals: ['*', 'a*', '*b'], notPrincipals: [x/ns/y/sa/z], namespaces: [n, 'n*'], ipBlocks: [10.0.0.0/8, '2001:db8::/32'], notIpBlocks: [10.1.0.0/16]}}],
   to: [{operation: {ports: ['80', '443'], notPorts: ['1']}}],
   when: [{key: destination.ip, values: [10.0.0.0/8]}, {key: connection.sni, values: ['*', a.example, 'a*']}, {key: destination.port, values: ['80']}]}]}}
---
{apiVersion: security.istio.io/v1, kind: PeerAuthentication, metadata: {name: ratings, namespace: bookinfo}, spec: {selector: {matchLabels: {app: ratings}}, mtls: {mode: PERMISSIVE}, portLevelMtls: {9080: {mode: DISABLE}, 7000: {mode: STRICT}, 7001: {mode: DISABLE}}}}
";

const ENDPOINT: &str = "
{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: db-a, namespace: bookinfo, labels: {kubernetes.io/service-name: db}}, addressType: IPv4, ports: [{name: tcp, port: 5432}], endpoints: [{addresses: [10.1.0.52]}]}
";
const STRICT: &str = "
{apiVersion: security.istio.io/v1, kind: PeerAuthentication, metadata: {name: ratings, namespace: bookinfo}, spec: {selector: {matchLabels: {app: ratings}}, mtls: {mode: STRICT}}}
";

/// The control plane that serves it, and the proxy: a sidecar in each cluster and the VM.
fn everyone() -> Vec<(World, Proxy)> {
    let with_more = || {
        let (mut east, mut west) = bookinfo();
        east.apply(MORE);
        west.apply(MORE);
        (east, west)
    };
    let (east, _) = with_more();
    let page = east.proxy(Sidecar, "bookinfo", "productpage-v1", "10.1.0.1");
    let (_, west) = with_more();
    let ratings = west.proxy(Sidecar, "bookinfo", "ratings-v2-mysql-vm", "10.2.0.4");
    let (_, other) = with_more();
    let vm = other.proxy(Sidecar, "vm", "mysqldb-vm-10.3.0.7-site", "10.3.0.7");
    vec![(east, page), (west, ratings), (other, vm)]
}

/// What every test here needs; none where there is no Envoy.
fn with_envoy(test: &str, story: impl AsyncFnOnce(PathBuf)) {
    let Some(program) = isthmus_testkit::envoy::program(test) else { return };
    sh("ip link set lo up; mount -t tmpfs none /run; mkdir -p /run/data");
    let ca = isthmus_testkit::MeshCa::new();
    std::fs::write("/run/roots.pem", ca.roots_pem()).unwrap();
    tokio::runtime::Runtime::new().unwrap().block_on(story(program));
}

#[test]
fn every_view_of_sidecar_and_vm_and_every_change_of_it_is_taken_in_both_dialects() {
    const TEST: &str = "views::every_view_of_sidecar_and_vm_and_every_change_of_it_is_taken_in_both_dialects";
    inside(TEST, || {
        with_envoy(TEST, async |program| {
            for (index, (mut world, proxy)) in everyone().into_iter().enumerate() {
                let plane = Plane::start().await;
                let data = PathBuf::from(format!("/run/data/{index}"));
                plane.mesh.views.send_replace(world.view(&proxy));
                let beside = Beside::start(Some(&plane), &data, &program).await;
                beside.ready().await;
                beside.nothing_refused().await;
                let other = Alone::start(&program, &data, Dialect::World);
                other.takes(&world.view(&proxy)).await;

                // An endpoint, then a listener, then a cluster that goes.
                let in_reach = beside.page("/envoy/clusters").await.contains("10.1.0.50:5432");
                world.apply(ENDPOINT);
                world.apply(STRICT);
                plane.mesh.views.send_replace(world.view(&proxy));
                if in_reach {
                    beside
                        .until("/envoy/clusters", "a new endpoint", |text| text.contains("10.1.0.52:5432"))
                        .await;
                }
                world.delete(Kind::Service, "bookinfo", "db");
                plane.mesh.views.send_replace(world.view(&proxy));
                let gone = |text: &str| !text.contains("||db.bookinfo");
                beside.until("/envoy/clusters", "a cluster that goes", gone).await;
                beside.nothing_refused().await;
                other.takes(&world.view(&proxy)).await;
                drop(other);
                beside.stop().await;
                plane.stop().await;
            }
        });
    });
}

/// A view with one more cluster.
fn with(view: &View, cluster: &Cluster) -> Arc<View> {
    let mut sets = view.sets.clone();
    for (url, set) in &mut sets {
        if *url == type_url::CLUSTER {
            let resource = Resource::new(cluster.name.as_str(), cluster.encode_to_vec().into());
            *set = Arc::new(ResourceSet::new(set.iter().cloned().chain([resource]).collect()));
        }
    }
    Arc::new(View { version: view.version + 1, sets })
}

#[test]
fn what_envoy_refuses_is_told_by_name_and_the_last_good_outlives_envoy_agent_and_control_plane() {
    const TEST: &str =
        "views::what_envoy_refuses_is_told_by_name_and_the_last_good_outlives_envoy_agent_and_control_plane";
    inside(TEST, || {
        with_envoy(TEST, async |program| {
            let (_, mut west) = bookinfo();
            let proxy = west.proxy(Sidecar, "bookinfo", "ratings-v2-mysql-vm", "10.2.0.4");
            let view = west.view(&proxy);
            let timeout = |seconds| {
                let connect_timeout = Some(Duration { seconds, nanos: 0 });
                Cluster { name: "outbound|1||odd.example".into(), connect_timeout, ..Default::default() }
            };
            let plane = Plane::start().await;
            let data = PathBuf::from("/run/data");
            let good = with(&view, &timeout(3));
            plane.mesh.views.send_replace(Arc::clone(&good));
            let beside = Beside::start(Some(&plane), &data, &program).await;
            beside.ready().await;
            assert!(beside.metrics().await.contains("envoy_server_live"));

            // Envoy wants a time-out above zero.
            plane.mesh.views.send_replace(with(&good, &timeout(0)));
            let named = |text: &str| text.contains("lastGood") && text.contains("odd.example");
            beside.until("/status", "a refusal", named).await;
            plane.mesh.refused.subscribe().wait_for(|count| *count > 0).await.unwrap();
            let (url, words) = plane.mesh.refusals.lock()[0].clone();
            assert!(url == type_url::CLUSTER && words.contains("odd.example"), "{url}: {words}");
            let seconds = "\"connect_timeout\": \"3s\"";
            beside.until("/envoy/config_dump?resource=dynamic_active_clusters&mask=cluster.name,cluster.connect_timeout", "the last good", |text| text.contains(seconds)).await;

            // It ends: it is started again, with what it had.
            Admin::new(data.join("envoy/admin")).post("/quitquitquit").await.unwrap();
            beside
                .until("/status", "its end", |text| text.contains("Down") || text.contains("Starting"))
                .await;
            beside.until("/status", "its return", |text| text.contains("\"Live\"")).await;
            beside.until("/envoy/clusters", "the last good", |text| text.contains("odd.example")).await;
            beside.stop().await;

            // Everything else is gone, and the agent starts from disk.
            let address = plane.address;
            let mesh: Arc<Mesh> = plane.stop().await;
            let beside = Beside::start(None, &data, &program).await;
            beside.ready().await;
            beside.nothing_refused().await;
            beside.until("/envoy/clusters", "the last good", |text| text.contains("odd.example")).await;

            // A good form comes: nothing is refused any more.
            mesh.views.send_replace(with(&good, &timeout(4)));
            let plane = Plane::start_at(address, mesh).await;
            let seconds = "\"connect_timeout\": \"4s\"";
            beside.until("/envoy/config_dump?resource=dynamic_active_clusters&mask=cluster.name,cluster.connect_timeout", "the newest", |text| text.contains(seconds)).await;
            beside.nothing_refused().await;
            beside.stop().await;
            plane.stop().await;
        });
    });
}
