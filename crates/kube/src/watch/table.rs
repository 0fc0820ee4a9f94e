//! The last good state of one kind, and the judgement of what comes in.

use std::fmt;
use std::sync::Arc;

use isthmus_model::shared::shared;
use isthmus_resources::index::Place;
use isthmus_resources::{Index, Kind, Object, parse, validate, warnings};
use serde_json::Value;

use super::Rejection;
use crate::conditions::{self, Finding};

/// An object's place within its kind, in texts that the object itself holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Key {
    namespace: Arc<str>,
    name: Arc<str>,
}

impl Key {
    pub(super) fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: shared(namespace), name: shared(name) }
    }

    fn place(&self) -> Place<'_> {
        [&self.namespace, &self.name, ""]
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.namespace {
            "" => f.write_str(&self.name),
            namespace => write!(f, "{namespace}/{}", self.name),
        }
    }
}

/// What became of an object.
pub(super) enum Judged {
    Good {
        key: Key,
        object: Object,
        /// Nothing that we read has changed.
        unchanged: bool,
        finding: Option<Finding>,
    },
    Bad {
        key: Key,
        rejection: Rejection,
        finding: Option<Finding>,
    },
}

#[derive(Default)]
pub(super) struct Table {
    objects: Index<Object>,
}

impl Table {
    pub(super) fn is_empty(&self) -> bool {
        self.objects.is_empty()
    }

    pub(super) fn get(&self, key: &Key) -> Option<&Object> {
        self.objects.get(key.place())
    }

    pub(super) fn insert(&mut self, object: Object) {
        self.objects.insert(object);
    }

    pub(super) fn remove(&mut self, key: &Key) -> Option<Object> {
        self.objects.remove(key.place())
    }

    /// Takes a complete list, and returns it in order, each object once.
    pub(super) fn replace(&mut self, objects: Vec<Object>) -> Vec<Object> {
        self.objects = objects.into_iter().collect();
        self.objects.iter().cloned().collect()
    }

    /// Reads and validates an object.
    pub(super) fn judge(&self, kind: Kind, value: Value) -> Judged {
        let text = |member: &str| value["metadata"][member].as_str().unwrap_or_default();
        let key = Key::new(text("namespace"), text("name"));
        let unenforced = if kind.is_custom() { warnings(&value) } else { Vec::new() };
        let current = conditions::Current::of(kind, &value);
        match parse(value) {
            Ok(object) => {
                let problems = validate(&object);
                if problems.is_empty() {
                    let unchanged = self.get(&key).is_some_and(|known| known.same_content(&object));
                    let finding = current.and_then(|current| current.finding(&[], &unenforced));
                    return Judged::Good { key, object, unchanged, finding };
                }
                let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
                self.bad(key, kind, &problems, current, &unenforced)
            }
            Err(error) => self.bad(key, kind, &[error.to_string()], current, &unenforced),
        }
    }

    fn bad(
        &self,
        key: Key,
        kind: Kind,
        problems: &[String],
        current: Option<conditions::Current>,
        unenforced: &[String],
    ) -> Judged {
        let problem = problems.join("; ");
        let last_good = self.get(&key).is_some();
        tracing::warn!(%kind, object = %key, %problem, last_good, "object rejected");
        let finding = current.and_then(|current| current.finding(problems, unenforced));
        Judged::Bad { rejection: Rejection { object: key.to_string(), problem }, key, finding }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn entry(resource_version: &str, host: &str) -> Value {
        json!({
            "apiVersion": "networking.istio.io/v1", "kind": "ServiceEntry",
            "metadata": {"name": "a", "namespace": "b", "resourceVersion": resource_version},
            "spec": {"hosts": [host], "resolution": "DNS"},
        })
    }

    #[test]
    fn a_change_of_nothing_that_we_read_is_no_change() {
        let mut table = Table::default();
        let Judged::Good { object, unchanged, .. } = table.judge(Kind::ServiceEntry, entry("1", "a.example"))
        else {
            panic!("the entry is good");
        };
        assert!(!unchanged);
        table.insert(object);
        let again = table.judge(Kind::ServiceEntry, entry("2", "a.example"));
        assert!(matches!(again, Judged::Good { unchanged: true, .. }));
        let other = table.judge(Kind::ServiceEntry, entry("3", "b.example"));
        assert!(matches!(other, Judged::Good { unchanged: false, .. }));
    }

    #[test]
    fn an_object_that_breaks_a_rule_is_rejected_by_name() {
        let judged = Table::default().judge(Kind::ServiceEntry, entry("1", "*"));
        let Judged::Bad { rejection, finding, .. } = judged else { panic!("\"*\" is not a host") };
        assert_eq!(rejection.object, "b/a");
        assert!(rejection.problem.starts_with("spec.hosts[0]: "), "{}", rejection.problem);
        assert!(finding.is_some());
    }
}
