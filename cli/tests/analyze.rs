//! `isthmus analyze` of files: what is wrong with them, by code, object, field and line.

#![expect(clippy::unwrap_used, reason = "a test's helpers")]

use std::process::{Command, Output};

use serde_json::Value;

/// Two services, their workloads and the rules for them, with nothing wrong.
const GOOD: &str = "\
apiVersion: v1
kind: Service
metadata: {name: reviews, namespace: shop}
spec:
  selector: {app: reviews}
  ports:
  - {name: http, port: 9080}
---
apiVersion: v1
kind: Service
metadata: {name: ratings, namespace: shop}
spec:
  selector: {app: ratings}
  ports:
  - {name: http, port: 9080}
  - {name: tcp-admin, port: 9081}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: reviews-v1, namespace: shop}
spec:
  template:
    metadata: {labels: {app: reviews, version: v1}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: ratings-v1, namespace: shop}
spec:
  template:
    metadata: {labels: {app: ratings, version: v1}}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: reviews, namespace: shop}
spec:
  host: reviews
  subsets:
  - name: v1
    labels: {version: v1}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: reviews, namespace: shop}
spec:
  hosts: [reviews]
  tcp:
  - match: [{port: 9080}]
    route:
    - destination: {host: reviews.shop.svc.cluster.local, subset: v1}
";

/// Analyses a text, after [`GOOD`] in a file of its own.
fn run(text: &str, flags: &[&str]) -> Output {
    let place = tempfile::tempdir().unwrap();
    std::fs::write(place.path().join("a-good.yaml"), GOOD).unwrap();
    std::fs::write(place.path().join("b.yaml"), text).unwrap();
    isthmus(place.path(), &[&["analyze", "."], flags].concat())
}

fn isthmus(place: &std::path::Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_isthmus"));
    command.args(arguments).current_dir(place).output().expect("the built command starts")
}

/// Code, origin, file and line, and field of everything that is found.
fn found(text: &str) -> Vec<(String, String, String, String)> {
    let output = run(text, &["-o", "json"]);
    let all: Vec<Value> = serde_json::from_slice(&output.stdout).expect("it writes JSON");
    let member =
        |one: &Value, name: &str| one[name].as_str().unwrap_or_default().trim_start_matches("./").to_string();
    all.iter()
        .map(|one| {
            (member(one, "code"), member(one, "origin"), member(one, "reference"), member(one, "field"))
        })
        .collect()
}

fn one(code: &str, origin: &str, reference: &str, field: &str) -> Vec<(String, String, String, String)> {
    vec![(code.to_string(), origin.to_string(), reference.to_string(), field.to_string())]
}

fn said(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("it writes UTF-8")
}

/// A VirtualService `x` of namespace `shop` with this specification, from line 4 on.
fn service(spec: &str) -> String {
    let spec = spec.replace('\n', "\n  ");
    format!(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: x, namespace: shop}}\nspec:\n  {spec}\n"
    )
}

/// A DestinationRule alike.
fn rule(spec: &str) -> String {
    service(spec).replace("VirtualService", "DestinationRule")
}

const OF_SERVICE: &str = "VirtualService shop/x";
const OF_RULE: &str = "DestinationRule shop/x";

#[test]
fn where_nothing_is_wrong_nothing_is_found() {
    let output = run("", &[]);
    assert!(output.status.success());
    assert_eq!(said(&output), "✓ nothing found in 4 objects\n");
}

#[test]
fn a_host_that_is_not_there_is_named_with_the_likely_one() {
    let text = service("hosts: [other.example]\ntcp:\n- route:\n  - destination: {host: review}");
    let field = "spec.tcp[0].route[0].destination.host";
    assert_eq!(found(&text), one("IST0101", OF_SERVICE, "b.yaml:8", field));
    let output = run(&text, &[]);
    assert_eq!(output.status.code(), Some(1));
    let expected = "\
Error [IST0101] (VirtualService shop/x ./b.yaml:8) spec.tcp[0].route[0].destination.host: \
host \"review\" (review.shop.svc.cluster.local) is not found
    did you mean reviews.shop.svc.cluster.local?
1 error in 5 objects
";
    assert_eq!(said(&output), expected);
}

#[test]
fn a_host_with_half_its_name_is_not_found_and_the_whole_name_is_told() {
    let text = rule("host: reviews.shop");
    assert_eq!(found(&text), one("IST0174", OF_RULE, "b.yaml:5", "spec.host"));
    assert!(said(&run(&text, &[])).contains("did you mean reviews.shop.svc.cluster.local?"));
}

#[test]
fn ports_and_subsets_of_destinations_are_looked_up() {
    let to = |destination: &str| {
        service(&format!("hosts: [y.example]\ntcp:\n- route:\n  - destination: {destination}"))
    };
    let at = "spec.tcp[0].route[0].destination";
    assert_eq!(found(&to("{host: ratings}")), one("IST0112", OF_SERVICE, "b.yaml:8", at));
    assert!(found(&to("{host: ratings, port: {number: 9081}}")).is_empty());
    let port = found(&to("{host: ratings, port: {number: 1}}"));
    assert_eq!(port, one("IST0101", OF_SERVICE, "b.yaml:8", &format!("{at}.port.number")));
    let subset = found(&to("{host: reviews, subset: v2}"));
    assert_eq!(subset, one("IST0101", OF_SERVICE, "b.yaml:8", &format!("{at}.subset")));
}

#[test]
fn a_subset_that_no_workload_is_in_says_what_the_workloads_have() {
    let text = rule("host: ratings\nsubsets:\n- name: v9\n  labels: {version: v9}");
    assert_eq!(found(&text), one("IST0173", OF_RULE, "b.yaml:8", "spec.subsets[0].labels"));
    assert!(said(&run(&text, &[])).contains("its endpoints have version=v1"));
    assert!(run(&text, &[]).status.success(), "no route leads there");
    let used = service(
        "hosts: [y.example]\ntcp:\n- route: [{destination: {host: ratings, subset: v9, port: {number: 9080}}}]",
    );
    assert_eq!(run(&format!("{text}---\n{used}"), &[]).status.code(), Some(1));
    let by_place = rule("host: ratings\nsubsets:\n- name: west\n  labels: {topology.istio.io/cluster: west}");
    assert!(found(&by_place).is_empty(), "where a workload is, files do not say");
}

#[test]
fn rules_and_routes_in_one_anothers_way_are_told() {
    let twice = rule("host: reviews.shop.svc.cluster.local\nsubsets:\n- {name: v1, labels: {version: v1}}");
    assert_eq!(found(&twice), one("ISM0004", OF_RULE, "b.yaml:7", "spec.subsets[0].name"));
    let codes: Vec<String> =
        found(&service("hosts: [reviews]\ntcp:\n- route: [{destination: {host: reviews}}]"))
            .into_iter()
            .map(|(code, origin, ..)| format!("{code} {origin}"))
            .collect();
    assert_eq!(codes, ["IST0109 VirtualService shop/reviews", "IST0109 VirtualService shop/x"]);
    let hidden = service(
        "hosts: [y.example]\ntcp:\n- route: [{destination: {host: reviews}}]\n- match: [{port: 1}]\n  route: [{destination: {host: reviews}}]",
    );
    assert_eq!(found(&hidden), one("IST0130", OF_SERVICE, "b.yaml:8", "spec.tcp[1]"));
}

#[test]
fn tls_that_the_servers_refuse_is_told() {
    let strict = "---\napiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: d, namespace: shop}\nspec: {mtls: {mode: STRICT}}\n";
    let plain = rule("host: ratings\ntrafficPolicy:\n  tls: {mode: DISABLE}");
    assert!(found(&plain).is_empty());
    let field = "spec.trafficPolicy.tls.mode";
    assert_eq!(found(&format!("{plain}{strict}")), one("ISM0006", OF_RULE, "b.yaml:7", field));
    let unchecked = rule("host: ratings\ntrafficPolicy:\n  tls: {mode: SIMPLE}");
    assert_eq!(found(&unchecked), one("IST0128", OF_RULE, "b.yaml:7", "spec.trafficPolicy.tls"));
}

#[test]
fn gateways_are_found_and_let_their_hosts_in() {
    let gateway = |name: &str| {
        format!(
            "---\napiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {{name: {name}, namespace: shop}}\nspec:\n  selector: {{istio: gw}}\n  servers:\n  \
             - port: {{number: 443, name: tls, protocol: TLS}}\n    tls: {{mode: PASSTHROUGH}}\n    hosts: [a.example]\n"
        )
    };
    let route = |host: &str, gateway: &str| {
        service(&format!(
            "hosts: [{host}]\ngateways: [{gateway}]\ntls:\n- match: [{{sniHosts: [{host}]}}]\n  route: [{{destination: {{host: reviews}}}}]"
        ))
    };
    let codes = |text: String| -> Vec<String> {
        let all = found(&text).into_iter().filter(|(code, ..)| code != "ISM0003");
        all.map(|(code, origin, _, field)| format!("{code} {origin} {field}")).collect()
    };
    assert!(codes(route("a.example", "g") + &gateway("g")).is_empty());
    assert_eq!(
        codes(route("a.example", "h") + &gateway("g")),
        ["IST0101 VirtualService shop/x spec.gateways[0]"]
    );
    assert_eq!(
        codes(route("b.example", "g") + &gateway("g")),
        ["IST0132 VirtualService shop/x spec.gateways[0]"]
    );
    let both = codes(gateway("g") + &gateway("h"));
    assert_eq!(both, ["IST0145 Gateway shop/h spec.servers[0]", "IST0145 Gateway shop/g spec.servers[0]"]);
}

#[test]
fn what_cannot_be_read_is_told_with_its_line_and_the_rest_is_analysed() {
    let text = "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: x, namespace: shop}\nspec:\n  hosts: [a.example]\n  ports:\n  \
                - {number: 70000, name: tcp, protocol: TCP}\n---\nkind: [\n---\n";
    let all = found(&(text.to_string() + &rule("host: nobody")));
    let codes: Vec<&str> = all.iter().map(|(code, ..)| code.as_str()).collect();
    assert_eq!(codes, ["IST0106", "IST0174", "IST0106"], "{all:?}");
    assert_eq!(all[0].2, "b.yaml:7");
    assert!(said(&run(text, &[])).contains("line 10"), "{}", said(&run(text, &[])));
}

#[test]
fn files_that_do_not_hold_the_services_are_not_judged_by_them() {
    let place = tempfile::tempdir().unwrap();
    let text = service(
        "hosts: [a]\ngateways: [istio-system/g]\ntcp:\n- route: [{destination: {host: a, subset: v1}}]",
    );
    std::fs::write(place.path().join("x.yaml"), text).unwrap();
    let output = isthmus(place.path(), &["analyze", "x.yaml"]);
    assert!(output.status.success(), "{}", said(&output));
    assert!(
        said(&output).contains("Info [ISM0003] not checked: hosts of namespace shop"),
        "{}",
        said(&output)
    );
}

#[test]
fn what_may_be_meant_is_no_finding() {
    let delegating = service(
        "hosts: [y.example]\nhttp:\n- delegate: {name: reviews}\n- route: [{destination: {host: reviews}}]",
    );
    let codes = |text: &str| -> Vec<String> { found(text).into_iter().map(|(code, ..)| code).collect() };
    assert!(!codes(&delegating).contains(&"IST0130".to_string()), "a delegate has matches of its own");
    let policy = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: p, namespace: shop}\n\
                  spec: {rules: [{from: [{source: {namespaces: [istio-system]}}]}]}\n---\n\
                  apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n";
    assert_eq!(codes(policy), ["ISM0003"], "files rarely have every namespace");
}

#[test]
fn thresholds_suppressions_and_annotations_are_obeyed() {
    let text = rule("host: nobody");
    assert!(run(&text, &[]).status.success(), "a warning is no failure");
    assert_eq!(run(&text, &["--failure-threshold", "warning"]).status.code(), Some(1));
    assert!(said(&run(&text, &["--output-threshold", "error"])).starts_with("✓ nothing found"));
    assert!(said(&run(&text, &["-S", "IST0174=DestinationRule shop/*"])).starts_with("✓ nothing found"));
    assert!(said(&run(&text, &["-S", "IST0174=DestinationRule other/*"])).contains("IST0174"));
    assert!(said(&run(&text, &["-n", "other"])).starts_with("✓ nothing found"));
    let annotated =
        text.replace("name: x,", "name: x, annotations: {galley.istio.io/analyze-suppress: IST0174},");
    assert!(said(&run(&annotated, &[])).starts_with("✓ nothing found"));
}

#[test]
fn clusters_that_disagree_about_a_service_are_told() {
    let place = tempfile::tempdir().unwrap();
    std::fs::write(place.path().join("east.yaml"), GOOD).unwrap();
    let other = GOOD.replace("  - {name: tcp-admin, port: 9081}\n", "");
    std::fs::write(place.path().join("west.yaml"), &other).unwrap();
    let flags =
        ["analyze", "east.yaml", "--own-cluster", "east", "--cluster", "west=west.yaml", "-o", "json"];
    let output = isthmus(place.path(), &flags);
    let all: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(all.len(), 1, "{all:?}");
    assert_eq!((&all[0]["code"], &all[0]["origin"]), (&"IST0170".into(), &"Service shop/ratings".into()));
}

#[test]
fn the_codes_are_listed() {
    let place = tempfile::tempdir().unwrap();
    let listed = said(&isthmus(place.path(), &["analyze", "--list"]));
    assert!(listed.contains("IST0101  Error") && listed.contains("ISM0005  Warning"), "{listed}");
}
