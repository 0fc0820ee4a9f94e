//! DestinationRules: their hosts, subsets and TLS, and whether they get in one another's way.

use std::collections::BTreeMap;

use isthmus_model::{Hostname, Location, Namespace, TargetPort};
use isthmus_registry::MeshService;
use isthmus_registry::peer_auth::{Mode, PeerPolicies};
use isthmus_resources::Resource;
use isthmus_resources::istio::{ClientTls, ClientTlsMode, DestinationRule};

use super::route::destinations;
use super::{listed, pairs, service_of};
use crate::analyze::code::{self, Code, Level};
use crate::analyze::report::Report;
use crate::analyze::world::{World, each, without_places};
use crate::objects::Item;

pub(super) fn check(world: &World, report: &mut Report) {
    for (item, rule) in each!(world.items, DestinationRule) {
        authorities(report, item, rule);
        let Some((host, service)) =
            service_of(world, report, item, "spec.host", &rule.spec.host, &code::UNKNOWN_RULE_HOST)
        else {
            continue;
        };
        if host.is_wildcard() {
            continue;
        }
        subsets(world, report, item, rule, service);
        modes(world, report, item, rule, service);
    }
    conflicts(world, report);
}

fn subsets(
    world: &World,
    report: &mut Report,
    item: &Item,
    rule: &Resource<DestinationRule>,
    service: &MeshService,
) {
    if rule.spec.subsets.is_empty() {
        return;
    }
    let namespace = service.service.namespace.as_str();
    let behind = world.behind(service);
    if behind.is_empty() {
        if !world.knows_workloads(Some(namespace)) {
            let what =
                format!("subsets of services of namespace {namespace}, of which the workloads are not known");
            report.unchecked(what);
        }
        // A service without workloads is a finding of its own.
        return;
    }
    for (at, subset) in rule.spec.subsets.iter().enumerate() {
        let wanted = isthmus_model::Selector(without_places(&subset.labels));
        if wanted.0.is_empty() || behind.iter().any(|labels| wanted.matches(labels)) {
            continue;
        }
        if !world.peers.is_empty() {
            report.unchecked(format!(
                "subsets whose endpoints may be those of {} (--all-contexts reads them)",
                world.peers.join(", ")
            ));
            continue;
        }
        let message = format!(
            "subset {:?} selects none of the endpoints of {}: none has {}",
            subset.name,
            service.service.host,
            pairs(&wanted.0)
        );
        let keys = wanted.0.iter().map(|(key, _)| key.to_string());
        let there = keys.flat_map(|key| {
            behind.iter().filter_map(move |labels| Some(format!("{key}={}", labels.get(&key)?)))
        });
        let there: std::collections::BTreeSet<String> = there.collect();
        let advice = match there.is_empty() {
            true => "give workloads the label, or remove the subset".to_string(),
            false => format!("its endpoints have {}", listed(there)),
        };
        report.add(
            &code::SUBSET_SELECTS_NOTHING,
            item,
            format!("spec.subsets[{at}].labels"),
            message,
            advice,
        );
        if !is_used(world, &subset.name, service) {
            report.soften(Level::Warning);
        }
    }
}

/// Whether a route leads to a subset: only then does anything fail.
fn is_used(world: &World, subset: &str, service: &MeshService) -> bool {
    each!(world.items, VirtualService).any(|(item, routes)| {
        let Some(own) = &routes.meta.namespace else { return false };
        destinations(item, routes).iter().any(|leads| {
            leads.to.subset == subset
                && World::full_host(&leads.to.host, own).as_ref() == Some(&service.service.host)
        })
    })
}

/// Every TLS setting with its path; the port is that of a setting for one port.
fn settings(rule: &DestinationRule) -> Vec<(String, Option<u16>, &ClientTls)> {
    let own = rule.traffic_policy.iter().map(|policy| ("spec.trafficPolicy".to_string(), policy));
    let subsets = rule.subsets.iter().enumerate();
    let subsets = subsets.filter_map(|(at, subset)| {
        Some((format!("spec.subsets[{at}].trafficPolicy"), subset.traffic_policy.as_ref()?))
    });
    let mut found = Vec::new();
    for (field, policy) in own.chain(subsets) {
        found.extend(policy.tls.as_ref().map(|tls| (format!("{field}.tls"), None, tls)));
        for (at, port) in policy.port_level_settings.iter().enumerate() {
            let field = format!("{field}.portLevelSettings[{at}].tls");
            found.extend(port.tls.as_ref().map(|tls| (field, Some(port.port.number), tls)));
        }
    }
    found
}

fn authorities(report: &mut Report, item: &Item, rule: &Resource<DestinationRule>) {
    for (field, port, tls) in settings(&rule.spec) {
        let checks = !tls.ca_certificates.is_empty() || !tls.credential_name.is_empty();
        if matches!(tls.mode, ClientTlsMode::Simple | ClientTlsMode::Mutual) && !checks {
            let code: &'static Code = if port.is_some() { &code::NO_ROOTS_AT_PORT } else { &code::NO_ROOTS };
            let message = format!("whoever answers for {} is not checked: no caCertificates", rule.spec.host);
            report.add(code, item, field, message, "set caCertificates or credentialName");
        }
    }
}

/// TLS that the servers refuse, or cannot speak.
fn modes(
    world: &World,
    report: &mut Report,
    item: &Item,
    rule: &Resource<DestinationRule>,
    service: &MeshService,
) {
    if service.service.location == Location::MeshExternal {
        return;
    }
    let namespace = &service.service.namespace;
    let policies = PeerPolicies::of(&world.snapshot, namespace);
    let own: Vec<_> = match &service.service.selector {
        Some(selector) if !selector.is_empty() => world
            .selected(Some(namespace.as_str()), &selector.0)
            .map(|workload| workload.labels.clone())
            .collect(),
        _ => Vec::new(),
    };
    // Where no workload is known, it has at least the labels of the selector.
    let least = service.service.selector.as_ref().map(|selector| selector.0.clone()).unwrap_or_default();
    let of_all = policies.modes(&least);
    for (field, port, tls) in settings(&rule.spec) {
        let targets = service.service.ports.iter().filter(|one| port.is_none_or(|port| one.number == port));
        // What a port's name stands for is the Pods' to say, and PeerAuthentication knows numbers alone.
        let targets: Option<Vec<u16>> = targets
            .map(|one| match one.target {
                TargetPort::Number(number) => Some(number),
                TargetPort::Name(_) => None,
            })
            .collect();
        let Some(targets) = targets.filter(|targets| !targets.is_empty()) else { continue };
        let everywhere = |wanted: Mode| {
            let of = |modes: isthmus_registry::peer_auth::Modes| {
                targets.iter().all(|port| modes.at(*port) == wanted)
            };
            match own.is_empty() {
                true => of(of_all.clone()),
                false => own.iter().all(|labels| of(policies.modes(labels))),
            }
        };
        let (sent, refused) = match tls.mode {
            ClientTlsMode::Disable if everywhere(Mode::Strict) => ("plain connections", "STRICT"),
            ClientTlsMode::Simple | ClientTlsMode::Mutual if everywhere(Mode::Strict) => {
                ("TLS of another kind", "STRICT")
            }
            ClientTlsMode::IstioMutual if everywhere(Mode::Disable) => ("mutual TLS", "DISABLE"),
            _ => continue,
        };
        let message = format!(
            "it makes clients send {sent}, and PeerAuthentication is {refused} for the workloads of {}: connections to those with a sidecar fail",
            service.service.host
        );
        let advice = "remove tls (mutual TLS is found out by itself), or change the PeerAuthentication";
        report.add(&code::TLS_CONFLICT, item, format!("{field}.mode"), message, advice);
    }
}

/// A rule and where it stands.
type Declared<'w> = (&'w Item, &'w Resource<DestinationRule>);

/// Rules of one host in one namespace are merged, the oldest first.
fn conflicts(world: &World, report: &mut Report) {
    let mut by_host: BTreeMap<(Namespace, Hostname), Vec<Declared<'_>>> = BTreeMap::new();
    for (item, rule) in each!(world.items, DestinationRule) {
        let Some(own) = &rule.meta.namespace else { continue };
        if let Some(host) = World::full_host(&rule.spec.host, own) {
            by_host.entry((own.clone(), host)).or_default().push((item, rule));
        }
    }
    for ((_, host), mut all) in by_host {
        all.sort_by(|(_, a), (_, b)| a.meta.age_key().cmp(&b.meta.age_key()));
        for (at, (item, rule)) in all.iter().enumerate() {
            let older = all[..at].iter().map(|(_, older)| older).filter(|older| {
                older.spec.export_to == rule.spec.export_to
                    && older.spec.workload_selector == rule.spec.workload_selector
            });
            for older in older {
                lost(report, item, rule, older, &host);
            }
        }
    }
}

fn lost(
    report: &mut Report,
    item: &Item,
    rule: &Resource<DestinationRule>,
    older: &Resource<DestinationRule>,
    host: &Hostname,
) {
    if rule.spec.traffic_policy.is_some() && older.spec.traffic_policy.is_some() {
        let message = format!(
            "DestinationRule {} has a trafficPolicy for {host} too; that of the oldest counts",
            older.meta
        );
        report.add(
            &code::RULES_CONFLICT,
            item,
            "spec.trafficPolicy",
            message,
            "merge them into one DestinationRule",
        );
    }
    for (at, subset) in rule.spec.subsets.iter().enumerate() {
        if older.spec.subsets.iter().any(|known| known.name == subset.name) {
            let message = format!(
                "DestinationRule {} has a subset {:?} of {host} too; that of the oldest counts",
                older.meta, subset.name
            );
            report.add(
                &code::RULES_CONFLICT,
                item,
                format!("spec.subsets[{at}].name"),
                message,
                "rename one, or merge the rules",
            );
        }
    }
}
