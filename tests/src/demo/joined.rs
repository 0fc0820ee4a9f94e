//! Step 2: root, intermediates, control planes, gateways, link, VM: joined by hand as a user would.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;

use super::check::{Teller, Verdict, shown, succeeds};
use super::mesh::{Mesh, TOKEN_FILE};
use super::mysql;
use crate::host::{Host, Output};
use crate::mounts::DEPLOY;
use crate::topology::Network::{East, Site, West};

const CA_FILES: [&str; 4] = ["ca-cert.pem", "ca-key.pem", "root-cert.pem", "cert-chain.pem"];
const LINKED_WITHIN: Duration = Duration::from_secs(15);
const REGISTERED_WITHIN: Duration = Duration::from_secs(15);

pub(super) fn run(teller: &Teller<'_>, mesh: &Mesh<'_>) -> anyhow::Result<()> {
    certificates(teller, mesh)?;
    mesh.start_primaries(teller, &[East, West])?;
    for cluster in [East, West] {
        let host = mesh.control_plane(cluster)?;
        let apply =
            format!("kubectl apply -f {DEPLOY}/demo/common.yaml -f {DEPLOY}/demo/{}.yaml", cluster.name());
        teller.act(&format!("specs for {}", cluster.name()), &host, &apply)?;
    }
    gateways(teller, mesh)?;
    link(teller, mesh)?;
    virtual_machine(teller, mesh)
}

/// One root, offline; an intermediate for each cluster, carried there by hand.
fn certificates(teller: &Teller<'_>, mesh: &Mesh<'_>) -> anyhow::Result<()> {
    let offline = mesh.host("offline")?;
    teller.act("a root, on a machine without any network", &offline, "isthmus ca root --out root")?;
    for cluster in [East, West] {
        let name = cluster.name();
        let command = format!("isthmus ca intermediate --root root --cluster {name} --out {name}");
        teller.act(&format!("an intermediate for {name}"), &offline, &command)?;
        let host = mesh.control_plane(cluster)?;
        for file in CA_FILES {
            let text = offline.must(&format!("cat {name}/{file}"))?;
            host.write(&format!("/var/lib/isthmus/cacerts/{file}"), &format!("{text}\n"))?;
        }
    }
    // Nothing that runs from here on can read the root's key.
    offline.power_off();
    teller.report.did(
        "intermediates are carried to the clusters; the root's machine is off",
        &[],
        Duration::ZERO,
    );
    Ok(())
}

fn gateways(teller: &Teller<'_>, mesh: &Mesh<'_>) -> anyhow::Result<()> {
    for (network, cluster) in [(East, East), (West, West), (Site, West)] {
        let control_plane = mesh.control_plane(cluster)?;
        // The site's machines reach west's control plane through west's gateway.
        let site = if network == Site {
            format!(" --network site --address {}:15012", West.border())
        } else {
            String::new()
        };
        let command =
            format!("isthmus host token --service-account istio-system/istio-eastwestgateway{site}");
        let token =
            teller.act(&format!("a token for {}'s gateway", network.name()), &control_plane, &command)?;
        mesh.gateway(network)?.write(TOKEN_FILE, &token)?;
        mesh.start_gateway(teller, network)?;
        // The site's gateway starts once west's passes it on.
        mesh.await_ready(
            teller,
            &[mesh.gateway(network)?],
            &format!("{}'s gateway is ready", network.name()),
        )?;
    }
    Ok(())
}

fn link(teller: &Teller<'_>, mesh: &Mesh<'_>) -> anyhow::Result<()> {
    let (east, west) = (mesh.control_plane(East)?, mesh.control_plane(West)?);
    if mesh.breaks("federation") {
        let rule = "nft add table ip broken; nft add chain ip broken out '{ type filter hook output priority 0; }'; \
                    nft add rule ip broken out tcp dport 15012 oifname eth0 drop";
        teller.act(
            "(broken on purpose: east's gateway no longer reaches its control plane)",
            &mesh.gateway(East)?,
            rule,
        )?;
    }
    let token = teller.act("east offers a link", &east, "isthmus link create --to west")?;
    let accept =
        west.run_with(Duration::from_secs(10), "isthmus link accept $TOKEN", "", &[("TOKEN", &token)])?;
    teller.judged("west accepts its token", &west, "isthmus link accept $TOKEN", &accept, &succeeds)?;
    for host in [&west, &east] {
        let what = format!("federation: {} hears the other side", host.name());
        teller.within(LINKED_WITHIN, &what, host, "isthmus link list", is_linked)?;
    }
    Ok(())
}

fn is_linked(output: &Output) -> Verdict {
    succeeds(output)?;
    match output.stdout.lines().find(|line| line.contains("Connected")) {
        Some(line) => Ok(line.trim().to_string()),
        None => Err("the peer is not connected".into()),
    }
}

fn virtual_machine(teller: &Teller<'_>, mesh: &Mesh<'_>) -> anyhow::Result<()> {
    let (vm, west) = (mesh.host("vm")?, mesh.control_plane(West)?);
    let began = Instant::now();
    mysql::install(&vm)?;
    mesh.keep(mysql::start_new(&vm)?);
    teller.report.did(
        "MySQL with Bookinfo's table, on the VM",
        &[shown(&vm, mysql::command())],
        began.elapsed(),
    );

    let token = teller.act("a one-time token", &west, "isthmus vm token --group vm/mysqldb-vm")?;
    if mesh.breaks("registration") {
        teller.act(
            "(broken on purpose: the group that the VM would join is gone)",
            &west,
            "kubectl delete workloadgroup -n vm mysqldb-vm",
        )?;
    }
    let join = mesh.vm_command(true);
    mesh.start_with(&vm, "isthmus-vm-agent", &join, &[("TOKEN", &token)])?;
    teller.report.did("the VM joins", &[shown(&vm, &join)], Duration::ZERO);
    let entry = "kubectl get workloadentries -n vm -o jsonpath='{range .items[*]}{.metadata.name} {.spec.address} \
                 {.spec.network} {.metadata.annotations.istio\\.io/autoRegistrationGroup} \
                 {.status.conditions[?(@.type==\"Healthy\")].status}{end}'";
    teller.within(
        REGISTERED_WITHIN,
        "registration: its WorkloadEntry appears, healthy",
        &west,
        entry,
        |output| {
            succeeds(output)?;
            let line = output.stdout.trim();
            let wanted = format!("{} site mysqldb-vm True", vm.plan.address);
            if line.contains(&wanted) {
                Ok(line.to_string())
            } else {
                Err(format!("no entry that says {wanted:?}"))
            }
        },
    )?;
    the_token_is_spent(teller, mesh, &token)
}

/// The same token, on another host of the site.
fn the_token_is_spent(teller: &Teller<'_>, mesh: &Mesh<'_>, token: &str) -> anyhow::Result<()> {
    let other: Arc<Host> = mesh.host("site-client").context("second host of the site")?;
    let command = "isthmus-vm-agent join $TOKEN --data-dir /tmp/agent --no-run";
    let output = other.run_with(Duration::from_secs(10), command, "", &[("TOKEN", token)])?;
    teller.judged(
        "a second machine cannot use the same token",
        &other,
        command,
        &output,
        &|output: &Output| {
            if output.is_success() || output.status.is_none() {
                return Err(format!("it should be refused, but {}", output.ending()));
            }
            Ok(output.stderr.lines().last().unwrap_or_default().to_string())
        },
    )
}
