//! Envoy's bootstrap: where its sockets are, how it marks its connections, and nothing else. It holds no secret.

use std::net::SocketAddr;
use std::path::Path;

use envoy_types::pb::envoy::config::core::v3::Node;
use serde_json::{Value, json};

/// `SOL_SOCKET` and `SO_MARK` of Linux.
const SO_MARK: (i32, i32) = (1, 36);
/// Names that the control plane's resources refer to.
const XDS: &str = "xds-grpc";
const SDS: &str = "sds-grpc";

/// What it is made from.
#[derive(Debug)]
pub struct Bootstrap<'a> {
    /// Who Envoy is.
    pub node: &'a Node,
    /// Socket of its admin interface.
    pub admin: &'a Path,
    /// Socket of its configuration.
    pub xds: &'a Path,
    /// Socket of its secrets.
    pub sds: &'a Path,
    /// Mark of its connections.
    pub mark: Option<u32>,
    /// Where it asks for names.
    pub resolver: SocketAddr,
    /// Connections that it takes at once.
    pub connections: usize,
}

impl Bootstrap<'_> {
    /// The file's text.
    #[must_use]
    pub fn json(&self) -> String {
        let locality = self.node.locality.clone().unwrap_or_default();
        let file = json!({
            "node": {
                "id": self.node.id,
                "cluster": self.node.cluster,
                "locality": {"region": locality.region, "zone": locality.zone, "sub_zone": locality.sub_zone},
            },
            "admin": {"address": {"pipe": {"path": self.admin, "mode": 0o600}}},
            "cluster_manager": self.cluster_manager(),
            "typed_dns_resolver_config": self.resolver(),
            "dynamic_resources": {
                "ads_config": {
                    "api_type": "DELTA_GRPC",
                    "transport_api_version": "V3",
                    "set_node_on_first_message_only": true,
                    "grpc_services": [{"envoy_grpc": {"cluster_name": XDS}}],
                },
                "lds_config": aggregated(),
                "cds_config": aggregated(),
            },
            "static_resources": {"clusters": [local(XDS, self.xds), local(SDS, self.sds)]},
            "overload_manager": {"resource_monitors": [{
                "name": "envoy.resource_monitors.global_downstream_max_connections",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
                    "max_active_downstream_connections": self.connections,
                },
            }]},
        });
        format!("{file:#}\n")
    }

    /// Clusters that say nothing of their own are dialled like this; those of the workload itself have a source address that
    /// capture knows.
    fn cluster_manager(&self) -> Value {
        let Some(mark) = self.mark else { return json!({}) };
        let (level, name) = SO_MARK;
        json!({"upstream_bind_config": {"socket_options": [{
            "description": "capture leaves marked connections alone",
            "level": level,
            "name": name,
            "int_value": mark,
            "state": "STATE_PREBIND",
        }]}})
    }

    fn resolver(&self) -> Value {
        json!({
            "name": "envoy.network.dns_resolver.cares",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig",
                "resolvers": [{"socket_address": {
                    "address": self.resolver.ip().to_string(),
                    "port_value": self.resolver.port(),
                }}],
                "dns_resolver_options": {"no_default_search_domain": true},
            },
        })
    }
}

/// From the aggregated stream, and however late: a proxy that goes on without its first answer serves nothing.
fn aggregated() -> Value {
    json!({"ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": "0s"})
}

fn local(name: &str, socket: &Path) -> Value {
    const OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
    let http2 = json!({
        "@type": format!("type.googleapis.com/{OPTIONS}"),
        "explicit_http_config": {"http2_protocol_options": {}},
    });
    json!({
        "name": name,
        "type": "STATIC",
        "connect_timeout": "1s",
        "typed_extension_protocol_options": {OPTIONS: http2},
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": {"pipe": {"path": socket}}}}]}],
        },
    })
}
