//! Step 8: the control planes' life: west's dies, then both; traffic goes on, a sidecar and a gateway restart from
//! their last good state, and afterwards every object is as before.

use std::time::{Duration, Instant};

use super::bookinfo::{PAGE, has_stars};
use super::check::{Teller, succeeds};
use super::load::Load;
use super::mesh::{AGENT_DATA, Mesh};
use crate::topology::Network::{East, Site, West};

const AGAIN_WITHIN: Duration = Duration::from_secs(15);
const LISTS_WITHIN: Duration = Duration::from_secs(15);

/// Every object that the API has, with the identity that an object keeps for life. Leases, Events and spent Secrets come and go.
const OBJECTS: &str = "kubectl get $(kubectl api-resources --verbs=list -o name | grep -vE '^(events|leases)' | \
     sort | paste -sd,) -A --no-headers \
     -o custom-columns=K:.kind,NS:.metadata.namespace,N:.metadata.name,U:.metadata.uid | sort";

pub(super) fn run(teller: &Teller<'_>, mesh: &Mesh<'_>) -> anyhow::Result<()> {
    let page = mesh.host("productpage")?;
    let before = objects(mesh)?;
    let counted: Vec<String> = before.iter().map(|list| list.lines().count().to_string()).collect();
    teller.report.did(
        &format!("the object lists are noted ({} in east and west)", counted.join(" and ")),
        &[format!("east-cp$ {OBJECTS}")],
        Duration::ZERO,
    );

    mesh.kill(&mesh.control_plane(West)?, "isthmus-primary")?;
    teller.report.did("west's control plane is killed", &[], Duration::ZERO);
    traffic_goes_on(teller, mesh, "traffic goes on without west's control plane")?;
    mesh.kill(&mesh.control_plane(East)?, "isthmus-primary")?;
    teller.report.did("east's control plane is killed too", &[], Duration::ZERO);
    traffic_goes_on(teller, mesh, "traffic goes on without any control plane")?;

    let (details, gateway) = (mesh.host("details")?, mesh.gateway(Site)?);
    mesh.kill(&details, "isthmus-sidecar")?;
    details.run("kill -KILL -1")?;
    mesh.kill(&gateway, "isthmus-eastwest-gw")?;
    mesh.start_workload(teller, "details")?;
    mesh.start_gateway(teller, Site)?;
    mesh.await_ready(
        teller,
        &[details, gateway],
        "a sidecar and a gateway restart from their last good state",
    )?;
    teller.within(AGAIN_WITHIN, "the page is whole through both of them", &page, PAGE, |output| {
        let stars = has_stars(output, 5, "black")?;
        if output.stdout.contains("ISBN-10") { Ok(stars) } else { Err("it has no details".into()) }
    })?;
    let files = format!("stat -c '%a %n' {AGENT_DATA}/identity/key.pem");
    teller.check(
        "their keys are readable by their owner alone",
        &mesh.host("details")?,
        &files,
        |output| {
            succeeds(output)?;
            if output.stdout.starts_with("600 ") {
                Ok(output.stdout.trim().into())
            } else {
                Err(output.stdout.clone())
            }
        },
    )?;

    mesh.start_primaries(teller, &[East, West])?;
    same_objects(teller, mesh, &before)?;
    for cluster in [East, West] {
        let host = mesh.control_plane(cluster)?;
        let what = format!("{} hears its peer again", cluster.name());
        teller.within(AGAIN_WITHIN, &what, &host, "isthmus link list", |output| {
            succeeds(output)?;
            if output.stdout.contains("Connected") { Ok(String::new()) } else { Err("not connected".into()) }
        })?;
    }
    Ok(())
}

fn traffic_goes_on(teller: &Teller<'_>, mesh: &Mesh<'_>, what: &str) -> anyhow::Result<()> {
    let page = mesh.host("productpage")?;
    let began = Instant::now();
    let load = Load::start(&page)?;
    std::thread::sleep(Duration::from_millis(1200));
    let tally = load.finish()?;
    let verdict = if tally.failed == 0 && tally.requests > 0 {
        Ok(tally.line())
    } else {
        Err(format!("{}; a failed one: {}", tally.line(), tally.example.as_deref().unwrap_or("-")))
    };
    teller.note(
        what,
        &[format!("productpage$ {}", super::load::REQUEST)],
        began.elapsed(),
        verdict,
        vec![page],
    )
}

fn objects(mesh: &Mesh<'_>) -> anyhow::Result<Vec<String>> {
    [East, West]
        .into_iter()
        .map(|cluster| {
            let host = mesh.control_plane(cluster)?;
            let output = host.run_within(Duration::from_secs(20), OBJECTS, "")?;
            anyhow::ensure!(output.is_success(), "{}: {}", host.name(), output.stderr);
            Ok(output.stdout)
        })
        .collect()
}

fn same_objects(teller: &Teller<'_>, mesh: &Mesh<'_>, before: &[String]) -> anyhow::Result<()> {
    let began = Instant::now();
    loop {
        let after = objects(mesh)?;
        if after == before {
            let commands = [format!("east-cp$ {OBJECTS}")];
            teller.report.checked(
                "the object lists are equal before and after",
                &commands,
                "",
                began.elapsed(),
            );
            return Ok(());
        }
        if began.elapsed() > LISTS_WITHIN {
            let mut differing = Vec::new();
            for (before, after) in before.iter().zip(&after) {
                differing.extend(
                    before
                        .lines()
                        .filter(|line| !after.lines().any(|l| l == *line))
                        .map(|l| format!("- {l}")),
                );
                differing.extend(
                    after
                        .lines()
                        .filter(|line| !before.lines().any(|l| l == *line))
                        .map(|l| format!("+ {l}")),
                );
            }
            let hosts = vec![mesh.control_plane(East)?, mesh.control_plane(West)?];
            return teller.note(
                "the object lists are equal before and after",
                &[],
                began.elapsed(),
                Err(format!("they differ:\n{}", differing.join("\n"))),
                hosts,
            );
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}
