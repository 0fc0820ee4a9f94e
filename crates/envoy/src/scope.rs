//! Istio's Sidecar: which services a class of workloads sees, and what happens to the rest.

use std::sync::Arc;

use isthmus_model::{Hostname, Namespace, Selector};
use isthmus_registry::{MeshService, Snapshot};
use isthmus_resources::Resource;
use isthmus_resources::istio::{OutboundMode, Sidecar};

use crate::class::Class;
use crate::settings::{OutboundPolicy, ProxyKind};

/// What a class sees.
pub(crate) struct Scope {
    sidecar: Option<Arc<Resource<Sidecar>>>,
    namespace: Namespace,
}

/// One `NAMESPACE/HOST` of an egress list.
struct Pattern<'a> {
    excludes: bool,
    namespace: &'a str,
    host: Hostname,
}

impl Scope {
    /// The Sidecar of a class: the oldest that selects it, else the namespace's own, else the root namespace's. Gateways see all.
    pub(crate) fn of(snapshot: &Snapshot, class: &Class) -> Self {
        let own = snapshot.config(&class.namespace).map(|config| &config.sidecars);
        let root = snapshot.config(&snapshot.root_namespace).map(|config| &config.sidecars);
        let chosen = own
            .iter()
            .flat_map(|list| list.iter())
            .find(|object| selector(&object.spec).is_some_and(|selector| selector.matches(&class.labels)));
        let whole = |list: Option<&isthmus_registry::config::Objects<Sidecar>>| {
            list.and_then(|list| list.iter().find(|object| selector(&object.spec).is_none()).cloned())
        };
        let sidecar = chosen.cloned().or_else(|| whole(own)).or_else(|| whole(root));
        Self {
            sidecar: sidecar.filter(|_| class.kind != ProxyKind::Router),
            namespace: class.namespace.clone(),
        }
    }

    /// Whether a service is seen.
    pub(crate) fn sees(&self, service: &MeshService) -> bool {
        let Some(sidecar) = &self.sidecar else { return true };
        if sidecar.spec.egress.is_empty() {
            return true;
        }
        let patterns = sidecar.spec.egress.iter().flat_map(|egress| &egress.hosts);
        let mut seen = false;
        for pattern in patterns.filter_map(|text| pattern(text)) {
            if !self.covers(&pattern, service) {
                continue;
            }
            if pattern.excludes {
                return false;
            }
            seen = true;
        }
        seen
    }

    /// What happens to unknown destinations; the mesh's policy unless the Sidecar has one.
    pub(crate) fn unknown(&self, mesh: OutboundPolicy) -> OutboundPolicy {
        match self.sidecar.as_ref().and_then(|sidecar| sidecar.spec.outbound_traffic_policy.as_ref()) {
            None => mesh,
            Some(policy) if policy.mode == OutboundMode::RegistryOnly => OutboundPolicy::RegistryOnly,
            Some(_) => OutboundPolicy::AllowAny,
        }
    }

    fn covers(&self, pattern: &Pattern<'_>, service: &MeshService) -> bool {
        let namespace = service.service.namespace.as_str();
        let there = match pattern.namespace {
            "*" => true,
            "." => namespace == self.namespace.as_str(),
            name => namespace == name,
        };
        there && pattern.host.covers(service.service.host.as_str())
    }
}

fn pattern(text: &str) -> Option<Pattern<'_>> {
    let (namespace, host) = text.split_once('/')?;
    let host = Hostname::new(host).ok()?;
    Some(match namespace.strip_prefix('~') {
        Some("") => Pattern { excludes: true, namespace: "*", host },
        Some(name) => Pattern { excludes: true, namespace: name, host },
        None => Pattern { excludes: false, namespace, host },
    })
}

fn selector(sidecar: &Sidecar) -> Option<Selector> {
    let labels = &sidecar.workload_selector.as_ref()?.labels;
    (!labels.is_empty()).then(|| Selector(labels.clone()))
}
