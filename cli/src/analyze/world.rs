//! The mesh that is analysed, and how much of it is known.

use std::collections::BTreeSet;
use std::sync::Arc;

use isthmus_model::{ClusterId, Hostname, Labels, Namespace, Selector};
use isthmus_registry::{MeshService, Snapshot};
use isthmus_resources::convert::workload_labels;
use isthmus_resources::kubernetes::ServiceType;
use isthmus_resources::mesh::Networks;
use isthmus_resources::{Kind, Object};
use serde_json::Value;

use crate::objects::Item;
use crate::preview::mesh::DOMAIN;

/// Label keys that a registry adds to what an object says of itself.
const PLACES: [&str; 3] = ["topology.kubernetes.io/", "topology.istio.io/", "kubernetes.io/hostname"];

/// All that is looked at.
#[derive(Debug)]
pub(super) struct World {
    pub(super) snapshot: Arc<Snapshot>,
    /// Objects of the cluster whose configuration is analysed.
    pub(super) items: Vec<Item>,
    /// Objects of other clusters.
    pub(super) others: Vec<(ClusterId, Vec<Item>)>,
    pub(super) cluster: ClusterId,
    pub(super) networks: Networks,
    pub(super) workloads: Vec<Labelled>,
    /// Whether the objects come from an API server, which has everything.
    pub(super) live: bool,
    /// Linked clusters that were not read.
    pub(super) peers: Vec<String>,
    /// Hosts of Services of type ExternalName, which are no services of the mesh.
    aliases: BTreeSet<Hostname>,
    namespaces: BTreeSet<String>,
}

/// Something that runs, or would: a Pod, a machine, or what a Deployment makes.
#[derive(Debug, Clone)]
pub(super) struct Labelled {
    pub(super) namespace: String,
    pub(super) labels: Labels,
}

/// What a host is.
#[derive(Debug)]
pub(super) enum Found<'a> {
    /// A service that may be seen.
    Service(&'a MeshService),
    /// One that exportTo hides.
    Hidden(&'a MeshService),
    /// A name outside the mesh.
    Alias,
    /// None, and all is known.
    Missing,
    /// Not there, where not everything was read: why.
    Unknown(String),
}

/// Objects of one kind with where they stand.
macro_rules! each {
    ($items:expr, $kind:ident) => {
        $items.iter().filter_map(|item| match &item.object {
            isthmus_resources::Object::$kind(object) => Some((item, &**object)),
            _ => None,
        })
    };
}
pub(super) use each;

impl World {
    /// Puts it together.
    pub(super) fn new(
        snapshot: Arc<Snapshot>,
        cluster: ClusterId,
        items: Vec<Item>,
        templates: &[Value],
        others: Vec<(ClusterId, Vec<Item>)>,
        networks: Networks,
    ) -> Self {
        let of_all = || items.iter().chain(others.iter().flat_map(|(_, items)| items));
        let mut workloads: Vec<Labelled> = of_all().filter_map(labelled).collect();
        workloads.extend(templates.iter().filter_map(template));
        let aliases =
            each!(items, Service).filter(|(_, service)| service.spec.kind == ServiceType::ExternalName);
        let aliases = aliases.filter_map(|(_, service)| {
            Hostname::new(format!("{}.{}.svc.{DOMAIN}", service.meta.name, service.meta.namespace_str())).ok()
        });
        let aliases = aliases.collect();
        let namespaces = of_all().filter(|item| item.object.kind() == Kind::Namespace);
        let namespaces = namespaces.map(|item| item.object.meta().name.to_string()).collect();
        Self {
            snapshot,
            items,
            others,
            cluster,
            networks,
            workloads,
            live: false,
            peers: Vec::new(),
            aliases,
            namespaces,
        }
    }

    /// A host as configuration of a namespace means it.
    pub(super) fn full_host(text: &str, namespace: &Namespace) -> Option<Hostname> {
        isthmus_envoy::full_host(text, namespace, DOMAIN)
    }

    /// What a host is for whoever is in a namespace.
    pub(super) fn find(&self, host: &Hostname, namespace: &Namespace) -> Found<'_> {
        if let Some(service) = self.snapshot.service(host, namespace) {
            return Found::Service(service);
        }
        let all = || self.snapshot.services.values();
        let covering = |service: &&Arc<MeshService>| {
            let known = &service.service.host;
            known.is_wildcard() && known.covers(host.as_str())
                || host.is_wildcard() && host.covers(known.as_str())
        };
        let mut covering: Vec<_> = all().filter(covering).collect();
        covering.sort_by_key(|service| !service.service.visible_in(namespace));
        if let Some(service) = covering.first() {
            return match service.service.visible_in(namespace) {
                true => Found::Service(service),
                false => Found::Hidden(service),
            };
        }
        if self.aliases.contains(host) {
            return Found::Alias;
        }
        if let Some(service) = all().find(|service| service.service.host == *host) {
            return Found::Hidden(service);
        }
        match self.unknown_host(host) {
            Some(why) => Found::Unknown(why),
            None => Found::Missing,
        }
    }

    /// Why the absence of a host says nothing.
    fn unknown_host(&self, host: &Hostname) -> Option<String> {
        if !self.peers.is_empty() {
            let peers = self.peers.join(", ");
            return Some(format!(
                "hosts that this cluster does not have may be imported from {peers} (--all-contexts reads them)"
            ));
        }
        if self.live {
            return None;
        }
        let namespace = host.as_str().strip_suffix(DOMAIN).and_then(|rest| rest.strip_suffix(".svc."));
        let mut services = self.snapshot.services.values();
        match namespace.and_then(|rest| rest.split('.').nth(1)) {
            Some(own) => (!services.any(|service| service.service.namespace.as_str() == own)).then(|| {
                format!("hosts of namespace {own}, of which the files have no Service and no ServiceEntry")
            }),
            None => services.next().is_none().then(|| {
                "hosts outside the cluster, as the files have no Service and no ServiceEntry".to_string()
            }),
        }
    }

    /// The known host that looks most like one.
    pub(super) fn near(&self, host: &Hostname) -> Option<String> {
        let wanted = host.as_str();
        let full = format!("{wanted}.svc.{DOMAIN}");
        let hosts: BTreeSet<&str> =
            self.snapshot.services.values().map(|service| service.service.host.as_str()).collect();
        if let Some(full) = hosts.get(full.as_str()) {
            return Some((*full).to_string());
        }
        let likely = hosts.iter().map(|known| (strsim::jaro_winkler(known, wanted), *known));
        let best = likely.max_by(|(a, _), (b, _)| a.total_cmp(b))?;
        (best.0 > 0.85).then(|| best.1.to_string())
    }

    /// Labels of what a service's endpoints are made of, and would be.
    pub(super) fn behind(&self, service: &MeshService) -> Vec<Labels> {
        let endpoints = self.snapshot.endpoints(&service.key()).into_iter().flat_map(|list| list.iter());
        let mut found: Vec<Labels> = endpoints.map(|endpoint| endpoint.labels.clone()).collect();
        if let Some(selector) = service.service.selector.as_ref().filter(|selector| !selector.is_empty()) {
            let namespace = service.service.namespace.as_str();
            found.extend(self.selected(Some(namespace), &selector.0).map(|workload| workload.labels.clone()));
        }
        found
    }

    /// Workloads with these labels, of a namespace or anywhere.
    pub(super) fn selected<'a>(
        &'a self,
        namespace: Option<&'a str>,
        labels: &Labels,
    ) -> impl Iterator<Item = &'a Labelled> + use<'a> {
        let selector = Selector(labels.clone());
        self.workloads.iter().filter(move |workload| {
            namespace.is_none_or(|namespace| workload.namespace == namespace)
                && selector.matches(&workload.labels)
        })
    }

    /// Whether the workloads of a namespace (or of all) are known: files rarely have Pods.
    pub(super) fn knows_workloads(&self, namespace: Option<&str>) -> bool {
        self.peers.is_empty()
            && (self.live
                || self
                    .workloads
                    .iter()
                    .any(|workload| namespace.is_none_or(|name| workload.namespace == name)))
    }

    /// Whether a namespace is there; none when nobody can know, as files and one cluster of several do not have all.
    pub(super) fn has_namespace(&self, name: &str) -> Option<bool> {
        let there = self.namespaces.contains(name)
            || self.items.iter().any(|item| item.object.meta().namespace_str() == name);
        match there || self.live && self.peers.is_empty() {
            true => Some(there),
            false => None,
        }
    }
}

/// Labels without those that say where a workload is, which objects do not have.
pub(super) fn without_places(labels: &Labels) -> Labels {
    let own = labels.iter().filter(|(key, _)| !PLACES.iter().any(|place| key.starts_with(place)));
    own.map(|(key, value)| (key.to_string(), value.to_string())).collect()
}

fn labelled(item: &Item) -> Option<Labelled> {
    let namespace = item.object.meta().namespace_str().to_string();
    let labels = match &item.object {
        Object::Pod(pod) => pod.meta.labels.clone(),
        Object::WorkloadEntry(entry) => workload_labels(&entry.meta, &entry.spec),
        Object::WorkloadGroup(group) => {
            let own = group.spec.template.labels.iter().chain(group.spec.metadata.labels.iter());
            own.map(|(key, value)| (key.to_string(), value.to_string())).collect()
        }
        _ => return None,
    };
    Some(Labelled { namespace, labels })
}

/// The Pods that a Deployment and its like would make.
fn template(value: &Value) -> Option<Labelled> {
    let template = match value["kind"].as_str()? {
        "Deployment" | "StatefulSet" | "DaemonSet" | "ReplicaSet" | "ReplicationController" | "Job" => {
            &value["spec"]["template"]
        }
        "CronJob" => &value["spec"]["jobTemplate"]["spec"]["template"],
        _ => return None,
    };
    let labels = template["metadata"]["labels"].as_object()?;
    let labels = labels.iter().filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_string())));
    Some(Labelled {
        namespace: value["metadata"]["namespace"].as_str().unwrap_or("default").to_string(),
        labels: labels.collect(),
    })
}
