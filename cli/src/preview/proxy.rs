//! Whose configuration it is: properties from flags, from the object that the proxy stands for, and from the mesh's configuration, in
//! this order, said as the proxy itself would say them in its node.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use anyhow::{Context, bail};
use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::google::protobuf as wkt;
use isthmus_envoy::Proxy;
use isthmus_envoy::node::Node;
use isthmus_model::{Labels, Locality, NetworkId, Selector};
use isthmus_resources::convert::workload_labels;
use isthmus_resources::mesh::MeshConfig;
use isthmus_resources::{Kind, Object};
use serde_json::Value;

use crate::args::{PreviewArgs, Whose};
use crate::objects::Item;

const LOCALITY_LABEL: &str = "topology.istio.io/locality";
const GATEWAY_LABEL: &str = "gateway.networking.k8s.io/gateway-name";

/// The workload that the proxy stands for, or none.
#[derive(Debug, Default)]
pub(super) struct Subject {
    router: bool,
    namespace: String,
    name: String,
    ips: Vec<IpAddr>,
    labels: Labels,
    account: String,
    network: String,
    locality: Locality,
    node: String,
    /// What the agent's environment says of itself (`ISTIO_META_KEY`).
    environment: BTreeMap<String, String>,
}

type Objects = BTreeMap<(Kind, String, String), Item>;

impl Subject {
    /// Finds the object that is meant. Labels and locality of the command line are put on it, so that policies and selectors see it
    /// so too.
    pub(super) fn find(args: &PreviewArgs, objects: &mut Objects) -> anyhow::Result<Self> {
        let name = match &args.proxy {
            Whose::Sidecar => return Ok(Self::nobody("default", false)),
            Whose::Gateway => return Ok(Self::nobody("istio-system", true)),
            Whose::Object(name) => name,
        };
        let key = |kind| (kind, name.namespace.to_string(), name.name.to_string());
        let gateways: Vec<Selector> = objects.values().filter_map(selector).collect();
        let kind =
            [Kind::Pod, Kind::WorkloadEntry].into_iter().find(|kind| objects.contains_key(&key(*kind)));
        let Some(item) = kind.and_then(|kind| objects.get_mut(&key(kind))) else {
            if args.ips.is_empty() {
                bail!("{}", unknown(&name.to_string(), objects));
            }
            let nobody = Self::nobody(name.namespace.as_str(), false);
            return Ok(Self { name: name.name.to_string(), ..nobody });
        };
        overlay(item, args);
        let mut subject = match &item.object {
            Object::Pod(pod) => Self {
                ips: pod.spec.ips.to_vec(),
                labels: pod.meta.labels.clone(),
                account: pod.spec.service_account.to_string(),
                node: pod.spec.node.to_string(),
                environment: environment(&item.raw),
                ..Self::default()
            },
            Object::WorkloadEntry(entry) => Self {
                ips: entry.spec.address.parse().into_iter().collect(),
                labels: workload_labels(&entry.meta, &entry.spec),
                account: entry.spec.service_account.clone(),
                network: entry.spec.network.clone(),
                // A machine's agent answers DNS, unless it is told not to.
                environment: BTreeMap::from([("DNS_CAPTURE".to_string(), "true".to_string())]),
                ..Self::default()
            },
            other => bail!("{} {} is no workload", other.kind(), other.meta()),
        };
        subject.namespace = name.namespace.to_string();
        subject.name = name.name.to_string();
        subject.router = is_router(&item.raw, &subject.labels)
            || gateways.iter().any(|gateway| gateway.matches(&subject.labels));
        Ok(subject)
    }

    fn nobody(namespace: &str, router: bool) -> Self {
        Self { router, namespace: namespace.to_string(), account: "default".to_string(), ..Self::default() }
    }

    /// The proxy, read from the node that it would show.
    pub(super) fn proxy(&mut self, args: &PreviewArgs, config: &MeshConfig) -> anyhow::Result<Proxy> {
        let own = self.environment.iter();
        let mut metadata: BTreeMap<&str, &str> =
            own.map(|(key, value)| (key.as_str(), value.as_str())).collect();
        metadata.extend(args.metadata.iter().map(|(key, value)| (key.as_str(), value.as_str())));
        let namespace = metadata.get("NAMESPACE").map_or(self.namespace.as_str(), |text| text).to_string();
        if !args.ips.is_empty() {
            self.ips.clone_from(&args.ips);
        }
        let mut labels = self.labels.with(args.labels.iter().cloned());
        if self.router && self.name.is_empty() && args.labels.is_empty() {
            labels = labels.with([("istio", "eastwestgateway")]);
        }
        let kind = if self.router { "router" } else { "sidecar" };
        let name = if self.name.is_empty() { kind } else { &self.name };
        let first = self.ips.first().copied().unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        let account = args.service_account.as_deref().unwrap_or(&self.account);
        let addresses: Vec<String> = self.ips.iter().map(ToString::to_string).collect();
        let mut fields: BTreeMap<String, wkt::Value> = BTreeMap::new();
        let own = [
            ("NAME", name),
            ("NAMESPACE", &namespace),
            ("SERVICE_ACCOUNT", account),
            ("INSTANCE_IPS", &addresses.join(",")),
            ("NETWORK", args.network.as_ref().map_or(self.network.as_str(), NetworkId::as_str)),
            ("NODE_NAME", &self.node),
        ];
        let own = own.iter().filter(|(_, value)| !value.is_empty());
        fields.extend(own.map(|(key, value)| ((*key).to_string(), text(value))));
        fields.extend(metadata.iter().map(|(key, value)| ((*key).to_string(), text(value))));
        let pairs = labels.iter().map(|(key, value)| (key.to_string(), text(value)));
        let pairs = wkt::Struct { fields: pairs.collect() };
        fields.insert("LABELS".to_string(), wkt::Value { kind: Some(wkt::value::Kind::StructValue(pairs)) });
        let place = args.locality.as_ref().unwrap_or(&self.locality);
        let wire = core::Node {
            id: format!("{kind}~{first}~{name}.{namespace}~{namespace}.svc.cluster.local"),
            metadata: Some(wkt::Struct { fields: fields.into_iter().collect() }),
            locality: (!place.is_empty()).then(|| core::Locality {
                region: place.region.to_string(),
                zone: place.zone.to_string(),
                sub_zone: place.subzone.to_string(),
            }),
            ..core::Node::default()
        };
        let node = Node::read(&wire, config).context("--meta")?;
        let account = node.service_account.clone().unwrap_or_else(|| "default".into());
        Ok(node.proxy(Arc::clone(&node.name), account, &args.proxy_cluster))
    }
}

fn text(value: &str) -> wkt::Value {
    wkt::Value { kind: Some(wkt::value::Kind::StringValue(value.to_string())) }
}

/// What a Gateway selects; one that selects everything says nothing about who is a gateway.
fn selector(item: &Item) -> Option<Selector> {
    match &item.object {
        Object::Gateway(gateway) if !gateway.spec.selector.is_empty() => {
            Some(Selector(gateway.spec.selector.clone()))
        }
        _ => None,
    }
}

/// Labels, account and locality of the command line over those of the object.
fn overlay(item: &mut Item, args: &PreviewArgs) {
    let mut labels = args.labels.clone();
    if let Some(locality) = &args.locality {
        labels.push((LOCALITY_LABEL.to_string(), locality.to_string()));
    }
    match &mut item.object {
        Object::Pod(pod) => {
            let pod = Arc::make_mut(pod);
            pod.meta.labels = pod.meta.labels.with(labels);
            if let Some(account) = &args.service_account {
                pod.spec.service_account = account.as_str().into();
            }
        }
        Object::WorkloadEntry(entry) => {
            let entry = Arc::make_mut(entry);
            entry.meta.labels = entry.meta.labels.with(args.labels.clone());
            if let Some(locality) = &args.locality {
                entry.spec.locality = locality.to_string();
            }
            if let Some(account) = &args.service_account {
                entry.spec.service_account.clone_from(account);
            }
        }
        _ => {}
    }
}

/// Whether a Pod runs a gateway: its container says so, or what injected it, or its labels.
fn is_router(raw: &Value, labels: &Labels) -> bool {
    let runs = containers(raw).any(|container| {
        let args = container["args"].as_array().into_iter().flatten();
        args.into_iter().any(|one| one == "router")
    });
    let injected = raw["metadata"]["annotations"]["inject.istio.io/templates"] == "gateway";
    let named = labels.get("istio").is_some_and(|value| value.ends_with("gateway"));
    runs || injected || named || labels.get(GATEWAY_LABEL).is_some()
}

fn containers(raw: &Value) -> impl Iterator<Item = &Value> {
    let list = |name: &str| raw["spec"][name].as_array().into_iter().flatten();
    list("containers").chain(list("initContainers"))
}

/// The agent's node metadata as its container's environment gives it.
fn environment(raw: &Value) -> BTreeMap<String, String> {
    let all = containers(raw).flat_map(|container| container["env"].as_array().into_iter().flatten());
    all.filter_map(|variable| {
        let key = variable["name"].as_str()?.strip_prefix("ISTIO_META_")?;
        Some((key.to_string(), variable["value"].as_str()?.to_string()))
    })
    // who it is, its object says
    .filter(|(key, _)| !matches!(key.as_str(), "CLUSTER_ID" | "NAME" | "NAMESPACE" | "WORKLOAD_NAME"))
    .collect()
}

/// What could have been meant.
fn unknown(name: &str, objects: &Objects) -> String {
    let known: Vec<String> = objects
        .keys()
        .filter(|(kind, _, _)| matches!(kind, Kind::Pod | Kind::WorkloadEntry))
        .map(|(_, namespace, name)| format!("{namespace}/{name}"))
        .collect();
    let there = match known.len() {
        0 => "the files have none".to_string(),
        count if count > 20 => format!("the files have {count}, such as {}", known[..10].join(", ")),
        _ => format!("the files have {}", known.join(", ")),
    };
    format!(
        "no Pod or WorkloadEntry {name}: {there}; for a proxy without an object give --ip, or --proxy sidecar"
    )
}
