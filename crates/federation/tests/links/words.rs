//! Words that both tests use.

use isthmus_federation::{Me, PeerConfig};
use isthmus_model::export::{Capacity, NetworkGateway, ServiceExport};
use isthmus_model::locality::Locality;
use isthmus_model::service::{Location, Protocol, ServicePort, TargetPort};

pub(crate) fn me(cluster: &str) -> Me {
    Me {
        mesh_id: "mesh1".into(),
        cluster: cluster.parse().unwrap(),
        revision: "default".into(),
        network: "net".parse().unwrap(),
    }
}

pub(crate) fn peer(cluster: &str) -> PeerConfig {
    PeerConfig {
        cluster: cluster.parse().unwrap(),
        mesh_id: "mesh1".into(),
        revision: "default".into(),
        gateways: vec![],
        secret: None,
        secret_sha256: None,
    }
}

/// A service `NAME.default.svc.cluster.local` with this much ready capacity.
pub(crate) fn export(name: &str, ready: u32) -> ServiceExport {
    ServiceExport {
        host: format!("{name}.default.svc.cluster.local").parse().unwrap(),
        name: name.into(),
        namespace: "default".parse().unwrap(),
        ports: vec![ServicePort {
            name: "http".into(),
            number: 9080,
            protocol: Protocol::Http,
            target: TargetPort::Number(9080),
        }],
        addresses: vec![],
        location: Location::MeshInternal,
        labels: Default::default(),
        capacity: vec![Capacity {
            locality: Locality::parse("eu/eu-1"),
            network: "net".parse().unwrap(),
            labels: Default::default(),
            ready,
            unready: 0,
        }],
        identities: vec!["spiffe://cluster.local/ns/default/sa/app".parse().unwrap()],
    }
}

pub(crate) fn gateway(cluster: &str, address: &str) -> NetworkGateway {
    NetworkGateway {
        network: "net".parse().unwrap(),
        cluster: cluster.parse().unwrap(),
        address: address.into(),
        port: 15443,
    }
}
