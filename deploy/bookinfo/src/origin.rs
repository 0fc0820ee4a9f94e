//! Who gave an answer.

use serde::{Deserialize, Serialize};

use crate::Common;

/// Version, cluster and workload of an answer. Every service puts its own into its JSON as `servedBy`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Origin {
    pub(crate) version: String,
    pub(crate) cluster: String,
    pub(crate) workload: String,
}

impl Origin {
    /// From the flags; the host's name stands in for a workload that was not given.
    pub(crate) fn new(common: &Common) -> Self {
        let workload = common.workload.clone().unwrap_or_else(|| {
            let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
            name.trim().to_string()
        });
        Self { version: common.service_version.clone(), cluster: common.cluster.clone(), workload }
    }
}
