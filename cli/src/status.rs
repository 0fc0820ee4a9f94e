//! `isthmus status`.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, bail};
use comfy_table::Cell;
use isthmus_model::status::{
    CertificateStatus, DocumentStatus, MeshStatus, PeerStatus, ProxyStatus, TypeStatus, VmStatus,
};
use serde_json::{Value, json};

use crate::api::Api;
use crate::args::{Format, ServerArgs, StatusArgs};
use crate::output::{self, Verdict, age, cell, heading, judged, table};

const PATH: &str = "/debug/isthmus/status";
/// Certificates with less than this left are marked.
const SOON: i64 = 30 * 86_400;

/// Asks one control plane, or one for each context.
pub(crate) async fn run(server: &ServerArgs, args: &StatusArgs) -> anyhow::Result<()> {
    let mut reports = Vec::new();
    let mut failed = 0;
    let apis = match &args.pages.control_plane {
        Some(url) => vec![Api::at(server, url)?],
        None => Api::connect_all(server).await?,
    };
    for api in apis {
        let report = fetch(&api).await;
        failed += usize::from(report.is_err());
        reports.push((api.context().to_string(), report));
    }
    match args.output.output {
        Format::Text => {
            let sections: Vec<String> = reports
                .iter()
                .map(|(context, report)| match report {
                    Ok(status) => render(status),
                    Err(error) => format!("{}{error:#}\n", heading(&format!("context {context}"))),
                })
                .collect();
            output::print(&sections.join("\n"))?;
        }
        // One context: the report itself, as the control plane gave it.
        other if !server.all_contexts => {
            if let Some((_, Ok(status))) = reports.first() {
                output::structured(status, other)?;
            }
        }
        other => {
            let all: Vec<Value> = reports
                .iter()
                .map(|(context, report)| match report {
                    Ok(status) => json!({ "context": context, "status": status }),
                    Err(error) => json!({ "context": context, "error": format!("{error:#}") }),
                })
                .collect();
            output::structured(&all, other)?;
        }
    }
    match (reports.into_iter().next(), failed) {
        (_, 0) => Ok(()),
        (Some((_, Err(error))), _) if !server.all_contexts => Err(error),
        (_, failed) => bail!("{failed} control planes did not answer"),
    }
}

async fn fetch(api: &Api) -> anyhow::Result<MeshStatus> {
    let body = api.page(PATH).await?;
    serde_json::from_str(&body).with_context(|| format!("{PATH} of context {:?}", api.context()))
}

fn render(status: &MeshStatus) -> String {
    let mut text = heading(&format!("cluster {}", status.cluster));
    text.push_str(&format!(
        "mesh {}, network {}, revision {}, trust domain {}, snapshot {}\n",
        status.mesh_id, status.network, status.revision, status.trust_domain, status.snapshot
    ));
    text.extend(status.configuration.iter().flat_map(document));
    let (gateways, sidecars): (Vec<_>, Vec<_>) =
        status.proxies.iter().partition(|proxy| proxy.kind == "router");
    let sections = [
        ("PEER", peers(&status.peers), "no peers: link one with `isthmus link create --to CLUSTER`"),
        (
            "GATEWAY",
            proxies("GATEWAY", &gateways),
            "no gateways: workloads of other networks are out of reach",
        ),
        ("PROXY", proxies("PROXY", &sidecars), "no proxies: start one with `isthmus-sidecar run`"),
        (
            "MACHINE",
            vms(&status.vms),
            "no machines: bring one in with `isthmus vm token --group NAMESPACE/NAME`",
        ),
        ("CERTIFICATE", certificates(&status.certificates), "no certificates reported"),
    ];
    for (_, section, none) in sections {
        text.push('\n');
        match section {
            Some(section) => text.push_str(&section),
            None => text.push_str(&format!("{none}\n")),
        }
    }
    text
}

/// What is wrong with a document of the mesh's configuration.
fn document(document: &DocumentStatus) -> Vec<String> {
    let named = format!("{} ({})", document.name, document.source);
    let refused = document
        .error
        .iter()
        .map(|error| format!("{named}: refused, and what was good before is in force: {error}\n"));
    let idle = Some(document.not_in_force.join(", ")).filter(|fields| !fields.is_empty());
    refused.chain(idle.map(|fields| format!("{named}: set and not in force: {fields}\n"))).collect()
}

fn peers(peers: &[PeerStatus]) -> Option<String> {
    let rows: Vec<Vec<Cell>> = peers.iter().map(peer).collect();
    let headers = ["PEER", "STATE", "SYNCED", "LAST HEARD", "SERVICES", "REFUSED", "PROBLEM"];
    (!rows.is_empty()).then(|| table(&headers, rows))
}

fn peer(peer: &PeerStatus) -> Vec<Cell> {
    let verdict = match peer.state.as_str() {
        "Connected" => Verdict::Good,
        "Refused" => Verdict::Bad,
        _ => Verdict::Doubtful,
    };
    let synced = match peer.synced {
        true => judged("yes", Verdict::Good),
        false => judged("no", Verdict::Doubtful),
    };
    let heard = peer
        .age_ms
        .map_or_else(|| "never".to_string(), |ms| format!("{} ago", age(Duration::from_millis(ms))));
    let problems: Vec<&str> = peer.error.iter().chain(&peer.refusals).map(String::as_str).collect();
    vec![
        cell(&peer.cluster),
        judged(&peer.state, verdict),
        synced,
        cell(heard),
        cell(peer.services.to_string()),
        match peer.refusals.len() {
            0 => cell("0"),
            some => judged(some.to_string(), Verdict::Bad),
        },
        cell(problems.join("; ")),
    ]
}

/// One column for each resource type that any of the proxies has.
fn proxies(title: &str, proxies: &[&ProxyStatus]) -> Option<String> {
    if proxies.is_empty() {
        return None;
    }
    let types: BTreeSet<&str> =
        proxies.iter().flat_map(|proxy| &proxy.types).map(|kind| kind.name.as_str()).collect();
    let headers: Vec<&str> = [title, "NETWORK", "ADDRESS", "CONNECTED"]
        .into_iter()
        .chain(types.iter().copied())
        .chain(["PROBLEM"])
        .collect();
    let row = |proxy: &&ProxyStatus| {
        let mut row = vec![
            cell(&proxy.name),
            cell(&proxy.network),
            cell(&proxy.address),
            cell(age(Duration::from_millis(proxy.connected_ms))),
        ];
        row.extend(types.iter().map(|name| {
            proxy.types.iter().find(|kind| kind.name == *name).map_or_else(|| cell(""), type_cell)
        }));
        let problems: Vec<String> = proxy
            .types
            .iter()
            .filter_map(|kind| Some(format!("{}: {}", kind.name, kind.error.as_ref()?)))
            .collect();
        row.push(cell(problems.join("; ")));
        row
    };
    Some(table(&headers, proxies.iter().map(row).collect()))
}

fn type_cell(kind: &TypeStatus) -> Cell {
    let verdict = match kind.state.as_str() {
        "Acked" => Verdict::Good,
        "Nacked" => Verdict::Bad,
        _ => Verdict::Doubtful,
    };
    judged(format!("{} {}", kind.resources, kind.state.to_lowercase()), verdict)
}

fn vms(vms: &[VmStatus]) -> Option<String> {
    let row = |vm: &VmStatus| {
        let health = match vm.health.as_str() {
            "Healthy" => Verdict::Good,
            "Unhealthy" => Verdict::Bad,
            _ => Verdict::Doubtful,
        };
        vec![
            cell(&vm.name),
            cell(&vm.group),
            cell(&vm.address),
            cell(&vm.network),
            judged(&vm.health, health),
            match vm.connected {
                true => judged("yes", Verdict::Good),
                false => judged("no", Verdict::Bad),
            },
        ]
    };
    let rows: Vec<Vec<Cell>> = vms.iter().map(row).collect();
    let headers = ["MACHINE", "GROUP", "ADDRESS", "NETWORK", "HEALTH", "CONNECTED"];
    (!rows.is_empty()).then(|| table(&headers, rows))
}

fn certificates(certificates: &[CertificateStatus]) -> Option<String> {
    let row = |certificate: &CertificateStatus| {
        let left = certificate.seconds_left;
        let text = match u64::try_from(left) {
            Ok(0) | Err(_) => judged("expired", Verdict::Bad),
            Ok(seconds) if left < SOON && certificate.name != "serving" => {
                judged(age(Duration::from_secs(seconds)), Verdict::Doubtful)
            }
            Ok(seconds) => judged(age(Duration::from_secs(seconds)), Verdict::Good),
        };
        vec![cell(&certificate.name), text, cell(&certificate.not_after), cell(&certificate.subject)]
    };
    let rows: Vec<Vec<Cell>> = certificates.iter().map(row).collect();
    (!rows.is_empty()).then(|| table(&["CERTIFICATE", "LEFT", "NOT AFTER", "SUBJECT"], rows))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn west() -> MeshStatus {
        MeshStatus {
            mesh_id: "mesh1".into(),
            cluster: "west".into(),
            network: "west".into(),
            revision: "default".into(),
            trust_domain: "cluster.local".into(),
            snapshot: 42,
            peers: vec![PeerStatus {
                cluster: "east".into(),
                state: "Connected".into(),
                synced: true,
                age_ms: Some(400),
                services: 6,
                refusals: vec!["service x.y: not of cluster east".into()],
                error: None,
            }],
            proxies: vec![ProxyStatus {
                name: "ratings-v2.default".into(),
                kind: "sidecar".into(),
                network: "west".into(),
                address: "10.2.0.11".into(),
                connected_ms: 184_000,
                types: vec![
                    TypeStatus { name: "CDS".into(), resources: 14, state: "Acked".into(), error: None },
                    TypeStatus {
                        name: "LDS".into(),
                        resources: 9,
                        state: "Nacked".into(),
                        error: Some("listener x: no filter".into()),
                    },
                ],
            }],
            vms: Vec::new(),
            certificates: vec![CertificateStatus {
                name: "root".into(),
                subject: "CN=isthmus root".into(),
                not_after: "2036-11-21T00:00:00Z".into(),
                seconds_left: -3,
            }],
            configuration: vec![DocumentStatus {
                name: "MeshConfig".into(),
                source: "mesh.yaml".into(),
                error: Some("mesh config: connectTimeout: no duration".into()),
                not_in_force: vec!["ingressClass".into(), "novelty".into()],
            }],
        }
    }

    #[test]
    fn the_report_names_what_is_wrong_and_what_to_do_about_what_is_missing() {
        let text = anstream::adapter::strip_str(&render(&west())).to_string();
        let expected = "\
cluster west
mesh mesh1, network west, revision default, trust domain cluster.local, snapshot 42
MeshConfig (mesh.yaml): refused, and what was good before is in force: mesh config: connectTimeout: no duration
MeshConfig (mesh.yaml): set and not in force: ingressClass, novelty

PEER  STATE      SYNCED  LAST HEARD  SERVICES  REFUSED  PROBLEM
east  Connected  yes     400ms ago   6         1        service x.y: not of cluster east

no gateways: workloads of other networks are out of reach

PROXY               NETWORK  ADDRESS    CONNECTED  CDS       LDS       PROBLEM
ratings-v2.default  west     10.2.0.11  3m4s       14 acked  9 nacked  LDS: listener x: no filter

no machines: bring one in with `isthmus vm token --group NAMESPACE/NAME`

CERTIFICATE  LEFT     NOT AFTER             SUBJECT
root         expired  2036-11-21T00:00:00Z  CN=isthmus root
";
        assert_eq!(text, expected);
    }
}
