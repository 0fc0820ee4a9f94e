//! VirtualService: where a host's traffic goes.

use isthmus_model::Labels;
use serde::Deserialize;
use serde_json::Value;

use super::common::PortSelector;

/// `networking.istio.io` VirtualService.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct VirtualService {
    /// Hosts, possibly short or wildcards.
    pub hosts: Vec<String>,
    /// Gateways; `mesh` or none is the sidecars.
    pub gateways: Vec<String>,
    /// HTTP routes, in order.
    pub http: Vec<HttpRoute>,
    /// Routes by server name, in order.
    pub tls: Vec<TlsRoute>,
    /// Routes by port and address, in order.
    pub tcp: Vec<TcpRoute>,
    /// Namespaces that see it.
    pub export_to: Vec<String>,
}

/// An HTTP route, typed as far as a TCP data path can use it.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpRoute {
    /// Name.
    pub name: String,
    /// Conditions, any of which suffices.
    pub r#match: Vec<Value>,
    /// Weighted destinations.
    pub route: Vec<RouteDestination>,
    /// Answer with a redirect.
    pub redirect: Option<Value>,
    /// Answer ourselves.
    pub direct_response: Option<Value>,
    /// Another VirtualService's routes.
    pub delegate: Option<Value>,
}

/// A route by server name.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct TlsRoute {
    /// Conditions, any of which suffices.
    pub r#match: Vec<TlsMatch>,
    /// Weighted destinations.
    pub route: Vec<RouteDestination>,
}

/// A route by port and address.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct TcpRoute {
    /// Conditions, any of which suffices; none matches all.
    pub r#match: Vec<L4Match>,
    /// Weighted destinations.
    pub route: Vec<RouteDestination>,
}

/// Conditions on a TLS connection, all of which must hold.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TlsMatch {
    /// Server names, possibly wildcards.
    pub sni_hosts: Vec<String>,
    /// Destination CIDRs.
    pub destination_subnets: Vec<String>,
    /// Service port; 0 is any.
    pub port: u16,
    /// Labels of the client workload.
    pub source_labels: Labels,
    /// Gateways, over the VirtualService's own.
    pub gateways: Vec<String>,
    /// Namespace of the client workload.
    pub source_namespace: String,
}

/// Conditions on a connection, all of which must hold.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct L4Match {
    /// Destination CIDRs.
    pub destination_subnets: Vec<String>,
    /// Service port; 0 is any.
    pub port: u16,
    /// Labels of the client workload.
    pub source_labels: Labels,
    /// Gateways, over the VirtualService's own.
    pub gateways: Vec<String>,
    /// Namespace of the client workload.
    pub source_namespace: String,
}

/// One weighted destination.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct RouteDestination {
    /// Where.
    pub destination: Destination,
    /// Share; a single destination needs none.
    pub weight: i32,
}

/// A service, or a subset of it.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Destination {
    /// Host, possibly short.
    pub host: String,
    /// Subset of its DestinationRule; empty is all.
    pub subset: String,
    /// Port; needed when the service has several.
    pub port: Option<PortSelector>,
}
