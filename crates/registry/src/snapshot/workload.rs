//! Workloads of the mesh.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::net::IpAddr;
use std::ops::Deref;
use std::sync::Arc;

use isthmus_model::{ClusterId, Common, Health, Labels, Namespace, Ports};
use isthmus_resources::kubernetes::PodDns;
use smallvec::SmallVec;

use crate::shared::Map;

/// What a workload was declared as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum WorkloadKind {
    /// A Pod.
    Pod,
    /// A WorkloadEntry.
    Entry,
}

/// What names a workload.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WorkloadKey {
    /// Cluster that declares it.
    pub cluster: ClusterId,
    /// Namespace.
    pub namespace: Namespace,
    /// Name of the object.
    pub name: Arc<str>,
    /// Kind of the object.
    pub kind: WorkloadKind,
}

/// One pod or VM. Reads as what it has in common with others, too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workload {
    /// Its name.
    pub key: WorkloadKey,
    /// IP addresses, the primary first; none of a WorkloadEntry that has a host name.
    pub ips: Arc<[IpAddr]>,
    /// Own labels and topology labels.
    pub labels: Labels,
    /// Weight.
    pub weight: u32,
    /// Readiness of the object itself.
    pub health: Health,
    /// What DNS calls a StatefulSet's Pod.
    pub dns: Option<Arc<PodDns>>,
    /// Its ports that have names.
    pub ports: Arc<Ports>,
    /// What it shares with others.
    pub common: Arc<Common>,
}

impl Deref for Workload {
    type Target = Common;

    fn deref(&self) -> &Common {
        &self.common
    }
}

/// All workloads, by key and by IP address. Clones share what is unchanged.
#[derive(Clone, Debug, Default)]
pub struct Workloads {
    all: Map<Keyed, ()>,
    /// Several when objects, or clusters, claim one address.
    by_ip: Map<IpAddr, SmallVec<[Arc<Workload>; 1]>>,
}

/// A workload in the place of its key.
#[derive(Clone, Debug)]
struct Keyed(Arc<Workload>);

impl Workloads {
    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Whether both are one and the same state; false says nothing.
    #[must_use]
    pub fn same(&self, other: &Self) -> bool {
        self.all.same(&other.all)
    }

    /// The workload of a key.
    #[must_use]
    pub fn get(&self, key: &WorkloadKey) -> Option<&Arc<Workload>> {
        self.all.get_key_value(key).map(|(keyed, ())| &keyed.0)
    }

    /// All of them in the order of their keys.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Workload>> {
        self.all.keys().map(|keyed| &keyed.0)
    }

    /// Those of a cluster that have an address.
    pub fn at(&self, cluster: &ClusterId, ip: IpAddr) -> impl Iterator<Item = &Arc<Workload>> {
        let claims = self.by_ip.get(&ip).into_iter().flatten();
        claims.filter(move |workload| workload.key.cluster == *cluster)
    }

    /// Puts a workload in the place of the one with its key.
    pub(crate) fn insert(&mut self, workload: Workload) {
        self.remove(&workload.key);
        let workload = Arc::new(workload);
        for ip in workload.ips.iter() {
            let mut claims = self.by_ip.get(ip).cloned().unwrap_or_default();
            let at = claims.partition_point(|other| other.key < workload.key);
            // An address that is named twice is one.
            if claims.get(at).is_none_or(|other| other.key != workload.key) {
                claims.insert(at, Arc::clone(&workload));
                self.by_ip.insert(*ip, claims);
            }
        }
        self.all.insert(Keyed(workload), ());
    }

    /// Takes the workload of a key out.
    pub(crate) fn remove(&mut self, key: &WorkloadKey) {
        let Some(gone) = self.get(key).cloned() else { return };
        self.all.remove(key);
        for ip in gone.ips.iter() {
            let Some(claims) = self.by_ip.get(ip) else { continue };
            let left: SmallVec<_> = claims.iter().filter(|other| other.key != *key).cloned().collect();
            if left.is_empty() {
                self.by_ip.remove(ip);
            } else {
                self.by_ip.insert(*ip, left);
            }
        }
    }
}

impl PartialEq for Workloads {
    fn eq(&self, other: &Self) -> bool {
        self.same(other) || (self.iter().eq(other.iter()) && self.by_ip == other.by_ip)
    }
}

impl Borrow<WorkloadKey> for Keyed {
    fn borrow(&self) -> &WorkloadKey {
        &self.0.key
    }
}

impl PartialEq for Keyed {
    fn eq(&self, other: &Self) -> bool {
        self.0.key == other.0.key
    }
}

impl Eq for Keyed {}

impl PartialOrd for Keyed {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Keyed {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.key.cmp(&other.0.key)
    }
}
