//! What one exported service adds to a gateway that passes TLS on.

use std::sync::Arc;

use isthmus_proto::resource::Resource;
use isthmus_registry::MeshService;
use isthmus_sni::name_hash;

use crate::class::Class;
use crate::cluster::Use;
use crate::encoded::{Encoded, Inputs, targets};

/// The clusters of a service, one for each port and subset, and what they depended on.
#[derive(Debug)]
pub(super) struct Passed {
    pub(super) inputs: Inputs,
    targets: Vec<Target>,
}

#[derive(Debug)]
struct Target {
    cluster: Resource,
    endpoints: Option<Resource>,
    hash: u64,
}

impl Passed {
    pub(super) fn build(inputs: Inputs, encoded: &mut Encoded, class: &Class) -> Self {
        let service = Arc::clone(&inputs.service);
        let rule = inputs.rule.clone();
        let all = targets(&service, rule.as_deref(), Use::Passthrough);
        let all = all.map(|target| {
            let (cluster, endpoints) = encoded.target(target, &inputs, class);
            let hash = if class.on_demand { name_hash(&cluster.name) } else { 0 };
            Target { cluster, endpoints, hash }
        });
        Self { targets: all.collect(), inputs }
    }

    pub(super) fn service(&self) -> &MeshService {
        &self.inputs.service
    }

    /// Server names, which are the clusters' names too.
    pub(super) fn names(&self) -> impl Iterator<Item = &Arc<str>> {
        self.targets.iter().map(|target| &target.cluster.name)
    }

    /// Hashes of the names, for gateways that fetch on demand.
    pub(super) fn hashes(&self) -> impl Iterator<Item = u64> {
        self.targets.iter().map(|target| target.hash)
    }

    pub(super) fn clusters(&self) -> impl Iterator<Item = &Resource> {
        self.targets.iter().map(|target| &target.cluster)
    }

    pub(super) fn endpoints(&self) -> impl Iterator<Item = &Resource> {
        self.targets.iter().filter_map(|target| target.endpoints.as_ref())
    }
}
