//! The story of issue 3: two clusters, three networks, a VM with MySQL.

use isthmus_envoy::ProxyKind::Sidecar;
use isthmus_resources::Kind;

use crate::world::{bookinfo, cluster_of, metadata_text};

const REVIEWS: &str = "outbound|9080||reviews.bookinfo.svc.cluster.local";
const RATINGS: &str = "outbound|9080||ratings.bookinfo.svc.cluster.local";
const MYSQL: &str = "outbound|3306||mysqldb.vm.mesh.internal";

#[test]
fn productpage_in_east_prefers_its_own_reviews_and_falls_back_to_wests_gateway() {
    let (mut east, _) = bookinfo();
    let proxy = east.proxy(Sidecar, "bookinfo", "productpage-v1", "10.1.0.1");
    let resources = east.resources(&proxy);
    assert_eq!(resources.hosts(REVIEWS), ["0 10.1.0.3:9080 x1 mtls", "1 10.255.0.2:15443 x1 mtls"]);
    let subset = "outbound|9080|v3|reviews.bookinfo.svc.cluster.local";
    assert_eq!(resources.hosts(subset), ["0 10.255.0.2:15443 x1 mtls"]);
    let listener = &resources.listeners["10.96.0.3_9080"];
    assert_eq!(cluster_of(&listener.filter_chains[0]), REVIEWS);
    assert!(!listener.bind_to_port.unwrap().value);
}

#[test]
fn ratings_has_no_endpoint_in_east_and_is_reached_through_west() {
    let (mut east, _) = bookinfo();
    let proxy = east.proxy(Sidecar, "bookinfo", "reviews-v2", "10.1.0.3");
    assert_eq!(east.resources(&proxy).hosts(RATINGS), ["0 10.255.0.2:15443 x1 mtls"]);
}

#[test]
fn mysql_is_reached_through_the_sites_gateway_by_a_name_that_only_the_mesh_knows() {
    let (mut east, mut west) = bookinfo();
    let proxy = west.proxy(Sidecar, "bookinfo", "ratings-v2-mysql-vm", "10.2.0.4");
    let resources = west.resources(&proxy);
    assert_eq!(resources.hosts(MYSQL), ["0 10.255.0.3:15443 x1 mtls"]);
    let entry = &resources.names.table["mysqldb.vm.mesh.internal"];
    assert_eq!((entry.ips.join(","), entry.registry.as_str()), ("240.240.0.1".to_string(), "External"));
    assert_eq!(cluster_of(&resources.listeners["240.240.0.1_3306"].filter_chains[0]), MYSQL);

    // east has no such service: an address of its own stands for it, and the site's gateway is announced by west
    let proxy = east.proxy(Sidecar, "bookinfo", "reviews-v2", "10.1.0.3");
    let resources = east.resources(&proxy);
    let ip = resources.names.table["mysqldb.vm.mesh.internal"].ips[0].clone();
    assert!(ip.starts_with("240.241."), "{ip}");
    assert_eq!(resources.hosts(MYSQL), ["0 10.255.0.3:15443 x1 mtls"]);
    assert!(resources.listeners.contains_key(&format!("{ip}_3306")));
}

#[test]
fn a_host_of_the_sites_network_reaches_mysql_directly() {
    let (_, mut west) = bookinfo();
    let mut proxy = west.proxy(Sidecar, "vm", "other", "10.3.0.9");
    proxy.network = isthmus_model::NetworkId::new("site").unwrap();
    assert_eq!(west.resources(&proxy).hosts(MYSQL), ["0 10.3.0.7:3306 x1 mtls"]);
}

#[test]
fn a_vm_whose_probe_fails_leaves_and_comes_back() {
    let (_, mut west) = bookinfo();
    let proxy = west.proxy(Sidecar, "bookinfo", "ratings-v2-mysql-vm", "10.2.0.4");
    let entry = |status: &str| {
        format!(
            "{{apiVersion: networking.istio.io/v1, kind: WorkloadEntry, metadata: {{name: mysqldb-vm-10.3.0.7-site, namespace: vm, labels: {{app: mysqldb}}, \
             annotations: {{proxy.istio.io/health-checks-enabled: 'true'}}}}, spec: {{address: 10.3.0.7, serviceAccount: mysqldb, network: site, ports: {{tcp: 3306}}}}, \
             status: {{conditions: [{{type: Healthy, status: '{status}'}}]}}}}"
        )
    };
    west.apply(&entry("False"));
    let resources = west.resources(&proxy);
    assert!(resources.hosts(MYSQL).is_empty());
    let names = format!("{:?}", resources.clusters[MYSQL].transport_socket_matches);
    assert!(names.contains("tlsMode-istio"), "its cluster stays");
    west.apply(&entry("True"));
    assert_eq!(west.resources(&proxy).hosts(MYSQL).len(), 1);
    west.delete(Kind::WorkloadEntry, "vm", "mysqldb-vm-10.3.0.7-site");
    assert!(west.resources(&proxy).hosts(MYSQL).is_empty());
}

#[test]
fn clusters_are_named_secured_and_described_as_istios() {
    let (mut east, _) = bookinfo();
    let proxy = east.proxy(Sidecar, "bookinfo", "productpage-v1", "10.1.0.1");
    let cluster = east.resources(&proxy).clusters.remove(REVIEWS).unwrap();
    assert_eq!(cluster.connect_timeout.unwrap().nanos, 500_000_000);
    let outlier = cluster.outlier_detection.unwrap();
    assert_eq!(
        (outlier.consecutive_5xx.unwrap().value, outlier.enforcing_consecutive_5xx.unwrap().value),
        (1, 100)
    );
    let names: Vec<_> = cluster.transport_socket_matches.iter().map(|found| found.name.as_str()).collect();
    assert_eq!(names, ["tlsMode-istio", "tlsMode-disabled"]);
    let socket = format!("{:?}", cluster.transport_socket_matches[0]);
    let config = metadata_text(&cluster.metadata.unwrap(), "istio", "config");
    assert_eq!(config, "/apis/networking.istio.io/v1/namespaces/bookinfo/destination-rule/reviews");
    let context = {
        use envoy_types::pb::envoy::config::core::v3::transport_socket::ConfigType;
        use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::UpstreamTlsContext;
        use prost::Message;
        let socket = cluster.transport_socket_matches[0].transport_socket.clone().unwrap();
        let Some(ConfigType::TypedConfig(any)) = socket.config_type else { panic!("{socket:?}") };
        UpstreamTlsContext::decode(&*any.value).unwrap()
    };
    assert_eq!(context.sni, "outbound_.9080_._.reviews.bookinfo.svc.cluster.local", "{socket}");
    let common = context.common_tls_context.unwrap();
    assert_eq!(common.alpn_protocols, ["istio-peer-exchange", "istio"]);
    assert!(format!("{common:?}").contains("spiffe://cluster.local/ns/bookinfo/sa/bookinfo-reviews"));
}

#[test]
fn a_service_that_only_the_peer_has_gets_a_name_and_an_address_here_and_loses_both_when_withdrawn() {
    let (mut east, mut west) = bookinfo();
    west.apply("{apiVersion: v1, kind: Service, metadata: {name: zufall, namespace: bookinfo}, spec: {clusterIP: 10.96.0.77, selector: {app: ratings}, ports: [{name: http, port: 9080}]}}");
    east.hear(&mut west);
    let proxy = east.proxy(Sidecar, "bookinfo", "productpage-v1", "10.1.0.1");
    let resources = east.resources(&proxy);
    let entry = &resources.names.table["zufall.bookinfo.svc.cluster.local"];
    assert_eq!((entry.registry.as_str(), entry.shortname.as_str()), ("Kubernetes", "zufall"));
    assert!(entry.ips[0].starts_with("240.241."), "never the owner's ClusterIP");
    let host = isthmus_model::Hostname::new("zufall.bookinfo.svc.cluster.local").unwrap();
    let peer = west.cluster.clone();
    east.registry.apply_peer(&peer, isthmus_model::PeerChange::ServiceRemoved(host)).unwrap();
    assert!(!east.resources(&proxy).names.table.contains_key("zufall.bookinfo.svc.cluster.local"));
}

#[test]
fn without_an_agent_that_answers_dns_allocated_addresses_mean_nothing() {
    let (_, mut west) = bookinfo();
    let mut proxy = west.proxy(Sidecar, "bookinfo", "ratings-v2-mysql-vm", "10.2.0.4");
    proxy.dns_capture = false;
    let resources = west.resources(&proxy);
    assert!(!resources.listeners.contains_key("240.240.0.1_3306"));
    assert!(!resources.names.table.contains_key("mysqldb.vm.mesh.internal"));
}
