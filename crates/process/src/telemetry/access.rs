//! Access log lines in Istio's forms: its default text, and its JSON with what it has no field for added.
//!
//! The data path logs one event for each connection with the target `access`, its fields named as in Istio's JSON. Fields that
//! only HTTP has are dashes, or null.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};

use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use super::LogFormat;

/// Target of the events.
const TARGET: &str = "access";

/// Fields of Istio's JSON that a connection without HTTP does not have.
const ABSENT: [&str; 9] = [
    "authority",
    "method",
    "path",
    "protocol",
    "request_id",
    "response_code_details",
    "upstream_service_time",
    "user_agent",
    "x_forwarded_for",
];

/// Formats access events, and leaves the rest to another.
pub(super) struct Lines<F> {
    pub(super) rest: F,
    pub(super) form: LogFormat,
}

impl<S, N, F> FormatEvent<S, N> for Lines<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        if event.metadata().target() != TARGET {
            return self.rest.format_event(context, writer, event);
        }
        let mut fields = Fields::default();
        event.record(&mut fields);
        let line = match self.form {
            LogFormat::Text => fields.text(jiff::Timestamp::now())?,
            LogFormat::Json => fields.json(jiff::Timestamp::now()).to_string(),
        };
        writeln!(writer, "{line}")
    }
}

/// The fields of one event.
#[derive(Debug, Default)]
struct Fields {
    texts: BTreeMap<&'static str, String>,
    numbers: BTreeMap<&'static str, u64>,
}

impl Visit for Fields {
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.numbers.insert(field.name(), value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.texts.insert(field.name(), value.to_string());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.texts.insert(field.name(), format!("{value:?}"));
    }
}

impl Fields {
    fn text_of(&self, name: &str) -> &str {
        self.texts.get(name).map_or("-", |text| if text.is_empty() { "-" } else { text })
    }

    fn number(&self, name: &str) -> u64 {
        self.numbers.get(name).copied().unwrap_or_default()
    }

    /// The event is written when the connection has ended.
    fn start(&self, now: jiff::Timestamp) -> String {
        let duration = i64::try_from(self.number("duration")).unwrap_or_default();
        let start = now.checked_sub(jiff::SignedDuration::from_millis(duration)).unwrap_or(now);
        format!("{start:.3}")
    }

    /// Istio's default `accessLogFormat`.
    fn text(&self, now: jiff::Timestamp) -> Result<String, fmt::Error> {
        // without quotes in the format: a blank would move all fields after it
        let bare = |name| self.text_of(name).replace(' ', "_");
        let mut line = String::with_capacity(512);
        write!(line, "[{}] \"- - -\" 0 {} - ", self.start(now), self.text_of("response_flags"))?;
        write!(line, "{} ", bare("connection_termination_details"))?;
        write!(line, "\"{}\" ", self.text_of("upstream_transport_failure_reason").replace('"', "'"))?;
        for name in ["bytes_received", "bytes_sent", "duration"] {
            write!(line, "{} ", self.number(name))?;
        }
        write!(line, "- \"-\" \"-\" \"-\" \"-\" \"{}\"", self.text_of("upstream_host"))?;
        for name in [
            "upstream_cluster",
            "upstream_local_address",
            "downstream_local_address",
            "downstream_remote_address",
            "requested_server_name",
            "route_name",
        ] {
            write!(line, " {}", bare(name))?;
        }
        Ok(line)
    }

    /// Istio's JSON encoding.
    fn json(&self, now: jiff::Timestamp) -> serde_json::Value {
        let texts = self.texts.iter().map(|(name, text)| {
            let text = Some(text.as_str()).filter(|text| !matches!(*text, "" | "-"));
            let said =
                if *name == "response_flags" { serde_json::json!(self.text_of(name)) } else { text.into() };
            ((*name).to_string(), said)
        });
        let numbers = self.numbers.iter().map(|(name, number)| ((*name).to_string(), (*number).into()));
        let absent = ABSENT.iter().map(|name| ((*name).to_string(), serde_json::Value::Null));
        let own = [
            ("start_time".to_string(), self.start(now).into()),
            ("response_code".to_string(), 0.into()),
            ("route_name".to_string(), serde_json::Value::Null),
        ];
        serde_json::Value::Object(absent.chain(own).chain(texts).chain(numbers).collect())
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use tracing_subscriber::fmt::MakeWriter;

    use super::*;

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl<'a> MakeWriter<'a> for Kept {
        type Writer = Self;

        fn make_writer(&'a self) -> Self {
            self.clone()
        }
    }

    /// What is written of one connection, and of one other event.
    fn logged(form: LogFormat) -> (String, String) {
        let kept = Kept::default();
        let subscriber = tracing_subscriber::fmt()
            .with_ansi(false)
            .with_writer(kept.clone())
            .event_format(Lines { rest: tracing_subscriber::fmt::format(), form })
            .finish();
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!(
                target: "access",
                response_flags = "UF,URX",
                connection_termination_details = %"-",
                upstream_transport_failure_reason = %"connection \"refused\"",
                bytes_received = 517u64,
                bytes_sent = 0u64,
                duration = 12u64,
                downstream_remote_address = %"10.1.0.5:40000",
                downstream_local_address = %"10.1.0.2:15443",
                requested_server_name = %"outbound_.80_._.a.b.svc.cluster.local",
                upstream_cluster = %"outbound_.80_._.a.b.svc.cluster.local",
                upstream_host = %"10.1.0.9:80",
                upstream_local_address = %"-",
                downstream_peer = %"-",
            );
            tracing::info!("something else");
        });
        let bytes = kept.0.lock().unwrap().clone();
        let text = String::from_utf8(bytes).unwrap();
        let (access, rest) = text.split_once('\n').unwrap();
        (access.to_string(), rest.to_string())
    }

    #[test]
    fn a_connections_text_is_istios_default_format() {
        let (line, rest) = logged(LogFormat::Text);
        let (start, line) = line.split_once("] ").unwrap();
        assert!(start.starts_with("[20") && start.ends_with('Z'), "{start}");
        assert_eq!(
            line,
            "\"- - -\" 0 UF,URX - - \"connection 'refused'\" 517 0 12 - \"-\" \"-\" \"-\" \"-\" \"10.1.0.9:80\" \
             outbound_.80_._.a.b.svc.cluster.local - 10.1.0.2:15443 10.1.0.5:40000 \
             outbound_.80_._.a.b.svc.cluster.local -"
        );
        assert!(rest.contains("INFO") && rest.contains("something else"), "{rest}");
    }

    #[test]
    fn a_connections_json_has_istios_keys_and_null_for_nothing() {
        let (line, _) = logged(LogFormat::Json);
        let line: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(line["bytes_received"], 517);
        assert_eq!(line["response_flags"], "UF,URX");
        assert_eq!(line["upstream_host"], "10.1.0.9:80");
        for nothing in ["downstream_peer", "method", "upstream_local_address", "route_name"] {
            assert_eq!(line.as_object().unwrap()[nothing], serde_json::Value::Null, "{nothing}");
        }
    }
}
