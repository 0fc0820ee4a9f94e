//! Lists of resources that stay themselves while they are equal: readers compare by address.

use std::sync::Arc;

use isthmus_proto::resource::{Resource, ResourceSet};

/// The old list when the new one is equal.
pub(crate) fn kept(old: Option<&Arc<Vec<Resource>>>, new: Vec<Resource>) -> Arc<Vec<Resource>> {
    match old {
        Some(old) if same_resources(old.iter(), new.iter()) => Arc::clone(old),
        _ => Arc::new(new),
    }
}

/// As [`kept`], for sets.
pub(crate) fn kept_set(old: Option<&Arc<ResourceSet>>, new: Vec<Resource>) -> Arc<ResourceSet> {
    let new = ResourceSet::new(new);
    match old {
        Some(old) if same_resources(old.iter(), new.iter()) => Arc::clone(old),
        _ => Arc::new(new),
    }
}

/// Whether two lists are equal. Shared bytes are not looked at: most of a list is shared with its predecessor.
fn same_resources<'a>(
    a: impl ExactSizeIterator<Item = &'a Resource>,
    b: impl ExactSizeIterator<Item = &'a Resource>,
) -> bool {
    let same = |(a, b): (&Resource, &Resource)| {
        let shared = Arc::ptr_eq(&a.name, &b.name) && a.body.as_ptr() == b.body.as_ptr();
        a.version == b.version && (shared || a == b)
    };
    a.len() == b.len() && a.zip(b).all(same)
}
