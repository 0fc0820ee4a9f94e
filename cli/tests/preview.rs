//! `isthmus preview`: proxies of a mesh of two clusters and networks, from files.

#![expect(clippy::unwrap_used, reason = "a test's helpers")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};

fn samples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/preview")
}

/// Runs it in the folder of the samples.
fn preview(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_isthmus"))
        .arg("preview")
        .args(arguments)
        .current_dir(samples())
        .output()
        .expect("the built command starts")
}

fn said(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("it writes UTF-8")
}

/// What it shows, when everything was taken.
fn shown(arguments: &[&str]) -> Value {
    let output = preview(arguments);
    assert!(output.status.success(), "{arguments:?}: {}", said(&output));
    serde_json::from_slice(&output.stdout).expect("it writes JSON")
}

/// What the mesh of both clusters shows of a part.
fn both(part: &str, more: &[&str]) -> Value {
    let mesh = [
        "-f",
        "east",
        "--proxy-cluster",
        "east",
        "--cluster",
        "west=west.yaml",
        "--mesh-networks",
        "networks.yaml",
    ];
    let mut arguments = mesh.to_vec();
    arguments.extend(["--type", part]);
    arguments.extend(more);
    shown(&arguments)
}

fn names(list: &Value) -> Vec<&str> {
    let key = |one: &'_ Value| if one["name"].is_string() { "name" } else { "cluster_name" };
    list.as_array().unwrap().iter().map(|one| one[key(one)].as_str().unwrap()).collect()
}

fn named<'v>(list: &'v Value, name: &str) -> &'v Value {
    let found =
        list.as_array().unwrap().iter().find(|one| one["name"] == name || one["cluster_name"] == name);
    found.unwrap_or_else(|| panic!("no {name} among {:?}", names(list)))
}

/// Address, weight, health and `tlsMode` of all endpoints.
fn hosts(assignment: &Value) -> Vec<(String, u64, String, bool)> {
    let groups = assignment["endpoints"].as_array().into_iter().flatten();
    let all = groups.flat_map(|group| group["lb_endpoints"].as_array().unwrap());
    all.map(|one| {
        let socket = &one["endpoint"]["address"]["socket_address"];
        let address = format!("{}:{}", socket["address"].as_str().unwrap(), socket["port_value"]);
        let tls = one["metadata"]["filter_metadata"]["envoy.transport_socket_match"]["tlsMode"] == "istio";
        let health = one["health_status"].as_str().unwrap_or_default().to_string();
        (address, one["load_balancing_weight"].as_u64().unwrap(), health, tls)
    })
    .collect()
}

fn host(address: &str, weight: u64, health: &str, tls: bool) -> (String, u64, String, bool) {
    (address.to_string(), weight, health.to_string(), tls)
}

const WEB: [&str; 2] = ["--proxy", "shop/web-1"];

#[test]
fn a_pods_proxy_takes_its_properties_from_the_files_and_has_istios_names() {
    let all = shown(&["-f", "east", "--proxy", "shop/web-1"]);
    let clusters = names(&all["clusters"]);
    for wanted in [
        "BlackHoleCluster",
        "InboundPassthroughCluster",
        "PassthroughCluster",
        "inbound|8080||",
        "outbound|443||bank.example",
        "outbound|5432||db.shop.svc.cluster.local",
        "outbound|7000||cart.shop.svc.cluster.local",
        "outbound|7000|v1|cart.shop.svc.cluster.local",
        "outbound|7000|v2|cart.shop.svc.cluster.local",
        "outbound|80||web.shop.svc.cluster.local",
    ] {
        assert!(clusters.contains(&wanted), "{wanted} in {clusters:?}");
    }
    assert!(
        !clusters
            .iter()
            .any(|name| name.contains("|7001|") || name.contains("elsewhere") || name.contains("probe"))
    );
    let listeners = names(&all["listeners"]);
    for wanted in [
        "10.0.0.1_80",
        "10.0.0.2_7000",
        "10.1.0.4_5432",
        "240.240.0.1_443",
        "virtualInbound",
        "virtualOutbound",
    ] {
        assert!(listeners.contains(&wanted), "{wanted} in {listeners:?}");
    }
    let range = &named(&all["listeners"], "0.0.0.0_502")["filter_chains"][0]["filter_chain_match"];
    assert_eq!(*range, json!({"prefix_ranges": [{"address_prefix": "10.77.0.0", "prefix_len": 16}]}));
    let by_name = &named(&all["listeners"], "0.0.0.0_443")["filter_chains"][0]["filter_chain_match"];
    assert_eq!(*by_name, json!({"server_names": ["*.cloud.example"]}));
    assert_eq!(all["routes"], json!([]));
    assert_eq!(all["secrets"], json!([{"name": "ROOTCA"}, {"name": "default"}]));
    let table = &all["names"][0]["table"];
    assert_eq!(table["cart.shop.svc.cluster.local"]["ips"], json!(["10.0.0.2"]));
    assert_eq!(
        table["bank.example"]["ips"],
        json!(["240.240.0.1"]),
        "its container's environment captures DNS"
    );
    assert_eq!(table["db-0.db.shop.svc.cluster.local"]["ips"], json!(["10.1.0.4"]));
}

#[test]
fn rules_reach_clusters_and_routes() {
    let clusters = both("clusters", &WEB);
    let cart = named(&clusters, "outbound|7000|v2|cart.shop.svc.cluster.local");
    assert_eq!(
        (&cart["type"], &cart["lb_policy"], &cart["connect_timeout"]),
        (&json!("EDS"), &json!(null), &json!("2s"))
    );
    assert_eq!(cart["circuit_breakers"]["thresholds"][0]["max_connections"], 9);
    assert_eq!(cart["outlier_detection"]["consecutive_5xx"], 3);
    let kinds = |name: &str| named(&clusters, name)["type"].as_str().map(str::to_string);
    assert_eq!(kinds("outbound|443||bank.example").as_deref(), Some("STRICT_DNS"));
    assert_eq!(kinds("outbound|5432||db.shop.svc.cluster.local").as_deref(), Some("ORIGINAL_DST"));
    let stock = named(&clusters, "outbound|7100||stock.shop.svc.cluster.local");
    assert!(stock["transport_socket"].is_null(), "another cluster's rules do not count");
    let listener = &both("listeners", &[WEB[0], WEB[1], "--name", "10.0.0.2_7000"])[0];
    let weights =
        &listener["filter_chains"][0]["filters"][0]["typed_config"]["weighted_clusters"]["clusters"];
    assert_eq!(weights[0], json!({"name": "outbound|7000|v1|cart.shop.svc.cluster.local", "weight": 75}));
}

#[test]
fn endpoints_of_another_network_are_its_gateways_and_those_that_are_plain_are_none() {
    let endpoints = both("endpoints", &WEB);
    let of = |name: &str| hosts(named(&endpoints, name));
    // three workloads in all, two gateways of west: each counts half of what is behind it
    let expected = [
        host("10.1.0.2:7070", 2, "HEALTHY", true),
        host("10.1.0.3:7070", 2, "UNHEALTHY", true),
        host("198.51.100.1:15443", 1, "HEALTHY", true),
        host("198.51.100.2:15443", 1, "HEALTHY", true),
    ];
    let mut found = of("outbound|7000||cart.shop.svc.cluster.local");
    found.sort();
    assert_eq!(found, expected);
    assert_eq!(
        of("outbound|7100||stock.shop.svc.cluster.local"),
        [],
        "a plain workload is not reached across networks"
    );
    let west = both("endpoints", &["--proxy", "shop/web-1", "--network", "west"]);
    let mut found = hosts(named(&west, "outbound|7000||cart.shop.svc.cluster.local"));
    found.sort();
    let expected = [
        host("10.2.0.2:7070", 2, "HEALTHY", true),
        // once for each locality behind it
        host("192.0.2.1:15443", 2, "HEALTHY", true),
        host("192.0.2.1:15443", 2, "HEALTHY", true),
    ];
    assert_eq!(found, expected);
}

#[test]
fn a_workload_entry_has_its_network_locality_and_account() {
    let flags = ["--proxy", "shop/press", "--type", "listeners", "--name", "virtualInbound"];
    let listener = &shown(&[&["-f", "east"], &flags[..]].concat())[0];
    let chains = listener["filter_chains"].as_array().unwrap();
    let strict = chains.iter().all(|chain| {
        chain["name"] == "virtualInbound-blackhole"
            || chain["transport_socket"]["name"] == "envoy.transport_sockets.tls"
    });
    assert!(strict, "the namespace is STRICT: {chains:#?}");
    let cart =
        both("endpoints", &["--proxy", "shop/press", "--name", "outbound|7000||cart.shop.svc.cluster.local"]);
    let table = both("names", &["--proxy", "shop/press"]);
    assert_eq!(
        table[0]["table"]["bank.example"]["ips"],
        json!(["240.240.0.1"]),
        "a machine's agent answers DNS"
    );
    let addresses: Vec<String> = hosts(&cart[0]).into_iter().map(|one| one.0).collect();
    assert!(
        addresses.contains(&"192.0.2.1:15443".to_string()),
        "factory reaches east through its gateway: {addresses:?}"
    );
}

#[test]
fn a_gateway_passes_exported_services_by_server_name() {
    for whose in ["istio-system/gateway-1", "gateway"] {
        let listeners = both("listeners", &["--proxy", whose]);
        let port = named(&listeners, "0.0.0.0_15443");
        let names: Vec<&Value> = port["filter_chains"]
            .as_array()
            .unwrap()
            .iter()
            .map(|chain| &chain["filter_chain_match"]["server_names"][0])
            .collect();
        assert!(
            names.contains(&&json!("outbound_.7000_.v1_.cart.shop.svc.cluster.local")),
            "{whose}: {names:?}"
        );
        let clusters = both("clusters", &["--proxy", whose, "--meta", "REQUESTED_NETWORK_VIEW=east"]);
        named(&clusters, "outbound_.7000_._.cart.shop.svc.cluster.local");
    }
}

#[test]
fn a_proxy_without_an_object_is_what_its_flags_say() {
    let flags = [
        "--proxy",
        "sidecar",
        "--ip",
        "10.1.0.77",
        "--labels",
        "app=web,version=v9",
        "--meta",
        "NAMESPACE=shop",
    ];
    let more = ["--service-account", "web", "--locality", "eu/eu-2/x"];
    let clusters = both("clusters", &[&flags[..], &more[..]].concat());
    // the Service names its target port, which no Pod of this proxy has
    assert!(names(&clusters).contains(&"outbound|80||web.shop.svc.cluster.local"));
    let outlier = ["--name", "outbound|7000|v2|cart.shop.svc.cluster.local"];
    let near = both("endpoints", &[&flags[..], &more[..], &outlier[..]].concat());
    assert_eq!(near[0]["endpoints"][0]["locality"], json!({"region": "eu", "zone": "eu-2"}));
    let unnamed = both("names", &["--proxy", "sidecar"]);
    assert!(unnamed[0]["table"]["bank.example"].is_null(), "its agent answers no DNS");
    let v6 = both("listeners", &["--proxy", "sidecar", "--ip", "2001:db8::1"]);
    assert_eq!(named(&v6, "virtualOutbound")["address"]["socket_address"]["address"], "::");
}

#[test]
fn the_meshs_configuration_counts_and_what_is_not_honoured_is_named() {
    let flags = ["-f", "east", "--mesh-config", "mesh.yaml", "--proxy", "shop/cart-1"];
    let output = preview(&flags);
    let err = said(&output);
    assert!(output.status.success(), "{err}");
    assert!(err.contains("warning: mesh.yaml: not honoured: defaultConfig.tracing\n"), "{err}");
    let all: Value = serde_json::from_slice(&output.stdout).unwrap();
    let text = all.to_string();
    assert!(text.contains("spiffe://shop.example/ns/shop/sa/cart"), "the trust domain");
    assert!(!text.contains("istio-eastwestgateway"), "namespaces that are not discovered");
    let outbound = named(&all["listeners"], "virtualOutbound").to_string();
    assert!(
        outbound.contains("/dev/stdout") && outbound.contains("%UPSTREAM_CLUSTER_RAW%"),
        "the access log"
    );
    assert!(
        outbound.contains("BlackHoleCluster") && !outbound.contains("PassthroughCluster"),
        "REGISTRY_ONLY"
    );
    assert_eq!(all["names"][0]["table"]["bank.example"]["ips"], json!(["240.240.0.1"]), "agents capture DNS");
}

#[test]
fn yaml_says_the_same_as_json_and_all_parts_the_same_as_one() {
    let json = both("clusters", &WEB);
    let output = preview(&["-f", "east", "--proxy", "shop/web-1", "-o", "yaml"]);
    let yaml: Value = serde_yaml::from_slice(&output.stdout).unwrap();
    assert_eq!(yaml, shown(&["-f", "east", "--proxy", "shop/web-1"]));
    let all = shown(&[
        "-f",
        "east",
        "--proxy-cluster",
        "east",
        "--cluster",
        "west=west.yaml",
        "--mesh-networks",
        "networks.yaml",
        "--proxy",
        "shop/web-1",
    ]);
    assert_eq!(all["clusters"], json);
}

#[test]
fn a_bad_object_is_named_with_its_place_and_takes_no_neighbour_away() {
    let place = tempfile::tempdir().unwrap();
    let text = "apiVersion: v1\nkind: Service\nmetadata: {name: a, namespace: n}\nspec: {clusterIP: 10.0.0.1, ports: [{port: 80}]}\n\
                ---\napiVersion: v1\nkind: [\n\
                ---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: x, namespace: n}\nspec: {hosts: []}\n\
                ---\napiVersion: networking.istio.io/v9\nkind: ServiceEntry\nmetadata: {name: y, namespace: n}\n\
                ---\napiVersion: v1\nkind: Service\nmetadata: {name: b, namespace: n}\nspec: {ports: [{port: 99999}]}\n\
                ---\napiVersion: v1\nkind: Service\nmetadata: {name: c, namespace: n}\nspec: {clusterIP: 10.0.0.3, ports: [{port: 80}]}\n";
    std::fs::write(place.path().join("all.yaml"), text).unwrap();
    std::fs::write(place.path().join("binary.yaml"), [0xff, 0xfe]).unwrap();
    let output = preview(&["-f", place.path().to_str().unwrap(), "--proxy", "sidecar", "--type", "clusters"]);
    assert_eq!(output.status.code(), Some(1));
    let err = said(&output);
    for wanted in [
        "all.yaml: document 2: ",
        "all.yaml: document 3: ServiceEntry n/x: spec.hosts: ",
        "all.yaml: document 4: ServiceEntry n/y: kind \"ServiceEntry\" of \"networking.istio.io/v9\"",
        "all.yaml: document 5: Service n/b: spec.ports[0].port: ",
        "binary.yaml: ",
        "5 objects were refused; the others count",
    ] {
        assert!(err.contains(wanted), "{wanted} in {err}");
    }
    let clusters: Value = serde_json::from_slice(&output.stdout).unwrap();
    named(&clusters, "outbound|80||a.n.svc.cluster.local");
    named(&clusters, "outbound|80||c.n.svc.cluster.local");
}

#[test]
fn hand_written_endpoints_count_and_files_without_objects_are_told() {
    let place = tempfile::tempdir().unwrap();
    let text = "{apiVersion: v1, kind: Service, metadata: {name: old, namespace: n}, spec: {clusterIP: 10.0.0.1, ports: [{name: tcp, port: 80}]}}\n\
                ---\n{apiVersion: v1, kind: Endpoints, metadata: {name: old, namespace: n}, subsets: [{addresses: [{ip: 192.0.2.7}], notReadyAddresses: [{ip: 192.0.2.8}], ports: [{name: tcp, port: 8080}]}]}\n";
    let file = place.path().join("old.yaml");
    std::fs::write(&file, text).unwrap();
    let endpoints = shown(&["-f", file.to_str().unwrap(), "--proxy", "sidecar", "--type", "endpoints"]);
    let expected =
        [host("192.0.2.7:8080", 1, "HEALTHY", false), host("192.0.2.8:8080", 1, "UNHEALTHY", false)];
    assert_eq!(hosts(&endpoints[0]), expected);
    std::fs::write(&file, "# nothing\n").unwrap();
    let output = preview(&["-f", file.to_str().unwrap(), "--proxy", "sidecar"]);
    assert!(output.status.success() && said(&output).contains("no objects of a mesh"), "{}", said(&output));
}

#[test]
fn wrong_usage_and_what_is_not_there_are_told_apart() {
    for (arguments, right) in [
        (vec!["-f", "east", "--proxy", "web-1"], "none of NAMESPACE/NAME, sidecar and gateway"),
        (vec!["-f", "east", "--proxy", "shop/web-1", "--cluster", "west"], "is not NAME=PATH"),
        (vec!["-f", "east", "--proxy", "shop/web-1", "--type", "chains"], "possible values"),
        (vec!["-f", "east", "--proxy", "shop/web-1", "--locality", "/a"], "REGION/ZONE/SUBZONE"),
        (vec!["--proxy", "shop/web-1"], "--file <PATH>"),
    ] {
        let wrong = preview(&arguments);
        assert_eq!(wrong.status.code(), Some(2), "{arguments:?}: {}", said(&wrong));
        assert!(said(&wrong).contains(right), "{arguments:?}: {}", said(&wrong));
    }
    for (arguments, right) in [
        (
            vec!["-f", "east", "--proxy", "shop/none"],
            "no Pod or WorkloadEntry shop/none: the files have istio-system/gateway-1, ",
        ),
        (
            vec!["-f", "east", "--proxy", "shop/web-1", "--name", "80_web"],
            "no \"80_web\" among the resources",
        ),
        (vec!["-f", "nowhere", "--proxy", "sidecar"], "reading nowhere"),
        (vec!["-f", "east", "--proxy", "shop/web-1", "--meta", "NETWORK=a b"], "node metadata NETWORK"),
        (
            vec!["-f", "east", "--cluster", "Kubernetes=west.yaml", "--proxy", "sidecar"],
            "is the files' own cluster",
        ),
        (vec!["-f", "east", "--mesh-networks", "west.yaml", "--proxy", "sidecar"], "west.yaml"),
    ] {
        let failed = preview(&arguments);
        assert_eq!(failed.status.code(), Some(1), "{arguments:?}: {}", said(&failed));
        assert!(said(&failed).contains(right), "{arguments:?}: {}", said(&failed));
    }
}

/// A bootstrap with everything that a proxy gets, its assignments as clusters of their own so that they are checked too.
fn bootstrap(all: &Value) -> Value {
    let stub = |name: &str| json!({"name": name, "type": "STATIC"});
    let mut clusters = vec![stub("xds-grpc"), stub("sds-grpc")];
    clusters.extend(all["clusters"].as_array().unwrap().iter().cloned());
    clusters.extend(all["endpoints"].as_array().unwrap().iter().map(|assignment| {
        let name = format!("check {}", assignment["cluster_name"].as_str().unwrap());
        json!({"name": name, "type": "STATIC", "load_assignment": assignment})
    }));
    json!({
        "node": {"id": "test", "cluster": "test"},
        "static_resources": {"clusters": clusters, "listeners": all["listeners"]},
        "dynamic_resources": {"ads_config": {
            "api_type": "DELTA_GRPC", "transport_api_version": "V3",
            "grpc_services": [{"envoy_grpc": {"cluster_name": "xds-grpc"}}],
        }},
    })
}

#[test]
fn a_real_envoy_takes_what_is_previewed_as_its_bootstrap() {
    let place = tempfile::tempdir().unwrap();
    for (whose, name) in
        [("shop/web-1", "web"), ("shop/press", "press"), ("istio-system/gateway-1", "gateway")]
    {
        let mesh = ["-f", "east", "--proxy-cluster", "east", "--cluster", "west=west.yaml"];
        let all = shown(&[&mesh[..], &["--mesh-networks", "networks.yaml", "--proxy", whose]].concat());
        let file = place.path().join(format!("{name}.json"));
        std::fs::write(&file, bootstrap(&all).to_string()).unwrap();
        let arguments = ["--mode", "validate", "-l", "warning", "--config-path"];
        match Command::new("envoy").args(arguments).arg(&file).output() {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                eprintln!("no envoy in PATH: nothing was checked against a real one");
                return;
            }
            outcome => {
                let output = outcome.unwrap();
                assert!(output.status.success(), "{whose}: {}", said(&output));
            }
        }
    }
}
