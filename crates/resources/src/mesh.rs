//! Istio's mesh-wide configuration: MeshConfig and MeshNetworks, as far as they are honoured.

mod access_log;
mod networks;
mod visibility;

use std::collections::BTreeMap;

use isthmus_model::{Labels, TrustDomain};
use serde::Deserialize;
use serde_json::Value;

use crate::istio::{Duration, LocalityLb, OutboundMode, TcpKeepalive};
use crate::parse::{FieldError, ParseError, read, strip_nulls};

pub use access_log::{DEFAULT_JSON, DEFAULT_TEXT, Encoding};
pub use networks::{Network, NetworkGatewayConfig, Networks};

/// All that a mesh is configured with beside its objects.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Mesh {
    /// MeshConfig.
    pub config: MeshConfig,
    /// MeshNetworks.
    pub networks: Networks,
}

/// MeshConfig. What is absent has Istio's default.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MeshConfig {
    /// Trust domain of workloads.
    pub trust_domain: Option<TrustDomain>,
    /// Former trust domains.
    pub trust_domain_aliases: Vec<TrustDomain>,
    /// Namespace of mesh-wide objects.
    pub root_namespace: Option<isthmus_model::Namespace>,
    /// Traffic to unknown destinations.
    pub outbound_traffic_policy: Option<UnknownTraffic>,
    /// Patience for a connect; 10 s when absent.
    pub connect_timeout: Option<Duration>,
    /// Keepalive of all connections.
    pub tcp_keepalive: Option<TcpKeepalive>,
    /// Balancing over localities where no DestinationRule says anything.
    pub locality_lb_setting: Option<LocalityLb>,
    /// Whether clients find out by themselves who speaks mutual TLS; on when absent.
    pub enable_auto_mtls: Option<bool>,
    /// Who sees Services and ServiceEntries that say nothing.
    pub default_service_export_to: Vec<String>,
    /// Who sees VirtualServices that say nothing.
    pub default_virtual_service_export_to: Vec<String>,
    /// Who sees DestinationRules that say nothing.
    pub default_destination_rule_export_to: Vec<String>,
    /// Hosts that stay in their cluster, or do not.
    pub service_settings: Vec<ServiceSettings>,
    /// Namespaces that belong to the mesh; all when empty.
    pub discovery_selectors: Vec<NamespaceSelector>,
    /// What proxies have in common.
    pub default_config: ProxyDefaults,
    /// File to which Envoys log connections; none when empty.
    pub access_log_file: String,
    /// Form of a line; Istio's default when empty. With encoding JSON an object, whose values are formats.
    pub access_log_format: String,
    /// Whether lines are text or JSON.
    pub access_log_encoding: Encoding,
    /// Whether connections that no filter chain matches go unlogged.
    pub disable_envoy_listener_log: bool,
}

/// Traffic to unknown destinations, for the whole mesh.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct UnknownTraffic {
    /// Mode; `REGISTRY_ONLY` when the message is there and says nothing.
    pub mode: OutboundMode,
}

/// Settings of some hosts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct ServiceSettings {
    /// The settings.
    pub settings: HostSettings,
    /// Hosts, or wildcards.
    pub hosts: Vec<String>,
}

/// The settings of a host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HostSettings {
    /// Only endpoints of the client's own cluster.
    pub cluster_local: bool,
}

/// A label selector over namespaces.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NamespaceSelector {
    /// All of these.
    pub match_labels: Labels,
    /// And all of these.
    pub match_expressions: Vec<Requirement>,
}

/// One condition of a label selector.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Requirement {
    /// Label.
    pub key: String,
    /// How it is compared.
    pub operator: Operator,
    /// With what.
    pub values: Vec<String>,
}

/// How a label is compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[expect(missing_docs, reason = "the names are the API's own")]
pub enum Operator {
    #[default]
    In,
    NotIn,
    Exists,
    DoesNotExist,
}

/// ProxyConfig, as far as it is honoured.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ProxyDefaults {
    /// Mesh.
    pub mesh_id: String,
    /// Environment of agents: `ISTIO_META_KEY` is node metadata `KEY`.
    pub proxy_metadata: BTreeMap<String, String>,
}

/// Members that are honoured.
const HONOURED: [&str; 18] = [
    "trustDomain",
    "trustDomainAliases",
    "rootNamespace",
    "outboundTrafficPolicy",
    "connectTimeout",
    "tcpKeepalive",
    "localityLbSetting",
    "enableAutoMtls",
    "defaultServiceExportTo",
    "defaultVirtualServiceExportTo",
    "defaultDestinationRuleExportTo",
    "serviceSettings",
    "discoverySelectors",
    "defaultConfig",
    "accessLogFile",
    "accessLogFormat",
    "accessLogEncoding",
    "disableEnvoyListenerLog",
];
/// Members of `defaultConfig` that are honoured.
const HONOURED_OF_PROXIES: [&str; 2] = ["meshId", "proxyMetadata"];

impl MeshConfig {
    /// Reads YAML or JSON: a MeshConfig, or a ConfigMap that holds one as `mesh`. With it comes what is given and not honoured.
    ///
    /// # Errors
    /// When it cannot be read; the error names the field.
    pub fn read(text: &str) -> Result<(Self, Vec<String>), ParseError> {
        let value = document(text, "mesh")?;
        let mut ignored = others(&value, "", &HONOURED);
        ignored.extend(others(&value["defaultConfig"], "defaultConfig.", &HONOURED_OF_PROXIES));
        let config: Self = read("", value).map_err(|error| named("mesh config", error))?;
        if let Err(error) = config.access_log_labels() {
            let problem = format!("not a JSON object, which accessLogEncoding JSON asks for: {error}");
            return Err(named("mesh config", FieldError::new("accessLogFormat", problem)));
        }
        if config.outbound_traffic_policy.is_some_and(|p| p.mode == OutboundMode::AllowAnyDynamicDns) {
            ignored.push("outboundTrafficPolicy.mode ALLOW_ANY_DYNAMIC_DNS (taken as ALLOW_ANY)".to_string());
        }
        Ok((config, ignored))
    }

    /// Node metadata of agents that say nothing themselves.
    #[must_use]
    pub fn node_metadata(&self, key: &str) -> Option<&str> {
        let all = &self.default_config.proxy_metadata;
        all.iter()
            .find(|(name, _)| name.strip_prefix("ISTIO_META_") == Some(key))
            .map(|(_, value)| value.as_str())
    }

    /// Whether a namespace with these labels belongs to the mesh.
    #[must_use]
    pub fn discovers(&self, labels: &Labels) -> bool {
        let selectors = &self.discovery_selectors;
        selectors.is_empty() || selectors.iter().any(|selector| selector.matches(labels))
    }
}

impl NamespaceSelector {
    /// Whether a namespace with these labels is selected.
    #[must_use]
    pub fn matches(&self, labels: &Labels) -> bool {
        let all = self.match_labels.iter().all(|(key, value)| labels.get(key) == Some(value));
        all && self.match_expressions.iter().all(|wanted| {
            let value = labels.get(&wanted.key);
            let among = value.is_some_and(|value| wanted.values.iter().any(|one| one == value));
            match wanted.operator {
                Operator::In => among,
                Operator::NotIn => !among,
                Operator::Exists => value.is_some(),
                Operator::DoesNotExist => value.is_none(),
            }
        })
    }
}

/// The one document of a text; of a ConfigMap, that of its entry `key`.
fn document(text: &str, key: &str) -> Result<Value, ParseError> {
    let mut all = crate::parse::values(text).into_iter();
    let mut value = all.next().unwrap_or(Ok(Value::Null))?;
    if value["kind"] == "ConfigMap" {
        return match value["data"][key].as_str() {
            Some(inner) => document(inner, key),
            None => Err(ParseError::Shape {
                object: "ConfigMap".to_string(),
                problem: format!("data.{key} is missing"),
            }),
        };
    }
    if let Some(kind) = value["kind"].as_str() {
        let problem = format!("neither {key} configuration nor a ConfigMap with it");
        return Err(ParseError::Shape { object: kind.to_string(), problem });
    }
    strip_nulls(&mut value);
    match value {
        Value::Null => Ok(Value::Object(serde_json::Map::new())),
        Value::Object(_) => Ok(value),
        _ => Err(ParseError::Shape {
            object: format!("{key} configuration"),
            problem: "not a mapping".to_string(),
        }),
    }
}

fn others(value: &Value, prefix: &str, honoured: &[&str]) -> Vec<String> {
    let members = value.as_object().into_iter().flat_map(serde_json::Map::keys);
    members.filter(|key| !honoured.contains(&key.as_str())).map(|key| format!("{prefix}{key}")).collect()
}

fn named(object: &str, error: FieldError) -> ParseError {
    let (field, problem) = error.parts();
    ParseError::Field { object: object.to_string(), field, problem }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_honoured_is_read_and_the_rest_is_named() {
        let text = "
trustDomain: shop.example
trustDomainAliases: [old.example]
accessLogFile: /dev/stdout
ingressClass: other
outboundTrafficPolicy: {mode: REGISTRY_ONLY}
connectTimeout: 3s
tcpKeepalive: {time: 30s}
localityLbSetting: {distribute: [{from: '*', to: {'a/*': 100}}]}
defaultConfig: {discoveryAddress: 'x:1', proxyMetadata: {ISTIO_META_DNS_CAPTURE: 'true', OTHER: x}}
discoverySelectors: [{matchLabels: {mesh: a}}, {matchExpressions: [{key: env, operator: NotIn, values: [dev]}]}]
";
        let (config, ignored) = MeshConfig::read(text).unwrap();
        assert_eq!(ignored, ["ingressClass", "defaultConfig.discoveryAddress"]);
        assert_eq!(config.trust_domain.as_ref().map(TrustDomain::as_str), Some("shop.example"));
        assert_eq!(config.access_log_file, "/dev/stdout");
        assert_eq!(config.node_metadata("DNS_CAPTURE"), Some("true"));
        assert_eq!(config.node_metadata("OTHER"), None);
        assert_eq!(config.connect_timeout.map(|time| time.0.as_secs()), Some(3));
        let labels = |pairs: &[(&str, &str)]| pairs.iter().copied().collect::<Labels>();
        let selectors = &config.discovery_selectors;
        assert!(
            selectors[0].matches(&labels(&[("mesh", "a"), ("x", "y")]))
                && !selectors[0].matches(&labels(&[]))
        );
        assert!(selectors[1].matches(&labels(&[])) && !selectors[1].matches(&labels(&[("env", "dev")])));
    }

    #[test]
    fn the_page_lists_what_is_honoured() {
        let page = include_str!("../../../deploy/mesh-config.md");
        let rows = page.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
        let mut listed: Vec<&str> = rows.collect();
        let mut honoured = [&HONOURED[..], &["networks"]].concat();
        listed.sort_unstable();
        honoured.sort_unstable();
        assert_eq!(listed, honoured);
    }

    #[test]
    fn a_config_map_holds_one_and_a_bad_field_is_named() {
        let text = "{apiVersion: v1, kind: ConfigMap, metadata: {name: istio}, data: {mesh: 'rootNamespace: mesh-system'}}";
        let (config, _) = MeshConfig::read(text).unwrap();
        assert_eq!(config.root_namespace.unwrap().as_str(), "mesh-system");
        let error = MeshConfig::read("tcpKeepalive: {time: soon}").unwrap_err().to_string();
        assert!(error.starts_with("mesh config: tcpKeepalive.time: "), "{error}");
        assert!(MeshConfig::read("[]").is_err());
        assert_eq!(MeshConfig::read("").unwrap().0, MeshConfig::default());
    }
}
