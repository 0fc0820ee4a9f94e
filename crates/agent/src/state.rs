//! What joining said of this machine: remembered, so that an agent starts with every control plane gone.

use std::sync::Arc;

use isthmus_model::{ClusterId, Namespace, NamespacedName, NetworkId, SpiffeId, TrustDomain};
use serde::{Deserialize, Serialize};

use crate::data::{DataDir, DataError};

/// Name of its file.
pub const FILE: &str = "membership.json";

/// This machine's place in the mesh. Roots, key and certificate are kept beside it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Membership {
    /// Mesh.
    pub mesh_id: Arc<str>,
    /// Cluster whose control plane it belongs to.
    pub cluster: ClusterId,
    /// Network that it is on.
    pub network: NetworkId,
    /// Namespace of its identity.
    pub namespace: Namespace,
    /// Service account of its identity.
    pub service_account: Arc<str>,
    /// Trust domain of its identity.
    pub trust_domain: TrustDomain,
    /// For a VM: the WorkloadGroup that it joined.
    pub group: Option<NamespacedName>,
    /// For a VM: the spec of that group.
    pub group_spec: Option<serde_json::Value>,
    /// `HOST:PORT` of the control plane, in order of preference.
    pub addresses: Vec<Arc<str>>,
    /// Name that its certificate must carry.
    pub server_name: Arc<str>,
}

impl Membership {
    /// Its identity.
    #[must_use]
    pub fn spiffe(&self) -> SpiffeId {
        SpiffeId {
            trust_domain: self.trust_domain.clone(),
            namespace: self.namespace.clone(),
            service_account: Arc::clone(&self.service_account),
        }
    }

    /// Reads it; none before the first join.
    ///
    /// # Errors
    /// When the file cannot be read or understood.
    pub fn load(data: &DataDir) -> Result<Option<Self>, DataError> {
        let Some(bytes) = data.read(FILE)? else { return Ok(None) };
        serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|error| DataError::Invalid { path: data.file(FILE), problem: error.to_string() })
    }

    /// Writes it.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn save(&self, data: &DataDir) -> Result<(), DataError> {
        let text = serde_json::to_vec_pretty(self)
            .map_err(|error| DataError::Invalid { path: data.file(FILE), problem: error.to_string() })?;
        data.write(FILE, &text)
    }
}
