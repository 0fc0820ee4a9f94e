//! Two Envoys with what a control plane would send them.

use std::net::Ipv4Addr;
use std::path::Path;

use serde_json::{Value, json};

use super::super::contender::Contender;
use super::super::origin::{BULK_PORT, ECHO_PORT};
use super::super::peers::find;
use super::pod::{Pod, client_rules};
use super::sidecars::Identities;
use crate::xds::processes::Running;

/// Where the client's Envoy takes what was captured; 15001 is our sidecar's.
const OUTBOUND: u16 = 15_101;
const INBOUND: u16 = 15_006;
/// The mark of a proxy's own connections, which no rule captures.
const MARK: u32 = 0x539;
const PORTS: [u16; 2] = [BULK_PORT, ECHO_PORT];
const TLS: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3";

/// None where there is no Envoy.
pub(super) fn start(pod: &Pod, identities: &Identities, folder: &Path) -> anyhow::Result<Option<Contender>> {
    let Some(program) = find("envoy") else { return Ok(None) };
    let service = pod.service();
    // Before the chains of our own sidecar, which shares the client's pod.
    client_rules(&format!(
        "table ip envoys {{ chain outbound {{ type nat hook output priority -101; policy accept;
         meta mark {MARK:#x} return
         ip daddr {service} tcp dport {{ {BULK_PORT}, {ECHO_PORT} }} redirect to :{OUTBOUND}
         }}
         }}\n"
    ))?;
    // As our sidecar's, without the lease and the ports under STRICT.
    pod.rules(&format!(
        "table inet envoys {{
         chain inbound {{ type nat hook prerouting priority -100; policy accept;
           tcp flags & (fin | syn | rst | ack) != syn return
           iifname lo return
           fib daddr type != local return
           tcp dport {{ 22, 15008, 15020, 15021, 15090 }} return
           meta l4proto tcp redirect to :{INBOUND}
         }}
         chain outbound {{ type nat hook output priority -100; policy accept;
           tcp flags & (fin | syn | rst | ack) != syn return
           ip saddr 127.0.0.6 return
           meta mark {MARK:#x} return
           oifname lo return
           meta l4proto tcp redirect to :15001
         }}
         chain strict {{ type filter hook input priority -1; policy accept;
           iifname lo accept
           tcp dport {{ 15001, {INBOUND} }} ct status & dnat == 0 reject with tcp reset
         }}
         }}\n"
    ))?;
    let write = |name: &str, bootstrap: &Value| -> anyhow::Result<Vec<String>> {
        let file = folder.join(format!("envoy-{name}.json"));
        std::fs::write(&file, bootstrap.to_string())?;
        let file = file.display().to_string();
        let arguments = ["-c", &file, "--concurrency", "1", "--disable-hot-restart", "--log-level", "error"];
        Ok(arguments.map(ToString::to_string).to_vec())
    };
    let (_, far) = pod.addresses();
    let client = write("client", &client(service, far, &identities.client))?;
    let server = write("server", &server(&identities.server))?;
    let charged = vec![
        Running::start(&program, "envoy-client", &client, folder)?,
        pod.program(&program, "envoy-server", &server, folder)?,
    ];
    super::contender("envoy", service, charged, Vec::new()).map(Some)
}

fn client(service: Ipv4Addr, endpoint: Ipv4Addr, identity: &Path) -> Value {
    let mut listeners = vec![json!({
        "name": "virtualOutbound", "address": address(Ipv4Addr::UNSPECIFIED, OUTBOUND), "use_original_dst": true,
        "filter_chains": [{"filters": [tcp_proxy("nowhere")]}],
    })];
    listeners.extend(PORTS.map(|port| {
        json!({
            "name": format!("{service}_{port}"), "address": address(service, port), "bind_to_port": false,
            "filter_chains": [{"filters": [tcp_proxy(&format!("outbound|{port}"))]}],
        })
    }));
    let mut clusters = vec![json!({"name": "nowhere", "type": "STATIC"})];
    clusters.extend(PORTS.map(|port| {
        let name = format!("outbound|{port}");
        let mut cluster = cluster(&name, "STATIC", Ipv4Addr::UNSPECIFIED);
        cluster["load_assignment"] = json!({"cluster_name": name, "endpoints": [
            {"lb_endpoints": [{"endpoint": {"address": address(endpoint, port)}}]}
        ]});
        cluster["transport_socket"] = json!({"name": "tls", "typed_config": {
            "@type": format!("{TLS}.UpstreamTlsContext"),
            "common_tls_context": tls(identity, "server"),
            "sni": format!("outbound_.{port}_._.server.bench.mesh.internal"),
        }});
        cluster
    }));
    json!({"static_resources": {"listeners": listeners, "clusters": clusters}})
}

fn server(identity: &Path) -> Value {
    let filter = |name: &str, message: &str| {
        json!({"name": name, "typed_config": {
            "@type": format!("type.googleapis.com/envoy.extensions.filters.listener.{name}.v3.{message}"),
        }})
    };
    let chain = |port: u16| {
        json!({
            "filter_chain_match": {"destination_port": port, "transport_protocol": "tls"},
            "filters": [tcp_proxy(&format!("inbound|{port}"))],
            "transport_socket": {"name": "tls", "typed_config": {
                "@type": format!("{TLS}.DownstreamTlsContext"),
                "require_client_certificate": true,
                "common_tls_context": tls(identity, "client"),
            }},
        })
    };
    let cluster = |port: u16| {
        let mut cluster = cluster(&format!("inbound|{port}"), "ORIGINAL_DST", Ipv4Addr::new(127, 0, 0, 6));
        cluster["lb_policy"] = json!("CLUSTER_PROVIDED");
        cluster
    };
    json!({"static_resources": {
        "listeners": [{
            "name": "virtualInbound", "address": address(Ipv4Addr::UNSPECIFIED, INBOUND),
            "listener_filters": [filter("original_dst", "OriginalDst"), filter("tls_inspector", "TlsInspector")],
            "filter_chains": PORTS.map(chain),
        }],
        "clusters": PORTS.map(cluster),
    }})
}

/// Keys and roots of the one, and whom it takes for the other. Session tickets are Envoy's default.
fn tls(identity: &Path, peer: &str) -> Value {
    let file = |name: &str| json!({"filename": identity.join(name)});
    let peer = format!("spiffe://cluster.local/ns/default/sa/{peer}");
    json!({
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
        "tls_certificates": [{"certificate_chain": file("cert-chain.pem"), "private_key": file("key.pem")}],
        "validation_context": {
            "trusted_ca": file("root-cert.pem"),
            "match_typed_subject_alt_names": [{"san_type": "URI", "matcher": {"exact": peer}}],
        },
        "alpn_protocols": ["istio"],
    })
}

fn cluster(name: &str, kind: &str, source: Ipv4Addr) -> Value {
    const MOST: u32 = 1 << 20;
    json!({
        "name": name, "type": kind, "connect_timeout": "5s",
        "circuit_breakers": {"thresholds": [
            {"max_connections": MOST, "max_pending_requests": MOST, "max_requests": MOST}
        ]},
        "upstream_bind_config": {
            "source_address": {"address": source.to_string(), "port_value": 0},
            // SO_MARK of SOL_SOCKET.
            "socket_options": [{"level": 1, "name": 36, "int_value": MARK, "state": "STATE_PREBIND"}],
        },
    })
}

fn tcp_proxy(cluster: &str) -> Value {
    json!({"name": "tcp", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
        "stat_prefix": "tcp", "cluster": cluster,
    }})
}

fn address(address: Ipv4Addr, port: u16) -> Value {
    json!({"socket_address": {"address": address.to_string(), "port_value": port}})
}
