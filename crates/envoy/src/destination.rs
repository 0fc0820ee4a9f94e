//! DestinationRules: which applies to a client and a service, and what it says for a port and a subset.

use std::collections::HashMap;
use std::sync::Arc;

use isthmus_model::{Hostname, Labels, Namespace, Selector};
use isthmus_registry::config::Objects;
use isthmus_registry::{MeshService, Snapshot};
use isthmus_resources::istio::{
    ClientTls, ConnectionPool, DestinationRule, LoadBalancer, LocalityLb, OutlierDetection, ProxyProtocol,
    Subset, TrafficPolicy,
};

use crate::class::Class;
use crate::settings::Defaults;

/// DestinationRules of one host in one namespace, merged: subsets concatenated, the oldest policy.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Rule {
    pub(crate) namespace: Namespace,
    pub(crate) name: Arc<str>,
    host: Hostname,
    export_to: Vec<String>,
    selector: Option<Selector>,
    policy: Option<TrafficPolicy>,
    pub(crate) subsets: Vec<Subset>,
    mesh: Arc<Defaults>,
}

/// What holds for one port and subset; unset parts are mesh defaults.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Effective<'a> {
    pub(crate) balancer: Option<&'a LoadBalancer>,
    pub(crate) pool: Option<&'a ConnectionPool>,
    pub(crate) outlier: Option<&'a OutlierDetection>,
    pub(crate) tls: Option<&'a ClientTls>,
    /// What the mesh says where nothing of this does.
    pub(crate) mesh: Option<&'a Defaults>,
    /// The PROXY header that endpoints are sent.
    pub(crate) announce: Option<ProxyProtocol>,
}

impl<'a> Effective<'a> {
    /// The policy of a rule for a port and a subset: the subset's fields over the rule's; a port's entry replaces all four.
    pub(crate) fn of(rule: Option<&'a Rule>, port: u16, subset: &str) -> Self {
        let Some(rule) = rule else { return Self::default() };
        let mut effective = Self { mesh: Some(&rule.mesh), ..Self::default() };
        effective.overlay(rule.policy.as_ref(), port);
        let subset = rule.subsets.iter().find(|candidate| candidate.name == subset);
        effective.overlay(subset.and_then(|subset| subset.traffic_policy.as_ref()), port);
        effective
    }

    /// Balancing over localities: the rule's, else, where the Service asks for nothing either, the mesh's.
    pub(crate) fn locality(&self, service: &MeshService) -> Option<&'a LocalityLb> {
        let own = self.balancer.and_then(|balancer| balancer.locality_lb_setting.as_ref());
        let mesh = self.mesh.filter(|_| service.traffic_distribution.is_none());
        own.or(mesh.and_then(|mesh| mesh.locality.as_ref()))
    }

    fn overlay(&mut self, policy: Option<&'a TrafficPolicy>, port: u16) {
        let Some(policy) = policy else { return };
        self.balancer = policy.load_balancer.as_ref().or(self.balancer);
        self.pool = policy.connection_pool.as_ref().or(self.pool);
        self.outlier = policy.outlier_detection.as_ref().or(self.outlier);
        self.tls = policy.tls.as_ref().or(self.tls);
        self.announce = policy.proxy_protocol.or(self.announce);
        if let Some(own) = policy.port_level_settings.iter().find(|own| own.port.number == port) {
            *self = Self {
                balancer: own.load_balancer.as_ref(),
                pool: own.connection_pool.as_ref(),
                outlier: own.outlier_detection.as_ref(),
                tls: own.tls.as_ref(),
                // No port has its own.
                announce: self.announce,
                mesh: self.mesh,
            };
        }
    }
}

impl Rule {
    /// A rule that says nothing, where the mesh says something.
    fn base(mesh: &Arc<Defaults>, root: &Namespace) -> Option<Self> {
        if **mesh == Defaults::default() {
            return None;
        }
        Some(Self {
            namespace: root.clone(),
            name: Arc::from(""),
            host: Hostname::new("*").ok()?,
            export_to: Vec::new(),
            selector: None,
            policy: None,
            subsets: Vec::new(),
            mesh: Arc::clone(mesh),
        })
    }

    /// Whether an object stands behind it.
    pub(crate) fn is_declared(&self) -> bool {
        !self.name.is_empty()
    }

    fn visible_in(&self, namespace: &Namespace) -> bool {
        self.export_to.is_empty()
            || self.export_to.iter().any(|to| match to.as_str() {
                "*" => true,
                "." => self.namespace == *namespace,
                name => name == namespace.as_str(),
            })
    }

    fn is_private(&self) -> bool {
        self.export_to.iter().any(|to| to == ".")
    }
}

/// Labels that the rule's failover priorities compare.
pub(crate) fn failover_labels(rule: &DestinationRule) -> impl Iterator<Item = &str> {
    let policies = rule
        .traffic_policy
        .iter()
        .chain(rule.subsets.iter().filter_map(|subset| subset.traffic_policy.as_ref()));
    policies
        .flat_map(|policy| {
            let ports = policy.port_level_settings.iter().filter_map(|port| port.load_balancer.as_ref());
            policy.load_balancer.iter().chain(ports)
        })
        .filter_map(|balancer| balancer.locality_lb_setting.as_ref())
        .flat_map(|setting| &setting.failover_priority)
        .map(|entry| entry.split('=').next().unwrap_or_default())
}

/// Merged rules by namespace, kept while their namespace's list is the same one.
#[derive(Debug, Default)]
pub(crate) struct Rules {
    namespaces: HashMap<Namespace, NamespaceRules>,
    mesh: Arc<Defaults>,
    /// For services that no rule is about, where the mesh says something of its own.
    base: Option<Arc<Rule>>,
}

/// One namespace's rules.
#[derive(Debug)]
struct NamespaceRules {
    source: Objects<DestinationRule>,
    by_host: HashMap<Hostname, Vec<Arc<Rule>>>,
    wildcards: Vec<Arc<Rule>>,
}

impl NamespaceRules {
    fn new(source: &Objects<DestinationRule>, rules: Vec<Arc<Rule>>) -> Self {
        let mut new = Self { source: Arc::clone(source), by_host: HashMap::new(), wildcards: Vec::new() };
        for rule in rules {
            if rule.host.is_wildcard() {
                new.wildcards.push(rule);
            } else {
                new.by_host.entry(rule.host.clone()).or_default().push(rule);
            }
        }
        new
    }

    fn all(&self) -> impl Iterator<Item = &Arc<Rule>> {
        self.by_host.values().flatten().chain(&self.wildcards)
    }
}

impl Rules {
    /// Takes over a snapshot's rules; merged rules that come out equal stay themselves.
    pub(crate) fn refresh(&mut self, snapshot: &Snapshot, domain: &str, mesh: &Defaults) {
        if *self.mesh != *mesh {
            self.mesh = Arc::new(mesh.clone());
            self.base = Rule::base(&self.mesh, &snapshot.root_namespace).map(Arc::new);
            self.namespaces.clear();
        }
        self.namespaces.retain(|namespace, _| snapshot.config.contains_key(namespace));
        for (namespace, config) in snapshot.config.iter() {
            let list = &config.destination_rules;
            let old = self.namespaces.get(namespace);
            if old.is_some_and(|old| Arc::ptr_eq(&old.source, list)) {
                continue;
            }
            let known = |rule: &Rule| old.and_then(|old| old.all().find(|candidate| ***candidate == *rule));
            let rules =
                merge(namespace, list, domain, &self.mesh).into_iter().map(|rule| match known(&rule) {
                    Some(kept) => Arc::clone(kept),
                    None => Arc::new(rule),
                });
            let new = NamespaceRules::new(list, rules.collect());
            self.namespaces.insert(namespace.clone(), new);
        }
    }

    /// The rule for a client and a service: the client's namespace, the service's, the root's; the first with a match ends the
    /// search, and within it the most specific host wins, rules for chosen workloads before others.
    pub(crate) fn find(&self, class: &Class, service: &MeshService, root: &Namespace) -> Option<&Arc<Rule>> {
        let host = service.service.host.as_str();
        let own = self.best(&class.namespace, host, Some(&class.labels), |rule| {
            class.namespace != *root || rule.is_private()
        });
        let exported = |rule: &Rule| rule.visible_in(&class.namespace);
        own.or_else(|| {
            let namespace = &service.service.namespace;
            (*namespace != class.namespace).then(|| self.best(namespace, host, None, exported)).flatten()
        })
        .or_else(|| self.best(root, host, None, exported))
        .or(self.base.as_ref())
    }

    fn best(
        &self,
        namespace: &Namespace,
        host: &str,
        labels: Option<&Labels>,
        usable: impl Fn(&Rule) -> bool,
    ) -> Option<&Arc<Rule>> {
        let rules = self.namespaces.get(namespace)?;
        let exact = rules.by_host.get(host).into_iter().flatten();
        exact
            .chain(rules.wildcards.iter().filter(|rule| rule.host.covers(host)))
            .filter(|rule| usable(rule))
            .filter(|rule| match (&rule.selector, labels) {
                (None, _) => true,
                (Some(selector), Some(labels)) => selector.matches(labels),
                (Some(_), None) => false,
            })
            .min_by_key(|rule| {
                let length = rule.host.as_str().len();
                (rule.selector.is_none(), rule.host.is_wildcard(), usize::MAX - length)
            })
    }
}

/// A host as a namespace's configuration means it: a name without dots is a Service of that namespace.
#[must_use]
pub fn full_host(text: &str, namespace: &Namespace, domain: &str) -> Option<Hostname> {
    let plain = !text.contains('.') && !text.contains('*');
    let full = if plain { format!("{text}.{namespace}.svc.{domain}") } else { text.to_string() };
    Hostname::new(full).ok()
}

fn merge(
    namespace: &Namespace,
    list: &Objects<DestinationRule>,
    domain: &str,
    mesh: &Arc<Defaults>,
) -> Vec<Rule> {
    let mut merged: Vec<Rule> = Vec::new();
    for object in list.iter() {
        let Some(host) = full_host(&object.spec.host, namespace, domain) else {
            tracing::warn!(rule = %object.meta, host = object.spec.host, "destination rule has no usable host");
            continue;
        };
        let selector =
            object.spec.workload_selector.as_ref().map(|selector| Selector(selector.labels.clone()));
        let found = merged.iter_mut().find(|rule| {
            rule.host == host && rule.export_to == object.spec.export_to && rule.selector == selector
        });
        let Some(rule) = found else {
            merged.push(Rule {
                namespace: namespace.clone(),
                name: Arc::clone(&object.meta.name),
                host,
                export_to: object.spec.export_to.clone(),
                selector,
                policy: object.spec.traffic_policy.clone(),
                subsets: object.spec.subsets.clone(),
                mesh: Arc::clone(mesh),
            });
            continue;
        };
        if rule.policy.is_none() {
            rule.policy.clone_from(&object.spec.traffic_policy);
        }
        for subset in &object.spec.subsets {
            if !rule.subsets.iter().any(|known| known.name == subset.name) {
                rule.subsets.push(subset.clone());
            }
        }
    }
    merged
}
