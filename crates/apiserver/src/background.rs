//! Background parts: owners and their dependents, namespaces that end, definitions that end.
//!
//! One task follows every collection. It keeps an index from owner to dependents, looks only at what changed, and
//! asks the cache before it deletes. Replicas may each run it: deletions carry preconditions.

mod definitions;
mod namespaces;
mod owners;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use isthmus_lifecycle::Signal;

use crate::api::Api;
use crate::cache::{Cursor, Object};
use owners::Owners;

/// How long a failed step waits before it is tried again.
const AGAIN: Duration = Duration::from_secs(2);

/// Where an object is: its collection and its key there.
type Place = (String, String);

/// What is to be looked at again.
#[derive(Debug, Default)]
struct Work {
    /// Objects with owners.
    dependents: BTreeSet<Place>,
    /// Objects that are being deleted and wait for the collector.
    owners: BTreeSet<Place>,
    /// Namespaces that are new, or being deleted.
    namespaces: BTreeSet<String>,
    /// Definitions that are being deleted.
    definitions: BTreeSet<String>,
}

/// Runs until told to stop.
pub(crate) async fn run(api: Arc<Api>, stop: Signal) {
    tokio::select! {
        biased;
        () = stop.stopping() => {}
        () = Collector { api, cursors: HashMap::new(), owners: Owners::default(), work: Work::default() }.run() => {}
    }
}

struct Collector {
    api: Arc<Api>,
    cursors: HashMap<String, Cursor>,
    owners: Owners,
    work: Work,
}

impl Collector {
    async fn run(mut self) {
        let mut steps = self.api.cache.subscribe();
        loop {
            steps.borrow_and_update();
            self.observe();
            let finished = self.act().await;
            let wait = async {
                if finished {
                    std::future::pending::<()>().await;
                } else {
                    tokio::time::sleep(AGAIN).await;
                }
            };
            tokio::select! {
                changed = steps.changed() => {
                    if changed.is_err() {
                        return;
                    }
                }
                () = wait => {}
            }
        }
    }

    /// Takes in what changed in every collection.
    fn observe(&mut self) {
        let at = self.api.cache.revision();
        for name in self.api.cache.names() {
            let changes = match self.cursors.get_mut(&name) {
                Some(cursor) => {
                    let mut all = Vec::new();
                    let expired = loop {
                        match cursor.next() {
                            Ok(changes) if changes.is_empty() => break false,
                            Ok(changes) => all.extend(changes),
                            Err(_) => break true,
                        }
                    };
                    if expired { None } else { Some(all) }
                }
                None => None,
            };
            match changes {
                Some(changes) => {
                    for change in changes {
                        self.changed(&name, &change.object, change.deleted);
                    }
                }
                None => {
                    // New to us, or we fell behind: look at all of it.
                    let collection = self.api.cache.collection(&name);
                    self.cursors.insert(name.clone(), Cursor::new(Arc::clone(&collection), at));
                    for object in collection.list("") {
                        self.changed(&name, &object, false);
                    }
                }
            }
        }
    }

    fn changed(&mut self, collection: &str, object: &Object, deleted: bool) {
        let place = (collection.to_string(), key_of(object));
        let (work, owners) = (&mut self.work, &mut self.owners);
        if deleted {
            work.dependents.extend(owners.dependents(object.uid()));
            owners.forget(&place);
        } else {
            if owners.note(&place, object) {
                work.dependents.insert(place.clone());
            }
            if object.value["metadata"]["deletionTimestamp"].is_string() {
                work.owners.insert(place.clone());
            }
        }
        // An owner that waits for its dependents waits for the last of them.
        work.owners.extend(owners.waiting_for(object));
        if collection == "core/namespaces" && !deleted {
            work.namespaces.insert(object.name().to_string());
        } else if let Some(namespace) =
            Some(object.namespace()).filter(|namespace| deleted && !namespace.is_empty())
        {
            work.namespaces.insert(namespace.to_string());
        }
        if collection == "apiextensions.k8s.io/customresourcedefinitions" && !deleted {
            work.definitions.insert(object.name().to_string());
        } else if let Some(definition) = definitions::of(collection).filter(|_| deleted) {
            work.definitions.insert(definition);
        }
    }

    /// Does what is to be done; what fails is kept. Whether nothing is left.
    async fn act(&mut self) -> bool {
        let work = std::mem::take(&mut self.work);
        for place in work.dependents {
            if let Err(error) = self.owners.settle_dependent(&self.api, &place).await {
                tracing::warn!(collection = place.0, key = place.1, %error, "collecting an object failed, trying again");
                self.work.dependents.insert(place);
            }
        }
        for place in work.owners {
            if let Err(error) = self.owners.settle_owner(&self.api, &place).await {
                tracing::warn!(collection = place.0, key = place.1, %error, "ending an object failed, trying again");
                self.work.owners.insert(place);
            }
        }
        for name in work.namespaces {
            if let Err(error) = namespaces::settle(&self.api, &name).await {
                tracing::warn!(namespace = name, %error, "settling a namespace failed, trying again");
                self.work.namespaces.insert(name);
            }
        }
        for name in work.definitions {
            if let Err(error) = definitions::settle(&self.api, &name).await {
                tracing::warn!(definition = name, %error, "settling a definition failed, trying again");
                self.work.definitions.insert(name);
            }
        }
        let work = &self.work;
        work.dependents.is_empty()
            && work.owners.is_empty()
            && work.namespaces.is_empty()
            && work.definitions.is_empty()
    }
}

fn key_of(object: &Object) -> String {
    match object.namespace() {
        "" => object.name().to_string(),
        namespace => format!("{namespace}/{}", object.name()),
    }
}
