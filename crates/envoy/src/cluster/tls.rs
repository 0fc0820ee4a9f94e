//! TLS towards endpoints.

use envoy_types::pb::envoy::config::cluster::v3::cluster::TransportSocketMatch;
use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::extensions::transport_sockets::raw_buffer::v3::RawBuffer;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3 as pb;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::common_tls_context::{
    CombinedCertificateValidationContext, ValidationContextType,
};
use envoy_types::pb::envoy::r#type::matcher::v3::{StringMatcher, string_matcher::MatchPattern};
use envoy_types::pb::google::protobuf as wkt;
use isthmus_resources::istio::{ClientTls, ClientTlsMode};

use crate::cluster::Target;
use crate::wire::{one_text, transport_socket};

/// What clients offer, so that a server tells mesh TLS from the application's own.
const CLIENT_ALPN: [&str; 2] = ["istio-peer-exchange", "istio"];
/// Where an agent serves secrets.
const SDS_CLUSTER: &str = "sds-grpc";

/// Automatic mutual TLS: each endpoint's metadata `tlsMode` chooses.
pub(crate) fn automatic(target: Target<'_>) -> Vec<TransportSocketMatch> {
    vec![
        TransportSocketMatch {
            name: "tlsMode-istio".to_string(),
            r#match: Some(one_text("tlsMode", "istio")),
            transport_socket: Some(mutual(target, None)),
        },
        TransportSocketMatch {
            name: "tlsMode-disabled".to_string(),
            r#match: Some(wkt::Struct::default()),
            transport_socket: Some(transport_socket("envoy.transport_sockets.raw_buffer", RawBuffer {})),
        },
    ]
}

/// Mesh TLS: our leaf, the mesh's roots, the service's identities, its server name.
pub(crate) fn mutual(target: Target<'_>, rule: Option<&ClientTls>) -> core::TransportSocket {
    let names = mesh_names(target, rule);
    let sni = match rule {
        Some(rule) if !rule.sni.is_empty() => rule.sni.clone(),
        _ => target.server_name(),
    };
    let common = pb::CommonTlsContext {
        tls_params: Some(parameters()),
        tls_certificate_sds_secret_configs: vec![secret("default")],
        alpn_protocols: CLIENT_ALPN.iter().map(ToString::to_string).collect(),
        validation_context_type: Some(validation("ROOTCA", &names)),
        ..Default::default()
    };
    let context = pb::UpstreamTlsContext { common_tls_context: Some(common), sni, ..Default::default() };
    transport_socket("envoy.transport_sockets.tls", context)
}

/// Mesh TLS of a gRPC client: its certificates come from the provider `default` of its bootstrap (gRFC A29). None where no rule
/// asks for it.
#[expect(deprecated, reason = "gRPC libraries read names from the untyped field")]
pub(crate) fn provided(target: Target<'_>, rule: Option<&ClientTls>) -> Option<core::TransportSocket> {
    let rule = rule.filter(|rule| rule.mode == ClientTlsMode::IstioMutual)?;
    let provider = |name: &str| pb::CertificateProviderPluginInstance {
        instance_name: "default".to_string(),
        certificate_name: name.to_string(),
    };
    let exact = |name: &String| StringMatcher {
        match_pattern: Some(MatchPattern::Exact(name.clone())),
        ..Default::default()
    };
    let context = pb::CertificateValidationContext {
        ca_certificate_provider_instance: Some(provider("ROOTCA")),
        match_subject_alt_names: mesh_names(target, Some(rule)).iter().map(exact).collect(),
        ..Default::default()
    };
    let common = pb::CommonTlsContext {
        tls_certificate_provider_instance: Some(provider("default")),
        validation_context_type: Some(ValidationContextType::ValidationContext(context)),
        ..Default::default()
    };
    let sni = if rule.sni.is_empty() { target.server_name() } else { rule.sni.clone() };
    let context = pb::UpstreamTlsContext { common_tls_context: Some(common), sni, ..Default::default() };
    Some(transport_socket("envoy.transport_sockets.tls", context))
}

/// The names that a server of the mesh must show one of.
fn mesh_names(target: Target<'_>, rule: Option<&ClientTls>) -> Vec<String> {
    match rule {
        Some(rule) if !rule.subject_alt_names.is_empty() => rule.subject_alt_names.clone(),
        _ => target.service.identities.iter().map(ToString::to_string).collect(),
    }
}

/// TLS to something that is not of the mesh, as a DestinationRule asks for it.
pub(crate) fn originate(target: Target<'_>, rule: &ClientTls) -> core::TransportSocket {
    let service = target.service;
    let names: Vec<String> = if rule.subject_alt_names.is_empty() {
        service.subject_alt_names.iter().map(ToString::to_string).collect()
    } else {
        rule.subject_alt_names.clone()
    };
    let unverified = rule.insecure_skip_verify == Some(true);
    let roots = match (rule.credential_name.as_str(), rule.ca_certificates.as_str()) {
        ("", "") => "file-root:system".to_string(),
        ("", path) => format!("file-root:{path}"),
        (name, _) => format!("kubernetes://{name}-cacert"),
    };
    let own = match (rule.mode, rule.credential_name.as_str()) {
        (ClientTlsMode::Mutual, "") => {
            vec![secret(&format!("file-cert:{}~{}", rule.client_certificate, rule.private_key))]
        }
        (ClientTlsMode::Mutual, name) => vec![secret(&format!("kubernetes://{name}"))],
        _ => Vec::new(),
    };
    let common = pb::CommonTlsContext {
        tls_certificate_sds_secret_configs: own,
        validation_context_type: (!unverified).then(|| validation(&roots, &names)),
        ..Default::default()
    };
    let plain_host = !service.service.host.is_wildcard();
    let sni = match rule.sni.as_str() {
        "" if plain_host => service.service.host.to_string(),
        sni => sni.to_string(),
    };
    let context = pb::UpstreamTlsContext { common_tls_context: Some(common), sni, ..Default::default() };
    transport_socket("envoy.transport_sockets.tls", context)
}

/// TLS that a workload's agent terminates: mesh clients only.
pub(crate) fn server(trust_domains: &[String]) -> core::TransportSocket {
    let prefixes = trust_domains
        .iter()
        .map(|domain| uri_name(MatchPattern::Prefix(format!("spiffe://{domain}/"))))
        .collect();
    let common = pb::CommonTlsContext {
        tls_params: Some(parameters()),
        tls_certificate_sds_secret_configs: vec![secret("default")],
        alpn_protocols: ["istio-peer-exchange", "h2", "http/1.1"].iter().map(ToString::to_string).collect(),
        validation_context_type: Some(combined("ROOTCA", prefixes)),
        ..Default::default()
    };
    let context = pb::DownstreamTlsContext {
        common_tls_context: Some(common),
        require_client_certificate: Some(crate::wire::boolean(true)),
        ..Default::default()
    };
    transport_socket("envoy.transport_sockets.tls", context)
}

fn parameters() -> pb::TlsParameters {
    pb::TlsParameters {
        tls_minimum_protocol_version: pb::tls_parameters::TlsProtocol::TlSv12 as i32,
        tls_maximum_protocol_version: pb::tls_parameters::TlsProtocol::TlSv13 as i32,
        ..Default::default()
    }
}

fn validation(roots: &str, names: &[String]) -> ValidationContextType {
    let matchers = names.iter().map(|name| {
        if name.contains("://") {
            uri_name(MatchPattern::Exact(name.clone()))
        } else {
            san(pb::subject_alt_name_matcher::SanType::Dns, MatchPattern::Exact(name.clone()))
        }
    });
    combined(roots, matchers.collect())
}

fn combined(roots: &str, names: Vec<pb::SubjectAltNameMatcher>) -> ValidationContextType {
    ValidationContextType::CombinedValidationContext(CombinedCertificateValidationContext {
        default_validation_context: Some(pb::CertificateValidationContext {
            match_typed_subject_alt_names: names,
            ..Default::default()
        }),
        validation_context_sds_secret_config: Some(secret(roots)),
        ..Default::default()
    })
}

fn uri_name(pattern: MatchPattern) -> pb::SubjectAltNameMatcher {
    san(pb::subject_alt_name_matcher::SanType::Uri, pattern)
}

fn san(kind: pb::subject_alt_name_matcher::SanType, pattern: MatchPattern) -> pb::SubjectAltNameMatcher {
    pb::SubjectAltNameMatcher {
        san_type: kind as i32,
        matcher: Some(StringMatcher { match_pattern: Some(pattern), ..Default::default() }),
        ..Default::default()
    }
}

/// A secret from the agent's own server.
fn secret(name: &str) -> pb::SdsSecretConfig {
    let service = core::GrpcService {
        target_specifier: Some(core::grpc_service::TargetSpecifier::EnvoyGrpc(
            core::grpc_service::EnvoyGrpc { cluster_name: SDS_CLUSTER.to_string(), ..Default::default() },
        )),
        ..Default::default()
    };
    let api = core::ApiConfigSource {
        api_type: core::api_config_source::ApiType::Grpc as i32,
        transport_api_version: core::ApiVersion::V3 as i32,
        grpc_services: vec![service],
        set_node_on_first_message_only: true,
        ..Default::default()
    };
    pb::SdsSecretConfig {
        name: name.to_string(),
        sds_config: Some(core::ConfigSource {
            resource_api_version: core::ApiVersion::V3 as i32,
            initial_fetch_timeout: Some(wkt::Duration { seconds: 0, nanos: 0 }),
            config_source_specifier: Some(core::config_source::ConfigSourceSpecifier::ApiConfigSource(api)),
            ..Default::default()
        }),
    }
}
