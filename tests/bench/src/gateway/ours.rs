//! A real gateway of a real control plane: isthmus-primary with an API of its own, and isthmus-eastwest-gw that joined it.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::Context as _;
use serde_json::{Value, json};

use super::contender::Contender;
use super::origin::{BULK_PORT, ECHO_PORT, addresses};
use super::{BULK, Context, ECHO};
use crate::xds::api::Api;
use crate::xds::kubernetes::admin_of;
use crate::xds::processes::Running;
use crate::xds::world::Write;

/// Among the contenders.
const NUMBER: u8 = 1;
/// Where the gateway's Gateway object lets AUTO_PASSTHROUGH in.
const PORT: u16 = 20_000;
/// The control plane's own; the gateway passes 15012 on to it.
const GRPC_PORT: u16 = 16_012;
const ACCOUNT: &str = "istio-system/istio-eastwestgateway";
const PATIENCE: Duration = Duration::from_secs(60);

/// A control plane with the services behind the gateways, and a gateway, both new. `others` are further services in the mesh, `flags`
/// further ones of the gateway.
pub(super) async fn start(
    context: &Context,
    others: Vec<Write>,
    flags: &[&str],
) -> anyhow::Result<Contender> {
    let folder = tempfile::tempdir_in(context.folder.path())?.keep();
    let (primary, api) =
        control_plane(context, &folder, SocketAddr::from(([127, 0, 0, 1], GRPC_PORT))).await?;
    let mut writes = vec![
        create(
            "/api/v1/namespaces/istio-system/serviceaccounts",
            json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "istio-eastwestgateway"}}),
        ),
        create(
            "/apis/networking.istio.io/v1/namespaces/istio-system/gateways",
            json!({
                "apiVersion": "networking.istio.io/v1", "kind": "Gateway",
                "metadata": {"name": "cross-network-gateway"},
                "spec": {"selector": {"istio": "eastwestgateway"}, "servers": [{
                    "port": {"number": PORT, "name": "tls", "protocol": "TLS"},
                    "tls": {"mode": "AUTO_PASSTHROUGH"}, "hosts": ["*.mesh.internal"],
                }]},
            }),
        ),
        service(BULK, BULK_PORT),
        service(ECHO, ECHO_PORT),
    ];
    writes.extend(others);
    api.load(writes, |done, total| eprintln!("services: {done} of {total} written")).await?;
    let token = isthmus(context, &folder, &["host", "token", "--service-account", ACCOUNT])?;
    std::fs::write(folder.join("gateway.token"), token)?;
    let path = |name: &str| folder.join(name).display().to_string();
    let arguments = [
        "--token-file",
        &path("gateway.token"),
        "--data-dir",
        &path("gateway"),
        "--network",
        "bench",
        "--address",
        "127.0.0.1",
        "--concurrency",
        "1",
        // No access log, as the others have none.
        "--log",
        "warn",
    ];
    let arguments: Vec<String> = arguments.iter().chain(flags).map(ToString::to_string).collect();
    let program = context.programs.join("isthmus-eastwest-gw");
    let gateway = Running::start(&program, "gateway", &arguments, &folder)?;
    Contender::gateway("isthmus", PORT, vec![gateway], vec![primary])
}

/// Serves at this address.
pub(super) async fn control_plane(
    context: &Context,
    folder: &Path,
    grpc: SocketAddr,
) -> anyhow::Result<(Running, Api)> {
    isthmus(context, folder, &["ca", "root", "--out", "root"])?;
    isthmus(context, folder, &["ca", "intermediate", "--root", "root", "--cluster", "bench", "--out", "ca"])?;
    let path = |name: &str| folder.join(name).display().to_string();
    let (advertised, grpc) = (grpc.ip().to_string(), grpc.to_string());
    let arguments = [
        "--standalone",
        "--cluster",
        "bench",
        "--network",
        "bench",
        "--data-dir",
        &path("data"),
        "--cacerts",
        &path("ca"),
        "--advertise",
        &advertised,
        "--grpc-address",
        &grpc,
        "--log",
        "warn",
    ];
    let arguments = arguments.map(ToString::to_string);
    let mut primary =
        Running::start(&context.programs.join("isthmus-primary"), "primary", &arguments, folder)?;
    let kubeconfig = folder.join("data/admin.kubeconfig");
    let admin = tokio::time::timeout(PATIENCE, async {
        loop {
            primary.check()?;
            match admin_of(&kubeconfig) {
                Ok(admin) => return anyhow::Ok(admin),
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    });
    let admin =
        admin.await.with_context(|| format!("isthmus-primary wrote no {}", kubeconfig.display()))??;
    let api = Api::new(SocketAddr::from(([127, 0, 0, 1], 6443)), &admin)?;
    primary.until(PATIENCE, async || api.serves("/readyz").await).await?;
    Ok((primary, api))
}

/// A service of workloads on this network that take mutual TLS.
pub(super) fn service(host: &str, port: u16) -> Write {
    let endpoints = addresses(NUMBER).map(|address| {
        json!({
            "address": address.to_string(), "network": "bench",
            "labels": {"security.istio.io/tlsMode": "istio"},
        })
    });
    let name = host.split('.').next().unwrap_or(host);
    create(
        "/apis/networking.istio.io/v1/namespaces/default/serviceentries",
        json!({
            "apiVersion": "networking.istio.io/v1", "kind": "ServiceEntry", "metadata": {"name": name},
            "spec": {
                "hosts": [host], "location": "MESH_INTERNAL", "resolution": "STATIC",
                "ports": [{"number": 80, "name": "tls", "protocol": "TLS", "targetPort": port}],
                "endpoints": endpoints,
            },
        }),
    )
}

/// Runs the command line in the folder; what it prints.
pub(super) fn isthmus(context: &Context, folder: &Path, arguments: &[&str]) -> anyhow::Result<Vec<u8>> {
    let mut command = Command::new(context.programs.join("isthmus"));
    command.args(arguments).current_dir(folder).env("KUBECONFIG", folder.join("data/admin.kubeconfig"));
    let output = command.output().with_context(|| format!("{command:?}"))?;
    let said = || String::from_utf8_lossy(&output.stderr).into_owned();
    anyhow::ensure!(output.status.success(), "isthmus {}: {}", arguments.join(" "), said());
    Ok(output.stdout)
}

pub(super) fn create(collection: &str, object: Value) -> Write {
    Write { path: collection.to_string(), object, status: None }
}
