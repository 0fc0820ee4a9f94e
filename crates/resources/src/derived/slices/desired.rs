//! The slices that a Service should have.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use isthmus_model::{Protocol, TargetPort};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::{MANAGED_BY, OURS};
use crate::convert::SERVICE_NAME_LABEL;
use crate::{Object, Resource, kubernetes};

/// Most endpoints in one slice, as Kubernetes has it.
const MAX_ENDPOINTS: usize = 100;

/// One slice: as it is written, and as it is read back.
pub(super) struct Slice {
    pub(super) name: String,
    pub(super) object: Value,
    pub(super) content: kubernetes::EndpointSlice,
}

/// What all endpoints of a slice share: family, and the port of each service port.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Group {
    v6: bool,
    ports: Vec<(Arc<str>, &'static str, u16)>,
}

/// The slices for these Pods. There is always one, so that a Service without Pods is seen to have none.
pub(super) fn slices<'p>(
    service: &Resource<kubernetes::Service>,
    pods: impl Iterator<Item = &'p Arc<Resource<kubernetes::Pod>>>,
) -> Vec<Slice> {
    let mut groups: BTreeMap<Group, Vec<Value>> = BTreeMap::new();
    for pod in pods.filter(|pod| pod.spec.is_alive()) {
        let ports = ports(service, &pod.spec);
        for address in addresses(service, &pod.spec) {
            let group = Group { v6: address.is_ipv6(), ports: ports.clone() };
            groups.entry(group).or_default().push(endpoint(service, pod, address));
        }
    }
    if groups.is_empty() {
        groups.insert(Group { v6: false, ports: Vec::new() }, Vec::new());
    }
    let mut found = Vec::new();
    for (group, endpoints) in groups {
        if endpoints.is_empty() {
            found.extend(slice(service, &group, 0, &[]));
        }
        for (index, chunk) in endpoints.chunks(MAX_ENDPOINTS).enumerate() {
            found.extend(slice(service, &group, index, chunk));
        }
    }
    found
}

/// One address for each family of the Service; a headless one follows the Pod's primary address.
fn addresses(service: &Resource<kubernetes::Service>, pod: &kubernetes::Pod) -> Vec<IpAddr> {
    let virtual_ips = &service.spec.cluster_ips;
    if virtual_ips.is_empty() {
        return pod.ips.first().copied().into_iter().collect();
    }
    let of_family = |v6: bool| pod.ips.iter().find(|ip| ip.is_ipv6() == v6).copied();
    let families = [false, true].into_iter().filter(|v6| virtual_ips.iter().any(|ip| ip.is_ipv6() == *v6));
    families.filter_map(of_family).collect()
}

fn ports(
    service: &Resource<kubernetes::Service>,
    pod: &kubernetes::Pod,
) -> Vec<(Arc<str>, &'static str, u16)> {
    let resolve = |port: &kubernetes::ServicePort| {
        let number = match &port.target {
            TargetPort::Number(number) => Some(*number),
            TargetPort::Name(name) => pod.named_port(name),
        };
        let protocol = if port.protocol == Protocol::Udp { "UDP" } else { "TCP" };
        Some((Arc::clone(&port.name), protocol, number?))
    };
    service.spec.ports.iter().filter_map(resolve).collect()
}

fn endpoint(
    service: &Resource<kubernetes::Service>,
    pod: &Resource<kubernetes::Pod>,
    address: IpAddr,
) -> Value {
    let terminating = pod.meta.deleting;
    let mut endpoint = json!({
        "addresses": [address.to_string()],
        "conditions": {
            "ready": service.spec.publish_not_ready || (pod.spec.ready && !terminating),
            "serving": pod.spec.ready,
            "terminating": terminating,
        },
        "targetRef": {
            "kind": "Pod",
            "namespace": pod.meta.namespace_str(),
            "name": &*pod.meta.name,
            "uid": pod.meta.uid.to_string(),
        },
    });
    if !pod.spec.node.is_empty() {
        endpoint["nodeName"] = json!(&*pod.spec.node);
    }
    if let Some(dns) = &pod.spec.dns
        && let Some(hostname) = &dns.hostname
        && dns.subdomain.as_ref() == Some(&service.meta.name)
    {
        endpoint["hostname"] = json!(&**hostname);
    }
    endpoint
}

fn slice(
    service: &Resource<kubernetes::Service>,
    group: &Group,
    index: usize,
    endpoints: &[Value],
) -> Option<Slice> {
    // The same slice has the same name for every replica and after every restart.
    let identity = format!("{}|{}|{:?}|{index}", service.meta.uid, group.v6, group.ports);
    let digest: String = Sha256::digest(identity).iter().take(5).map(|byte| format!("{byte:02x}")).collect();
    let name = format!("{}-{digest}", service.meta.name);
    let ports: Vec<Value> = group
        .ports
        .iter()
        .map(|(name, protocol, number)| json!({"name": &**name, "protocol": protocol, "port": number}))
        .collect();
    let mut labels =
        service.meta.labels.with([(SERVICE_NAME_LABEL, &*service.meta.name), (MANAGED_BY, OURS)]);
    if service.spec.headless {
        labels = labels.with([("service.kubernetes.io/headless", "")]);
    }
    let object = json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": name,
            "namespace": service.meta.namespace_str(),
            "labels": labels,
            "ownerReferences": [{
                "apiVersion": "v1",
                "kind": "Service",
                "name": &*service.meta.name,
                "uid": service.meta.uid.to_string(),
                "controller": true,
                "blockOwnerDeletion": true,
            }],
        },
        "addressType": if group.v6 { "IPv6" } else { "IPv4" },
        "ports": ports,
        "endpoints": endpoints,
    });
    match crate::parse(object.clone()) {
        Ok(Object::EndpointSlice(read)) => Some(Slice { name, object, content: read.spec.clone() }),
        outcome => {
            tracing::error!(service = %service.meta, ?outcome, "endpoint slice cannot be read back; this is a bug");
            None
        }
    }
}
