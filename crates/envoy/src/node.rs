//! What a client says of itself in its first xDS request, read once (multicluster rules: node id
//! `TYPE~IP~NAME.NAMESPACE~NAMESPACE.svc.DOMAIN`, metadata as Istio's agents write it).

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use envoy_types::pb::envoy::config::core::v3::Node as WireNode;
use envoy_types::pb::google::protobuf::value::Kind;
use envoy_types::pb::google::protobuf::{Struct, Value};
use isthmus_model::{ClusterId, InvalidName, Labels, Locality, Namespace, NetworkId};
use isthmus_resources::mesh::MeshConfig;

use crate::settings::{Proxy, ProxyKind};

/// Why a node cannot be served.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidNode {
    /// The id has another form.
    #[error("node id {0:?} is not of the form TYPE~IP~NAME.NAMESPACE~DOMAIN")]
    Id(String),
    /// Not a proxy that we know how to serve.
    #[error("node id {id:?}: type {kind:?} is not served; sidecar and router are")]
    Kind {
        /// The id.
        id: String,
        /// The type in it.
        kind: String,
    },
    /// Not an address.
    #[error("node id {id:?}: {ip:?} is not an IP address")]
    Ip {
        /// The id.
        id: String,
        /// The text.
        ip: String,
    },
    /// A metadata value is malformed.
    #[error("node metadata {key}: {source}")]
    Name {
        /// Which.
        key: &'static str,
        /// Why.
        source: InvalidName,
    },
}

/// One client, as its node says. Not yet authenticated: compare with its certificate.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// Sidecar, gateway or gRPC client.
    pub kind: ProxyKind,
    /// Workload name.
    pub name: Arc<str>,
    /// Namespace.
    pub namespace: Namespace,
    /// Service account, when said.
    pub service_account: Option<Arc<str>>,
    /// Addresses, first is the one that counts.
    pub ips: Vec<IpAddr>,
    /// Network.
    pub network: NetworkId,
    /// Networks that it wants to see; empty is all.
    pub requested_network_view: Vec<NetworkId>,
    /// Cluster that it thinks it is in; empty when it does not know.
    pub cluster: Arc<str>,
    /// Where it runs.
    pub locality: Locality,
    /// Labels.
    pub labels: Labels,
    /// Ports by name.
    pub ports: BTreeMap<Arc<str>, u16>,
    /// Whether its agent answers DNS.
    pub dns_capture: bool,
    /// Whether it is a gateway that fetches clusters and endpoints as its traffic names them.
    pub on_demand: bool,
    /// WorkloadGroup that it registers with (VMs).
    pub register_group: Option<Arc<str>>,
    /// Whether it asks for a Pod to be written for it.
    pub register_pod: bool,
    /// Whether it reports health: `HEALTH_CHECKED`, or a readiness probe in the ProxyConfig that Istio's agents send.
    pub health_checked: bool,
    /// Host that it runs on.
    pub node_name: Option<Arc<str>>,
}

impl Node {
    /// Reads a node. What it does not say itself the mesh's configuration says (`defaultConfig.proxyMetadata`).
    ///
    /// # Errors
    /// When the id or a name in the metadata is malformed.
    pub fn read(wire: &WireNode, mesh: &MeshConfig) -> Result<Self, InvalidNode> {
        let id = || wire.id.clone();
        let parts: Vec<&str> = wire.id.split('~').collect();
        let [kind, ip, workload, domain] = parts[..] else { return Err(InvalidNode::Id(id())) };
        let metadata = Metadata { own: wire.metadata.as_ref(), mesh };
        let grpc = metadata.text("GENERATOR") == Some("grpc");
        let kind = match kind {
            "sidecar" if grpc => ProxyKind::Grpc,
            "sidecar" => ProxyKind::Sidecar,
            "router" => ProxyKind::Router,
            other => return Err(InvalidNode::Kind { id: id(), kind: other.to_string() }),
        };
        let mut ips = metadata.ips("INSTANCE_IPS");
        if ips.is_empty() {
            ips.push(ip.parse().map_err(|_| InvalidNode::Ip { id: id(), ip: ip.to_string() })?);
        }
        let name = match metadata.text("NAME") {
            Some(name) => name,
            None => workload.rsplit_once('.').map_or(workload, |(name, _)| name),
        };
        let namespace = metadata.text("NAMESPACE").or_else(|| domain.split('.').next()).unwrap_or_default();
        let locality = wire.locality.as_ref().map_or_else(Locality::default, |locality| Locality {
            region: locality.region.as_str().into(),
            zone: locality.zone.as_str().into(),
            subzone: locality.sub_zone.as_str().into(),
        });
        let views = metadata.text("REQUESTED_NETWORK_VIEW").unwrap_or_default();
        let views = views.split(',').filter(|view| !view.is_empty());
        Ok(Self {
            kind,
            name: name.into(),
            namespace: Namespace::new(namespace).map_err(named("NAMESPACE"))?,
            service_account: metadata.text("SERVICE_ACCOUNT").map(Arc::from),
            ips,
            network: NetworkId::new(metadata.text("NETWORK").unwrap_or_default())
                .map_err(named("NETWORK"))?,
            requested_network_view: views
                .map(NetworkId::new)
                .collect::<Result<_, _>>()
                .map_err(named("REQUESTED_NETWORK_VIEW"))?,
            cluster: metadata.text("CLUSTER_ID").unwrap_or_default().into(),
            locality,
            labels: metadata.labels(),
            ports: metadata.ports(),
            dns_capture: metadata.truth("DNS_CAPTURE"),
            on_demand: metadata.truth("ISTHMUS_ON_DEMAND"),
            register_group: metadata.text("AUTO_REGISTER_GROUP").map(Arc::from),
            register_pod: metadata.text("ISTHMUS_REGISTER") == Some("pod"),
            health_checked: metadata.is_health_checked(),
            node_name: metadata.text("NODE_NAME").map(Arc::from),
        })
    }

    /// The proxy that it is, under the name and account that it has been found to have, in a cluster.
    #[must_use]
    pub fn proxy(&self, name: Arc<str>, account: Arc<str>, cluster: &ClusterId) -> Proxy {
        Proxy {
            kind: self.kind,
            namespace: self.namespace.clone(),
            name,
            service_account: account,
            cluster: cluster.clone(),
            network: self.network.clone(),
            locality: self.locality.clone(),
            ips: self.ips.clone(),
            labels: self.labels.clone(),
            requested_network_view: self.requested_network_view.clone(),
            dns_capture: self.dns_capture,
            on_demand: self.on_demand,
            node: self.node_name.clone(),
        }
    }
}

fn named(key: &'static str) -> impl Fn(InvalidName) -> InvalidNode {
    move |source| InvalidNode::Name { key, source }
}

struct Metadata<'a> {
    own: Option<&'a Struct>,
    mesh: &'a MeshConfig,
}

impl<'a> Metadata<'a> {
    fn value(&self, key: &str) -> Option<&'a Kind> {
        self.own?.fields.get(key)?.kind.as_ref()
    }

    /// A string that is not empty.
    fn text(&self, key: &str) -> Option<&'a str> {
        let text = match self.value(key) {
            Some(Kind::StringValue(text)) => Some(text.as_str()),
            Some(_) => None,
            None => self.mesh.node_metadata(key),
        };
        text.filter(|text| !text.is_empty())
    }

    /// Istio writes booleans as strings.
    fn truth(&self, key: &str) -> bool {
        match self.value(key) {
            Some(Kind::BoolValue(value)) => *value,
            _ => matches!(self.text(key), Some("true" | "1")),
        }
    }

    fn is_health_checked(&self) -> bool {
        let probe = match self.value("PROXY_CONFIG") {
            Some(Kind::StructValue(config)) => config.fields.get("readinessProbe"),
            _ => None,
        };
        let probed = probe.is_some_and(|probe| matches!(probe.kind, Some(Kind::StructValue(_))));
        probed || self.truth("HEALTH_CHECKED")
    }

    fn ips(&self, key: &str) -> Vec<IpAddr> {
        self.text(key).unwrap_or_default().split(',').filter_map(|ip| ip.trim().parse().ok()).collect()
    }

    fn labels(&self) -> Labels {
        let Some(Kind::StructValue(labels)) = self.value("LABELS") else { return Labels::default() };
        let text = |value: &'a Value| match &value.kind {
            Some(Kind::StringValue(text)) => Some(text.as_str()),
            _ => None,
        };
        labels.fields.iter().filter_map(|(key, value)| Some((key.as_str(), text(value)?))).collect()
    }

    /// `[{"name":"http","containerPort":9080,"protocol":""}]`; what does not read as such is left out.
    fn ports(&self) -> BTreeMap<Arc<str>, u16> {
        let Ok(serde_json::Value::Array(ports)) =
            serde_json::from_str(self.text("POD_PORTS").unwrap_or("[]"))
        else {
            return BTreeMap::new();
        };
        let port = |port: &serde_json::Value| {
            let number = u16::try_from(port.get("containerPort")?.as_u64()?).ok()?;
            Some((Arc::from(port.get("name")?.as_str()?), number))
        };
        ports.iter().filter_map(port).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(wire: &WireNode) -> Result<Node, InvalidNode> {
        Node::read(wire, &MeshConfig::default())
    }

    fn text(value: &str) -> Value {
        Value { kind: Some(Kind::StringValue(value.to_string())) }
    }

    fn wire(id: &str, metadata: &[(&str, &str)]) -> WireNode {
        let fields = metadata.iter().map(|(key, value)| ((*key).to_string(), text(value))).collect();
        WireNode { id: id.to_string(), metadata: Some(Struct { fields }), ..WireNode::default() }
    }

    #[test]
    fn a_sidecar_is_read_with_its_metadata() {
        let node = read(&wire(
            "sidecar~10.1.0.9~reviews-v2.default~default.svc.cluster.local",
            &[
                ("NETWORK", "east"),
                ("SERVICE_ACCOUNT", "bookinfo-reviews"),
                ("INSTANCE_IPS", "10.1.0.10,10.1.0.11"),
                (
                    "POD_PORTS",
                    r#"[{"name":"http","containerPort":9080},{"name":"bad","containerPort":99999}]"#,
                ),
                ("ISTHMUS_REGISTER", "pod"),
                ("DNS_CAPTURE", "true"),
            ],
        ))
        .unwrap();
        assert_eq!(
            (&*node.name, node.namespace.as_str(), node.network.as_str()),
            ("reviews-v2", "default", "east")
        );
        assert_eq!(node.ips, ["10.1.0.10", "10.1.0.11"].map(|ip| ip.parse::<IpAddr>().unwrap()));
        assert_eq!(node.ports.len(), 1);
        assert!(node.register_pod && node.dns_capture && !node.health_checked);
    }

    #[test]
    fn an_agent_of_istio_with_a_readiness_probe_reports_health() {
        let object = |fields: Vec<(&str, Value)>| Value {
            kind: Some(Kind::StructValue(Struct {
                fields: fields.into_iter().map(|(key, value)| (key.to_string(), value)).collect(),
            })),
        };
        let checked = |config: Value| {
            let mut node = wire("sidecar~10.1.0.9~a.b~b.svc", &[]);
            node.metadata.as_mut().unwrap().fields.insert("PROXY_CONFIG".to_string(), config);
            read(&node).unwrap().health_checked
        };
        assert!(checked(object(vec![("readinessProbe", object(vec![("periodSeconds", text("1"))]))])));
        assert!(!checked(object(vec![("statusPort", text("15020"))])));
        assert!(!checked(text("readinessProbe")));
    }

    #[test]
    fn a_malformed_node_is_refused_by_what_is_wrong() {
        assert!(matches!(read(&wire("sidecar~10.1.0.9~a", &[])), Err(InvalidNode::Id(_))));
        assert!(matches!(read(&wire("ztunnel~10.1.0.9~a.b~b.svc", &[])), Err(InvalidNode::Kind { .. })));
        assert!(matches!(read(&wire("sidecar~nine~a.b~b.svc", &[])), Err(InvalidNode::Ip { .. })));
        let bad = read(&wire("sidecar~10.1.0.9~a.b~b.svc", &[("NETWORK", "a b")])).unwrap_err().to_string();
        assert!(bad.starts_with("node metadata NETWORK: network \"a b\""), "{bad}");
    }

    #[test]
    fn what_a_node_does_not_say_the_mesh_says() {
        let text =
            "defaultConfig: {proxyMetadata: {ISTIO_META_DNS_CAPTURE: 'true', ISTIO_META_NETWORK: lab}}";
        let mesh = MeshConfig::read(text).unwrap().0;
        let of = |metadata: &[(&str, &str)]| {
            let node = Node::read(&wire("sidecar~10.1.0.9~a.b~b.svc", metadata), &mesh).unwrap();
            (node.dns_capture, node.network.to_string())
        };
        assert_eq!(of(&[]), (true, "lab".to_string()));
        assert_eq!(of(&[("DNS_CAPTURE", "false"), ("NETWORK", "west")]), (false, "west".to_string()));
    }
}
