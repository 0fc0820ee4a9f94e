//! An object as it arrives, less what no mesh reads: that is left out while the text is read, so that a list of a hundred thousand
//! Pods never costs the memory of a hundred thousand whole Pods.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use kube::Resource;
use kube::api::{ApiResource, ObjectMeta};
use kube::core::DynamicResourceScope;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

/// What is kept of a value. A list is as its items are.
pub(super) enum Keep {
    /// All of it.
    All,
    /// These members, each as it says.
    Only(&'static [(&'static str, Keep)]),
    /// These members as they say, and all others whole.
    AllBut(&'static [(&'static str, Keep)]),
    /// Members of Istio's and our own domains.
    Domains,
}

impl Keep {
    /// What is kept of a member; nothing of those that are left out.
    fn member(&self, key: &str) -> Option<&Self> {
        let named = |members: &'static [(&'static str, Self)]| {
            members.iter().find(|(name, _)| *name == key).map(|(_, keep)| keep)
        };
        match self {
            Self::All => Some(&Self::All),
            Self::Only(members) => named(members),
            Self::AllBut(members) => Some(named(members).unwrap_or(&Self::All)),
            Self::Domains => (key.contains("istio.io/") || key.contains("isthmus.io/")).then_some(&Self::All),
        }
    }
}

/// How objects of some kinds are read.
pub(super) trait Shape: Clone + fmt::Debug + Send + Sync + 'static {
    const KEEP: &'static Keep;
    /// Whether the version is of use beyond the watch: for writing the object.
    const VERSIONED: bool = false;
}

const METADATA: Keep = Keep::Only(&[
    ("name", Keep::All),
    ("namespace", Keep::All),
    ("uid", Keep::All),
    ("resourceVersion", Keep::All),
    ("generation", Keep::All),
    ("labels", Keep::All),
    ("annotations", Keep::All),
    ("creationTimestamp", Keep::All),
    ("deletionTimestamp", Keep::All),
]);

/// Metadata of what Kubernetes runs: many objects, with annotations of many programs.
const RUN_METADATA: Keep = Keep::Only(&[
    ("name", Keep::All),
    ("namespace", Keep::All),
    ("uid", Keep::All),
    ("resourceVersion", Keep::All),
    ("labels", Keep::All),
    ("annotations", Keep::Domains),
    ("creationTimestamp", Keep::All),
    ("deletionTimestamp", Keep::All),
]);

const CONTAINER: Keep = Keep::Only(&[("restartPolicy", Keep::All), ("ports", Keep::All)]);

/// Any kind: all but bookkeeping in the metadata.
#[derive(Clone, Debug)]
pub(super) struct Whole;

impl Shape for Whole {
    const KEEP: &'static Keep = &Keep::AllBut(&[("metadata", METADATA)]);
    const VERSIONED: bool = true;
}

/// Pods.
#[derive(Clone, Debug)]
pub(super) struct OfPod;

impl Shape for OfPod {
    const KEEP: &'static Keep = &Keep::Only(&[
        ("metadata", RUN_METADATA),
        (
            "spec",
            Keep::Only(&[
                ("serviceAccountName", Keep::All),
                ("nodeName", Keep::All),
                ("hostname", Keep::All),
                ("subdomain", Keep::All),
                ("hostNetwork", Keep::All),
                ("containers", CONTAINER),
                ("initContainers", CONTAINER),
            ]),
        ),
        (
            "status",
            Keep::Only(&[
                ("phase", Keep::All),
                ("podIP", Keep::All),
                ("podIPs", Keep::All),
                ("conditions", Keep::Only(&[("type", Keep::All), ("status", Keep::All)])),
            ]),
        ),
    ]);
}

/// Nodes.
#[derive(Clone, Debug)]
pub(super) struct OfNode;

impl Shape for OfNode {
    const KEEP: &'static Keep =
        &Keep::Only(&[("metadata", RUN_METADATA), ("status", Keep::Only(&[("addresses", Keep::All)]))]);
}

/// An object with what the watch protocol needs to know of it.
#[derive(Clone, Debug)]
pub(super) struct Item<S> {
    metadata: ObjectMeta,
    pub(super) object: Value,
    shape: PhantomData<S>,
}

impl<S: Shape> Item<S> {
    /// Namespace (empty for cluster-scoped kinds) and name.
    pub(super) fn place(&self) -> (&str, &str) {
        (
            self.metadata.namespace.as_deref().unwrap_or_default(),
            self.metadata.name.as_deref().unwrap_or_default(),
        )
    }
}

impl<'de, S: Shape> serde::Deserialize<'de> for Item<S> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut object = Kept(S::KEEP).deserialize(deserializer)?;
        let text = |member: &str| object["metadata"][member].as_str().map(String::from);
        let metadata = ObjectMeta {
            name: text("name"),
            namespace: text("namespace"),
            resource_version: text("resourceVersion"),
            ..ObjectMeta::default()
        };
        if !S::VERSIONED
            && let Some(members) = object["metadata"].as_object_mut()
        {
            members.remove("resourceVersion");
        }
        Ok(Self { metadata, object, shape: PhantomData })
    }
}

impl<S: Shape> Resource for Item<S> {
    type DynamicType = ApiResource;
    type Scope = DynamicResourceScope;

    fn kind(of: &ApiResource) -> Cow<'_, str> {
        of.kind.as_str().into()
    }

    fn group(of: &ApiResource) -> Cow<'_, str> {
        of.group.as_str().into()
    }

    fn version(of: &ApiResource) -> Cow<'_, str> {
        of.version.as_str().into()
    }

    fn plural(of: &ApiResource) -> Cow<'_, str> {
        of.plural.as_str().into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

/// Reads what is kept of a value.
struct Kept(&'static Keep);

impl<'de> DeserializeSeed<'de> for Kept {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        match self.0 {
            Keep::All => serde::Deserialize::deserialize(deserializer),
            _ => deserializer.deserialize_any(self),
        }
    }
}

impl<'de> Visitor<'de> for Kept {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let mut kept = Map::new();
        while let Some(key) = members.next_key::<Cow<'de, str>>()? {
            match self.0.member(&key) {
                Some(keep) => {
                    let value = members.next_value_seed(Kept(keep))?;
                    kept.insert(key.into_owned(), value);
                }
                None => {
                    members.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(Value::Object(kept))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut kept = Vec::new();
        while let Some(item) = items.next_element_seed(Kept(self.0))? {
            kept.push(item);
        }
        Ok(Value::Array(kept))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pod_is_what_a_mesh_reads_of_it() {
        let text = json!({
            "metadata": {
                "name": "a", "namespace": "b", "resourceVersion": "7", "managedFields": [{"manager": "m"}],
                "ownerReferences": [{"name": "r"}], "labels": {"app": "a"},
                "annotations": {"cni.example/status": "{}", "proxy.istio.io/config": "x"},
            },
            "spec": {
                "serviceAccountName": "s", "volumes": [{"name": "v"}],
                "containers": [{"name": "c", "image": "i", "env": [], "ports": [{"containerPort": 80}]}],
            },
            "status": {
                "phase": "Running", "podIP": "10.0.0.1", "containerStatuses": [{"imageID": "x"}],
                "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "t"}],
            },
        })
        .to_string();
        let pod: Item<OfPod> = serde_json::from_str(&text).unwrap();
        assert_eq!(pod.place(), ("b", "a"));
        assert_eq!(pod.meta().resource_version.as_deref(), Some("7"));
        assert_eq!(
            pod.object,
            json!({
                "metadata": {
                    "name": "a", "namespace": "b", "labels": {"app": "a"},
                    "annotations": {"proxy.istio.io/config": "x"},
                },
                "spec": {"serviceAccountName": "s", "containers": [{"ports": [{"containerPort": 80}]}]},
                "status": {
                    "phase": "Running", "podIP": "10.0.0.1", "conditions": [{"type": "Ready", "status": "True"}],
                },
            })
        );
    }

    #[test]
    fn other_kinds_keep_all_but_bookkeeping_whatever_their_members_are() {
        let text = r#"{"metadata":{"name":"a","managedFields":[]},"spec":{"n":-1,"f":0.5,"s":"\u00e9","b":null},"endpoints":[[1]]}"#;
        let item: Item<Whole> = serde_json::from_str(text).unwrap();
        let whole = json!({"metadata": {"name": "a"}, "spec": {"n": -1, "f": 0.5, "s": "é", "b": null}, "endpoints": [[1]]});
        assert_eq!(item.object, whole);
        let odd: Item<OfPod> =
            serde_json::from_str(r#"{"metadata":null,"spec":[1,"x"],"status":true}"#).unwrap();
        assert_eq!(odd.place(), ("", ""));
    }
}
