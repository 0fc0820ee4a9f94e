//! Envoy's log of connections: at each TCP proxy, and at listeners for connections that no chain matches (as Istio places it).
//!
//! Both parts are encoded once. What lists them are repeated fields, so they are appended to messages that are encoded already
//! (Protocol Buffers, "Encoding": concatenated messages merge).

use std::fmt;

use bytes::Bytes;
use envoy_types::pb::envoy::config::accesslog::v3 as log;
use envoy_types::pb::envoy::config::listener::v3 as pb;
use envoy_types::pb::envoy::extensions::access_loggers::file::v3::FileAccessLog;
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3::TcpProxy;
use envoy_types::pb::google::protobuf::Any;
use isthmus_proto::resource::Resource;
use isthmus_resources::mesh::MeshConfig;
use prost::{Message, Name};
use serde_json::Value;

use crate::wire::sorted;

/// Where and how Envoys log connections; they do not where it is empty.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct AccessLog {
    /// To append to a TCP proxy.
    proxy: Vec<u8>,
    /// To append to a listener.
    listener: Vec<u8>,
}

impl fmt::Debug for AccessLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccessLog").field("on", &!self.proxy.is_empty()).finish_non_exhaustive()
    }
}

impl AccessLog {
    /// What a mesh's configuration says.
    #[must_use]
    pub fn of(mesh: &MeshConfig) -> Self {
        if mesh.access_log_file.is_empty() {
            return Self::default();
        }
        // A format that is none was refused when it was read.
        let labels = mesh.access_log_labels().ok().flatten();
        let format = match labels {
            Some(labels) => sorted::LogFormat { json: Some(members(&labels)), text: None },
            None => {
                sorted::LogFormat { text: Some(sorted::Inline { text: mesh.access_log_text() }), json: None }
            }
        };
        let file = sorted::LogFile { path: mesh.access_log_file.clone(), format: Some(format) };
        let entry = |filter| log::AccessLog {
            name: "envoy.access_loggers.file".to_string(),
            filter,
            config_type: Some(log::access_log::ConfigType::TypedConfig(Any {
                type_url: FileAccessLog::type_url(),
                value: file.encode_to_vec(),
            })),
        };
        let proxy = TcpProxy { access_log: vec![entry(None)], ..Default::default() };
        let unmatched = log::ResponseFlagFilter { flags: vec!["NR".to_string()] };
        let unmatched = log::access_log_filter::FilterSpecifier::ResponseFlagFilter(unmatched);
        let unmatched = log::AccessLogFilter { filter_specifier: Some(unmatched) };
        let listener = pb::Listener { access_log: vec![entry(Some(unmatched))], ..Default::default() };
        let listener = if mesh.disable_envoy_listener_log { Vec::new() } else { listener.encode_to_vec() };
        Self { proxy: proxy.encode_to_vec(), listener }
    }

    /// The resource of a listener, with its log.
    pub(crate) fn listener(&self, mut listener: pb::Listener) -> Resource {
        if !self.proxy.is_empty() {
            let chains = listener.filter_chains.iter_mut().chain(&mut listener.default_filter_chain);
            chains.flat_map(|chain| &mut chain.filters).for_each(|filter| self.log(filter));
        }
        let mut body = listener.encode_to_vec();
        body.extend(&self.listener);
        Resource::new(listener.name, Bytes::from(body))
    }

    fn log(&self, filter: &mut pb::Filter) {
        if let Some(pb::filter::ConfigType::TypedConfig(config)) = &mut filter.config_type
            && config.type_url == TcpProxy::type_url()
        {
            config.value.extend(&self.proxy);
        }
    }
}

fn members(all: &serde_json::Map<String, Value>) -> sorted::Struct {
    sorted::Struct { fields: all.iter().map(|(name, value)| (name.clone(), member(value))).collect() }
}

fn member(value: &Value) -> sorted::Value {
    let kind = match value {
        Value::Null => sorted::Kind::Null(0),
        Value::Bool(value) => sorted::Kind::Bool(*value),
        Value::Number(value) => sorted::Kind::Number(value.as_f64().unwrap_or_default()),
        Value::String(text) => sorted::Kind::Text(text.clone()),
        Value::Array(items) => {
            sorted::Kind::List(sorted::List { values: items.iter().map(member).collect() })
        }
        Value::Object(all) => sorted::Kind::Struct(members(all)),
    };
    sorted::Value { kind: Some(kind) }
}

#[cfg(test)]
mod tests {
    use envoy_types::pb::envoy::config::core::v3::substitution_format_string::Format;
    use envoy_types::pb::envoy::extensions::access_loggers::file::v3::file_access_log::AccessLogFormat;

    use super::*;
    use crate::listener::{Route, tcp_proxy};

    fn logged(mesh: &str) -> pb::Listener {
        let log = AccessLog::of(&MeshConfig::read(mesh).unwrap().0);
        let chain = || pb::FilterChain {
            filters: vec![tcp_proxy("a", &Route::Cluster("a".to_string()))],
            ..Default::default()
        };
        let resource = log.listener(pb::Listener {
            name: "l".to_string(),
            filter_chains: vec![chain()],
            default_filter_chain: Some(chain()),
            ..Default::default()
        });
        pb::Listener::decode(resource.body).unwrap()
    }

    fn file(entry: &log::AccessLog) -> FileAccessLog {
        let Some(log::access_log::ConfigType::TypedConfig(any)) = &entry.config_type else { panic!() };
        FileAccessLog::decode(&*any.value).unwrap()
    }

    fn proxy(chain: &pb::FilterChain) -> TcpProxy {
        let Some(pb::filter::ConfigType::TypedConfig(any)) = &chain.filters[0].config_type else { panic!() };
        TcpProxy::decode(&*any.value).unwrap()
    }

    fn format(file: &FileAccessLog) -> Format {
        let Some(AccessLogFormat::LogFormat(format)) = &file.access_log_format else { panic!() };
        format.format.clone().unwrap()
    }

    #[test]
    fn every_tcp_proxy_logs_and_the_listener_what_no_chain_matches() {
        let listener = logged("accessLogFile: /dev/stdout");
        for chain in listener.filter_chains.iter().chain(&listener.default_filter_chain) {
            let proxy = proxy(chain);
            assert_eq!((proxy.stat_prefix.as_str(), proxy.access_log.len()), ("a", 1));
            assert_eq!(file(&proxy.access_log[0]).path, "/dev/stdout");
            assert!(matches!(format(&file(&proxy.access_log[0])), Format::TextFormatSource(_)));
        }
        assert!(listener.access_log[0].filter.is_some());
        let quiet = logged("{accessLogFile: /dev/stdout, disableEnvoyListenerLog: true}");
        assert!(quiet.access_log.is_empty() && proxy(&quiet.filter_chains[0]).access_log.len() == 1);
        let silent = logged("{}");
        assert!(silent.access_log.is_empty() && proxy(&silent.filter_chains[0]).access_log.is_empty());
    }

    #[test]
    fn json_has_the_members_that_are_asked_for() {
        let listener = logged(
            "{accessLogFile: /f, accessLogEncoding: JSON, accessLogFormat: '{\"a\": {\"b\": \"%DURATION%\"}, \"n\": 1}'}",
        );
        let Format::JsonFormat(members) = format(&file(&listener.access_log[0])) else { panic!() };
        let mut names: Vec<_> = members.fields.keys().collect();
        names.sort();
        assert_eq!(names, ["a", "n"]);
        let all = logged("{accessLogFile: /f, accessLogEncoding: JSON}");
        let Format::JsonFormat(members) = format(&file(&all.access_log[0])) else { panic!() };
        assert_eq!(members.fields.len(), 24);
    }
}
