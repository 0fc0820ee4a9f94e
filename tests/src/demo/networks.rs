//! Step 1: three networks, and nothing between them but the gateways.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::check::{Teller, shown};
use crate::fabric::Fabric;
use crate::host::Host;

/// Where every host listens during this step, so that a connection could be made if there were a way.
const PORT: u16 = 7000;

pub(super) fn run(teller: &Teller<'_>, fabric: &Fabric) -> anyhow::Result<()> {
    let hosts: Vec<Arc<Host>> =
        fabric.hosts().into_iter().filter(|host| host.plan.network.is_some()).collect();
    let listeners = hosts
        .iter()
        .map(|host| host.start("listener", &format!("bookinfo details --port {PORT}"), &[]))
        .collect::<anyhow::Result<Vec<_>>>()?;
    for host in &hosts {
        await_listener(host)?;
    }
    reach_each_other(teller, &hosts)?;
    a_forced_route_is_refused(teller, fabric)?;
    share_nothing(teller, &fabric.hosts())?;
    for listener in listeners {
        listener.kill()?;
        listener.host().must("rm /var/log/isthmus/listener.log")?;
    }
    Ok(())
}

fn await_listener(host: &Arc<Host>) -> anyhow::Result<()> {
    let deadline = Instant::now() + Duration::from_secs(5);
    while !host.run(&format!("curl -sf -m 1 http://127.0.0.1:{PORT}/health"))?.is_success() {
        anyhow::ensure!(Instant::now() < deadline, "{}: nothing listens on port {PORT}", host.name());
    }
    Ok(())
}

/// Each host tries each other one: inside a network all get through, between networks none.
fn reach_each_other(teller: &Teller<'_>, hosts: &[Arc<Host>]) -> anyhow::Result<()> {
    let began = Instant::now();
    let tried: Vec<anyhow::Result<(Arc<Host>, String)>> = std::thread::scope(|scope| {
        let running: Vec<_> = hosts
            .iter()
            .map(|from| {
                let others = hosts.iter().filter(|to| to.name() != from.name());
                let addresses: Vec<String> = others.map(|to| to.plan.address.to_string()).collect();
                let command = format!(
                    "for to in {}; do curl -s -o /dev/null -m 1 http://$to:{PORT}/health; echo $to $?; done",
                    addresses.join(" ")
                );
                scope.spawn(move || Ok((Arc::clone(from), from.must(&command)?)))
            })
            .collect();
        running.into_iter().filter_map(|thread| thread.join().ok()).collect()
    });
    let network =
        |address: &str| hosts.iter().find(|h| h.plan.address.to_string() == address).map(|h| h.plan.network);
    let (mut inside, mut between, mut wrong) = (0, 0, Vec::new());
    for result in tried {
        let (from, lines) = result?;
        for line in lines.lines() {
            let Some((to, code)) = line.split_once(' ') else { continue };
            let is_same = network(to) == Some(from.plan.network);
            match (is_same, code) {
                (true, "0") => inside += 1,
                // Could not connect; 28 would be a time-out, which nobody should have to wait for.
                (false, "7") => between += 1,
                _ => wrong.push(format!("{} to {to}: curl's exit code {code}", from.name())),
            }
        }
    }
    let expected: usize = hosts.len() * (hosts.len() - 1);
    let verdict = if !wrong.is_empty() {
        Err(wrong.join("; "))
    } else if inside + between != expected {
        Err(format!("{} of {expected} attempts were made", inside + between))
    } else {
        Ok(format!("inside networks {inside} of {inside} got through, between networks 0 of {between}"))
    };
    let example = |from: &str, to: &str| -> Option<String> {
        let from = hosts.iter().find(|host| host.name() == from)?;
        let to = hosts.iter().find(|host| host.name() == to)?;
        Some(shown(from, &format!("curl -m 1 http://{}:{PORT}/health", to.plan.address)))
    };
    let commands: Vec<String> =
        [example("productpage", "ratings"), example("ratings", "vm")].into_iter().flatten().collect();
    teller.note(
        "no host reaches a host of another network (each tries each)",
        &commands,
        began.elapsed(),
        verdict,
        Vec::new(),
    )
}

/// Even with a route added by hand the gateway refuses.
fn a_forced_route_is_refused(teller: &Teller<'_>, fabric: &Fabric) -> anyhow::Result<()> {
    let (from, to) = (fabric.host("productpage")?, fabric.host("ratings")?);
    let command = format!(
        "ip route add 10.2.0.0/24 via 10.1.0.2; curl -sS -m 2 http://{}:{PORT}/health; code=$?; \
         ip route del 10.2.0.0/24; exit $code",
        to.plan.address
    );
    teller.check(
        "a route added by hand is refused by the gateway",
        &from,
        &command,
        |output| match output.status {
            Some(crate::wire::Status::Code(7)) => Ok(output.stderr.trim().to_string()),
            _ => Err(format!("it should fail to connect, but {}", output.ending())),
        },
    )?;
    Ok(())
}

/// Devices of all writable file systems, by host: none may be in two hosts.
fn share_nothing(teller: &Teller<'_>, hosts: &[Arc<Host>]) -> anyhow::Result<()> {
    let command = "awk '$6 ~ /^rw/ {print $5}' /proc/self/mountinfo | sort -u | while read at; do \
                   [ -w \"$at\" ] && stat -c '%d %n' \"$at\"; done";
    let began = Instant::now();
    let mut seen: BTreeMap<String, (String, String)> = BTreeMap::new();
    let (mut writable, mut shared) = (0, Vec::new());
    for host in hosts {
        for line in host.run(command)?.stdout.lines() {
            let Some((device, path)) = line.split_once(' ') else { continue };
            writable += 1;
            let here = (host.name().to_string(), path.to_string());
            if let Some((other, there)) = seen.insert(device.to_string(), here)
                && other != host.name()
            {
                shared.push(format!("{path} of {} is {there} of {other}", host.name()));
            }
        }
    }
    let verdict = if shared.is_empty() {
        Ok(format!("{writable} writable file systems on {} hosts, none of them on two", hosts.len()))
    } else {
        Err(shared.join("; "))
    };
    let commands = hosts.first().map(|host| shown(host, command)).into_iter().collect::<Vec<_>>();
    teller.note(
        "no two hosts share a writable file or a socket",
        &commands,
        began.elapsed(),
        verdict,
        Vec::new(),
    )
}
