//! What agents let in.

use envoy_types::pb::envoy::config::rbac::v3 as rbac;
use envoy_types::pb::envoy::extensions::filters::network::rbac::v3::Rbac;
use isthmus_envoy::ProxyKind::Sidecar;

use crate::world::{World, bookinfo, cluster_of, typed};

/// `PORT TRANSPORT ALPNS -> CLUSTER [terminated]` of every inbound chain.
fn chains(world: &mut World, proxy: &isthmus_envoy::Proxy) -> Vec<String> {
    let listener = world.resources(proxy).listeners.remove("virtualInbound").unwrap();
    let describe = |chain: &envoy_types::pb::envoy::config::listener::v3::FilterChain| {
        let found = chain.filter_chain_match.as_ref().unwrap();
        format!(
            "{} {} {} -> {}{}",
            found.destination_port.map_or("*".to_string(), |port| port.value.to_string()),
            if found.transport_protocol.is_empty() { "any" } else { &found.transport_protocol },
            found.application_protocols.len(),
            cluster_of(chain),
            if chain.transport_socket.is_some() { " terminated" } else { "" },
        )
    };
    listener.filter_chains.iter().map(describe).collect()
}

#[test]
fn strict_terminates_tls_and_takes_nothing_else() {
    let (_, mut west) = bookinfo();
    let proxy = west.proxy(Sidecar, "bookinfo", "ratings-v2-mysql-vm", "10.2.0.4");
    assert_eq!(
        chains(&mut west, &proxy),
        [
            "15006 any 0 -> BlackHoleCluster",
            "9080 tls 0 -> inbound|9080|| terminated",
            "* tls 0 -> InboundPassthroughCluster terminated",
        ]
    );
}

#[test]
fn permissive_takes_both_and_disable_reads_nothing() {
    let (_, mut west) = bookinfo();
    west.apply("{apiVersion: security.istio.io/v1, kind: PeerAuthentication, metadata: {name: ratings, namespace: bookinfo}, spec: {selector: {matchLabels: {app: ratings}}, mtls: {mode: PERMISSIVE}, portLevelMtls: {9080: {mode: DISABLE}, 7000: {mode: STRICT}}}}");
    let proxy = west.proxy(Sidecar, "bookinfo", "ratings-v2-mysql-vm", "10.2.0.4");
    assert_eq!(
        chains(&mut west, &proxy),
        [
            "15006 any 0 -> BlackHoleCluster",
            "9080 any 0 -> inbound|9080||",
            "7000 tls 0 -> InboundPassthroughCluster terminated",
            "* tls 5 -> InboundPassthroughCluster terminated",
            "* tls 0 -> InboundPassthroughCluster",
            "* raw_buffer 0 -> InboundPassthroughCluster",
        ]
    );
}

/// The RBAC filters of the MySQL port, deny first.
fn filters(world: &mut World) -> Vec<Rbac> {
    let proxy = world.proxy(Sidecar, "vm", "mysqldb-vm-10.3.0.7-site", "10.3.0.7");
    let listener = world.resources(&proxy).listeners.remove("virtualInbound").unwrap();
    let port = |chain: &envoy_types::pb::envoy::config::listener::v3::FilterChain| {
        chain.filter_chain_match.as_ref().and_then(|found| found.destination_port).map(|port| port.value)
    };
    let chain = listener.filter_chains.iter().find(|chain| port(chain) == Some(3306)).unwrap();
    let rbac = chain.filters.iter().filter(|filter| filter.name == "envoy.filters.network.rbac");
    rbac.map(typed::<Rbac>).collect()
}

#[test]
fn mysqls_agent_lets_ratings_in_alone() {
    let (_, mut west) = bookinfo();
    let filters = filters(&mut west);
    assert_eq!(filters.len(), 1);
    let rules = filters[0].rules.as_ref().unwrap();
    assert_eq!(rules.action, rbac::rbac::Action::Allow as i32);
    let policy = &rules.policies["ns[vm]-policy[mysqldb]-rule[0]"];
    let principals = format!("{:?}", policy.principals);
    assert!(principals.contains("Exact(\"spiffe://cluster.local/ns/bookinfo/sa/bookinfo-ratings\")"));
    assert!(
        principals.contains("Exact(\"spiffe://old.example/ns/bookinfo/sa/bookinfo-ratings\")"),
        "aliases too"
    );
}

fn policy(name: &str, spec: &str) -> String {
    format!(
        "{{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {{name: {name}, namespace: vm}}, spec: {spec}}}"
    )
}

#[test]
fn deny_comes_first_and_loses_only_what_tcp_cannot_see() {
    let (_, mut west) = bookinfo();
    west.apply(&policy("no-get", "{action: DENY, rules: [{from: [{source: {namespaces: [bad]}}], to: [{operation: {methods: [GET], ports: ['3306']}}]}]}"));
    west.apply(&policy("http-only", "{action: ALLOW, rules: [{to: [{operation: {paths: ['/x']}}]}]}"));
    let filters = filters(&mut west);
    let actions: Vec<_> = filters.iter().map(|filter| filter.rules.as_ref().unwrap().action).collect();
    assert_eq!(actions, [rbac::rbac::Action::Deny as i32, rbac::rbac::Action::Allow as i32]);
    let deny = &filters[0].rules.as_ref().unwrap().policies["ns[vm]-policy[no-get]-rule[0]"];
    let text = format!("{deny:?}");
    assert!(
        text.contains("DestinationPort(3306)") && text.contains("/ns/bad/sa/") && !text.contains("GET"),
        "{text}"
    );
    let allow = &filters[1].rules.as_ref().unwrap().policies;
    assert_eq!(
        allow.keys().collect::<Vec<_>>(),
        ["ns[vm]-policy[mysqldb]-rule[0]"],
        "an HTTP rule never allows TCP"
    );
}

#[test]
fn an_allow_policy_without_rules_denies_everything_and_a_custom_one_what_it_matches() {
    let (_, mut west) = bookinfo();
    west.apply(&policy("mysqldb", "{}"));
    let nothing = filters(&mut west);
    assert!(nothing[0].rules.as_ref().unwrap().policies.is_empty());
    west.apply(&policy("ask", "{action: CUSTOM, provider: {name: opa}, rules: [{}]}"));
    let asked = filters(&mut west);
    assert_eq!(asked[0].rules.as_ref().unwrap().action, rbac::rbac::Action::Deny as i32);
}

#[test]
fn a_policy_on_trial_is_counted_and_not_enforced() {
    let (_, mut west) = bookinfo();
    west.apply("{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: mysqldb, namespace: vm, annotations: {istio.io/dry-run: 'true'}}, spec: {rules: [{from: [{source: {principals: ['*']}}]}]}}");
    let filters = filters(&mut west);
    assert!(filters[0].rules.is_none());
    assert_eq!(filters[0].shadow_rules_stat_prefix, "istio_dry_run_allow_");
    assert_eq!(filters[0].shadow_rules.as_ref().unwrap().policies.len(), 1);
}

#[test]
fn the_streams_labels_stand_for_a_workload_that_is_not_registered_yet() {
    let (_, mut west) = bookinfo();
    let mut proxy = west.proxy(Sidecar, "bookinfo", "ratings-new", "10.2.0.99");
    assert_eq!(chains(&mut west, &proxy).len(), 2);
    proxy.labels = [("app", "ratings")].into_iter().collect();
    assert!(chains(&mut west, &proxy)[1].starts_with("9080 tls"));
}
