//! `isthmus link`.

use std::io::Read;

use anyhow::{Context, bail};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use isthmus_model::ClusterId;
use isthmus_model::token::LinkToken;
use isthmus_resources::Kind;
use isthmus_resources::peer::Peer;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::api::Api;
use crate::args::{Format, LinkAcceptArgs, LinkCommand, LinkCreateArgs, OutputArgs, ServerArgs};
use crate::mesh::{Mesh, hex};
use crate::output::{self, Verdict, cell, judged};

/// Runs one of them.
pub(crate) async fn run(server: &ServerArgs, command: &LinkCommand) -> anyhow::Result<()> {
    match command {
        LinkCommand::Create(args) => create(server, args).await,
        LinkCommand::Accept(args) => accept(server, args).await,
        LinkCommand::List(args) => list(server, *args).await,
        LinkCommand::Remove { cluster } => remove(server, cluster).await,
    }
}

async fn create(server: &ServerArgs, args: &LinkCreateArgs) -> anyhow::Result<()> {
    let api = Api::connect(server).await?;
    let mesh = Mesh::read(&api).await?;
    if args.to == mesh.cluster {
        bail!(
            "{} is this cluster itself: name the other one with --to, or choose another --context",
            args.to
        );
    }
    let gateways = match args.gateways.is_empty() {
        false => args.gateways.clone(),
        true => mesh.gateways(&api).await?,
    };
    if gateways.is_empty() {
        bail!(
            "no gateway of network {:?} is registered ({}), so {} could not call; register one, or name one with \
             --gateway HOST:PORT",
            mesh.network,
            mesh.gateway_advice(),
            args.to
        );
    }
    refuse_existing(&api, &args.to, args.force).await?;
    let secret = URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>());
    let root = mesh.root_fingerprints()?.swap_remove(0);
    let peer = Peer {
        mesh_id: mesh.mesh_id.clone(),
        root_sha256: root.clone(),
        secret_sha256: hex(&Sha256::digest(&secret)),
        ..Peer::default()
    };
    api.within(api.cluster.put_peer(args.to.as_str(), &peer)).await?;
    let token = LinkToken {
        mesh_id: mesh.mesh_id.as_str().into(),
        cluster: mesh.cluster.clone(),
        revision: mesh.revision.as_str().into(),
        network: mesh.network.clone(),
        to: args.to.clone(),
        gateways: gateways.into_iter().map(Into::into).collect(),
        root_sha256: root.into(),
        secret: secret.into(),
    };
    match args.output.output {
        Format::Text => output::print(&format!("{token}\n"))?,
        other => {
            let value = json!({
                "token": token.to_string(), "from": token.cluster, "to": token.to, "gateways": token.gateways,
            });
            output::structured(&value, other)?;
        }
    }
    let (from, to) = (&token.cluster, &token.to);
    output::advise(&format!(
        "\n{from} now waits for {to} to call; the administrator of {to} runs\n  isthmus --context {to} link accept TOKEN"
    ));
    Ok(())
}

async fn accept(server: &ServerArgs, args: &LinkAcceptArgs) -> anyhow::Result<()> {
    let text = match args.token.as_str() {
        "-" => from_stdin()?,
        given => given.to_string(),
    };
    let token: LinkToken = text.parse()?;
    let api = Api::connect(server).await?;
    let mesh = Mesh::read(&api).await?;
    if token.to != mesh.cluster {
        bail!("the token is for cluster {}, and context {:?} is {}", token.to, api.context(), mesh.cluster);
    }
    if *token.mesh_id != *mesh.mesh_id {
        bail!(
            "{} is of mesh {:?}, {} of mesh {:?}: start both primaries with the same --mesh-id",
            token.cluster,
            token.mesh_id,
            mesh.cluster,
            mesh.mesh_id
        );
    }
    if !mesh.root_fingerprints()?.iter().any(|root| **root == *token.root_sha256) {
        bail!(
            "{} has another root certificate (SHA-256 {}…) than {}: both intermediates must be signed by one root \
             (`isthmus ca intermediate --root DIR`)",
            token.cluster,
            token.root_sha256.get(..16).unwrap_or_default(),
            mesh.cluster
        );
    }
    refuse_existing(&api, &token.cluster, args.force).await?;
    let name = token.cluster.as_str();
    let peer = Peer {
        mesh_id: token.mesh_id.to_string(),
        revision: token.revision.to_string(),
        network: token.network.to_string(),
        gateways: token.gateways.iter().map(ToString::to_string).collect(),
        root_sha256: token.root_sha256.to_string(),
        ..Peer::default()
    };
    // The secret first: a control plane that sees the Peer calls at once.
    api.within(api.cluster.put_peer_secret(name, &token.secret)).await?;
    api.within(api.cluster.put_peer(name, &peer)).await?;
    output::print(&format!(
        "{} linked to {} through {}\n",
        mesh.cluster,
        token.cluster,
        token.gateways.join(", ")
    ))?;
    output::advise(&format!("\nsee it come up with\n  isthmus --context {} link list", api.context()));
    Ok(())
}

fn from_stdin() -> anyhow::Result<String> {
    let mut text = String::new();
    // A token is some hundred bytes.
    std::io::stdin()
        .take(64 * 1024)
        .read_to_string(&mut text)
        .context("reading the token from standard input")?;
    Ok(text)
}

async fn refuse_existing(api: &Api, cluster: &ClusterId, force: bool) -> anyhow::Result<()> {
    if !force && api.within(api.cluster.get(Kind::Peer, None, cluster.as_str())).await?.is_some() {
        bail!(
            "Peer {cluster} exists already; `isthmus link remove {cluster}` takes the link away, --force replaces it"
        );
    }
    Ok(())
}

async fn remove(server: &ServerArgs, cluster: &ClusterId) -> anyhow::Result<()> {
    let api = Api::connect(server).await?;
    if !api.within(api.cluster.remove_peer(cluster.as_str())).await? {
        bail!("context {:?} has no link to {cluster}; `isthmus link list` shows what it has", api.context());
    }
    output::print(&format!("link to {cluster} removed\n"))?;
    output::advise(&format!(
        "\n{cluster} keeps its half until it is removed there too:\n  isthmus --context {cluster} link remove {}",
        api.context()
    ));
    Ok(())
}

async fn list(server: &ServerArgs, args: OutputArgs) -> anyhow::Result<()> {
    let mut rows = Vec::new();
    let mut links = Vec::new();
    let mut silent = Vec::new();
    for api in Api::connect_all(server).await? {
        let peers = match api.within(api.cluster.list(Kind::Peer, None, None)).await {
            Ok(peers) => peers,
            // One cluster that does not answer must not hide the others.
            Err(error) if server.all_contexts => {
                output::advise(&format!("context {}: {error:#}", api.context()));
                silent.push(api.context().to_string());
                continue;
            }
            Err(error) => return Err(error),
        };
        for peer in peers {
            rows.push(row(api.context(), &peer));
            links.push(json!({
                "context": api.context(),
                "cluster": peer["metadata"]["name"],
                "spec": peer["spec"],
                "status": peer["status"],
            }));
        }
    }
    match args.output {
        Format::Text if rows.is_empty() && silent.is_empty() => {
            output::advise("no links; make one with\n  isthmus --context ONE link create --to OTHER");
        }
        Format::Text if rows.is_empty() => {}
        Format::Text => output::print(&output::table(
            &["CONTEXT", "LINK", "STATE", "SYNCED", "LAST HEARD", "SERVICES", "CALLS", "PROBLEM"],
            rows,
        ))?,
        other => output::structured(&links, other)?,
    }
    if !silent.is_empty() {
        bail!("no answer from {}", silent.join(", "));
    }
    Ok(())
}

fn row(context: &str, peer: &Value) -> Vec<comfy_table::Cell> {
    let text = |pointer| peer.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_string();
    let state = text("/status/state");
    let verdict = match state.as_str() {
        "Connected" => Verdict::Good,
        "Refused" => Verdict::Bad,
        _ => Verdict::Doubtful,
    };
    let state = if state.is_empty() { "Unknown".to_string() } else { state };
    let synced = peer.pointer("/status/synced").and_then(Value::as_bool).unwrap_or_default();
    let gateways: Vec<&str> = peer
        .pointer("/spec/gateways")
        .and_then(Value::as_array)
        .map(|all| all.iter().filter_map(Value::as_str).collect())
        .unwrap_or_default();
    let calls = if gateways.is_empty() { "it calls us".to_string() } else { gateways.join(", ") };
    vec![
        cell(context),
        cell(text("/metadata/name")),
        judged(state, verdict),
        judged(if synced { "yes" } else { "no" }, if synced { Verdict::Good } else { Verdict::Doubtful }),
        cell(text("/status/lastHeard")),
        cell(peer.pointer("/status/services").map(Value::to_string).unwrap_or_default()),
        cell(calls),
        cell(text("/status/error")),
    ]
}
