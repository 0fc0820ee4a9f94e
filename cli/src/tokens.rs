//! `isthmus vm token`, `isthmus host token`.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::{Context, bail};
use isthmus_kube::mesh::{HOST_AUDIENCE, SYSTEM_NAMESPACE, VM_AUDIENCE};
use isthmus_model::token::{self, JoinToken};
use isthmus_model::{NamespacedName, NetworkId};
use isthmus_resources::Kind;
use serde_json::{Value, json};

use crate::api::Api;
use crate::args::{Format, HostTokenArgs, MachineArgs, ServerArgs, VmTokenArgs};
use crate::grant::{Bearer, Grant};
use crate::mesh::Mesh;
use crate::output;

/// The account whose tokens hosts get; it may do nothing but be recognized.
const HOST_ACCOUNT: &str = "isthmus-host";

/// A one-time token for a machine of a WorkloadGroup.
pub(crate) async fn vm(server: &ServerArgs, args: &VmTokenArgs) -> anyhow::Result<()> {
    let api = Api::connect(server).await?;
    let mesh = Mesh::read(&api).await?;
    let NamespacedName { namespace, name } = &args.group;
    let namespace = namespace.as_str();
    let Some(group) = api.within(api.cluster.get(Kind::WorkloadGroup, Some(namespace), name)).await? else {
        bail!("{}", missing_group(&args.group));
    };
    let text = |pointer| group.pointer(pointer).and_then(Value::as_str).filter(|text| !text.is_empty());
    let account = text("/spec/template/serviceAccount").unwrap_or("default");
    require_account(&api, namespace, account, &format!("WorkloadGroup {} names it", args.group)).await?;
    let network = match (&args.machine.network, text("/spec/template/network")) {
        (Some(asked), _) => asked.clone(),
        (None, Some(template)) => template.parse().context("WorkloadGroup: spec.template.network")?,
        (None, None) => mesh.network.clone(),
    };
    let addresses = reachable(&api, &mesh, &network, &args.machine).await?;
    let grant = Grant {
        prefix: "isthmus-join",
        kind: "isthmus.io/vm-join",
        namespace,
        account,
        audience: VM_AUDIENCE,
        says: ("group", args.group.to_string()),
    };
    let bearer = grant.issue(&api, args.ttl).await?;
    let token = token(token::Grant::Vm(args.group.clone()), &mesh, network, addresses, &bearer);
    show(&token, &bearer, &args.machine)?;
    output::advise(&format!(
        "\none machine joins {} with it, once, until {}; on the machine:\n  isthmus-vm-agent join TOKEN",
        args.group, bearer.expires
    ));
    Ok(())
}

/// A token for a host that runs workloads.
pub(crate) async fn host(server: &ServerArgs, args: &HostTokenArgs) -> anyhow::Result<()> {
    let api = Api::connect(server).await?;
    let mesh = Mesh::read(&api).await?;
    for NamespacedName { namespace, name } in &args.service_accounts {
        require_account(&api, namespace.as_str(), name, "workloads are to run as it").await?;
    }
    let network = args.machine.network.clone().unwrap_or_else(|| mesh.network.clone());
    let addresses = reachable(&api, &mesh, &network, &args.machine).await?;
    api.within(api.cluster.ensure_service_account(SYSTEM_NAMESPACE, HOST_ACCOUNT)).await?;
    let names: Vec<String> = args.service_accounts.iter().map(ToString::to_string).collect();
    let grant = Grant {
        prefix: "isthmus-host",
        kind: "isthmus.io/host",
        namespace: SYSTEM_NAMESPACE,
        account: HOST_ACCOUNT,
        audience: HOST_AUDIENCE,
        says: ("serviceAccounts", names.join(",")),
    };
    let bearer = grant.issue(&api, args.ttl).await?;
    let grant = token::Grant::Host(args.service_accounts.clone());
    let token = token(grant, &mesh, network, addresses, &bearer);
    show(&token, &bearer, &args.machine)?;
    output::advise(&format!(
        "\nworkloads run as {} with it until {}, or until it is revoked:\n  kubectl -n {SYSTEM_NAMESPACE} delete secret {}\n\
         on the host:\n  isthmus-sidecar run --token-file FILE --service-account {} --labels app=NAME -- COMMAND",
        names.join(", "),
        bearer.expires,
        bearer.secret,
        names.first().map_or("NAMESPACE/NAME", String::as_str),
    ));
    Ok(())
}

fn missing_group(group: &NamespacedName) -> String {
    let NamespacedName { namespace, name } = group;
    format!(
        "WorkloadGroup {group} does not exist: it says what machines that join become; make it with\n\
         kubectl apply -f - <<EOF\n\
         apiVersion: networking.istio.io/v1\n\
         kind: WorkloadGroup\n\
         metadata: {{ name: {name}, namespace: {namespace} }}\n\
         spec:\n  \
           metadata: {{ labels: {{ app: {name} }} }}\n  \
           template: {{ serviceAccount: {name} }}\n\
         EOF\n\
         kubectl -n {namespace} create serviceaccount {name}"
    )
}

async fn require_account(api: &Api, namespace: &str, name: &str, why: &str) -> anyhow::Result<()> {
    if api.within(api.cluster.get(Kind::ServiceAccount, Some(namespace), name)).await?.is_none() {
        bail!(
            "ServiceAccount {namespace}/{name} does not exist, and {why}; make it with\n  \
             kubectl -n {namespace} create serviceaccount {name}"
        );
    }
    Ok(())
}

/// Where the machine reaches the control plane.
async fn reachable(
    api: &Api,
    mesh: &Mesh,
    network: &NetworkId,
    machine: &MachineArgs,
) -> anyhow::Result<Vec<String>> {
    if !machine.addresses.is_empty() {
        return Ok(machine.addresses.clone());
    }
    if network.reaches(&mesh.network) {
        if mesh.addresses.is_empty() {
            bail!(
                "the control plane of {} advertises no address; give one with --address HOST:PORT",
                mesh.cluster
            );
        }
        return Ok(mesh.addresses.clone());
    }
    let gateways = mesh.gateways(api).await?;
    if gateways.is_empty() {
        bail!(
            "the machine is in network {network:?}, the control plane in {:?}, and no gateway of {:?} is registered ({}); \
             register one, or give an address with --address HOST:PORT",
            mesh.network,
            mesh.network,
            mesh.gateway_advice(),
        );
    }
    Ok(gateways)
}

fn token(
    grant: token::Grant,
    mesh: &Mesh,
    network: NetworkId,
    addresses: Vec<String>,
    bearer: &Bearer,
) -> JoinToken {
    JoinToken {
        grant,
        cluster: mesh.cluster.clone(),
        network,
        addresses: addresses.into_iter().map(Into::into).collect(),
        server_name: mesh.server_name.as_str().into(),
        roots: mesh.roots_pem.as_str().into(),
        bearer: bearer.token.as_str().into(),
    }
}

fn show(token: &JoinToken, bearer: &Bearer, machine: &MachineArgs) -> anyhow::Result<()> {
    if let Some(file) = &machine.out {
        write_secret(file, &format!("{token}\n")).with_context(|| format!("writing {}", file.display()))?;
    }
    let format = machine.output.output;
    match (format, &machine.out) {
        (Format::Text, None) => return output::print(&format!("{token}\n")),
        (Format::Text, Some(file)) => {
            return output::print(&format!("token written to {}\n", file.display()));
        }
        _ => {}
    }
    let value = json!({
        "token": token.to_string(),
        "cluster": token.cluster,
        "network": token.network,
        "addresses": token.addresses,
        "secret": bearer.secret,
        "expires": bearer.expires,
    });
    output::structured(&value, format)
}

/// Writes a file that only its owner can read; one that is there is replaced, whoever could read it.
fn write_secret(path: &Path, text: &str) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?.write_all(text.as_bytes())
}
