//! A snapshot's configuration, indexed; made anew only when it changed.

use std::collections::BTreeSet;
use std::sync::Arc;

use isthmus_model::{Labels, Namespace};
use isthmus_registry::shared::Map;
use isthmus_registry::{NamespaceConfig, Snapshot};

use crate::destination::{Rules, failover_labels};
use crate::routes::RouteIndex;
use crate::settings::MeshSettings;

/// The index.
#[derive(Debug, Default)]
pub(crate) struct Config {
    source: Map<Namespace, Arc<NamespaceConfig>>,
    /// Whether anything was taken over: what the mesh says counts where no object does too.
    known: bool,
    pub(crate) rules: Rules,
    pub(crate) routes: RouteIndex,
    /// Labels of clients that rules and routes of any namespace look at.
    labels: BTreeSet<Arc<str>>,
}

impl Config {
    /// Takes over a snapshot's configuration.
    pub(crate) fn refresh(&mut self, snapshot: &Snapshot, settings: &MeshSettings) {
        let domain = settings.domain.as_str();
        if self.known && self.source.same(&snapshot.config) {
            return;
        }
        self.known = true;
        self.source = snapshot.config.clone();
        self.rules.refresh(snapshot, domain, &settings.defaults);
        self.routes = RouteIndex::new(snapshot, domain);
        self.labels.clear();
        for config in snapshot.config.values() {
            for rule in config.destination_rules.iter() {
                self.labels.extend(failover_labels(&rule.spec).map(Arc::from));
            }
            let routes = config.virtual_services.iter().flat_map(|object| &object.spec.tcp);
            for found in routes.flat_map(|route| &route.r#match) {
                self.labels.extend(found.source_labels.iter().map(|(key, _)| Arc::from(key)));
            }
            let named = config.virtual_services.iter().flat_map(|object| &object.spec.tls);
            for found in named.flat_map(|route| &route.r#match) {
                self.labels.extend(found.source_labels.iter().map(|(key, _)| Arc::from(key)));
            }
        }
    }

    /// Those labels of a client in `namespace` that some configuration looks at.
    pub(crate) fn relevant(&self, labels: &Labels, namespace: &Namespace) -> Labels {
        let mut keys = BTreeSet::new();
        if let Some(config) = self.source.get(namespace) {
            let rules =
                config.destination_rules.iter().filter_map(|rule| rule.spec.workload_selector.as_ref());
            let sidecars = config.sidecars.iter().filter_map(|object| object.spec.workload_selector.as_ref());
            keys.extend(
                rules.chain(sidecars).flat_map(|selector| selector.labels.iter().map(|(key, _)| key)),
            );
        }
        labels.iter().filter(|(key, _)| keys.contains(key) || self.labels.contains(*key)).collect()
    }
}
