//! Transport sockets: plain, or mutual TLS with the proxy's own identity.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Weak};

use envoy_types::pb::envoy::config::core::v3::proxy_protocol_config::Version;
use envoy_types::pb::envoy::config::core::v3::{TransportSocket, transport_socket};
use envoy_types::pb::envoy::extensions::transport_sockets::proxy_protocol::v3::ProxyProtocolUpstreamTransport;
use envoy_types::pb::envoy::extensions::transport_sockets::raw_buffer::v3::RawBuffer;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3 as proto;
use envoy_types::pb::google::protobuf::Any;
use isthmus_model::SpiffeId;
use isthmus_tls::{ClientAuth, ClientCertificate, Expected, Identity, Originator, Terminator};
use parking_lot::Mutex;
use prost::Name;
use proto::common_tls_context::ValidationContextType;
use rustls::pki_types::ServerName;

use super::matcher::StringMatcher;
use super::{Checked, Invalid, Within, unpack};
use crate::announced::Announce;

/// Istio's proxies exchange their metadata in the first bytes of a connection when both sides agree on this protocol. This
/// proxy does not take part, so it neither offers nor accepts it; `istio` alone is understood by all of them.
const PEER_EXCHANGE: &str = "istio-peer-exchange";

/// How to speak to an upstream.
#[derive(Debug, Clone)]
pub(crate) enum Upstream {
    Plain,
    Tls(Arc<ClientTls>),
    /// Behind a PROXY header of this version, which says who the client is.
    Announced(Announce, Arc<Upstream>),
}

impl Upstream {
    pub(crate) fn is_tls(&self) -> bool {
        match self {
            Self::Plain => false,
            Self::Tls(_) => true,
            Self::Announced(_, inner) => inner.is_tls(),
        }
    }
}

/// Mutual TLS to an upstream.
#[derive(Debug)]
pub(crate) struct ClientTls {
    /// None: no server name is sent.
    pub(crate) server_name: Option<ServerName<'static>>,
    pub(crate) originator: Arc<Originator>,
}

/// TLS termination of a chain.
#[derive(Debug)]
pub(crate) struct ServerTls {
    pub(crate) terminator: Arc<Terminator>,
    /// The peer's URI must match one of these; empty: any that verifies.
    pub(crate) peers: Box<[StringMatcher]>,
}

type ClientKey = (Expected, Vec<String>, ClientCertificate);
type ServerKey = (ClientAuth, Vec<String>);

/// Makes TLS configurations and shares equal ones: thousands of clusters differ in little.
pub(crate) struct Configurations {
    identity: Identity,
    clients: Mutex<HashMap<ClientKey, Weak<Originator>>>,
    servers: Mutex<HashMap<ServerKey, Weak<Terminator>>>,
}

impl Configurations {
    pub(crate) fn new(identity: Identity) -> Self {
        Self { identity, clients: Mutex::default(), servers: Mutex::default() }
    }

    pub(crate) fn upstream(&self, socket: Option<&TransportSocket>) -> Checked<Upstream> {
        let Some(any) = typed(socket)? else { return Ok(Upstream::Plain) };
        if any.type_url == RawBuffer::type_url() {
            return Ok(Upstream::Plain);
        }
        if any.type_url == ProxyProtocolUpstreamTransport::type_url() {
            let outer: ProxyProtocolUpstreamTransport = unpack(any)?;
            let version = outer.config.as_ref().map_or(0, |config| config.version);
            let version = match Version::try_from(version) {
                Ok(Version::V1) => Announce::V1,
                Ok(Version::V2) => Announce::V2,
                Err(_) => return Err(Invalid::new("config.version", format!("{version} is no version"))),
            };
            return match self.upstream(outer.transport_socket.as_ref()).within("transport_socket")? {
                Upstream::Announced(..) => {
                    Err(Invalid::new("transport_socket", "a PROXY header within a PROXY header"))
                }
                inner => Ok(Upstream::Announced(version, Arc::new(inner))),
            };
        }
        let context: proto::UpstreamTlsContext = unpack(any)?;
        let common = context.common_tls_context.clone().unwrap_or_default();
        let certificate =
            if own_certificate(&common)? { ClientCertificate::Send } else { ClientCertificate::Omit };
        let expected = self.expected(&validation(&common)?)?;
        let alpn: Vec<String> =
            common.alpn_protocols.into_iter().filter(|protocol| protocol != PEER_EXCHANGE).collect();
        let server_name = match context.sni.as_str() {
            "" => None,
            sni => Some(
                ServerName::try_from(sni.to_string())
                    .map_err(|_| Invalid::new("sni", format!("{sni:?} is not a server name")))?,
            ),
        };
        let originator = self.client(expected, alpn, certificate);
        Ok(Upstream::Tls(Arc::new(ClientTls { server_name, originator })))
    }

    pub(crate) fn downstream(&self, socket: Option<&TransportSocket>) -> Checked<Option<ServerTls>> {
        let Some(any) = typed(socket)? else { return Ok(None) };
        if any.type_url == RawBuffer::type_url() {
            return Ok(None);
        }
        let context: proto::DownstreamTlsContext = unpack(any)?;
        let common = context.common_tls_context.clone().unwrap_or_default();
        if !own_certificate(&common)? {
            let problem = "is missing: the proxy has no other certificate to show";
            return Err(Invalid::new("common_tls_context.tls_certificate_sds_secret_configs", problem));
        }
        let auth = match context.require_client_certificate {
            Some(required) if required.value => ClientAuth::Required,
            _ => ClientAuth::Optional,
        };
        let peers = validation(&common)?.into_iter().collect();
        let mut alpn = common.alpn_protocols;
        if alpn.iter().any(|protocol| protocol == PEER_EXCHANGE) {
            alpn.retain(|protocol| protocol != PEER_EXCHANGE && protocol != "istio");
            alpn.insert(0, "istio".to_string());
        }
        Ok(Some(ServerTls { terminator: self.server(auth, alpn), peers }))
    }

    /// Whom the SAN matchers ask for.
    fn expected(&self, names: &[StringMatcher]) -> Checked<Expected> {
        const FIELD: &str = "match_typed_subject_alt_names";
        if names.is_empty() {
            let home = self.identity.snapshot().trust.home().cloned();
            return home.map(Expected::AnyInDomain).ok_or_else(|| {
                Invalid::new(FIELD, "is missing and the proxy has no trust domain to fall back to")
            });
        }
        let exact = names.iter().map(|name| {
            name.exact().ok_or_else(|| Invalid::new(FIELD, "only exact names are supported for upstreams"))
        });
        let exact = exact.collect::<Checked<Vec<&str>>>()?;
        if let [name] = exact[..]
            && !name.starts_with("spiffe://")
        {
            return Ok(Expected::ServerName(name.into()));
        }
        let ids = exact.into_iter().map(|name| {
            name.parse::<SpiffeId>().map_err(|error| Invalid::new(FIELD, format!("{name:?}: {error}")))
        });
        Ok(Expected::Spiffe(Arc::new(ids.collect::<Checked<BTreeSet<SpiffeId>>>()?)))
    }

    fn client(
        &self,
        expected: Expected,
        alpn: Vec<String>,
        certificate: ClientCertificate,
    ) -> Arc<Originator> {
        let mut known = self.clients.lock();
        let key = (expected, alpn, certificate);
        if let Some(same) = known.get(&key).and_then(Weak::upgrade) {
            return same;
        }
        sweep(&mut known);
        let protocols: Vec<&[u8]> = key.1.iter().map(String::as_bytes).collect();
        let originator = Arc::new(Originator::new(&self.identity, key.0.clone(), &protocols, key.2));
        known.insert(key, Arc::downgrade(&originator));
        originator
    }

    fn server(&self, auth: ClientAuth, alpn: Vec<String>) -> Arc<Terminator> {
        let mut known = self.servers.lock();
        let key = (auth, alpn);
        if let Some(same) = known.get(&key).and_then(Weak::upgrade) {
            return same;
        }
        sweep(&mut known);
        let protocols: Vec<&[u8]> = key.1.iter().map(String::as_bytes).collect();
        let terminator = Arc::new(Terminator::new(&self.identity, key.0, &protocols));
        known.insert(key, Arc::downgrade(&terminator));
        terminator
    }
}

/// Forgets unused ones whenever the table has doubled.
fn sweep<K: Eq + std::hash::Hash, V>(known: &mut HashMap<K, Weak<V>>) {
    if known.len() >= 16 && known.len().is_power_of_two() {
        known.retain(|_, config| config.strong_count() > 0);
    }
}

/// The typed configuration of a socket; none for no socket and for one named as plain without any.
fn typed(socket: Option<&TransportSocket>) -> Checked<Option<&Any>> {
    let Some(socket) = socket else { return Ok(None) };
    match &socket.config_type {
        Some(transport_socket::ConfigType::TypedConfig(any)) => Ok(Some(any)),
        None if socket.name.contains("raw_buffer") => Ok(None),
        None => {
            Err(Invalid::new("transport_socket.typed_config", format!("is missing for {:?}", socket.name)))
        }
    }
}

/// Whether the own certificate is to be shown. It is known as the secret `default`.
fn own_certificate(common: &proto::CommonTlsContext) -> Checked<bool> {
    const FIELD: &str = "common_tls_context.tls_certificate_sds_secret_configs";
    if !common.tls_certificates.is_empty() {
        return Err(Invalid::new("common_tls_context.tls_certificates", "keys come by identity, not by xDS"));
    }
    match &common.tls_certificate_sds_secret_configs[..] {
        [] => Ok(false),
        [secret] if secret.name == "default" => Ok(true),
        [secret] => {
            Err(Invalid::new(FIELD, format!("secret {:?}: only \"default\" is held here", secret.name)))
        }
        _ => Err(Invalid::new(FIELD, "more than one certificate")),
    }
}

/// The SAN matchers. The roots are the identity's, known as the secret `ROOTCA`.
fn validation(common: &proto::CommonTlsContext) -> Checked<Vec<StringMatcher>> {
    let rootca = |secret: Option<&proto::SdsSecretConfig>| match secret {
        Some(secret) if secret.name == "ROOTCA" => Ok(()),
        Some(secret) => Err(Invalid::new(
            "common_tls_context.validation_context",
            format!("secret {:?}: only \"ROOTCA\" is held here", secret.name),
        )),
        None => Ok(()),
    };
    let context = match &common.validation_context_type {
        None => return Ok(Vec::new()),
        Some(ValidationContextType::ValidationContextSdsSecretConfig(secret)) => {
            rootca(Some(secret))?;
            return Ok(Vec::new());
        }
        Some(ValidationContextType::CombinedValidationContext(combined)) => {
            rootca(combined.validation_context_sds_secret_config.as_ref())?;
            combined.default_validation_context.clone().unwrap_or_default()
        }
        Some(ValidationContextType::ValidationContext(context)) => context.clone(),
        Some(_) => return Err(Invalid::unsupported("common_tls_context.validation_context_type")),
    };
    let refuse = |set: bool, field: &str| if set { Err(Invalid::unsupported(field)) } else { Ok(()) };
    refuse(context.trusted_ca.is_some(), "validation_context.trusted_ca")?;
    refuse(context.crl.is_some(), "validation_context.crl")?;
    refuse(!context.verify_certificate_hash.is_empty(), "validation_context.verify_certificate_hash")?;
    refuse(!context.verify_certificate_spki.is_empty(), "validation_context.verify_certificate_spki")?;
    refuse(context.custom_validator_config.is_some(), "validation_context.custom_validator_config")?;
    let typed = context.match_typed_subject_alt_names.iter().filter_map(|name| name.matcher.as_ref());
    #[expect(deprecated, reason = "Istio still sends this form")]
    let untyped = context.match_subject_alt_names.iter();
    typed
        .chain(untyped)
        .map(StringMatcher::compile)
        .collect::<Checked<_>>()
        .within("validation_context.match_subject_alt_names")
}
