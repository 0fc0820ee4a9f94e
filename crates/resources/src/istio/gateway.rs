//! Gateway: ports that a gateway workload opens.

use isthmus_model::Labels;
use serde::Deserialize;

/// `networking.istio.io` Gateway.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Gateway {
    /// Ports.
    pub servers: Vec<Server>,
    /// Labels of the gateway workloads.
    pub selector: Labels,
}

/// One port.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Server {
    /// Port.
    pub port: GatewayPort,
    /// Address to listen on.
    pub bind: String,
    /// Hosts, as `NAMESPACE/HOST` or `HOST`.
    pub hosts: Vec<String>,
    /// TLS.
    pub tls: Option<ServerTls>,
    /// Name.
    pub name: String,
}

/// The port of a server.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GatewayPort {
    /// Number.
    pub number: u16,
    /// `HTTP`, `HTTPS`, `GRPC`, `HTTP2`, `MONGO`, `TCP` or `TLS`, in any case.
    pub protocol: String,
    /// Name.
    pub name: String,
}

/// TLS of a server.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServerTls {
    /// Whether HTTP is redirected to HTTPS.
    pub https_redirect: bool,
    /// Mode.
    pub mode: ServerTlsMode,
    /// Certificate file.
    pub server_certificate: String,
    /// Key file.
    pub private_key: String,
    /// Roots file.
    pub ca_certificates: String,
    /// Secret.
    pub credential_name: String,
    /// Secrets.
    pub credential_names: Vec<String>,
    /// Names that clients may have.
    pub subject_alt_names: Vec<String>,
}

/// Mode of a server's TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[expect(missing_docs, reason = "the names are the API's own")]
pub enum ServerTlsMode {
    #[default]
    Passthrough,
    Simple,
    Mutual,
    AutoPassthrough,
    IstioMutual,
    OptionalMutual,
}
