//! Rule text from a configuration. Pure: tested as text.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::config::{Config, Dns, Strict};

/// Name of the table, in family `inet`.
pub const TABLE: &str = "isthmus";

/// Source of the proxy's connections to its own application (Istio's convention).
const PROXY_SOURCE_V4: &str = "127.0.0.6";
const PROXY_SOURCE_V6: &str = "::6";

/// The whole table, replacing an older one in the same transaction.
#[must_use]
pub fn install(config: &Config, strict: &Strict) -> String {
    let (servers4, servers6) = families(match &config.dns {
        Dns::Servers(servers) => servers.clone(),
        Dns::Off | Dns::All => Vec::new(),
    });
    let (direct4, direct6): (Vec<&IpNet>, Vec<&IpNet>) =
        config.direct_networks.iter().partition(|network| matches!(network, IpNet::V4(_)));
    let mut text = String::new();
    line(&mut text, format_args!("add table inet {TABLE}"));
    line(&mut text, format_args!("delete table inet {TABLE}"));
    line(&mut text, format_args!("table inet {TABLE} {{"));
    set(&mut text, "lease", "type nf_proto; flags timeout;", lease_elements(config));
    set(&mut text, "strict_ports", "type inet_service;", &strict.ports);
    set(&mut text, "open_ports", "type inet_service;", &strict.open);
    set(&mut text, "strict_others", "type nf_proto;", others(strict));
    set(&mut text, "direct_inbound", "type inet_service;", &config.direct_inbound);
    set(&mut text, "direct_outbound", "type inet_service;", &config.direct_outbound);
    set(&mut text, "direct4", "type ipv4_addr; flags interval; auto-merge;", direct4);
    set(&mut text, "direct6", "type ipv6_addr; flags interval; auto-merge;", direct6);
    set(&mut text, "resolvers4", "type ipv4_addr;", servers4);
    set(&mut text, "resolvers6", "type ipv6_addr;", servers6);
    dns_zone(&mut text, config);
    outbound(&mut text, config);
    inbound(&mut text, config);
    strict_guard(&mut text, config);
    line(&mut text, format_args!("}}"));
    text
}

/// Renews the lease. Adding alone would not move the expiry before Linux 6.12; adding, deleting and adding again does on
/// every kernel, in one transaction, whether the element had expired or not.
#[must_use]
pub fn renew(config: &Config) -> String {
    let (with, bare) = (lease_elements(config).join(", "), families_leased(config).join(", "));
    format!(
        "add element inet {TABLE} lease {{ {with} }}\ndelete element inet {TABLE} lease {{ {bare} }}\n\
         add element inet {TABLE} lease {{ {with} }}\n"
    )
}

/// Replaces what is refused without a lease.
#[must_use]
pub fn set_strict(strict: &Strict) -> String {
    let mut text = String::new();
    let mut replace = |name: &str, elements: String| {
        line(&mut text, format_args!("flush set inet {TABLE} {name}"));
        if !elements.is_empty() {
            line(&mut text, format_args!("add element inet {TABLE} {name} {{ {elements} }}"));
        }
    };
    replace("strict_ports", join(&strict.ports));
    replace("open_ports", join(&strict.open));
    replace("strict_others", join(others(strict)));
    text
}

fn others(strict: &Strict) -> &'static [&'static str] {
    if strict.others { &["ipv4", "ipv6"] } else { &[] }
}

/// Ends the lease at once and keeps the ports under STRICT refused.
#[must_use]
pub fn release() -> String {
    format!("flush set inet {TABLE} lease\n")
}

/// Removes everything; also when nothing is there.
#[must_use]
pub fn remove() -> String {
    format!("add table inet {TABLE}\ndelete table inet {TABLE}\n")
}

/// Queries that are redirected get a conntrack zone of their own in the original direction: else the entry of an
/// application's query would catch a later query of the agent's own that happens to use the same source port.
fn dns_zone(text: &mut String, config: &Config) {
    if config.dns == Dns::Off {
        return;
    }
    line(text, format_args!(" chain dns_zone {{"));
    line(text, format_args!("  type filter hook output priority -300; policy accept;"));
    line(text, format_args!("  meta nfproto != @lease return"));
    for own in own(config) {
        line(text, format_args!("  {own} return"));
    }
    for matched in dns_matches(config) {
        line(text, format_args!("  {matched} ct original zone set 2"));
    }
    line(text, format_args!(" }}"));
}

/// What the agent's own sockets are known by.
fn own(config: &Config) -> Vec<String> {
    let user = config.user.map(|user| format!("meta skuid {user}"));
    std::iter::once(format!("meta mark {:#x}", config.mark)).chain(user).collect()
}

/// Connections that were there before the rules go on: the first packet of theirs that the kernel tracks may be any, in either
/// direction, and is no beginning.
const UNDER_WAY: &str = "tcp flags & (fin | syn | rst | ack) != syn";

fn outbound(text: &mut String, config: &Config) {
    let inbound = config.inbound_port;
    line(text, format_args!(" chain outbound {{"));
    line(text, format_args!("  type nat hook output priority -100; policy accept;"));
    line(text, format_args!("  meta nfproto != @lease return"));
    line(text, format_args!("  {UNDER_WAY} return"));
    // The proxy to its own application.
    line(text, format_args!("  ip saddr {PROXY_SOURCE_V4} return"));
    line(text, format_args!("  ip6 saddr {PROXY_SOURCE_V6} return"));
    // An application's call to its own service, balanced back to this host: the proxy's connection goes in by the front.
    for own in own(config) {
        line(
            text,
            format_args!(
                "  {own} oifname \"lo\" ip daddr != 127.0.0.0/8 tcp dport != {{ 53, {inbound} }} \
                 tcp dport != @direct_inbound redirect to :{inbound}"
            ),
        );
        line(text, format_args!("  {own} return"));
    }
    for matched in dns_matches(config) {
        line(text, format_args!("  {matched} redirect to :{}", config.dns_port));
    }
    line(text, format_args!("  oifname \"lo\" return"));
    line(text, format_args!("  ip daddr 127.0.0.0/8 return"));
    line(text, format_args!("  ip6 daddr ::1 return"));
    line(text, format_args!("  ip daddr @direct4 return"));
    line(text, format_args!("  ip6 daddr @direct6 return"));
    line(text, format_args!("  tcp dport @direct_outbound return"));
    line(text, format_args!("  meta l4proto tcp redirect to :{}", config.outbound_port));
    line(text, format_args!(" }}"));
}

fn inbound(text: &mut String, config: &Config) {
    line(text, format_args!(" chain inbound {{"));
    line(text, format_args!("  type nat hook prerouting priority -100; policy accept;"));
    line(text, format_args!("  meta nfproto != @lease return"));
    line(text, format_args!("  {UNDER_WAY} return"));
    line(text, format_args!("  iifname \"lo\" return"));
    // What is only routed through this host is not its workload's.
    line(text, format_args!("  fib daddr type != local return"));
    line(text, format_args!("  tcp dport @direct_inbound return"));
    line(text, format_args!("  meta l4proto tcp redirect to :{}", config.inbound_port));
    line(text, format_args!(" }}"));
}

/// A redirected packet carries the agent's port here. One that still carries a port under STRICT came around the agent.
fn strict_guard(text: &mut String, config: &Config) {
    line(text, format_args!(" chain strict {{"));
    line(text, format_args!("  type filter hook input priority -1; policy accept;"));
    line(text, format_args!("  iifname \"lo\" accept"));
    line(text, format_args!("  ct direction original tcp dport @strict_ports reject with tcp reset"));
    line(
        text,
        format_args!(
            "  meta nfproto @strict_others tcp flags & (fin | syn | rst | ack) == syn ct status & dnat == 0 \
             tcp dport != @direct_inbound tcp dport != @open_ports reject with tcp reset"
        ),
    );
    line(
        text,
        format_args!(
            "  tcp dport {{ {}, {} }} ct status & dnat == 0 reject with tcp reset",
            config.outbound_port, config.inbound_port
        ),
    );
    line(text, format_args!(" }}"));
}

fn dns_matches(config: &Config) -> Vec<&'static str> {
    match config.dns {
        Dns::Off => vec![],
        Dns::Servers(_) => vec![
            "ip daddr @resolvers4 meta l4proto { tcp, udp } th dport 53",
            "ip6 daddr @resolvers6 meta l4proto { tcp, udp } th dport 53",
        ],
        Dns::All => vec!["meta l4proto { tcp, udp } th dport 53"],
    }
}

fn families_leased(config: &Config) -> Vec<&'static str> {
    if config.ipv6 { vec!["ipv4", "ipv6"] } else { vec!["ipv4"] }
}

fn lease_elements(config: &Config) -> Vec<String> {
    let timeout = config.lease.as_millis();
    families_leased(config).iter().map(|family| format!("{family} timeout {timeout}ms")).collect()
}

fn families(servers: Vec<IpAddr>) -> (BTreeSet<IpAddr>, BTreeSet<IpAddr>) {
    servers.into_iter().partition(IpAddr::is_ipv4)
}

fn set<T: std::fmt::Display>(
    text: &mut String,
    name: &str,
    kind: &str,
    elements: impl IntoIterator<Item = T>,
) {
    let elements = join(elements);
    if elements.is_empty() {
        line(text, format_args!(" set {name} {{ {kind} }}"));
    } else {
        line(text, format_args!(" set {name} {{ {kind} elements = {{ {elements} }} }}"));
    }
}

fn join<T: std::fmt::Display>(elements: impl IntoIterator<Item = T>) -> String {
    elements.into_iter().map(|element| element.to_string()).collect::<Vec<_>>().join(", ")
}

fn line(text: &mut String, line: std::fmt::Arguments<'_>) {
    // Writing into a String cannot fail.
    let _ = text.write_fmt(line);
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_standard_table_reads_like_this() {
        let config = Config {
            dns: Dns::Servers(vec!["10.0.0.53".parse().unwrap(), "fd00::53".parse().unwrap()]),
            direct_networks: vec!["192.0.2.0/24".parse().unwrap()],
            ..Config::default()
        };
        let expected = r#"add table inet isthmus
delete table inet isthmus
table inet isthmus {
 set lease { type nf_proto; flags timeout; elements = { ipv4 timeout 5000ms, ipv6 timeout 5000ms } }
 set strict_ports { type inet_service; elements = { 3306 } }
 set open_ports { type inet_service; }
 set strict_others { type nf_proto; }
 set direct_inbound { type inet_service; elements = { 22, 15008, 15020, 15021, 15090 } }
 set direct_outbound { type inet_service; }
 set direct4 { type ipv4_addr; flags interval; auto-merge; elements = { 192.0.2.0/24 } }
 set direct6 { type ipv6_addr; flags interval; auto-merge; }
 set resolvers4 { type ipv4_addr; elements = { 10.0.0.53 } }
 set resolvers6 { type ipv6_addr; elements = { fd00::53 } }
 chain dns_zone {
  type filter hook output priority -300; policy accept;
  meta nfproto != @lease return
  meta mark 0x539 return
  ip daddr @resolvers4 meta l4proto { tcp, udp } th dport 53 ct original zone set 2
  ip6 daddr @resolvers6 meta l4proto { tcp, udp } th dport 53 ct original zone set 2
 }
 chain outbound {
  type nat hook output priority -100; policy accept;
  meta nfproto != @lease return
  tcp flags & (fin | syn | rst | ack) != syn return
  ip saddr 127.0.0.6 return
  ip6 saddr ::6 return
  meta mark 0x539 oifname "lo" ip daddr != 127.0.0.0/8 tcp dport != { 53, 15006 } tcp dport != @direct_inbound redirect to :15006
  meta mark 0x539 return
  ip daddr @resolvers4 meta l4proto { tcp, udp } th dport 53 redirect to :15053
  ip6 daddr @resolvers6 meta l4proto { tcp, udp } th dport 53 redirect to :15053
  oifname "lo" return
  ip daddr 127.0.0.0/8 return
  ip6 daddr ::1 return
  ip daddr @direct4 return
  ip6 daddr @direct6 return
  tcp dport @direct_outbound return
  meta l4proto tcp redirect to :15001
 }
 chain inbound {
  type nat hook prerouting priority -100; policy accept;
  meta nfproto != @lease return
  tcp flags & (fin | syn | rst | ack) != syn return
  iifname "lo" return
  fib daddr type != local return
  tcp dport @direct_inbound return
  meta l4proto tcp redirect to :15006
 }
 chain strict {
  type filter hook input priority -1; policy accept;
  iifname "lo" accept
  ct direction original tcp dport @strict_ports reject with tcp reset
  meta nfproto @strict_others tcp flags & (fin | syn | rst | ack) == syn ct status & dnat == 0 tcp dport != @direct_inbound tcp dport != @open_ports reject with tcp reset
  tcp dport { 15001, 15006 } ct status & dnat == 0 reject with tcp reset
 }
}
"#;
        assert_eq!(install(&config, &Strict::ports([3306])), expected);
    }

    #[test]
    fn a_proxy_may_be_known_by_its_user_instead() {
        let config = Config { user: Some(1337), dns: Dns::All, ..Config::default() };
        let text = install(&config, &Strict::default());
        let lines: Vec<&str> = text.lines().filter(|line| line.contains("meta skuid 1337")).collect();
        assert_eq!(lines.len(), 3, "{text}");
        assert!(lines[1].contains("oifname \"lo\"") && lines[1].ends_with("redirect to :15006"), "{text}");
        assert_eq!(lines[2], "  meta skuid 1337 return");
    }

    #[test]
    fn without_dns_capture_no_rule_names_port_53_but_the_self_call() {
        let text = install(&Config::default(), &Strict::default());
        assert!(!text.contains("th dport 53"), "{text}");
        assert!(!text.contains("dns_zone"), "{text}");
    }

    #[test]
    fn the_lease_leaves_ipv6_direct_when_asked() {
        let config = Config { ipv6: false, ..Config::default() };
        assert_eq!(
            renew(&config),
            "add element inet isthmus lease { ipv4 timeout 5000ms }\n\
             delete element inet isthmus lease { ipv4 }\n\
             add element inet isthmus lease { ipv4 timeout 5000ms }\n"
        );
    }

    #[test]
    fn what_is_strict_is_replaced_as_a_whole() {
        assert_eq!(
            set_strict(&Strict::ports([3306, 80])),
            "flush set inet isthmus strict_ports\nadd element inet isthmus strict_ports { 80, 3306 }\n\
             flush set inet isthmus open_ports\nflush set inet isthmus strict_others\n"
        );
        let all = Strict { others: true, open: BTreeSet::from([8080]), ..Strict::default() };
        assert_eq!(
            set_strict(&all),
            "flush set inet isthmus strict_ports\nflush set inet isthmus open_ports\n\
             add element inet isthmus open_ports { 8080 }\nflush set inet isthmus strict_others\n\
             add element inet isthmus strict_others { ipv4, ipv6 }\n"
        );
    }
}
