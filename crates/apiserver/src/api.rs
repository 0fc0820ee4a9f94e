//! The operations on objects, for requests and for the background parts alike.

mod addresses;
mod list;
mod remove;
mod tokens;
mod write;

use std::sync::Arc;

use isthmus_lifecycle::Clock;
use isthmus_store::Store;
use serde_json::Value;

use crate::auth::token::Signer;
use crate::cache::{Cache, Collection, Object};
use crate::config::Config;
use crate::kinds::{Kind, Kinds};
use crate::meta;
use crate::status::ApiError;

pub(crate) use list::{ListOptions, Listed};
pub(crate) use remove::{DeleteOptions, FOREGROUND, ORPHAN, Policy};
pub(crate) use write::{Part, Validation, Write, Written};

/// Everything that an operation needs.
#[derive(Debug)]
pub(crate) struct Api {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) cache: Arc<Cache>,
    pub(crate) kinds: Arc<Kinds>,
    pub(crate) signer: Signer,
    pub(crate) config: Config,
}

impl Api {
    pub(crate) fn clock(&self) -> &dyn Clock {
        self.config.clock.as_ref()
    }

    pub(crate) fn now(&self) -> String {
        meta::timestamp(self.clock())
    }

    pub(crate) fn collection(&self, kind: &Kind) -> Arc<Collection> {
        self.cache.collection(&kind.collection())
    }

    /// One of Kubernetes' own kinds.
    pub(crate) fn core(&self, plural: &str) -> Result<Arc<Kind>, ApiError> {
        self.kinds.find("", "v1", plural).ok_or_else(ApiError::no_such_path)
    }

    /// One object.
    pub(crate) fn get(&self, kind: &Kind, namespace: &str, name: &str) -> Result<Arc<Object>, ApiError> {
        self.collection(kind).get(&kind.key(namespace, name)).ok_or_else(|| ApiError::not_found(kind, name))
    }
}

/// An object's value in the version that was asked for.
pub(crate) fn present(kind: &Kind, object: &Object) -> Value {
    let mut value = object.value.clone();
    if kind.version != kind.storage_version {
        value["apiVersion"] = kind.api_version().into();
    }
    value
}
