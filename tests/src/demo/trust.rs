//! Step 5: what crosses the border is TLS, and who is not meant to is refused.

use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::bookinfo::PAGE;
use super::check::{Teller, Verdict, shown, succeeds};
use super::mesh::{AGENT_DATA, GATEWAY_DATA, Mesh};
use super::tls_records;
use crate::host::{Host, Output, in_user_namespace};
use crate::topology::Network::{self, Site, West};

mod impostors;

const DATABASE: &str = "outbound_.3306_._.mysqldb.vm.mesh.internal";
const REFUSALS: &str = "curl -s http://127.0.0.1:15020/metrics | \
     grep -E '^(isthmus_(tls_refused|rbac_denied)|envoy_listener_ssl_fail_verify|envoy_denied)'";
/// A login that MySQL answers with an error, once it has reached it, and what is in the answer.
const HALF_A_LOGIN: &str = "printf '\\001\\000\\000\\001A'";
const GREETING: &str = "mysql_native_password";
const ANSWER: &str = "08S01";
/// Each crosses two borders, in two directions.
const PAGES: usize = 5;
const COUNTED_WITHIN: Duration = Duration::from_secs(5);

pub(super) fn run(teller: &Teller<'_>, mesh: &Mesh<'_>) -> anyhow::Result<()> {
    only_tls_on_the_border(teller, mesh)?;
    if mesh.breaks("trust") {
        let command = "kubectl delete authorizationpolicy -n vm mysqldb";
        teller.act("(broken on purpose: MySQL's policy is gone)", &mesh.control_plane(West)?, command)?;
        std::thread::sleep(Duration::from_millis(500));
    }
    refused_clients(teller, mesh)?;
    end_to_end(teller, mesh)?;
    gateways_hold_no_keys(teller, mesh)?;
    impostors::others_configuration(teller, mesh)?;
    impostors::others_exports(teller, mesh)
}

fn only_tls_on_the_border(teller: &Teller<'_>, mesh: &Mesh<'_>) -> anyhow::Result<()> {
    let (tap, page) = (mesh.host("border-tap")?, mesh.host("productpage")?);
    // Else it would become another user, whom the capture's file does not belong to.
    let as_root = if in_user_namespace() { "" } else { " -Z root" };
    let capture = format!("tcpdump{as_root} -i border -s 0 --immediate-mode -U -w /run/border.pcap tcp");
    let read = format!("tcpdump{as_root} -nn -x -r /run/border.pcap");
    let began = Instant::now();
    let tcpdump = tap.start("tcpdump", &capture, &[])?;
    teller.silently(COUNTED_WITHIN, "tcpdump listens", &tap, "test -s /run/border.pcap", succeeds)?;
    for _ in 0..PAGES {
        page.run(PAGE)?;
    }
    std::thread::sleep(Duration::from_millis(200));
    tcpdump.signal(Signal::SIGTERM)?;
    // What it wrote is read either way.
    let _ = tcpdump.ended_within(Duration::from_secs(3));
    let output = tap.run(&read)?;
    let streams = tls_records::read(&output.stdout);
    let verdict = if !streams.other.is_empty() {
        Err(streams.other.join("; "))
    } else if streams.tls < 4 * PAGES {
        Err(format!("only {} streams were seen", streams.tls))
    } else {
        Ok(format!(
            "{} streams, {} records, {} bytes: every byte is in a TLS record",
            streams.tls, streams.records, streams.bytes
        ))
    };
    let commands = [shown(&tap, &capture), shown(&page, PAGE), shown(&tap, &read)];
    teller.note(
        "a capture of the border link shows only TLS records",
        &commands,
        began.elapsed(),
        verdict,
        vec![tap],
    )
}

/// openssl as a client of MySQL's agent; it waits for what the server says first, and says something itself.
fn client(connect: &str, identity: &str) -> String {
    format!(
        "(sleep 0.2; {HALF_A_LOGIN}; sleep 0.3) | openssl s_client -quiet -no_ign_eof -verify_quiet -connect {connect} -servername {DATABASE} -alpn istio {identity}"
    )
}

fn own_identity(data: &str) -> String {
    format!(
        "-cert {data}/identity/cert-chain.pem -cert_chain {data}/identity/cert-chain.pem -key {data}/identity/key.pem"
    )
}

fn refused_clients(teller: &Teller<'_>, mesh: &Mesh<'_>) -> anyhow::Result<()> {
    let (vm, stranger) = (mesh.host("vm")?, mesh.host("site-client")?);
    let direct = format!("{}:3306", vm.plan.address);
    let through_gateway = format!("{}:15443", Site.border());
    teller.check(
        "ratings' certificate gets MySQL's greeting",
        &mesh.host("ratings")?,
        &client(&through_gateway, &own_identity(AGENT_DATA)),
        |output| match (output.stdout.contains(GREETING), output.stdout.contains(ANSWER)) {
            (true, true) => Ok("MariaDB greets, and answers".into()),
            (false, _) => Err("no greeting of MySQL".into()),
            (true, false) => Err("no answer of MySQL".into()),
        },
    )?;
    let before = refusals(&vm)?;
    other_root(&stranger)?;
    teller.check("a client without a certificate is refused", &stranger, &client(&direct, ""), is_refused)?;
    let other = "-cert /tmp/other/leaf.pem -key /tmp/other/leaf-key.pem";
    teller.check(
        "one with a certificate of another root is refused",
        &stranger,
        &client(&direct, other),
        is_refused,
    )?;
    teller.check(
        "trust: reviews' certificate, which no policy lists, is refused",
        &mesh.host("reviews-v3")?,
        &client(&through_gateway, &own_identity(AGENT_DATA)),
        if mesh.vm_has_envoy() { is_not_answered } else { is_refused },
    )?;
    let plain = format!("mysql -h {} -u root -ppassword --connect-timeout=1 -e 'SELECT 1'", vm.plan.address);
    teller.check("plain MySQL from a second host of the site is refused", &stranger, &plain, |output| {
        if output.is_success() { Err("it was let in".into()) } else { Ok(last_line(&output.stderr)) }
    })?;
    teller.within(COUNTED_WITHIN, "the refusals are in the agent's metrics", &vm, REFUSALS, |output| {
        let (tls, policy) = counts(&output.stdout);
        if tls >= before.0 + 2 && policy > before.1 {
            Ok(output.stdout.trim().to_string())
        } else {
            Err(format!("before {before:?}, now {:?} (handshakes, policy)", (tls, policy)))
        }
    })?;
    if mesh.vm_has_envoy() {
        return Ok(());
    }
    let log = "grep -E 'TLS_FAILURE|DENY' /var/log/isthmus/isthmus-vm-agent.log | tail -n 4";
    teller.check("and in its log", &vm, log, |output| {
        if output.stdout.contains("TLS_FAILURE") && output.stdout.contains("DENY") {
            Ok(String::new())
        } else {
            Err("the log does not tell of both kinds".into())
        }
    })?;
    Ok(())
}

/// Envoy asks its policies at the client's first byte: a server that speaks first is heard until then, and hears nothing.
fn is_not_answered(output: &Output) -> Verdict {
    if output.stdout.contains(ANSWER) {
        return Err("MySQL answers it".into());
    }
    Ok("closed at its first byte".into())
}

fn is_refused(output: &Output) -> Verdict {
    if output.stdout.contains(GREETING) {
        return Err("MySQL greets it".into());
    }
    Ok(output
        .stderr
        .lines()
        .find(|line| line.contains("alert"))
        .unwrap_or("closed without a greeting")
        .trim()
        .to_string())
}

fn last_line(text: &str) -> String {
    text.lines().last().unwrap_or_default().to_string()
}

fn refusals(vm: &Arc<Host>) -> anyhow::Result<(u64, u64)> {
    Ok(counts(&vm.run(REFUSALS)?.stdout))
}

/// Failed handshakes, and connections refused by policy.
fn counts(metrics: &str) -> (u64, u64) {
    let sum = |name: &str| {
        let values =
            metrics.lines().filter(|line| line.starts_with(name)).filter_map(|line| line.rsplit(' ').next());
        values.filter_map(|value| value.parse::<f64>().ok()).sum::<f64>() as u64
    };
    (
        sum("isthmus_tls_refused") + sum("envoy_listener_ssl_fail_verify"),
        sum("isthmus_rbac_denied") + sum("envoy_denied"),
    )
}

/// A leaf with ratings' identity, under a root of somebody else.
fn other_root(host: &Arc<Host>) -> anyhow::Result<()> {
    let script = "mkdir -p /tmp/other && cd /tmp/other && \
        openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout ca-key.pem -out ca.pem -days 1 -subj /O=other && \
        openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout leaf-key.pem -out leaf.csr -subj / \
          -addext 'subjectAltName=critical,URI:spiffe://cluster.local/ns/bookinfo/sa/bookinfo-ratings' && \
        openssl x509 -req -in leaf.csr -CA ca.pem -CAkey ca-key.pem -CAcreateserial -days 1 -copy_extensions copy -out leaf.pem";
    host.must(script).map(|_| ())
}

/// The certificate that ratings' side sees is the VM's own.
fn end_to_end(teller: &Teller<'_>, mesh: &Mesh<'_>) -> anyhow::Result<()> {
    let (ratings, vm) = (mesh.host("ratings")?, mesh.host("vm")?);
    let seen = format!(
        "openssl s_client -connect {}:15443 -servername {DATABASE} -alpn istio {} </dev/null 2>/dev/null | \
         openssl x509 -noout -serial -ext subjectAltName",
        Site.border(),
        own_identity(AGENT_DATA)
    );
    let own = format!("openssl x509 -noout -serial -in {AGENT_DATA}/identity/cert-chain.pem");
    // It may rotate between the two looks.
    let serial = || vm.must(&own);
    teller.within(
        COUNTED_WITHIN,
        "through the gateway ratings sees the VM's own certificate",
        &ratings,
        &seen,
        |output| {
            let serial = serial().map_err(|error| error.to_string())?;
            if output.stdout.contains(&serial)
                && output.stdout.contains("spiffe://cluster.local/ns/vm/sa/mysqldb")
            {
                Ok(format!("{serial}, as `{}` says", shown(&vm, &own)))
            } else {
                Err(format!("the VM's is {serial}"))
            }
        },
    )?;
    Ok(())
}

fn gateways_hold_no_keys(teller: &Teller<'_>, mesh: &Mesh<'_>) -> anyhow::Result<()> {
    let command = format!(
        "grep -rl 'PRIVATE KEY' /run/home /tmp /var/lib /var/log /var/tmp /dev/shm; \
         openssl x509 -noout -ext subjectAltName -in {GATEWAY_DATA}/identity/cert-chain.pem"
    );
    let began = Instant::now();
    let mut commands = Vec::new();
    for network in Network::ALL {
        let gateway = mesh.gateway(network)?;
        teller.silently(
            Duration::ZERO,
            "the gateways hold no workload's key",
            &gateway,
            &command,
            |output| {
                let keys: Vec<&str> = output.stdout.lines().filter(|line| line.starts_with('/')).collect();
                let own = format!("{GATEWAY_DATA}/identity/key.pem");
                let is_own = output.stdout.contains("/ns/istio-system/sa/istio-eastwestgateway");
                if keys == [own.as_str()] && is_own {
                    Ok(String::new())
                } else {
                    Err(format!("keys: {keys:?}"))
                }
            },
        )?;
        commands.push(shown(&gateway, &command));
    }
    commands.truncate(1);
    teller.report.checked(
        "the gateways hold no workload's key, only their own",
        &commands,
        "",
        began.elapsed(),
    );
    Ok(())
}
