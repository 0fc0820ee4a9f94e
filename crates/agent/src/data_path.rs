//! What carries this workload's connections: our own proxy or an Envoy.

use std::sync::Arc;

use bytes::Bytes;
use isthmus_proxy::{Proxy, Rejection};
use serde_json::{Value, json};

use crate::envoy::Envoy;
use crate::mirror::Mirror;

/// One of the two. Cheap to clone.
#[derive(Clone)]
pub enum DataPath {
    /// Our own, within this process.
    Isthmus(Proxy),
    /// An Envoy beside it.
    Envoy(Envoy),
}

impl From<Proxy> for DataPath {
    fn from(proxy: Proxy) -> Self {
        Self::Isthmus(proxy)
    }
}

impl DataPath {
    /// Makes ready what taking in these resources needs and what may take its time.
    pub async fn prepare(&self, url: &str, bodies: impl IntoIterator<Item = &Bytes>) {
        if let Self::Envoy(envoy) = self {
            envoy.prepare(url, bodies).await;
        }
    }

    /// Takes in a change of one type. Returns what cannot be used: what was in force under its name stays in force.
    pub fn apply(&self, url: &str, upserts: Vec<(Arc<str>, Bytes)>, removed: &[Arc<str>]) -> Vec<Rejection> {
        match self {
            Self::Isthmus(proxy) => proxy.apply(url, upserts, removed),
            Self::Envoy(envoy) => envoy.apply(url, upserts, removed),
        }
    }

    /// Whether it writes what it accepts of a type to the last-good cache itself: of an Envoy nobody knows before it says so.
    #[must_use]
    pub fn remembers(&self, url: &str) -> bool {
        matches!(self, Self::Envoy(_)) && Mirror::holds(url)
    }

    /// Listeners as JSON.
    #[must_use]
    pub fn listeners_json(&self) -> Value {
        match self {
            Self::Isthmus(proxy) => proxy.listeners_json(),
            Self::Envoy(envoy) => envoy.listeners_json(),
        }
    }

    /// Clusters as JSON.
    #[must_use]
    pub fn clusters_json(&self) -> Value {
        match self {
            Self::Isthmus(proxy) => proxy.clusters_json(),
            Self::Envoy(envoy) => envoy.clusters_json(),
        }
    }

    /// Endpoints with their health as JSON.
    pub async fn endpoints_json(&self) -> Value {
        match self {
            Self::Isthmus(proxy) => proxy.endpoints_json(),
            Self::Envoy(envoy) => envoy.endpoints_json().await,
        }
    }

    /// Live connections as JSON; of an Envoy's nothing is known one by one.
    #[must_use]
    pub fn flows_json(&self) -> Value {
        match self {
            Self::Isthmus(proxy) => proxy.flows_json(),
            Self::Envoy(_) => json!({ "open": 0, "flows": [] }),
        }
    }

    /// Which it is, and how it is.
    #[must_use]
    pub fn status(&self) -> Value {
        match self {
            Self::Isthmus(_) => json!({ "kind": "isthmus" }),
            Self::Envoy(envoy) => envoy.status(),
        }
    }

    /// The Envoy, if it is one.
    #[must_use]
    pub fn envoy(&self) -> Option<&Envoy> {
        match self {
            Self::Isthmus(_) => None,
            Self::Envoy(envoy) => Some(envoy),
        }
    }
}
