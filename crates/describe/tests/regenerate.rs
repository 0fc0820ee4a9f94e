//! The committed descriptors are those of the Envoy types that are built with, and of our own definitions.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use prost::Message as _;
use prost_types::{DescriptorProto, FileDescriptorProto, FileDescriptorSet};

/// Files whose messages can be on our streams or in an `Any` of what is; folders end in a slash.
const ROOTS: [&str; 42] = [
    "envoy/config/listener/v3/listener.proto",
    "envoy/config/cluster/v3/cluster.proto",
    "envoy/config/endpoint/v3/endpoint.proto",
    "envoy/config/route/v3/route.proto",
    "envoy/extensions/access_loggers/file/",
    "envoy/extensions/access_loggers/stream/",
    "envoy/extensions/clusters/dns/",
    "envoy/extensions/clusters/dynamic_forward_proxy/",
    "envoy/extensions/filters/http/cors/",
    "envoy/extensions/filters/http/fault/",
    "envoy/extensions/filters/http/grpc_stats/",
    "envoy/extensions/filters/http/rbac/",
    "envoy/extensions/filters/http/router/",
    "envoy/extensions/filters/http/set_filter_state/",
    "envoy/extensions/filters/listener/http_inspector/",
    "envoy/extensions/filters/listener/original_dst/",
    "envoy/extensions/filters/listener/proxy_protocol/",
    "envoy/extensions/filters/listener/tls_inspector/",
    "envoy/extensions/filters/network/connection_limit/",
    "envoy/extensions/filters/network/http_connection_manager/",
    "envoy/extensions/filters/network/local_ratelimit/",
    "envoy/extensions/filters/network/rbac/",
    "envoy/extensions/filters/network/set_filter_state/",
    "envoy/extensions/filters/network/sni_cluster/",
    "envoy/extensions/filters/network/sni_dynamic_forward_proxy/",
    "envoy/extensions/filters/network/tcp_proxy/",
    "envoy/extensions/load_balancing_policies/cluster_provided/",
    "envoy/extensions/load_balancing_policies/least_request/",
    "envoy/extensions/load_balancing_policies/maglev/",
    "envoy/extensions/load_balancing_policies/random/",
    "envoy/extensions/load_balancing_policies/ring_hash/",
    "envoy/extensions/load_balancing_policies/round_robin/",
    "envoy/extensions/load_balancing_policies/subset/",
    "envoy/extensions/load_balancing_policies/wrr_locality/",
    "envoy/extensions/transport_sockets/proxy_protocol/",
    "envoy/extensions/transport_sockets/raw_buffer/",
    "envoy/extensions/transport_sockets/tls/",
    "envoy/extensions/upstreams/http/v3/",
    "envoy/extensions/upstreams/tcp/v3/",
    "envoy/extensions/request_id/uuid/",
    "envoy/extensions/path/match/",
    "envoy/extensions/matching/common_inputs/network/",
];

/// Imports that say something in options only.
const ANNOTATIONS: [&str; 4] = ["validate/", "udpa/annotations/", "xds/annotations/", "envoy/annotations/"];

fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().and_then(Path::parent).expect("crates/ is in the checkout")
}

/// The descriptors of all of Envoy, in the source of the package whose types we build with.
fn all_of_envoy() -> FileDescriptorSet {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--locked", "--format-version", "1"])
        .current_dir(workspace())
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).expect("cargo writes JSON");
    let packages = metadata["packages"].as_array().expect("packages");
    let package = packages.iter().find(|package| package["name"] == "envoy-types").expect("envoy-types");
    let manifest = PathBuf::from(package["manifest_path"].as_str().expect("a path"));
    let bytes = std::fs::read(manifest.with_file_name("src/generated/types.bin")).expect("its descriptors");
    FileDescriptorSet::decode(&*bytes).expect("descriptors")
}

/// Our own definitions whose messages are resources.
fn ours() -> FileDescriptorSet {
    let definitions = workspace().join("proto/definitions");
    let mut files = vec![PathBuf::from("istio/networking/nds/v1/nds.proto")];
    let discovery = definitions.join("isthmus/discovery/v1");
    if let Ok(found) = std::fs::read_dir(&discovery) {
        let named = found
            .map(|entry| PathBuf::from("isthmus/discovery/v1").join(entry.expect("a listing").file_name()));
        files.extend(named.filter(|file| file.extension().is_some_and(|end| end == "proto")));
    }
    files.sort();
    let mut set = protox::compile(files, [definitions]).expect("definitions compile");
    // Envoy's set has these.
    set.file.retain(|file| !file.name().starts_with("google/"));
    set
}

fn made() -> Vec<u8> {
    let mut set = all_of_envoy();
    let known: BTreeMap<String, usize> =
        set.file.iter().enumerate().map(|(at, file)| (file.name().to_string(), at)).collect();
    let mut wanted: BTreeSet<String> = BTreeSet::new();
    let mut open: Vec<String> = Vec::new();
    for root in ROOTS {
        let found: Vec<&String> = known
            .keys()
            .filter(|name| *name == root || root.ends_with('/') && name.starts_with(root))
            .collect();
        assert!(!found.is_empty(), "no file is {root}");
        open.extend(found.into_iter().cloned());
    }
    while let Some(name) = open.pop() {
        let file = &set.file[known[&name]];
        if wanted.insert(name) {
            open.extend(file.dependency.iter().filter(|name| !is_annotation(name)).cloned());
        }
    }
    set.file.retain(|file| wanted.contains(file.name()));
    set.file.iter_mut().for_each(strip);
    let mut own = ours();
    own.file.iter_mut().for_each(strip);
    set.file.extend(own.file);
    set.encode_to_vec()
}

fn is_annotation(name: &str) -> bool {
    ANNOTATIONS.iter().any(|prefix| name.starts_with(prefix))
}

/// Takes out what says nothing about the wire.
fn strip(file: &mut FileDescriptorProto) {
    file.source_code_info = None;
    file.options = None;
    file.service.clear();
    file.extension.clear();
    // Positions of public imports move with the imports that go.
    file.public_dependency.clear();
    file.weak_dependency.clear();
    file.dependency.retain(|name| !is_annotation(name));
    file.message_type.iter_mut().for_each(strip_message);
    for one in &mut file.enum_type {
        one.options = None;
        one.value.iter_mut().for_each(|value| value.options = None);
    }
}

fn strip_message(message: &mut DescriptorProto) {
    let map = message.options.as_ref().is_some_and(|options| options.map_entry());
    message.options = map.then(|| prost_types::MessageOptions {
        map_entry: Some(true),
        ..prost_types::MessageOptions::default()
    });
    message.reserved_name.clear();
    message.reserved_range.clear();
    for field in &mut message.field {
        field.options = None;
        field.json_name = None;
    }
    for one in &mut message.enum_type {
        one.options = None;
        one.value.iter_mut().for_each(|value| value.options = None);
    }
    message.oneof_decl.iter_mut().for_each(|oneof| oneof.options = None);
    message.nested_type.iter_mut().for_each(strip_message);
}

#[test]
fn the_descriptors_are_those_of_the_types_that_are_built_with() {
    let made = made();
    let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/envoy.binpb");
    #[expect(clippy::disallowed_methods, reason = "a test's own switch")]
    if std::env::var("ISTHMUS_REGENERATE").is_ok() {
        std::fs::write(&kept, &made).unwrap();
    }
    let committed = std::fs::read(&kept).unwrap_or_default();
    assert!(
        committed == made,
        "{} is stale: run ISTHMUS_REGENERATE=1 cargo test -p isthmus-describe",
        kept.display()
    );
}
