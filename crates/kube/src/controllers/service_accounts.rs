//! A ServiceAccount `default` in each namespace.

use std::collections::BTreeSet;

use isthmus_resources::{Change, Kind, Object};
use serde_json::json;

use crate::api::ApiError;
use crate::client::Cluster;

const NAME: &str = "default";

#[derive(Default)]
pub(super) struct Accounts {
    namespaces: BTreeSet<String>,
    /// Namespaces that have one.
    present: BTreeSet<String>,
}

impl Accounts {
    pub(super) fn apply(&mut self, change: &Change) {
        match change {
            Change::Listed(Kind::Namespace, list) => {
                self.namespaces.clear();
                list.iter().for_each(|object| self.applied(object));
            }
            Change::Listed(Kind::ServiceAccount, list) => {
                self.present.clear();
                list.iter().for_each(|object| self.applied(object));
            }
            Change::Applied(object) => self.applied(object),
            Change::Removed(Kind::Namespace, _, name) => {
                self.namespaces.remove(&**name);
            }
            Change::Removed(Kind::ServiceAccount, Some(namespace), name) if &**name == NAME => {
                self.present.remove(namespace.as_str());
            }
            Change::Listed(..) | Change::Removed(..) => {}
        }
    }

    fn applied(&mut self, object: &Object) {
        match object {
            Object::Namespace(namespace) if namespace.meta.deleting => {
                self.namespaces.remove(&*namespace.meta.name);
            }
            Object::Namespace(namespace) => {
                self.namespaces.insert(namespace.meta.name.to_string());
            }
            Object::ServiceAccount(account) if &*account.meta.name == NAME => {
                self.present.insert(account.meta.namespace_str().to_string());
            }
            _ => {}
        }
    }

    /// Creates what is missing; false when something remains to be done.
    pub(super) async fn write(&mut self, cluster: &Cluster) -> bool {
        let missing: Vec<String> = self.namespaces.difference(&self.present).cloned().collect();
        let mut done = true;
        for namespace in missing {
            let account = json!({
                "apiVersion": "v1",
                "kind": "ServiceAccount",
                "metadata": {"name": NAME, "namespace": namespace},
            });
            match cluster.create(Kind::ServiceAccount, account).await {
                Ok(_) | Err(ApiError::AlreadyExists { .. }) => {
                    self.present.insert(namespace);
                }
                // The namespace is on its way out.
                Err(ApiError::NotFound { .. } | ApiError::Forbidden { .. }) => {
                    self.namespaces.remove(&namespace);
                }
                Err(error) => {
                    tracing::warn!(%error, "default service account not created");
                    done = false;
                }
            }
        }
        done
    }
}
