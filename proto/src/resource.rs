//! Encoded resources: the unit that translation makes once and every stream shares.

use std::sync::Arc;

use bytes::Bytes;

/// One resource, encoded once. Cloning shares the bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    /// Its name on the wire, such as `outbound|9080||reviews.default.svc.cluster.local`.
    pub name: Arc<str>,
    /// A hash of the body: equal bodies have equal versions on every replica.
    pub version: u64,
    /// The encoded message, without its `Any` envelope.
    pub body: Bytes,
}

impl Resource {
    /// Wraps an encoded message, computing its version.
    #[must_use]
    pub fn new(name: impl Into<Arc<str>>, body: Bytes) -> Self {
        Self { name: name.into(), version: fnv1a(&body), body }
    }
}

/// FNV-1a, 64 bit: the same on every machine and release, which `std`'s hasher does not promise.
#[must_use]
pub fn fnv1a(bytes: &[u8]) -> u64 {
    fnv1a_more(FNV1A, bytes)
}

/// [`fnv1a`] of no bytes.
pub const FNV1A: u64 = 0xcbf2_9ce4_8422_2325;

/// [`fnv1a`] of what comes in pieces: goes on from the hash of those before.
#[must_use]
pub fn fnv1a_more(hash: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(hash, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// All resources of one type that one view holds, sorted by name. Cheap to share; two equal `Arc`s are the same state.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct ResourceSet {
    sorted: Vec<Resource>,
}

impl ResourceSet {
    /// Sorts by name; of two resources with one name the later stays.
    #[must_use]
    pub fn new(mut resources: Vec<Resource>) -> Self {
        resources.reverse();
        resources.sort_by(|a, b| a.name.cmp(&b.name));
        resources.dedup_by(|later, kept| later.name == kept.name);
        Self { sorted: resources }
    }

    /// The same names with other bodies for some of them; none when one of those is not there.
    #[must_use]
    pub fn replaced(&self, changed: impl IntoIterator<Item = Resource>) -> Option<Self> {
        let mut sorted = self.sorted.clone();
        for resource in changed {
            let at = sorted.binary_search_by(|known| known.name.cmp(&resource.name)).ok()?;
            sorted[at] = resource;
        }
        Some(Self { sorted })
    }

    /// The resource of this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Resource> {
        self.sorted.binary_search_by(|r| (*r.name).cmp(name)).ok().map(|at| &self.sorted[at])
    }

    /// All resources in name order.
    pub fn iter(&self) -> std::slice::Iter<'_, Resource> {
        self.sorted.iter()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.sorted.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.sorted.is_empty()
    }
}

impl<'a> IntoIterator for &'a ResourceSet {
    type Item = &'a Resource;
    type IntoIter = std::slice::Iter<'a, Resource>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// What one proxy may see at one moment: a set for each type URL. Proxies that may share a view share this `Arc`.
#[derive(Debug, Default, Clone)]
pub struct View {
    /// Grows with each published view of this proxy; part of `version_info`.
    pub version: u64,
    /// Sets by type URL. A type that is absent is not served; an empty set means truly none.
    pub sets: Vec<(&'static str, Arc<ResourceSet>)>,
}

impl View {
    /// The set of this type, if the view serves it.
    #[must_use]
    pub fn set(&self, type_url: &str) -> Option<&Arc<ResourceSet>> {
        self.sets.iter().find(|(url, _)| *url == type_url).map(|(_, set)| set)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_later_of_two_resources_with_one_name_stays() {
        let set = ResourceSet::new(vec![
            Resource::new("b", Bytes::from_static(b"old")),
            Resource::new("a", Bytes::new()),
            Resource::new("b", Bytes::from_static(b"new")),
        ]);
        assert_eq!(set.len(), 2);
        assert_eq!(set.get("b").unwrap().body, Bytes::from_static(b"new"));
        assert!(set.get("c").is_none());
    }

    #[test]
    fn a_body_is_replaced_and_a_name_is_not_added() {
        let resource = |name: &str, body: &'static [u8]| Resource::new(name, Bytes::from_static(body));
        let old = ResourceSet::new(vec![resource("a", b"1"), resource("b", b"2")]);
        let new = old.replaced([resource("b", b"3")]).unwrap();
        assert_eq!(new, ResourceSet::new(vec![resource("a", b"1"), resource("b", b"3")]));
        assert!(old.replaced([resource("c", b"3")]).is_none());
    }
}
