//! PeerAuthentication: which mode holds at a workload's port.

use std::sync::Arc;

use isthmus_model::{Labels, Namespace, Selector};
use isthmus_resources::istio::{MutualTlsMode, PeerAuthentication};

use crate::config::Objects;
use crate::snapshot::Snapshot;

/// Mode at a port, resolved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Mode {
    /// Plain only.
    Disable,
    /// Both.
    #[default]
    Permissive,
    /// Mutual TLS only.
    Strict,
}

/// The policies that decide for workloads of one namespace. Equal `Arc`s are equal decisions.
#[derive(Clone, Debug)]
pub struct PeerPolicies {
    root: Option<Objects<PeerAuthentication>>,
    own: Option<Objects<PeerAuthentication>>,
}

/// What holds for one workload.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Modes {
    /// At ports that are not listed.
    pub default: Mode,
    /// By workload port.
    pub ports: Vec<(u16, Mode)>,
}

impl Modes {
    /// The mode at a port.
    #[must_use]
    pub fn at(&self, port: u16) -> Mode {
        self.ports.iter().find(|(number, _)| *number == port).map_or(self.default, |(_, mode)| *mode)
    }
}

impl PeerPolicies {
    /// The policies for workloads of `namespace`.
    #[must_use]
    pub fn of(snapshot: &Snapshot, namespace: &Namespace) -> Self {
        let list = |namespace| {
            let list = &snapshot.config(namespace)?.peer_authentications;
            (!list.is_empty()).then(|| Arc::clone(list))
        };
        let root = &snapshot.root_namespace;
        Self { root: list(root), own: if namespace == root { None } else { list(namespace) } }
    }

    /// A key for caches: the addresses of both lists. The value must be kept as long as the key.
    #[must_use]
    pub fn address(&self) -> (usize, usize) {
        let at = |list: &Option<Objects<_>>| list.as_ref().map_or(0, |list| list.as_ptr() as usize);
        (at(&self.root), at(&self.own))
    }

    /// Mesh, namespace, workload, port: each overrides the one before unless UNSET; of several the oldest. Selectors in the root
    /// namespace and port modes without a selector are ignored, as Istio does.
    #[must_use]
    pub fn modes(&self, labels: &Labels) -> Modes {
        let mut modes = Modes::default();
        let mut set = |mode| {
            if let Some(mode) = resolved(mode) {
                modes.default = mode;
            }
        };
        let whole = |list: &Option<Objects<PeerAuthentication>>| {
            list.iter().flat_map(|list| list.iter()).find(|policy| selector(&policy.spec).is_none()).cloned()
        };
        for policy in [whole(&self.root), whole(&self.own)].into_iter().flatten() {
            set(policy.spec.mtls.mode);
        }
        let workload = self
            .own
            .iter()
            .flat_map(|list| list.iter())
            .find(|policy| selector(&policy.spec).is_some_and(|selector| selector.matches(labels)));
        if let Some(policy) = workload {
            set(policy.spec.mtls.mode);
            let ports = policy.spec.port_level_mtls.iter();
            modes.ports = ports.filter_map(|(port, tls)| Some((*port, resolved(tls.mode)?))).collect();
        }
        modes
    }
}

/// A selector that selects something less than everything.
fn selector(policy: &PeerAuthentication) -> Option<Selector> {
    let labels = &policy.selector.as_ref()?.match_labels;
    (!labels.is_empty()).then(|| Selector(labels.clone()))
}

fn resolved(mode: MutualTlsMode) -> Option<Mode> {
    match mode {
        MutualTlsMode::Unset => None,
        MutualTlsMode::Disable => Some(Mode::Disable),
        MutualTlsMode::Permissive => Some(Mode::Permissive),
        MutualTlsMode::Strict => Some(Mode::Strict),
    }
}
