//! Rules by example: a good object, and each way to spoil it.

use super::*;
use crate::parse_yaml;

/// Problems of an object of this kind with this specification, as `FIELD: MESSAGE`.
fn problems(kind: &str, spec: &str) -> Vec<String> {
    let group = if kind.ends_with("Authentication") || kind == "AuthorizationPolicy" {
        "security"
    } else {
        "networking"
    };
    let text = format!(
        "{{apiVersion: {group}.istio.io/v1, kind: {kind}, metadata: {{name: a, namespace: b}}, spec: {{{spec}}}}}"
    );
    match parse_yaml(&text).remove(0) {
        Ok(object) => validate(&object).into_iter().map(|problem| problem.to_string()).collect(),
        Err(error) => panic!("{error}"),
    }
}

fn good(kind: &str, spec: &str) {
    assert_eq!(problems(kind, spec), Vec::<String>::new(), "{spec}");
}

fn bad(kind: &str, spec: &str, field: &str) {
    let found = problems(kind, spec);
    assert!(found.iter().any(|problem| problem.starts_with(&format!("{field}: "))), "{spec}: {found:?}");
}

#[test]
fn service_entries() {
    let kind = "ServiceEntry";
    good(kind, "hosts: [a.example], ports: [{number: 443, name: tls, protocol: TLS}], resolution: DNS");
    good(
        kind,
        "hosts: [a.example], addresses: [192.0.2.0/24], ports: [{number: 80, name: http}], resolution: NONE",
    );
    good(
        kind,
        "hosts: [a.example, b.example], ports: [{number: 80, name: http, protocol: HTTP}], resolution: STATIC, endpoints: [{address: 192.0.2.1}]",
    );
    bad(kind, "hosts: []", "spec.hosts");
    bad(kind, "hosts: ['*']", "spec.hosts[0]");
    bad(kind, "hosts: [a b]", "spec.hosts[0]");
    bad(kind, "hosts: [a.example], ports: [{number: 0, name: x}]", "spec.ports[0].number");
    bad(
        kind,
        "hosts: [a.example], ports: [{number: 1, name: x}, {number: 1, name: y}]",
        "spec.ports[1].number",
    );
    bad(
        kind,
        "hosts: [a.example], ports: [{number: 1, name: x}, {number: 2, name: x}]",
        "spec.ports[1].name",
    );
    bad(kind, "hosts: [a.example], ports: [{number: 1, name: x, protocol: HTPT}]", "spec.ports[0].protocol");
    bad(
        kind,
        "hosts: [a.example, b.example], ports: [{number: 1, name: x, protocol: TCP}], resolution: DNS",
        "spec.ports[0].protocol",
    );
    bad(kind, "hosts: [a.example], addresses: [10.0.0.0/8], resolution: DNS", "spec.addresses[0]");
    bad(kind, "hosts: ['*.example'], resolution: DNS", "spec.hosts[0]");
    bad(kind, "hosts: [a.example], resolution: NONE, endpoints: [{address: 192.0.2.1}]", "spec.endpoints");
    bad(
        kind,
        "hosts: [a.example], resolution: STATIC, endpoints: [{address: b.example}]",
        "spec.endpoints[0].address",
    );
    bad(kind, "hosts: [a.example], resolution: STATIC, endpoints: [{}]", "spec.endpoints[0].address");
    bad(
        kind,
        "hosts: [a.example], resolution: STATIC, endpoints: [{address: 192.0.2.1}], workloadSelector: {labels: {a: b}}",
        "spec.workloadSelector",
    );
    bad(kind, "hosts: [a.example], exportTo: ['*', b]", "spec.exportTo");
}

#[test]
fn workload_entries_and_groups() {
    good("WorkloadEntry", "address: 192.0.2.1, ports: {http: 80}, serviceAccount: a");
    good("WorkloadEntry", "network: n");
    good("WorkloadEntry", "address: 'unix:///var/run/x'");
    bad("WorkloadEntry", "weight: 1", "spec.address");
    bad("WorkloadEntry", "address: 'unix://x'", "spec.address");
    bad("WorkloadEntry", "address: 192.0.2.1, labels: {'a b': c}", "spec.labels[a b]");
    good("WorkloadGroup", "template: {serviceAccount: a}, probe: {tcpSocket: {port: 3306}}");
    bad("WorkloadGroup", "template: {address: 192.0.2.1}", "spec.template.address");
    bad("WorkloadGroup", "template: {}, probe: {periodSeconds: 3}", "spec.probe");
    bad("WorkloadGroup", "template: {}, probe: {httpGet: {port: 0}}", "spec.probe.httpGet.port");
    bad("WorkloadGroup", "template: {}, probe: {exec: {}}", "spec.probe.exec.command");
}

#[test]
fn destination_rules() {
    let kind = "DestinationRule";
    good(
        kind,
        "host: reviews, subsets: [{name: v1, labels: {version: v1}}], trafficPolicy: {tls: {mode: ISTIO_MUTUAL}}",
    );
    bad(kind, "subsets: []", "spec.host");
    bad(kind, "host: a, subsets: [{name: v1}, {name: v1}]", "spec.subsets[1].name");
    bad(kind, "host: a, trafficPolicy: {tls: {mode: MUTUAL}}", "spec.trafficPolicy.tls");
    bad(
        kind,
        "host: a, trafficPolicy: {outlierDetection: {maxEjectionPercent: 101}}",
        "spec.trafficPolicy.outlierDetection.maxEjectionPercent",
    );
    bad(
        kind,
        "host: a, trafficPolicy: {loadBalancer: {localityLbSetting: {distribute: [{from: r, to: {r: 50, s: 40}}]}}}",
        "spec.trafficPolicy.loadBalancer.localityLbSetting.distribute[0].to",
    );
    bad(
        kind,
        "host: a, trafficPolicy: {loadBalancer: {localityLbSetting: {failover: [{from: r, to: r}]}}}",
        "spec.trafficPolicy.loadBalancer.localityLbSetting.failover[0]",
    );
    bad(kind, "host: a, exportTo: ['~']", "spec.exportTo[0]");
}

#[test]
fn virtual_services() {
    let kind = "VirtualService";
    good(kind, "hosts: [reviews], tcp: [{route: [{destination: {host: reviews}}]}]");
    good(
        kind,
        "hosts: ['*'], gateways: [g], tls: [{match: [{port: 15012, sniHosts: ['*']}], route: [{destination: {host: istiod.istio-system.svc.cluster.local, port: {number: 15012}}}]}]",
    );
    bad(kind, "hosts: ['*'], tcp: [{route: [{destination: {host: a}}]}]", "spec.hosts[0]");
    bad(kind, "hosts: [a]", "spec");
    bad(kind, "hosts: [a], tcp: [{}]", "spec.tcp[0].route");
    bad(kind, "hosts: [a], tls: [{route: [{destination: {host: a}}]}]", "spec.tls[0].match");
    bad(
        kind,
        "hosts: [a], tcp: [{route: [{destination: {host: a}}, {destination: {host: b}}]}]",
        "spec.tcp[0].route",
    );
    bad(kind, "hosts: [a], http: [{}]", "spec.http[0]");
}

#[test]
fn gateways() {
    let kind = "Gateway";
    good(
        kind,
        "selector: {istio: eastwestgateway}, servers: [{port: {number: 15443, name: tls, protocol: TLS}, tls: {mode: AUTO_PASSTHROUGH}, hosts: ['*.local']}]",
    );
    bad(kind, "selector: {a: b}", "spec.servers");
    bad(kind, "servers: [{port: {number: 443, protocol: HTTPS}, hosts: ['*']}]", "spec.servers[0].tls");
    bad(
        kind,
        "servers: [{port: {number: 443, protocol: HTTPS}, tls: {mode: SIMPLE}, hosts: ['*']}]",
        "spec.servers[0].tls",
    );
    bad(kind, "servers: [{port: {number: 80, protocol: HTTP}}]", "spec.servers[0].hosts");
}

#[test]
fn security_policies() {
    good("PeerAuthentication", "mtls: {mode: STRICT}");
    bad("PeerAuthentication", "portLevelMtls: {80: {mode: DISABLE}}", "spec.portLevelMtls");
    let kind = "AuthorizationPolicy";
    good(kind, "");
    good(kind, "action: DENY, rules: [{}]");
    good(
        kind,
        "rules: [{from: [{source: {principals: [cluster.local/ns/a/sa/b]}}], to: [{operation: {ports: ['9080']}}]}]",
    );
    bad(kind, "action: DENY", "spec.rules");
    bad(kind, "action: CUSTOM, rules: [{}]", "spec.provider");
    bad(kind, "rules: [{to: [{operation: {ports: [http]}}]}]", "spec.rules[0].to[0].operation.ports[0]");
    bad(kind, "rules: [{from: [{source: {}}]}]", "spec.rules[0].from[0].source");
    bad(
        kind,
        "rules: [{from: [{source: {ipBlocks: [10.0.0.0/33]}}]}]",
        "spec.rules[0].from[0].source.ipBlocks[0]",
    );
    bad(
        kind,
        "rules: [{from: [{source: {serviceAccounts: [a], namespaces: [b]}}]}]",
        "spec.rules[0].from[0].source.serviceAccounts",
    );
    bad(kind, "rules: [{when: [{key: source.colour, values: [red]}]}]", "spec.rules[0].when[0].key");
    bad(kind, "selector: {matchLabels: {a: b}}, targetRefs: [{kind: Gateway, name: g}]", "spec.targetRefs");
    bad("RequestAuthentication", "jwtRules: [{}]", "spec.jwtRules[0].issuer");
}

#[test]
fn sidecars() {
    good("Sidecar", "egress: [{hosts: ['./*', 'istio-system/*', '~other/a.example']}]");
    bad("Sidecar", "egress: [{hosts: [reviews]}]", "spec.egress[0].hosts[0]");
    bad("Sidecar", "egress: [{}]", "spec.egress[0].hosts");
    bad("Sidecar", "egress: [{bind: here, hosts: ['*/*']}]", "spec.egress[0].bind");
    good(
        "Sidecar",
        "ingress: [{port: {number: 80, protocol: TCP, name: tcp}, defaultEndpoint: '127.0.0.1:8080'}]",
    );
    bad(
        "Sidecar",
        "ingress: [{port: {number: 80}, defaultEndpoint: '192.0.2.1:80'}]",
        "spec.ingress[0].defaultEndpoint",
    );
    bad("Sidecar", "ingress: [{}]", "spec.ingress[0].port.number");
}
