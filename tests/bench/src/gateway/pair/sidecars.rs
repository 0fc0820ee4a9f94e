//! Two of our sidecars, joined to a control plane of ours.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use serde_json::json;

use super::super::contender::Contender;
use super::super::origin::{BULK_PORT, ECHO_PORT};
use super::super::ours::{control_plane, create, isthmus};
use super::super::{Context, load};
use super::pod::Pod;

/// Where the control plane serves; the gateways' benchmark has the usual port.
const GRPC_PORT: u16 = 17_012;

/// Where each sidecar keeps key, chain and roots.
pub(super) struct Identities {
    pub(super) client: PathBuf,
    pub(super) server: PathBuf,
}

/// The pair, and its identities.
pub(super) async fn start(
    context: &Context,
    pod: &Pod,
    folder: &Path,
) -> anyhow::Result<(Contender, Identities)> {
    let (near, far) = pod.addresses();
    let (primary, api) = control_plane(context, folder, SocketAddr::from((near, GRPC_PORT))).await?;
    let account = |name: &str| {
        create(
            "/api/v1/namespaces/default/serviceaccounts",
            json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}}),
        )
    };
    let entry = create(
        "/apis/networking.istio.io/v1/namespaces/default/serviceentries",
        json!({
            "apiVersion": "networking.istio.io/v1", "kind": "ServiceEntry", "metadata": {"name": "server"},
            "spec": {
                "hosts": ["server.bench.mesh.internal"], "addresses": [pod.service().to_string()],
                "location": "MESH_INTERNAL", "resolution": "STATIC",
                "ports": [
                    {"number": BULK_PORT, "name": "tcp-bulk", "protocol": "TCP"},
                    {"number": ECHO_PORT, "name": "tcp-echo", "protocol": "TCP"},
                ],
                "workloadSelector": {"labels": {"app": "server"}},
            },
        }),
    );
    api.load(vec![account("client"), account("server"), entry], |_, _| {}).await?;
    let path = |name: &str| folder.join(name).display().to_string();
    let mut arguments = Vec::new();
    for (name, address) in [("client", near), ("server", far)] {
        let account = format!("default/{name}");
        let token = isthmus(context, folder, &["host", "token", "--service-account", &account])?;
        std::fs::write(folder.join(format!("{name}.token")), token)?;
        let direct = format!("{GRPC_PORT},6443");
        // No access log, as the others have none.
        let line = [
            "run",
            "--concurrency",
            "1",
            "--log",
            "warn",
            "--token-file",
            &path(&format!("{name}.token")),
            "--service-account",
            &account,
            "--labels",
            &format!("app={name}"),
            "--name",
            name,
            "--address",
            &IpAddr::from(address).to_string(),
            "--data-dir",
            &path(name),
            "--exclude-inbound-ports",
            &direct,
            "--drain",
            "1s",
            "--",
            "sleep",
            "infinity",
        ];
        arguments.push(line.map(ToString::to_string));
    }
    let program = context.programs.join("isthmus-sidecar");
    let server = pod.program(&program, "server", &arguments[1], folder)?;
    let client = crate::xds::processes::Running::start(&program, "client", &arguments[0], folder)?;
    let ours = super::contender("isthmus", pod.service(), vec![client, server], vec![primary])?;
    // They have their certificates once bytes pass.
    load::until_open(&ours.echo).await?;
    let identity = |name: &str| folder.join(name).join("identity");
    Ok((ours, Identities { client: identity("client"), server: identity("server") }))
}
