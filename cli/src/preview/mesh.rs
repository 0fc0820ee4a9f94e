//! The mesh that files describe: the registry's snapshot, and the settings of translation.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use isthmus_envoy::{ControlPlane, Defaults, MeshSettings, OutboundPolicy};
use isthmus_model::{ClusterId, Namespace, NetworkId, TrustDomain};
use isthmus_registry::{CONFIG_KINDS, CORE_KINDS, MeshOptions, Registry, Settings, Snapshot};
use isthmus_resources::istio::OutboundMode;
use isthmus_resources::mesh::{MeshConfig, Networks};
use isthmus_resources::{Change, Event, Kind, Object};

use super::Remarks;
use super::cluster::Source;

const DOMAIN: &str = "cluster.local";

fn root_namespace(config: &MeshConfig) -> Namespace {
    let named = config.root_namespace.clone();
    named.unwrap_or_else(|| Namespace::new("istio-system").expect("a constant that is a namespace"))
}

fn trust_domain(config: &MeshConfig) -> TrustDomain {
    let named = config.trust_domain.clone();
    named.unwrap_or_else(|| TrustDomain::new(DOMAIN).expect("a constant that is a trust domain"))
}

/// What translation is told once.
pub(super) fn settings(config: &MeshConfig, cluster: &ClusterId) -> MeshSettings {
    let trust_domain = trust_domain(config);
    let mesh_id = match config.default_config.mesh_id.as_str() {
        "" => trust_domain.to_string(),
        id => id.to_string(),
    };
    MeshSettings {
        trust_domain,
        trust_domain_aliases: config.trust_domain_aliases.clone(),
        mesh_id,
        cluster: cluster.clone(),
        root_namespace: root_namespace(config),
        domain: DOMAIN.to_string(),
        control_plane: ControlPlane::default(),
        outbound_policy: match config.outbound_traffic_policy.map(|policy| policy.mode) {
            Some(OutboundMode::RegistryOnly) => OutboundPolicy::RegistryOnly,
            _ => OutboundPolicy::AllowAny,
        },
        defaults: Defaults {
            connect_timeout: config.connect_timeout,
            keepalive: config.tcp_keepalive.clone(),
            locality: config.locality_lb_setting.clone(),
            plain: config.enable_auto_mtls == Some(false),
        },
    }
}

/// The state of the mesh once all of this was read.
pub(super) fn snapshot(sources: Vec<Source>, config: &MeshConfig, networks: Networks) -> Arc<Snapshot> {
    let own = sources.first().map_or_else(ClusterId::unnamed, |source| source.cluster.clone());
    let options = MeshOptions { networks, service_settings: config.service_settings.clone() };
    let mut registry = Registry::new(Settings {
        cluster: own,
        network: NetworkId::unnamed(),
        trust_domain: trust_domain(config),
        root_namespace: root_namespace(config),
        domain: DOMAIN.into(),
    })
    .with_mesh(options);
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
pub(super) fn remark(snapshot: &Snapshot, remarks: &mut Remarks) {
    for gateway in snapshot.gateways.all.iter().filter(|gateway| gateway.address.parse::<IpAddr>().is_err()) {
        remarks.warn(&format!(
            "gateway {}:{} of network {}: names are not looked up here, so nothing is sent through it",
            gateway.address, gateway.port, gateway.network
        ));
    }
}
