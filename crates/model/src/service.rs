//! Services as the mesh sees them, merged from Kubernetes Services, ServiceEntries and imports.

use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::labels::{Labels, Selector};
use crate::name::{ClusterId, Hostname, Namespace};

/// Where a service was declared.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Source {
    /// A Kubernetes Service of this cluster.
    Kubernetes(ClusterId),
    /// A ServiceEntry.
    ServiceEntry,
    /// Imported from a peer that exports it.
    Imported(ClusterId),
}

/// How clients find its endpoints (Istio's `resolution`; Kubernetes ClusterIP services are `Static`, headless `None`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Resolution {
    /// Endpoints are given.
    Static,
    /// Endpoints are host names that the proxy resolves.
    Dns,
    /// As `Dns`, one address at a time.
    DnsRoundRobin,
    /// The original destination is used.
    None,
}

/// Whether it is part of the mesh.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Location {
    /// Its workloads have mesh identities.
    MeshInternal,
    /// Outside; no automatic mutual TLS.
    MeshExternal,
}

/// Protocol of a port, after Istio's naming rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "the names say it")]
pub enum Protocol {
    Tcp,
    Http,
    Http2,
    Grpc,
    Https,
    Tls,
    Mysql,
    Mongo,
    Redis,
    Udp,
    /// Not declared; may be sniffed.
    Auto,
}

impl Protocol {
    /// HTTP in the clear, whatever its version: what HTTP routing applies to.
    #[must_use]
    pub fn is_http(self) -> bool {
        matches!(self, Self::Http | Self::Http2 | Self::Grpc)
    }

    /// TLS of the application's own: what routing by server name applies to.
    #[must_use]
    pub fn is_tls(self) -> bool {
        matches!(self, Self::Https | Self::Tls)
    }

    /// Istio's rule for a Kubernetes port: `appProtocol`, else the name's part before `-`, else TCP for the well-known
    /// server-first ports, else undeclared.
    #[must_use]
    pub fn declared(app_protocol: Option<&str>, name: &str, number: u16, udp: bool) -> Self {
        if udp {
            return Self::Udp;
        }
        let word = app_protocol.unwrap_or_else(|| name.split('-').next().unwrap_or_default());
        let word = word.to_ascii_lowercase();
        match word.as_str() {
            "http" | "kubernetes.io/ws" => Self::Http,
            "http2" | "h2c" | "kubernetes.io/h2c" => Self::Http2,
            "grpc" | "grpc-web" => Self::Grpc,
            "https" => Self::Https,
            "tls" => Self::Tls,
            "tcp" => Self::Tcp,
            "mysql" => Self::Mysql,
            "mongo" => Self::Mongo,
            "redis" => Self::Redis,
            "udp" => Self::Udp,
            _ if matches!(number, 25 | 53 | 3306 | 27017) => Self::Tcp,
            _ => Self::Auto,
        }
    }

    /// Lower-case name, as in metrics and exports.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Http => "http",
            Self::Http2 => "http2",
            Self::Grpc => "grpc",
            Self::Https => "https",
            Self::Tls => "tls",
            Self::Mysql => "mysql",
            Self::Mongo => "mongo",
            Self::Redis => "redis",
            Self::Udp => "udp",
            Self::Auto => "auto",
        }
    }

    /// Reads a name of [`Protocol::as_str`] or Istio's upper-case form; unknown words are `Auto`.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        Self::declared(Some(text), "", 0, false)
    }
}

/// The workload's port behind a service port.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum TargetPort {
    /// The same number as the service port, or this one.
    Number(u16),
    /// A named port of the workload.
    Name(Arc<str>),
}

/// One port of a service.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ServicePort {
    /// Name, unique in its service; may be empty when it is the only one.
    pub name: Arc<str>,
    /// Number that clients use.
    pub number: u16,
    /// Protocol.
    pub protocol: Protocol,
    /// Port at the workload.
    pub target: TargetPort,
}

/// A service, by host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// Its host: the key of the mesh.
    pub host: Hostname,
    /// Name of the declaring object.
    pub name: Arc<str>,
    /// Namespace of the declaring object.
    pub namespace: Namespace,
    /// Where it was declared.
    pub source: Source,
    /// Addresses that clients of the declaring cluster use: ClusterIPs, ServiceEntry addresses. Empty when headless or when
    /// only `auto_addresses` apply.
    pub addresses: Vec<IpAddr>,
    /// Addresses that this control plane allocated for it.
    pub auto_addresses: Vec<IpAddr>,
    /// Ports in declared order.
    pub ports: Vec<ServicePort>,
    /// How endpoints are found.
    pub resolution: Resolution,
    /// In the mesh or outside.
    pub location: Location,
    /// Selector over workloads, when it has one.
    pub selector: Option<Selector>,
    /// Labels of the declaring object.
    pub labels: Labels,
    /// Namespaces that may see it: empty is all; `.` its own; `~` none.
    pub export_to: Vec<Arc<str>>,
    /// Seconds since the Unix epoch; the oldest wins conflicts.
    pub created: i64,
}

impl Service {
    /// A headless service: reached by its endpoints' own addresses.
    #[must_use]
    pub fn is_headless(&self) -> bool {
        self.resolution == Resolution::None
    }

    /// The port of this number.
    #[must_use]
    pub fn port(&self, number: u16) -> Option<&ServicePort> {
        self.ports.iter().find(|port| port.number == number)
    }

    /// Whether workloads of `namespace` may see it.
    #[must_use]
    pub fn visible_in(&self, namespace: &Namespace) -> bool {
        self.export_to.is_empty()
            || self.export_to.iter().any(|to| match &**to {
                "*" => true,
                "." => *namespace == self.namespace,
                name => name == namespace.as_str(),
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn protocols_follow_istios_naming_rules() {
        assert_eq!(Protocol::declared(None, "http-web", 80, false), Protocol::Http);
        assert_eq!(Protocol::declared(Some("grpc"), "http", 80, false), Protocol::Grpc);
        assert_eq!(Protocol::declared(None, "", 3306, false), Protocol::Tcp);
        assert_eq!(Protocol::declared(None, "web", 8080, false), Protocol::Auto);
        assert_eq!(Protocol::declared(None, "http", 80, true), Protocol::Udp);
        assert_eq!(Protocol::parse("HTTP2"), Protocol::Http2);
    }
}
