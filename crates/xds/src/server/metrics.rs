//! What the server counts.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::flavour::{Flavour, short_name};
use crate::subscription::{Heard, Response};

/// Types are few: those that a view serves.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Type {
    r#type: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Dialect {
    flavour: &'static str,
}

/// Counters of one server. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    streams: Family<Dialect, Gauge>,
    responses: Family<Type, Counter>,
    response_bytes: Family<Type, Counter>,
    refused: Family<Type, Counter>,
    stale: Counter,
    turned_away: Counter,
}

impl Metrics {
    /// Registers them.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let sub = registry.sub_registry_with_prefix("isthmus_xds");
        sub.register("streams", "Open discovery streams", metrics.streams.clone());
        sub.register("responses", "Responses sent", metrics.responses.clone());
        sub.register("response_bytes", "Bytes of responses sent", metrics.response_bytes.clone());
        sub.register("rejects", "Responses that clients refused", metrics.refused.clone());
        sub.register("expired_nonce", "Requests that answered an older response", metrics.stale.clone());
        sub.register("turned_away", "Streams that were not let in", metrics.turned_away.clone());
        metrics
    }

    pub(super) fn opened(&self, flavour: Flavour) {
        self.streams.get_or_create(&Dialect { flavour: flavour.as_str() }).inc();
    }

    pub(super) fn closed(&self, flavour: Flavour) {
        self.streams.get_or_create(&Dialect { flavour: flavour.as_str() }).dec();
    }

    pub(super) fn turned_away(&self) {
        self.turned_away.inc();
    }

    pub(super) fn sent(&self, response: &Response) {
        let label = Type { r#type: short_name(&response.type_url).to_string() };
        let bytes = response.payload.parts.get(response.part).map_or(0, |part| part.length);
        self.response_bytes.get_or_create(&label).inc_by(bytes as u64);
        self.responses.get_or_create(&label).inc();
    }

    pub(super) fn heard(&self, url: &str, heard: &Heard) {
        match heard {
            Heard::Nacked => {
                self.refused.get_or_create(&Type { r#type: short_name(url).to_string() }).inc();
            }
            Heard::Stale => {
                self.stale.inc();
            }
            _ => {}
        }
    }
}
