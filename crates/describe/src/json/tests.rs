use envoy_types::pb::envoy::config::cluster::v3 as cluster;
use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::config::listener::v3 as listener;
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3 as tcp;
use envoy_types::pb::google::protobuf as wkt;
use envoy_types::util::pack_any;
use isthmus_proto::nds::{NameTable, name_table::NameInfo};
use isthmus_proto::type_url;
use prost::Message;

use super::*;

fn filter(config: wkt::Any) -> listener::Filter {
    listener::Filter {
        name: "one".to_string(),
        config_type: Some(listener::filter::ConfigType::TypedConfig(config)),
    }
}

fn chain(config: wkt::Any) -> Vec<u8> {
    listener::FilterChain { filters: vec![filter(config)], ..Default::default() }.encode_to_vec()
}

const CHAIN: &str = "type.googleapis.com/envoy.config.listener.v3.FilterChain";

#[test]
fn a_message_is_written_with_the_names_of_its_definition_and_protobufs_forms() {
    let text = |value: &str| wkt::Value { kind: Some(wkt::value::Kind::StringValue(value.to_string())) };
    let number = wkt::Value { kind: Some(wkt::value::Kind::NumberValue(3.0)) };
    let list = wkt::ListValue { values: vec![text("x"), wkt::Value { kind: None }, number] };
    let list = wkt::Value { kind: Some(wkt::value::Kind::ListValue(list)) };
    let fields =
        wkt::Struct { fields: [("tlsMode".to_string(), text("istio")), ("l".to_string(), list)].into() };
    let message = cluster::Cluster {
        name: "a".to_string(),
        cluster_discovery_type: Some(cluster::cluster::ClusterDiscoveryType::Type(3)),
        connect_timeout: Some(wkt::Duration { seconds: 1, nanos: 250_000_000 }),
        per_connection_buffer_limit_bytes: Some(wkt::UInt32Value { value: 0 }),
        lb_policy: 99,
        metadata: Some(core::Metadata {
            filter_metadata: [("istio".to_string(), fields)].into(),
            ..Default::default()
        }),
        common_lb_config: Some(cluster::cluster::CommonLbConfig {
            healthy_panic_threshold: Some(envoy_types::pb::envoy::r#type::v3::Percent { value: 0.5 }),
            ..Default::default()
        }),
        ..Default::default()
    };
    let shown = to_json(type_url::CLUSTER, &message.encode_to_vec()).unwrap();
    let expected = json!({
        "name": "a", "type": "EDS", "connect_timeout": "1.250s", "per_connection_buffer_limit_bytes": 0, "lb_policy": 99,
        "metadata": {"filter_metadata": {"istio": {"tlsMode": "istio", "l": ["x", null, 3]}}},
        "common_lb_config": {"healthy_panic_threshold": {"value": 0.5}},
    });
    assert_eq!(shown, expected);
}

#[test]
fn a_message_in_an_envelope_is_written_out_and_an_unknown_one_as_its_bytes() {
    let known = tcp::TcpProxy { stat_prefix: "s".to_string(), ..Default::default() };
    let shown = to_json(CHAIN, &chain(pack_any(known))).unwrap();
    let config = &shown["filters"][0]["typed_config"];
    let url = "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy";
    assert_eq!(*config, json!({"@type": url, "stat_prefix": "s"}));
    let other = wkt::Any { type_url: "type.googleapis.com/example.Other".to_string(), value: vec![1, 2] };
    let shown = to_json(CHAIN, &chain(other)).unwrap();
    let expected = json!({"@type": "type.googleapis.com/example.Other", "value": "AQI="});
    assert_eq!(shown["filters"][0]["typed_config"], expected);
    let text = wkt::Any {
        type_url: "type.googleapis.com/google.protobuf.StringValue".to_string(),
        value: wkt::StringValue { value: "x".to_string() }.encode_to_vec(),
    };
    let shown = to_json(CHAIN, &chain(text)).unwrap();
    assert_eq!(shown["filters"][0]["typed_config"]["value"], "x");
}

#[test]
fn our_own_resources_are_known_too() {
    let info = NameInfo { ips: vec!["10.0.0.1".to_string()], ..Default::default() };
    let table = NameTable { table: [("a.example".to_string(), info)].into() };
    let shown = to_json(type_url::NAME_TABLE, &table.encode_to_vec()).unwrap();
    assert_eq!(shown, json!({"table": {"a.example": {"ips": ["10.0.0.1"]}}}));
}

#[test]
fn a_body_of_another_kind_is_refused_by_its_type() {
    let refused = to_json(type_url::CLUSTER, &[0xff]).unwrap_err();
    assert!(refused.to_string().starts_with("not a type.googleapis.com/envoy.config.cluster"), "{refused}");
    let broken = wkt::Any { type_url: type_url::CLUSTER.to_string(), value: vec![0xff] };
    assert_eq!(to_json(CHAIN, &chain(broken)).unwrap_err().type_url, type_url::CLUSTER);
}

#[test]
fn durations_have_as_many_digits_as_they_need() {
    let shown: Vec<String> =
        [(10, 0), (0, 5_000), (0, 1), (-1, -500_000_000)].map(|(s, n)| duration(s, n)).into();
    assert_eq!(shown, ["10s", "0.000005s", "0.000000001s", "-1.500s"]);
}
