//! The mesh that files describe: the registry's snapshot, and the settings of translation.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use isthmus_envoy::{AccessLog, ControlPlane, Defaults, MeshSettings, OutboundPolicy};
use isthmus_model::{ClusterId, Namespace, NetworkId, TrustDomain};
use isthmus_registry::{CONFIG_KINDS, CORE_KINDS, Registry, Settings, Snapshot};
use isthmus_resources::mesh::{Mesh, MeshConfig, Networks};
use isthmus_resources::{Change, Event, Kind, Object};

use super::Remarks;
use super::cluster::Source;

/// The clusters' domain.
pub(crate) const DOMAIN: &str = "cluster.local";

fn system_namespace() -> Namespace {
    Namespace::new("istio-system").expect("a constant that is a namespace")
}

fn trust_domain() -> TrustDomain {
    TrustDomain::new(DOMAIN).expect("a constant that is a trust domain")
}

/// What translation is told once; what the mesh's configuration says comes with the snapshot.
pub(crate) fn settings(cluster: &ClusterId) -> MeshSettings {
    MeshSettings {
        trust_domain: trust_domain(),
        trust_domain_aliases: Vec::new(),
        cluster: cluster.clone(),
        root_namespace: system_namespace(),
        domain: DOMAIN.to_string(),
        control_plane: ControlPlane::default(),
        outbound_policy: OutboundPolicy::AllowAny,
        defaults: Defaults::default(),
        access_log: AccessLog::default(),
    }
}

/// The state of the mesh once all of this was read.
pub(crate) fn snapshot(sources: Vec<Source>, config: &MeshConfig, networks: Networks) -> Arc<Snapshot> {
    let own = sources.first().map_or_else(ClusterId::unnamed, |source| source.cluster.clone());
    let mut registry = Registry::new(Settings {
        cluster: own,
        network: NetworkId::unnamed(),
        trust_domain: trust_domain(),
        system_namespace: system_namespace(),
        domain: DOMAIN.into(),
    })
    .with_mesh(Mesh { config: config.clone(), networks });
    for source in sources {
        let mut by_kind: BTreeMap<Kind, Vec<Object>> =
            CORE_KINDS.iter().chain(&CONFIG_KINDS).map(|kind| (*kind, Vec::new())).collect();
        for object in source.objects {
            by_kind.entry(object.kind()).or_default().push(object);
        }
        for (kind, objects) in by_kind {
            let change = Change::Listed(kind, objects);
            registry.apply(Event { cluster: source.cluster.clone(), change });
        }
    }
    registry.publish();
    registry.snapshot()
}

/// What a running control plane would find out and files cannot say.
pub(crate) fn remark(snapshot: &Snapshot, remarks: &mut Remarks) {
    for gateway in snapshot.gateways.all.iter().filter(|gateway| gateway.address.parse::<IpAddr>().is_err()) {
        remarks.warn(&format!(
            "gateway {}:{} of network {}: names are not looked up here, so nothing is sent through it",
            gateway.address, gateway.port, gateway.network
        ));
    }
}
