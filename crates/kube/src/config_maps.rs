//! ConfigMaps of one name, followed: small objects that somebody else's programs read or write, each known by its name.

use std::collections::BTreeMap;

use futures::StreamExt as _;
use isthmus_resources::Kind;
use kube::api::{Api, ApiResource, DynamicObject, GroupVersionKind};
use kube::runtime::{WatchStreamExt as _, watcher};
use serde_json::Value;
use tokio::sync::mpsc;

use crate::api::ApiError;
use crate::client::{Cluster, chain};

/// A ConfigMap's texts, by their keys.
pub type Data = BTreeMap<String, String>;

/// What is said of ConfigMaps of one name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// All that there are, by namespace.
    Listed(BTreeMap<String, Data>),
    /// One is there, with these texts.
    Put(String, Data),
    /// The one of a namespace is gone.
    Gone(String),
}

impl Cluster {
    /// A ConfigMap's texts; none when it is not there.
    ///
    /// # Errors
    /// When the API server cannot be asked or does not allow it.
    pub async fn config_map(&self, namespace: &str, name: &str) -> Result<Option<Data>, ApiError> {
        let found = self.get(Kind::ConfigMap, Some(namespace), name).await?;
        Ok(found.map(|object| texts(&object["data"])))
    }

    /// Follows the ConfigMaps of this name, in one namespace or in all, until nobody receives any more. While the API server is away
    /// nothing is said: what was known stays known.
    pub async fn follow_config_maps(
        &self,
        namespace: Option<&str>,
        name: &str,
        changes: mpsc::Sender<Change>,
    ) {
        let names = Kind::ConfigMap.names();
        let gvk = GroupVersionKind::gvk(names.group, names.versions[0], names.kind);
        let resource = ApiResource::from_gvk_with_plural(&gvk, names.plural);
        let client = self.client().clone();
        let api: Api<DynamicObject> = match namespace {
            Some(namespace) => Api::namespaced_with(client, namespace, &resource),
            None => Api::all_with(client, &resource),
        };
        // Access that is granted by name needs this very selector.
        let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
        let mut stream = watcher(api, config).default_backoff().boxed();
        let mut listing = BTreeMap::new();
        let mut told = String::new();
        loop {
            let outcome = tokio::select! {
                outcome = stream.next() => outcome,
                () = changes.closed() => return,
            };
            let Some(outcome) = outcome else { return };
            let change = match outcome {
                Ok(watcher::Event::Init) => {
                    listing = BTreeMap::new();
                    continue;
                }
                Ok(watcher::Event::InitApply(object)) => {
                    let (namespace, data) = read(object);
                    listing.insert(namespace, data);
                    continue;
                }
                Ok(watcher::Event::InitDone) => Change::Listed(std::mem::take(&mut listing)),
                Ok(watcher::Event::Apply(object)) => {
                    let (namespace, data) = read(object);
                    Change::Put(namespace, data)
                }
                Ok(watcher::Event::Delete(object)) => Change::Gone(read(object).0),
                Err(error) => {
                    let error = chain(&error);
                    if error == told {
                        tracing::debug!(name, error, "watch of ConfigMaps lost");
                    } else {
                        tracing::warn!(name, error, "watch of ConfigMaps lost, their last state stays");
                        told = error;
                    }
                    continue;
                }
            };
            told.clear();
            if changes.send(change).await.is_err() {
                return;
            }
        }
    }
}

fn read(object: DynamicObject) -> (String, Data) {
    (object.metadata.namespace.unwrap_or_default(), texts(&object.data["data"]))
}

fn texts(data: &Value) -> Data {
    let members = data.as_object().into_iter().flatten();
    members.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_string()))).collect()
}
