//! The two dialects of one protocol, and the order in which types are pushed.

use isthmus_proto::type_url;

/// Dialect of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Flavour {
    /// State of the world: names are repeated in every request, a response of a full-state type replaces everything.
    World,
    /// Incremental: names are added and dropped, removals are told.
    Delta,
}

impl Flavour {
    /// As in metrics: `sotw` or `delta`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::World => "sotw",
            Self::Delta => "delta",
        }
    }
}

/// Listener names in extension configuration discovery.
const EXTENSION: &str = "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig";
/// Virtual hosts on demand.
const VIRTUAL_HOST: &str = "type.googleapis.com/envoy.config.route.v3.VirtualHost";

/// Position in the push order: clusters, endpoints, listeners, routes, secrets, then all others (Istio's order; Envoy's "make
/// before break": a listener never names a cluster, or a table of names, that was not sent before).
#[must_use]
pub fn rank(url: &str) -> u8 {
    match url {
        type_url::CLUSTER => 0,
        type_url::ENDPOINTS => 1,
        type_url::EXPORTED_NAMES => 2,
        type_url::LISTENER => 3,
        type_url::ROUTE => 4,
        type_url::SECRET => 5,
        type_url::NAME_TABLE => 6,
        _ => 7,
    }
}

/// The usual abbreviation: `CDS`, `EDS`, `LDS`, `RDS`, `SDS`, `NDS`; of other types the message's name.
#[must_use]
pub fn short_name(url: &str) -> &str {
    match url {
        type_url::CLUSTER => "CDS",
        type_url::ENDPOINTS => "EDS",
        type_url::LISTENER => "LDS",
        type_url::ROUTE => "RDS",
        type_url::SECRET => "SDS",
        type_url::NAME_TABLE => "NDS",
        other => other.rsplit(['.', '/']).next().unwrap_or(other),
    }
}

/// Whether an empty first list of names in state of the world asks for everything. The others are asked for by name only.
#[must_use]
pub(crate) fn empty_means_all(url: &str) -> bool {
    !matches!(url, type_url::ENDPOINTS | type_url::ROUTE | type_url::SECRET | EXTENSION | VIRTUAL_HOST)
}

/// Whether a state-of-the-world response must hold everything subscribed, because absence means deletion (listeners and
/// clusters by the protocol; our own tables alike). Endpoints, routes and secrets may come one by one.
#[must_use]
pub(crate) fn full_state(url: &str) -> bool {
    empty_means_all(url)
}
