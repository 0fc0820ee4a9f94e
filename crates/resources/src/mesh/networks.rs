//! MeshNetworks: which workloads are on which network, and where networks are entered.

use std::collections::BTreeMap;
use std::sync::Arc;

use ipnet::IpNet;
use isthmus_model::{ClusterId, Hostname, NetworkGateway, NetworkId};
use serde::Deserialize;

use super::{document, named, others};
use crate::convert::gateway_addresses;
use crate::kubernetes;
use crate::meta::Resource;
use crate::parse::{FieldError, ParseError, read};

/// All networks that are declared.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Networks(pub BTreeMap<NetworkId, Network>);

/// One network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Network {
    /// Clusters whose workloads are on it.
    pub registries: Vec<ClusterId>,
    /// Addresses that are on it.
    pub cidrs: Vec<IpNet>,
    /// Where it is entered.
    pub gateways: Vec<NetworkGatewayConfig>,
}

/// Where a network is entered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NetworkGatewayConfig {
    /// At a fixed address, or host name.
    Address(Arc<str>, u16),
    /// At the addresses of a Service of its clusters.
    Service(Hostname, u16),
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Wire {
    networks: BTreeMap<String, WireNetwork>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct WireNetwork {
    endpoints: Vec<WireEndpoints>,
    gateways: Vec<WireGateway>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct WireEndpoints {
    from_cidr: Option<String>,
    from_registry: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct WireGateway {
    registry_service_name: String,
    address: String,
    port: u32,
}

impl Networks {
    /// Reads YAML or JSON: MeshNetworks, or a ConfigMap that holds them as `meshNetworks`. With it comes what is given and not
    /// honoured.
    ///
    /// # Errors
    /// When it cannot be read; the error names the field.
    pub fn read(text: &str) -> Result<(Self, Vec<String>), ParseError> {
        let value = document(text, "meshNetworks")?;
        let ignored = others(&value, "", &["networks"]);
        let fail = |error| named("mesh networks", error);
        let wire: Wire = read("", value).map_err(fail)?;
        let mut networks = BTreeMap::new();
        for (name, network) in wire.networks {
            let path = format!("networks.{name}");
            let id = NetworkId::new(name.as_str())
                .map_err(|error| fail(FieldError::new(path.as_str(), error.to_string())))?;
            if id.is_unnamed() {
                return Err(fail(FieldError::new("networks", "a network needs a name")));
            }
            networks.insert(id, network.checked(&path).map_err(fail)?);
        }
        Ok((Self(networks), ignored))
    }

    /// The network of a cluster's workloads that say nothing themselves.
    #[must_use]
    pub fn of_cluster(&self, cluster: &ClusterId) -> Option<&NetworkId> {
        self.0.iter().find(|(_, network)| network.registries.contains(cluster)).map(|(id, _)| id)
    }

    /// All ranges with their networks, the longest first: the first that holds an address decides.
    #[must_use]
    pub fn ranges(&self) -> Vec<(IpNet, NetworkId)> {
        let all =
            self.0.iter().flat_map(|(id, network)| network.cidrs.iter().map(|range| (*range, id.clone())));
        let mut all: Vec<_> = all.collect();
        all.sort_by_key(|(range, _)| std::cmp::Reverse(range.prefix_len()));
        all
    }

    /// Gateways at fixed addresses; they belong to no cluster in particular.
    pub fn fixed_gateways(&self) -> impl Iterator<Item = NetworkGateway> {
        self.0.iter().flat_map(|(id, network)| {
            network.gateways.iter().filter_map(|gateway| match gateway {
                NetworkGatewayConfig::Address(address, port) => Some(NetworkGateway {
                    network: id.clone(),
                    cluster: ClusterId::unnamed(),
                    address: Arc::clone(address),
                    port: *port,
                }),
                NetworkGatewayConfig::Service(..) => None,
            })
        })
    }

    /// Gateways that a Service of a cluster is, when its host is named for a network of that cluster.
    #[must_use]
    pub fn service_gateways(
        &self,
        cluster: &ClusterId,
        host: &str,
        service: &Resource<kubernetes::Service>,
    ) -> Vec<NetworkGateway> {
        let mut found = Vec::new();
        for (id, network) in self.0.iter().filter(|(_, network)| network.registries.contains(cluster)) {
            for gateway in &network.gateways {
                let NetworkGatewayConfig::Service(wanted, port) = gateway else { continue };
                if wanted.as_str() != host {
                    continue;
                }
                found.extend(gateway_addresses(&service.spec).map(|address| NetworkGateway {
                    network: id.clone(),
                    cluster: cluster.clone(),
                    address,
                    port: *port,
                }));
            }
        }
        found
    }
}

impl WireNetwork {
    fn checked(self, path: &str) -> Result<Network, FieldError> {
        let mut network = Network::default();
        for (at, endpoints) in self.endpoints.into_iter().enumerate() {
            let wrong = |member: &str, problem: String| {
                FieldError::new(format!("{path}.endpoints[{at}]{member}"), problem)
            };
            match (endpoints.from_cidr, endpoints.from_registry) {
                (Some(text), None) => {
                    let range =
                        text.parse().map_err(|_| wrong(".fromCidr", format!("{text:?} is not a CIDR")))?;
                    network.cidrs.push(range);
                }
                (None, Some(text)) => {
                    let cluster = ClusterId::of_istio(text.as_str());
                    network
                        .registries
                        .push(cluster.map_err(|error| wrong(".fromRegistry", error.to_string()))?);
                }
                _ => return Err(wrong("", "needs fromCidr or fromRegistry, and not both".to_string())),
            }
        }
        for (at, gateway) in self.gateways.into_iter().enumerate() {
            let wrong = |member: &str, problem: String| {
                FieldError::new(format!("{path}.gateways[{at}]{member}"), problem)
            };
            let port = u16::try_from(gateway.port).ok().filter(|port| *port != 0);
            let port =
                port.ok_or_else(|| wrong(".port", format!("{} is outside 1..=65535", gateway.port)))?;
            network.gateways.push(match (gateway.address.as_str(), gateway.registry_service_name.as_str()) {
                (address, "") if !address.is_empty() => NetworkGatewayConfig::Address(address.into(), port),
                ("", name) if !name.is_empty() => {
                    let host = Hostname::new(name)
                        .map_err(|error| wrong(".registryServiceName", error.to_string()))?;
                    NetworkGatewayConfig::Service(host, port)
                }
                _ => return Err(wrong("", "needs address or registryServiceName, and not both".to_string())),
            });
        }
        Ok(network)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_found_by_cluster_and_by_the_longest_range() {
        let text = "
networks:
  wide: {endpoints: [{fromCidr: 10.0.0.0/8}], gateways: [{address: 192.0.2.1, port: 15443}]}
  west: {endpoints: [{fromRegistry: west}, {fromCidr: 10.2.0.0/16}], gateways: [{registryServiceName: gw.istio-system.svc.cluster.local, port: 443}]}
";
        let (networks, ignored) = Networks::read(text).unwrap();
        assert!(ignored.is_empty());
        let west = ClusterId::new("west").unwrap();
        assert_eq!(networks.of_cluster(&west).map(NetworkId::as_str), Some("west"));
        let ranges: Vec<String> =
            networks.ranges().iter().map(|(range, id)| format!("{range} {id}")).collect();
        assert_eq!(ranges, ["10.2.0.0/16 west", "10.0.0.0/8 wide"]);
        assert_eq!(networks.fixed_gateways().count(), 1);
        let service = crate::parse(serde_json::json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "gw", "namespace": "istio-system"},
            "spec": {"ports": [{"port": 443}]}, "status": {"loadBalancer": {"ingress": [{"ip": "203.0.113.9"}]}},
        }));
        let crate::Object::Service(service) = service.unwrap() else { panic!("a Service") };
        let found = networks.service_gateways(&west, "gw.istio-system.svc.cluster.local", &service);
        assert_eq!((&*found[0].address, found[0].port), ("203.0.113.9", 443));
    }

    #[test]
    fn a_bad_entry_is_named_with_its_place() {
        for (text, place) in [
            (
                "networks: {a: {endpoints: [{fromCidr: ten}]}}",
                "networks.a.endpoints[0].fromCidr: \"ten\" is not a CIDR",
            ),
            ("networks: {a: {endpoints: [{}]}}", "networks.a.endpoints[0]: needs fromCidr or fromRegistry"),
            ("networks: {a: {gateways: [{address: x}]}}", "networks.a.gateways[0].port: 0 is outside"),
            ("networks: {a: {gateways: [{port: 1}]}}", "networks.a.gateways[0]: needs address or"),
        ] {
            let error = Networks::read(text).unwrap_err().to_string();
            assert!(error.contains(place), "{error}");
        }
    }
}
