//! Parsing by example.

use isthmus_model::{Protocol, TargetPort};

use super::*;

fn one(text: &str) -> Result<Object, ParseError> {
    let mut all = parse_yaml(text);
    assert_eq!(all.len(), 1);
    all.remove(0)
}

#[test]
fn a_service_is_cut_down_to_what_the_mesh_reads() {
    let object = one("
apiVersion: v1
kind: Service
metadata:
  name: mysqldb
  namespace: vm
  uid: u1
  creationTimestamp: '2026-01-02T03:04:05Z'
  annotations: {kubectl.kubernetes.io/last-applied-configuration: '{}', a: b}
spec:
  clusterIP: 10.96.0.7
  selector: {app: mysqldb}
  ports: [{port: 3306, targetPort: db}, {name: http-admin, port: 80, protocol: TCP}]
status: null
");
    let Ok(Object::Service(service)) = object else { panic!("{object:?}") };
    assert_eq!(service.meta.created, 1_767_323_045);
    assert_eq!(service.meta.annotations.len(), 1);
    assert_eq!(service.spec.cluster_ips, ["10.96.0.7".parse::<std::net::IpAddr>().unwrap()]);
    assert_eq!(service.spec.ports[0].protocol, Protocol::Tcp);
    assert_eq!(service.spec.ports[0].target, TargetPort::Name("db".into()));
    assert_eq!(service.spec.ports[1].target, TargetPort::Number(80));
}

#[test]
fn a_field_that_cannot_be_read_is_named_with_its_object() {
    let error = one("
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: ext, namespace: web}
spec: {hosts: [a.example], ports: [{number: 80, name: http}, {number: eighty}]}
")
    .unwrap_err();
    let text = error.to_string();
    assert!(text.starts_with("ServiceEntry web/ext: spec.ports[1].number: "), "{text}");
}

#[test]
fn an_unknown_enum_value_says_which_are_known() {
    let error = one("
apiVersion: security.istio.io/v1beta1
kind: PeerAuthentication
metadata: {name: p, namespace: web}
spec: {mtls: {mode: STRCT}}
")
    .unwrap_err()
    .to_string();
    assert!(error.contains("spec.mtls.mode") && error.contains("`STRICT`"), "{error}");
}

#[test]
fn one_bad_document_leaves_its_neighbours() {
    let all = parse_yaml(
        "
apiVersion: v1
kind: Namespace
metadata: {name: a}
---
apiVersion: v1
kind: Pod
metadata: {name: p}
status: {podIP: nonsense}
---
apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: Namespace, metadata: {name: b}}
- {apiVersion: apps/v1, kind: Deployment, metadata: {name: d}}
",
    );
    assert_eq!(all.len(), 4);
    assert!(all[0].is_ok() && all[2].is_ok());
    assert!(all[1].as_ref().unwrap_err().to_string().contains("status.podIP"));
    assert!(matches!(all[3], Err(ParseError::UnknownKind { .. })));
}

#[test]
fn all_served_versions_give_the_same_object() {
    let read = |version: &str| {
        one(&format!(
            "{{apiVersion: networking.istio.io/{version}, kind: WorkloadEntry, metadata: {{name: a, namespace: b}}, \
             spec: {{address: 192.0.2.1, ports: {{http: 8080}}, weight: 2}}}}"
        ))
        .unwrap()
    };
    assert_eq!(read("v1"), read("v1beta1"));
    assert_eq!(read("v1"), read("v1alpha3"));
}

#[test]
fn a_broken_status_does_not_take_the_object_away() {
    let object = one("
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: a, namespace: b}
spec: {hosts: [a.example]}
status: {addresses: wrong}
");
    assert!(object.is_ok());
}

#[test]
fn any_json_is_an_answer_and_never_a_panic() {
    for text in ["[]", "3", "{kind: Pod}", "{apiVersion: v1, kind: Pod, metadata: []}", "{kind: 5}", "\"x\""]
    {
        assert!(one(text).is_err(), "{text}");
    }
}

#[test]
fn a_document_that_cannot_be_read_does_not_hide_the_next_and_has_its_position() {
    let text = "kind: A\n---\nkind: [\n---\nkind: List\nitems: [{kind: B}, {kind: C}]\n--- \n{kind: D}\n";
    let found = documents(text);
    let shown: Vec<(usize, Option<&str>)> = found
        .iter()
        .map(|(at, value)| (*at, value.as_ref().ok().and_then(|value| value["kind"].as_str())))
        .collect();
    assert_eq!(shown, [(1, Some("A")), (2, None), (3, Some("B")), (3, Some("C")), (4, Some("D"))]);
    let json = "{\"kind\": \"A\"}\n{\"kind\": \"PodList\", \"items\": [{\"kind\": \"B\"}]}";
    let kinds: Vec<(usize, Value)> =
        documents(json).into_iter().map(|(at, value)| (at, value.unwrap()["kind"].take())).collect();
    assert_eq!(kinds, [(1, "A".into()), (2, "B".into())]);
}

#[test]
fn a_syntax_error_is_on_its_line_of_the_whole_text() {
    let text = "kind: A\n---\nkind: B\n c: : d\n---\nkind: C\n";
    let found = documents(text);
    assert_eq!(found.len(), 3);
    let Err(ParseError::Yaml { document: 2, problem }) = &found[1].1 else { panic!("{found:?}") };
    assert!(problem.contains("line 4"), "{problem}");
}
