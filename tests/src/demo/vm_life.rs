//! Step 7: the VM's life: its database stops and starts, its agent dies and comes back without a new token.

use std::time::{Duration, Instant};

use super::bookinfo::{PAGE, has_stars};
use super::check::{Teller, shown, succeeds};
use super::mesh::{AGENT_DATA, Mesh};
use super::mysql;
use crate::topology::Network::{Site, West};

const NOTICED_WITHIN: Duration = Duration::from_secs(10);
const LEASE_WITHIN: Duration = Duration::from_secs(10);
const CLEANED_WITHIN: Duration = Duration::from_secs(15);

const ENTRY: &str = "kubectl get workloadentries -n vm -o jsonpath='{range .items[*]}{.metadata.name} \
                     {.status.conditions[?(@.type==\"Healthy\")].status}{end}'";
const ENDPOINT: &str = "curl -s http://127.0.0.1:15000/endpoints";

pub(super) fn run(teller: &Teller<'_>, mesh: &Mesh<'_>) -> anyhow::Result<()> {
    the_database_stops_and_starts(teller, mesh)?;
    the_agent_dies_and_returns(teller, mesh)
}

fn the_database_stops_and_starts(teller: &Teller<'_>, mesh: &Mesh<'_>) -> anyhow::Result<()> {
    let (vm, west, ratings) = (mesh.host("vm")?, mesh.control_plane(West)?, mesh.host("ratings")?);
    let gateway = format!("{}:15443", Site.border());
    let has_gateway = |text: &str| {
        let endpoints: Vec<serde_json::Value> = serde_json::from_str(text).unwrap_or_default();
        endpoints.iter().any(|endpoint| {
            endpoint["cluster"] == "outbound|3306||mysqldb.vm.mesh.internal"
                && endpoint["address"] == gateway.as_str()
        })
    };
    teller.check(
        "ratings' proxy has MySQL's endpoint, behind the site's gateway",
        &ratings,
        ENDPOINT,
        |output| {
            if has_gateway(&output.stdout) { Ok(gateway.clone()) } else { Err("it does not".into()) }
        },
    )?;
    let began = Instant::now();
    mesh.kill(&vm, "mariadbd")?;
    teller.report.did("MySQL is killed", &[], began.elapsed());
    teller.within(
        NOTICED_WITHIN,
        "the probe fails: the WorkloadEntry turns unhealthy",
        &west,
        ENTRY,
        |output| {
            if output.stdout.trim().ends_with(" False") {
                Ok(output.stdout.trim().into())
            } else {
                Err(output.stdout.clone())
            }
        },
    )?;
    teller.within(NOTICED_WITHIN, "the endpoint leaves ratings' proxy", &ratings, ENDPOINT, |output| {
        if has_gateway(&output.stdout) { Err("it is still there".into()) } else { Ok(String::new()) }
    })?;
    let began = Instant::now();
    mesh.keep(mysql::start(&vm)?);
    teller.report.did("MySQL starts again", &[shown(&vm, mysql::command())], began.elapsed());
    let page = mesh.host("productpage")?;
    teller.within(NOTICED_WITHIN, "it returns, and so do the stars", &page, PAGE, |output| {
        has_stars(output, 5, "black")
    })?;
    teller.check("the endpoint is back in ratings' proxy", &ratings, ENDPOINT, |output| {
        if has_gateway(&output.stdout) { Ok(gateway.clone()) } else { Err("it is not".into()) }
    })?;
    Ok(())
}

fn the_agent_dies_and_returns(teller: &Teller<'_>, mesh: &Mesh<'_>) -> anyhow::Result<()> {
    let (vm, west, other) = (mesh.host("vm")?, mesh.control_plane(West)?, mesh.host("site-client")?);
    // What the machine itself may want to reach: something on its network that is no part of the mesh.
    let service = other.start("service", "bookinfo details --port 8000", &[])?;
    let outbound = format!("curl -s -m 2 http://{}:8000/health", other.plan.address);
    teller.within(NOTICED_WITHIN, "the machine reaches a neighbour", &vm, &outbound, |output| {
        if output.stdout.contains("healthy") { Ok(String::new()) } else { Err("no answer".into()) }
    })?;
    let before = west.must(ENTRY)?;
    mesh.kill(&vm, "isthmus-vm-agent")?;
    teller.report.did("the agent is killed (SIGKILL)", &[], Duration::ZERO);
    teller.within(LEASE_WITHIN, "the machine has its own network back", &vm, &outbound, |output| {
        if output.stdout.contains("healthy") { Ok(String::new()) } else { Err("no answer".into()) }
    })?;
    let plain = format!("mysql -h {} -u root -ppassword --connect-timeout=2 -Ne 'SELECT 1'", vm.plan.address);
    teller.check("MySQL's port stays refused to others", &other, &plain, |output| {
        if output.is_success() {
            Err("it was let in".into())
        } else {
            Ok(output.stderr.lines().last().unwrap_or_default().into())
        }
    })?;
    teller.within(CLEANED_WITHIN, "its WorkloadEntry is cleaned up", &west, ENTRY, |output| {
        succeeds(output)?;
        if output.stdout.trim().is_empty() { Ok(String::new()) } else { Err(output.stdout.trim().into()) }
    })?;
    let command = mesh.restart_vm_agent()?;
    teller.report.did("the agent starts again, without a token", &[command], Duration::ZERO);
    teller.within(NOTICED_WITHIN, "it registers again", &west, ENTRY, |output| {
        if output.stdout.trim().ends_with(" True") {
            Ok(format!("{} (before: {before})", output.stdout.trim()))
        } else {
            Err(format!("entry {:?}", output.stdout.trim()))
        }
    })?;
    let page = mesh.host("productpage")?;
    teller.within(NOTICED_WITHIN, "and the stars are there", &page, PAGE, |output| {
        has_stars(output, 5, "black")
    })?;
    teller.check(
        "the agent's files are its owner's alone",
        &vm,
        &format!("find {AGENT_DATA} -type f ! -perm 600 -o -type d ! -perm 700"),
        |output| {
            succeeds(output)?;
            if output.stdout.is_empty() { Ok(String::new()) } else { Err(output.stdout.clone()) }
        },
    )?;
    service.kill()?;
    other.must("rm /var/log/isthmus/service.log")?;
    Ok(())
}
