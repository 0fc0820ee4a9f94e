//! Step 4: names that no DNS server knows.

use std::time::Duration;

use super::check::{Teller, says, succeeds};
use super::mesh::Mesh;
use crate::topology::Network::West;

const ANSWERED_WITHIN: Duration = Duration::from_secs(10);

pub(super) fn run(teller: &Teller<'_>, mesh: &Mesh<'_>) -> anyhow::Result<()> {
    let (ratings, page, west) = (mesh.host("ratings")?, mesh.host("productpage")?, mesh.control_plane(West)?);
    if mesh.breaks("dns") {
        let rule = "nft add table ip broken; nft add chain ip broken out '{ type filter hook output priority -300; }'; \
                    nft add rule ip broken out udp dport 53 drop";
        teller.act("(broken on purpose: productpage's questions are dropped)", &page, rule)?;
    }
    let host = "mysqldb.vm.mesh.internal";
    teller.check(
        "the network's own DNS server does not know the database",
        &mesh.gateway(West)?,
        &format!("dig @10.2.0.2 {host} +noall +comments"),
        says("NXDOMAIN"),
    )?;
    teller.check(
        "dns: ratings' agent does, at an address that was allocated for it",
        &ratings,
        &format!("dig +short {host}"),
        |output| {
            succeeds(output)?;
            let address = output.stdout.trim().to_string();
            if address.starts_with("240.24") { Ok(address) } else { Err(format!("it says {address:?}")) }
        },
    )?;
    let random = std::fs::read_to_string("/proc/sys/kernel/random/uuid")?;
    let name = format!("svc-{}", random.chars().take(8).collect::<String>());
    teller.act(
        "a Service with a random name, in west",
        &west,
        &format!(
            "kubectl -n bookinfo create service clusterip {name} --tcp=9080:9080 && \
                  kubectl -n bookinfo set selector service {name} app=ratings"
        ),
    )?;
    teller.within(
        ANSWERED_WITHIN,
        "dns: it answers by name in east",
        &page,
        &format!("curl -s -m 2 http://{name}.bookinfo:9080/health"),
        says("Ratings is healthy"),
    )?;
    teller.act("it goes again", &west, &format!("kubectl -n bookinfo delete service {name}"))?;
    Ok(())
}
