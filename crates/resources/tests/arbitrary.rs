//! Whatever an object says, it is read or refused; nothing panics.

use isthmus_resources::{Kind, parse, validate, warnings};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

/// Members that the kinds know, so that arbitrary objects reach deep.
const MEMBERS: [&str; 34] = [
    "hosts",
    "host",
    "ports",
    "port",
    "number",
    "name",
    "protocol",
    "addresses",
    "address",
    "endpoints",
    "labels",
    "workloadSelector",
    "selector",
    "matchLabels",
    "resolution",
    "location",
    "trafficPolicy",
    "outlierDetection",
    "interval",
    "tls",
    "mode",
    "mtls",
    "portLevelMtls",
    "rules",
    "from",
    "source",
    "to",
    "operation",
    "when",
    "key",
    "values",
    "servers",
    "template",
    "conditions",
];

fn leaf() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (0u16..200).prop_map(Value::from),
        "[a-z*./:~-]{0,12}".prop_map(Value::from),
        prop::sample::select(vec![
            "STATIC",
            "DNS",
            "STRICT",
            "1s",
            "-1s",
            "192.0.2.1",
            "10.0.0.0/8",
            "TCP",
            "*",
            "."
        ])
        .prop_map(Value::from),
    ]
}

fn tree() -> impl Strategy<Value = Value> {
    leaf().prop_recursive(6, 64, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((prop::sample::select(MEMBERS.to_vec()), inner), 0..6).prop_map(
                |members| {
                    let map: Map<String, Value> =
                        members.into_iter().map(|(key, value)| (key.to_string(), value)).collect();
                    Value::Object(map)
                }
            ),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_object_is_read_or_refused(kind in prop::sample::select(Kind::ALL.to_vec()), spec in tree(), status in tree()) {
        let object = json!({
            "apiVersion": kind.api_version(),
            "kind": kind.to_string(),
            "metadata": {"name": "a", "namespace": "b"},
            "spec": spec,
            "status": status,
        });
        for warning in warnings(&object) {
            prop_assert!(!warning.is_empty());
        }
        match parse(object) {
            Ok(object) => {
                prop_assert_eq!(object.kind(), kind);
                for problem in validate(&object) {
                    prop_assert!(problem.field.starts_with("spec"), "{}", problem);
                }
            }
            Err(error) => prop_assert!(error.to_string().contains("b/a") || error.to_string().contains(" a")),
        }
    }
}
