//! Who this workload says it is on its discovery stream, in Istio's words.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use envoy_types::pb::envoy::config::core::v3::{Locality as WireLocality, Node};
use envoy_types::pb::google::protobuf::value::Kind;
use envoy_types::pb::google::protobuf::{Struct, Value};
use isthmus_model::{Labels, Locality};

use crate::state::Membership;

/// How a workload becomes known to its control plane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Registration {
    /// The control plane writes a Pod for the stream.
    Pod,
    /// The control plane writes a WorkloadEntry from the WorkloadGroup.
    Group,
    /// Not at all: a gateway, or a workload that Kubernetes knows.
    None,
}

/// What a workload says of itself.
#[derive(Debug, Clone)]
pub struct Workload {
    /// `sidecar` or `router`.
    pub kind: &'static str,
    /// Name, unique in the namespace: the Pod's.
    pub name: Arc<str>,
    /// Name of what it is one instance of.
    pub workload: Arc<str>,
    /// Labels.
    pub labels: Labels,
    /// Ports by name.
    pub ports: Vec<(Arc<str>, u16)>,
    /// Addresses; the first is the one that it is registered with.
    pub addresses: Vec<IpAddr>,
    /// Where it runs.
    pub locality: Locality,
    /// How it becomes known.
    pub registration: Registration,
    /// Whether its health is reported.
    pub health_checked: bool,
    /// Whether its DNS queries are answered here: it can use allocated addresses.
    pub dns_capture: bool,
    /// For a gateway: the networks that it wants to see.
    pub network_view: Option<Arc<str>>,
}

impl Workload {
    /// The node of the first request.
    #[must_use]
    pub fn node(&self, membership: &Membership) -> Node {
        let (name, namespace) = (&self.name, &membership.namespace);
        let address = self.addresses.first().map(ToString::to_string).unwrap_or_default();
        let domain = domain(membership);
        Node {
            id: format!("{}~{address}~{name}.{namespace}~{domain}", self.kind),
            cluster: format!("{}.{namespace}", self.workload),
            metadata: Some(self.metadata(membership)),
            locality: Some(WireLocality {
                region: self.locality.region.to_string(),
                zone: self.locality.zone.to_string(),
                sub_zone: self.locality.subzone.to_string(),
            }),
            user_agent_name: "isthmus".to_string(),
            ..Node::default()
        }
    }

    fn metadata(&self, membership: &Membership) -> Struct {
        let addresses: Vec<String> = self.addresses.iter().map(ToString::to_string).collect();
        let mut fields = BTreeMap::from([
            ("CLUSTER_ID", membership.cluster.to_string()),
            ("MESH_ID", membership.mesh_id.to_string()),
            ("NETWORK", membership.network.to_string()),
            ("NAMESPACE", membership.namespace.to_string()),
            ("SERVICE_ACCOUNT", membership.service_account.to_string()),
            ("NAME", self.name.to_string()),
            ("WORKLOAD_NAME", self.workload.to_string()),
            ("INSTANCE_IPS", addresses.join(",")),
            ("POD_PORTS", self.pod_ports()),
        ]);
        let group = membership.group.as_ref();
        match (self.registration, group) {
            (Registration::Pod, _) => drop(fields.insert("ISTHMUS_REGISTER", "pod".to_string())),
            (Registration::Group, Some(group)) => {
                drop(fields.insert("AUTO_REGISTER_GROUP", group.name.to_string()));
            }
            (Registration::Group | Registration::None, _) => {}
        }
        for (said, key) in [(self.health_checked, "HEALTH_CHECKED"), (self.dns_capture, "DNS_CAPTURE")] {
            if said {
                fields.insert(key, "true".to_string());
            }
        }
        if let Some(view) = &self.network_view {
            fields.insert("REQUESTED_NETWORK_VIEW", view.to_string());
        }
        let mut fields: Vec<(String, Value)> =
            fields.into_iter().map(|(key, text)| (key.to_string(), string(&text))).collect();
        let labels = self.labels.iter().map(|(key, value)| (key.to_string(), string(value))).collect();
        fields
            .push(("LABELS".to_string(), Value { kind: Some(Kind::StructValue(Struct { fields: labels })) }));
        Struct { fields: fields.into_iter().collect() }
    }

    /// A JSON array in a string, as Istio's `ISTIO_META_POD_PORTS`.
    fn pod_ports(&self) -> String {
        let port = |(name, number): &(Arc<str>, u16)| serde_json::json!({ "name": name, "containerPort": number, "protocol": "TCP" });
        serde_json::Value::Array(self.ports.iter().map(port).collect()).to_string()
    }
}

/// Its DNS domain, `NAMESPACE.svc.cluster.local`.
#[must_use]
pub fn domain(membership: &Membership) -> String {
    format!("{}.svc.cluster.local", membership.namespace)
}

fn string(text: &str) -> Value {
    Value { kind: Some(Kind::StringValue(text.to_string())) }
}

/// Addresses of this host that others can use: neither loopback nor link-local, in the order of its interfaces.
///
/// # Errors
/// When the kernel does not tell.
pub fn host_addresses() -> std::io::Result<Vec<IpAddr>> {
    let mut found = Vec::new();
    for interface in nix::ifaddrs::getifaddrs()? {
        let Some(address) = interface.address else { continue };
        let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
        let v6 = address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip()));
        found.extend(v4.or(v6).filter(is_usable));
    }
    // IPv4 first: services of both families are commonest there.
    found.sort_by_key(IpAddr::is_ipv6);
    found.dedup();
    Ok(found)
}

fn is_usable(address: &IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => !v4.is_loopback() && !v4.is_link_local() && !v4.is_unspecified(),
        IpAddr::V6(v6) => !v6.is_loopback() && !v6.is_unicast_link_local() && !v6.is_unspecified(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn membership() -> Membership {
        Membership {
            mesh_id: "mesh1".into(),
            cluster: "west".parse().unwrap(),
            network: "site".parse().unwrap(),
            namespace: "vm".parse().unwrap(),
            service_account: "mysql".into(),
            trust_domain: "cluster.local".parse().unwrap(),
            group: Some("vm/mysqldb-vm".parse().unwrap()),
            group_spec: None,
            addresses: vec!["192.0.2.1:15012".into()],
            server_name: "default.west.federation.isthmus.internal".into(),
        }
    }

    fn workload(registration: Registration) -> Workload {
        Workload {
            kind: "sidecar",
            name: "mysql-1".into(),
            workload: "mysqldb-vm".into(),
            labels: [("app", "mysqldb")].into_iter().collect(),
            ports: vec![("tcp".into(), 3306)],
            addresses: vec!["10.0.0.7".parse().unwrap(), "fd00::7".parse().unwrap()],
            locality: Locality::parse("r/z/s"),
            registration,
            health_checked: true,
            dns_capture: true,
            network_view: None,
        }
    }

    fn text<'a>(node: &'a Node, key: &str) -> Option<&'a str> {
        match node.metadata.as_ref()?.fields.get(key)?.kind.as_ref()? {
            Kind::StringValue(text) => Some(text),
            _ => None,
        }
    }

    #[test]
    fn a_vm_says_who_it_is_in_istios_words() {
        let node = workload(Registration::Group).node(&membership());
        assert_eq!(node.id, "sidecar~10.0.0.7~mysql-1.vm~vm.svc.cluster.local");
        assert_eq!(text(&node, "AUTO_REGISTER_GROUP"), Some("mysqldb-vm"));
        assert_eq!(text(&node, "INSTANCE_IPS"), Some("10.0.0.7,fd00::7"));
        assert_eq!(text(&node, "NETWORK"), Some("site"));
        assert_eq!(text(&node, "HEALTH_CHECKED"), Some("true"));
        assert_eq!(
            text(&node, "POD_PORTS"),
            Some(r#"[{"containerPort":3306,"name":"tcp","protocol":"TCP"}]"#)
        );
        assert_eq!(text(&node, "ISTHMUS_REGISTER"), None);
        assert_eq!(node.locality.unwrap().sub_zone, "s");
    }

    #[test]
    fn a_pod_asks_to_be_written() {
        let node = workload(Registration::Pod).node(&membership());
        assert_eq!(text(&node, "ISTHMUS_REGISTER"), Some("pod"));
        assert_eq!(text(&node, "AUTO_REGISTER_GROUP"), None);
    }
}
