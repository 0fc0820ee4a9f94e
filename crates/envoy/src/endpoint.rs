//! Endpoints of a cluster as one class of proxies reaches them: directly, or through the gateways of their network.

mod host;
mod network;
mod priority;

use std::collections::BTreeMap;

use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::config::endpoint::v3 as pb;
use isthmus_model::{Endpoint, Health, Locality, Location, TlsMode};
use isthmus_proto::resource::Resource;
use isthmus_registry::Gateways;
use isthmus_resources::istio::ClientTlsMode;
use prost::Message;

use crate::class::Class;
use crate::cluster::{Target, Use};
use crate::destination::{Effective, Rule};
use crate::wire::{number, place, sorted};
use isthmus_registry::peer_auth::{Mode, PeerPolicies};
use network::Way;
use priority::Plan;

/// What an assignment depends on, beside the target.
pub(crate) struct Inputs<'a> {
    pub(crate) class: &'a Class,
    pub(crate) rule: Option<&'a Rule>,
    pub(crate) endpoints: &'a [Endpoint],
    pub(crate) gateways: &'a Gateways,
    pub(crate) policies: &'a PeerPolicies,
}

/// Endpoints of one priority and locality.
#[derive(Default)]
struct Group {
    direct: Vec<sorted::LbEndpoint>,
    /// Weight by address and port of a gateway, with the network and cluster that it leads to.
    through: BTreeMap<(String, u16), Through>,
    weight: u32,
}

struct Through {
    weight: u32,
    cluster: String,
}

/// The assignment of a target for a class. No endpoint left is an empty assignment: the service is known and has none.
pub(crate) fn assignment(target: Target<'_>, inputs: &Inputs<'_>) -> Resource {
    let policy = Effective::of(inputs.rule, target.port.number, target.subset);
    let chosen = choose(target, inputs, &policy);
    let plan = Plan::of(&policy, target.service, inputs.class);
    let scale = if inputs.gateways.all.is_empty() { 1 } else { inputs.gateways.scale() };
    let priorities = plan.priorities(chosen.iter().map(|(endpoint, _, _)| *endpoint));
    let mut groups: BTreeMap<(u32, Locality), Group> = BTreeMap::new();
    for ((endpoint, port, mutual), priority) in chosen.into_iter().zip(priorities) {
        let weight = endpoint.weight.max(1).saturating_mul(scale);
        let way = network::way(endpoint, inputs.class, inputs.gateways, mutual, target.usage);
        if matches!(way, Way::None) {
            continue;
        }
        let group = groups.entry((priority, endpoint.locality.clone())).or_default();
        match way {
            Way::None => {}
            Way::Direct => {
                group.weight = group.weight.saturating_add(weight);
                group.direct.push(host::direct(endpoint, port, weight, mutual));
            }
            Way::Through(gateways) => {
                let share = weight / u32::try_from(gateways.len()).unwrap_or(u32::MAX).max(1);
                for gateway in gateways {
                    let at = (gateway.address.to_string(), gateway.port);
                    let through = group
                        .through
                        .entry(at)
                        .or_insert_with(|| Through { weight: 0, cluster: gateway.cluster.to_string() });
                    through.weight = through.weight.saturating_add(share);
                    group.weight = group.weight.saturating_add(share);
                }
            }
        }
    }
    compact(&mut groups);
    plan.distribute(&mut groups);
    let name = target.name();
    let message = sorted::ClusterLoadAssignment {
        cluster_name: name.clone(),
        endpoints: groups
            .into_iter()
            .map(|((priority, place), group)| wire(priority, &place, group))
            .collect(),
    };
    Resource::new(name, message.encode_to_vec().into())
}

/// Endpoints that the target means and the class may see, with their port and whether mutual TLS is to be used.
fn choose<'a>(
    target: Target<'_>,
    inputs: &Inputs<'a>,
    policy: &Effective<'_>,
) -> Vec<(&'a Endpoint, u16, bool)> {
    let selector = subset_labels(inputs.rule, target.subset);
    let class = inputs.class;
    let no_unhealthy = policy.outlier.is_some_and(|outlier| outlier.min_health_percent > 0);
    inputs
        .endpoints
        .iter()
        .filter(|endpoint| match endpoint.health {
            Health::Healthy => true,
            Health::Unhealthy => !no_unhealthy,
            Health::Draining => false,
        })
        .filter(|endpoint| !target.service.cluster_local || endpoint.cluster == class.cluster)
        .filter(|endpoint| !target.service.node_local || on_node(endpoint, class))
        .filter(|endpoint| {
            class.network_view.is_empty()
                || endpoint.network.is_unnamed()
                || class.network_view.contains(&endpoint.network)
        })
        .filter(|endpoint| selector.as_ref().is_none_or(|selector| selector.matches(&endpoint.labels)))
        .filter_map(|endpoint| {
            let port = *endpoint.ports.get(&target.port.name)?;
            Some((endpoint, port, is_mutual(target, inputs, policy, endpoint, port)))
        })
        .collect()
}

fn on_node(endpoint: &Endpoint, class: &Class) -> bool {
    class.node.as_deref().is_some_and(|node| endpoint.labels.get("kubernetes.io/hostname") == Some(node))
}

fn subset_labels(rule: Option<&Rule>, subset: &str) -> Option<isthmus_model::Selector> {
    if subset.is_empty() {
        return None;
    }
    let subset = rule?.subsets.iter().find(|candidate| candidate.name == subset)?;
    Some(isthmus_model::Selector(subset.labels.clone()))
}

/// Istio's `mtls_checker`: a rule's TLS decides; else the endpoint must speak it and its policies must not forbid it. Of an
/// aggregate its owner has answered for that.
fn is_mutual(
    target: Target<'_>,
    inputs: &Inputs<'_>,
    policy: &Effective<'_>,
    endpoint: &Endpoint,
    port: u16,
) -> bool {
    match (policy.tls, target.usage) {
        (Some(tls), Use::Client | Use::Origin | Use::Grpc) => return tls.mode == ClientTlsMode::IstioMutual,
        (None, Use::Grpc) => return false,
        (_, Use::Client | Use::Origin | Use::Passthrough) => {}
    }
    if target.service.service.location == Location::MeshExternal || endpoint.tls != TlsMode::Istio {
        return false;
    }
    endpoint.aggregate || inputs.policies.modes(&endpoint.labels).at(port) != Mode::Disable
}

/// Renumbers priorities from 0 without gaps: groups may have lost all their endpoints.
fn compact(groups: &mut BTreeMap<(u32, Locality), Group>) {
    let mut known: Vec<u32> = groups.keys().map(|(priority, _)| *priority).collect();
    known.dedup();
    let renumbered = std::mem::take(groups).into_iter().map(|((priority, place), group)| {
        let position = known.iter().position(|candidate| *candidate == priority).unwrap_or_default();
        ((u32::try_from(position).unwrap_or(u32::MAX), place), group)
    });
    *groups = renumbered.collect();
}

fn wire(priority: u32, place: &Locality, group: Group) -> sorted::LocalityLbEndpoints {
    let mut hosts = group.direct;
    hosts.extend(group.through.into_iter().map(|((address, port), through)| {
        host::gateway(&address, port, through.weight.max(1), &through.cluster)
    }));
    sorted::LocalityLbEndpoints {
        locality: Some(locality(place)),
        lb_endpoints: hosts,
        load_balancing_weight: Some(number(group.weight.max(1))),
        priority,
    }
}

/// Said even where nothing is known: gRPC clients refuse endpoints without it.
fn locality(place: &Locality) -> core::Locality {
    core::Locality {
        region: place.region.to_string(),
        zone: place.zone.to_string(),
        sub_zone: place.subzone.to_string(),
    }
}

/// The endpoints of a cluster that resolves names itself: inside the cluster, as they are.
pub(crate) fn inline(target: Target<'_>, name: &str, endpoints: &[Endpoint]) -> pb::ClusterLoadAssignment {
    let mut groups: BTreeMap<&Locality, Vec<pb::LbEndpoint>> = BTreeMap::new();
    for endpoint in endpoints.iter().filter(|endpoint| endpoint.health == Health::Healthy) {
        let Some(port) = endpoint.ports.get(&target.port.name) else { continue };
        groups.entry(&endpoint.locality).or_default().push(pb::LbEndpoint {
            host_identifier: Some(pb::lb_endpoint::HostIdentifier::Endpoint(pb::Endpoint {
                address: Some(place(&endpoint.address, *port)),
                ..Default::default()
            })),
            load_balancing_weight: Some(number(endpoint.weight.max(1))),
            ..Default::default()
        });
    }
    let places = groups.into_iter().map(|(place, lb_endpoints)| pb::LocalityLbEndpoints {
        locality: Some(locality(place)),
        lb_endpoints,
        ..Default::default()
    });
    pb::ClusterLoadAssignment {
        cluster_name: name.to_string(),
        endpoints: places.collect(),
        ..Default::default()
    }
}
