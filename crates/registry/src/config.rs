//! Configuration of one namespace.

use std::sync::Arc;

use isthmus_model::Namespace;
use isthmus_resources::mesh::MeshConfig;
use isthmus_resources::{Kind, Meta, Object, Resource, istio};

use crate::tables::Tables;

/// Objects of one kind, the oldest first.
pub type Objects<S> = Arc<[Arc<Resource<S>>]>;

/// Traffic and security configuration that one namespace holds; each list is oldest first, and keeps its `Arc` while it is
/// unchanged.
#[derive(Clone, Debug, Default)]
pub struct NamespaceConfig {
    /// DestinationRules.
    pub destination_rules: Objects<istio::DestinationRule>,
    /// VirtualServices.
    pub virtual_services: Objects<istio::VirtualService>,
    /// Gateways.
    pub gateways: Objects<istio::Gateway>,
    /// Sidecars.
    pub sidecars: Objects<istio::Sidecar>,
    /// PeerAuthentications.
    pub peer_authentications: Objects<istio::PeerAuthentication>,
    /// AuthorizationPolicies.
    pub authorization_policies: Objects<istio::AuthorizationPolicy>,
    /// RequestAuthentications.
    pub request_authentications: Objects<istio::RequestAuthentication>,
}

/// Bookkeeping of objects (resource version, generation) does not count.
impl PartialEq for NamespaceConfig {
    fn eq(&self, other: &Self) -> bool {
        same_objects(&self.destination_rules, &other.destination_rules)
            && same_objects(&self.virtual_services, &other.virtual_services)
            && same_objects(&self.gateways, &other.gateways)
            && same_objects(&self.sidecars, &other.sidecars)
            && same_objects(&self.peer_authentications, &other.peer_authentications)
            && same_objects(&self.authorization_policies, &other.authorization_policies)
            && same_objects(&self.request_authentications, &other.request_authentications)
    }
}

/// Whether a kind is kept here.
pub(crate) fn is_config(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::DestinationRule
            | Kind::VirtualService
            | Kind::Gateway
            | Kind::Sidecar
            | Kind::PeerAuthentication
            | Kind::AuthorizationPolicy
            | Kind::RequestAuthentication
    )
}

macro_rules! gather {
    ($read:expr, $kind:ident, $old:expr) => {{
        let (tables, namespace, mesh): (&Tables, &Namespace, &MeshConfig) = $read;
        let mut found: Vec<_> = tables
            .within(Kind::$kind, namespace)
            .filter_map(|object| match mesh.visible(object) {
                Object::$kind(object) => Some(object),
                _ => None,
            })
            .collect();
        found.sort_by(|a, b| a.meta.age_key().cmp(&b.meta.age_key()));
        keep_old(found, $old)
    }};
}

impl NamespaceConfig {
    /// Reads a namespace's objects as a mesh shows them, keeping the lists of `old` that did not change.
    pub(crate) fn gather(
        tables: &Tables,
        namespace: &Namespace,
        mesh: &MeshConfig,
        old: Option<&Self>,
    ) -> Self {
        let none = Self::default();
        let old = old.unwrap_or(&none);
        let read = (tables, namespace, mesh);
        Self {
            destination_rules: gather!(read, DestinationRule, &old.destination_rules),
            virtual_services: gather!(read, VirtualService, &old.virtual_services),
            gateways: gather!(read, Gateway, &old.gateways),
            sidecars: gather!(read, Sidecar, &old.sidecars),
            peer_authentications: gather!(read, PeerAuthentication, &old.peer_authentications),
            authorization_policies: gather!(read, AuthorizationPolicy, &old.authorization_policies),
            request_authentications: gather!(read, RequestAuthentication, &old.request_authentications),
        }
    }

    /// Whether it holds nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.destination_rules.is_empty()
            && self.virtual_services.is_empty()
            && self.gateways.is_empty()
            && self.sidecars.is_empty()
            && self.peer_authentications.is_empty()
            && self.authorization_policies.is_empty()
            && self.request_authentications.is_empty()
    }

    /// Whether all lists are the very same.
    #[must_use]
    pub fn same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.destination_rules, &other.destination_rules)
            && Arc::ptr_eq(&self.virtual_services, &other.virtual_services)
            && Arc::ptr_eq(&self.gateways, &other.gateways)
            && Arc::ptr_eq(&self.sidecars, &other.sidecars)
            && Arc::ptr_eq(&self.peer_authentications, &other.peer_authentications)
            && Arc::ptr_eq(&self.authorization_policies, &other.authorization_policies)
            && Arc::ptr_eq(&self.request_authentications, &other.request_authentications)
    }
}

/// The old list when the new one means the same: each object stays itself while nothing but its bookkeeping changed.
fn keep_old<S: PartialEq>(found: Vec<Arc<Resource<S>>>, old: &Objects<S>) -> Objects<S> {
    let kept: Vec<_> = found
        .into_iter()
        .map(|object| match old.iter().find(|candidate| same_object(candidate, &object)) {
            Some(candidate) => Arc::clone(candidate),
            None => object,
        })
        .collect();
    let unchanged = kept.len() == old.len() && kept.iter().zip(old.iter()).all(|(a, b)| Arc::ptr_eq(a, b));
    if unchanged { Arc::clone(old) } else { kept.into() }
}

fn same_objects<S: PartialEq>(a: &Objects<S>, b: &Objects<S>) -> bool {
    a.len() == b.len() && a.iter().zip(b.iter()).all(|(a, b)| same_object(a, b))
}

fn same_object<S: PartialEq>(a: &Arc<Resource<S>>, b: &Arc<Resource<S>>) -> bool {
    Arc::ptr_eq(a, b) || (same_meta(&a.meta, &b.meta) && a.spec == b.spec)
}

/// Whether two states of an object mean the same to the mesh: its resource version and generation say nothing.
pub(crate) fn same_meta(a: &Meta, b: &Meta) -> bool {
    a.name == b.name
        && a.namespace == b.namespace
        && a.labels == b.labels
        && a.annotations == b.annotations
        && a.created == b.created
}
