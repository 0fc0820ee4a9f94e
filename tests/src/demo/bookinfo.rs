//! Step 3: Bookinfo over three networks, and the stars that are in the VM's database.

use std::time::Duration;

use super::check::{Teller, Verdict, says, succeeds};
use super::mesh::{Mesh, TOKEN_FILE, WORKLOADS};
use super::mysql;
use crate::host::Output;
use crate::topology::Network::{self, East, Site, West};

/// The page, as a browser on productpage's host gets it.
pub(super) const PAGE: &str = "curl -s -m 10 http://127.0.0.1:9080/productpage";
const SERVED_WITHIN: Duration = Duration::from_secs(20);

pub(super) fn run(teller: &Teller<'_>, mesh: &Mesh<'_>) -> anyhow::Result<()> {
    for cluster in [East, West] {
        tokens(teller, mesh, cluster)?;
    }
    for workload in WORKLOADS {
        mesh.start_workload(teller, workload.host)?;
    }
    let hosts =
        WORKLOADS.iter().map(|workload| mesh.host(workload.host)).collect::<anyhow::Result<Vec<_>>>()?;
    mesh.await_ready(teller, &hosts, "every sidecar is ready")?;
    for cluster in [East, West] {
        let expected = WORKLOADS.iter().filter(|workload| workload.cluster == cluster).count();
        let what = format!("{}'s control plane wrote a Pod for each", cluster.name());
        let host = mesh.control_plane(cluster)?;
        teller.within(SERVED_WITHIN, &what, &host, "kubectl get pods -n bookinfo", |output| {
            succeeds(output)?;
            let ready =
                output.stdout.lines().filter(|line| line.contains("1/1") && line.contains("Running")).count();
            if ready == expected {
                Ok(String::new())
            } else {
                Err(format!("{ready} of {expected} Pods are ready"))
            }
        })?;
    }
    break_on_purpose(teller, mesh)?;
    let page = mesh.host("productpage")?;
    teller.within(
        SERVED_WITHIN,
        "capture: a plain name and port reach details, through both agents",
        &page,
        "curl -s -m 5 http://details:9080/details/0",
        says("\"ISBN-10\":\"1234567890\""),
    )?;
    teller.within(
        SERVED_WITHIN,
        "gateway: the page has the stars of the VM's database, two borders away",
        &page,
        PAGE,
        |output| has_stars(output, 5, "black"),
    )?;
    teller.check(
        "the page names version, cluster and workload of each answer",
        &page,
        PAGE,
        names_everyone,
    )?;
    let vm = mesh.host("vm")?;
    teller.act(
        "a row changes on the VM",
        &vm,
        &mysql::query("UPDATE ratings SET Rating=1 WHERE ReviewID=1"),
    )?;
    teller.check("and so does the page", &page, PAGE, |output| has_stars(output, 1, "black"))?;
    teller.act("and back", &vm, &mysql::query("UPDATE ratings SET Rating=5 WHERE ReviewID=1"))?;
    Ok(())
}

/// Host tokens, each for the accounts that its host runs.
fn tokens(teller: &Teller<'_>, mesh: &Mesh<'_>, cluster: Network) -> anyhow::Result<()> {
    let control_plane = mesh.control_plane(cluster)?;
    let here = WORKLOADS.iter().filter(|workload| workload.cluster == cluster);
    let mut accounts: Vec<String> = here.clone().map(|workload| workload.account()).collect();
    accounts.dedup();
    let command = format!("isthmus host token --service-account {}", accounts.join(","));
    let token = teller.act(&format!("a token for {}'s hosts", cluster.name()), &control_plane, &command)?;
    for workload in here {
        mesh.host(workload.host)?.write(TOKEN_FILE, &token)?;
    }
    Ok(())
}

fn break_on_purpose(teller: &Teller<'_>, mesh: &Mesh<'_>) -> anyhow::Result<()> {
    if mesh.breaks("gateway") {
        let gateway = mesh.gateway(Site)?;
        mesh.kill(&gateway, "isthmus-eastwest-gw")?;
        teller.report.did("(broken on purpose: the site's gateway is dead)", &[], Duration::ZERO);
    }
    if mesh.breaks("capture") {
        // The mark of the agent's own sockets, which capture leaves alone.
        let rule = "nft 'add table ip broken; add chain ip broken out { type route hook output priority -150; }; \
                    add rule ip broken out meta mark set 0x539'";
        teller.act(
            "(broken on purpose: productpage's traffic is not captured)",
            &mesh.host("productpage")?,
            rule,
        )?;
    }
    Ok(())
}

/// First reviewer's stars and their colour.
pub(super) fn has_stars(output: &Output, stars: u32, colour: &str) -> Verdict {
    let wanted = format!("class=\"stars {colour}\" title=\"{stars} of 5 stars\"");
    says(&wanted)(output)?;
    let filled = "★".repeat(usize::try_from(stars).unwrap_or(0));
    Ok(format!("{filled} {colour}"))
}

fn names_everyone(output: &Output) -> Verdict {
    let mut rows = Vec::new();
    for (service, version, cluster, workload) in [
        ("productpage", "v1", "east", "productpage"),
        ("details", "v1", "east", "details"),
        ("reviews", "v2", "east", "reviews-v2"),
        ("ratings", "v2-mysql-vm", "west", "ratings"),
    ] {
        says(&format!("<tr><td>{service}</td><td>{version}</td><td>{cluster}</td><td>{workload}</td></tr>"))(
            output,
        )?;
        rows.push(format!("{service} {version} by {workload} in {cluster}"));
    }
    Ok(rows.join(", "))
}
