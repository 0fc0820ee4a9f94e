//! Endpoints of a cluster, as EDS or the cluster itself lists them.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use envoy_types::pb::envoy::config::core::v3::{HealthStatus, Metadata};
use envoy_types::pb::envoy::config::endpoint::v3 as proto;

use super::{Checked, Invalid, Within, host_and_port, text, texts};

/// Filter metadata that selects a transport socket.
const TRANSPORT_MATCH: &str = "envoy.transport_socket_match";

/// All endpoints of a cluster.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Assignment {
    pub(crate) groups: Vec<Group>,
    /// Percent; Envoy's default is 140.
    pub(crate) overprovisioning: u32,
}

/// Endpoints of one locality and priority.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Group {
    /// `region/zone/subzone`.
    pub(crate) locality: Arc<str>,
    pub(crate) priority: u32,
    pub(crate) weight: u32,
    pub(crate) endpoints: Vec<Listed>,
}

/// One endpoint as listed.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Listed {
    pub(crate) address: Address,
    pub(crate) weight: u32,
    pub(crate) healthy: bool,
    /// What its cluster's transport matches look at.
    pub(crate) transport: Arc<[(String, String)]>,
    pub(crate) workload: Option<Arc<Workload>>,
}

/// Who answers at an endpoint: Istio's `WORKLOAD;NAMESPACE;CANONICAL_NAME;CANONICAL_REVISION;CLUSTER`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Workload {
    pub(crate) name: Arc<str>,
    pub(crate) namespace: Arc<str>,
    pub(crate) service: Arc<str>,
    pub(crate) revision: Arc<str>,
    pub(crate) cluster: Arc<str>,
}

/// Where an endpoint is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Address {
    Ip(SocketAddr),
    Name(Arc<str>, u16),
}

impl Assignment {
    /// `names`: whether endpoints may be host names, for clusters that resolve them.
    pub(crate) fn compile(load: &proto::ClusterLoadAssignment, names: bool) -> Checked<Self> {
        let policy = load.policy.clone().unwrap_or_default();
        if !policy.drop_overloads.is_empty() {
            return Err(Invalid::unsupported("policy.drop_overloads"));
        }
        let mut shared = Vec::new();
        let mut groups = Vec::with_capacity(load.endpoints.len());
        for (position, group) in load.endpoints.iter().enumerate() {
            groups.push(
                Group::compile(group, names, &mut shared).within(format_args!("endpoints[{position}]"))?,
            );
        }
        // Envoy: priorities run from 0 without gaps.
        let mut priorities: Vec<u32> = groups.iter().map(|group| group.priority).collect();
        priorities.sort_unstable();
        priorities.dedup();
        for group in &mut groups {
            let at = priorities.partition_point(|priority| *priority < group.priority);
            group.priority = u32::try_from(at).unwrap_or(u32::MAX);
        }
        let overprovisioning = policy.overprovisioning_factor.map_or(140, |factor| factor.value.max(100));
        Ok(Self { groups, overprovisioning })
    }

    pub(crate) fn empty() -> Self {
        Self { groups: Vec::new(), overprovisioning: 140 }
    }
}

type Pairs = Arc<[(String, String)]>;

impl Group {
    fn compile(group: &proto::LocalityLbEndpoints, names: bool, shared: &mut Vec<Pairs>) -> Checked<Self> {
        if group.lb_config.is_some() {
            return Err(Invalid::unsupported("lb_config"));
        }
        if group.priority > 128 {
            return Err(Invalid::new("priority", format!("{} is above 128", group.priority)));
        }
        let locality = group.locality.clone().unwrap_or_default();
        let locality = match (&*locality.region, &*locality.zone, &*locality.sub_zone) {
            ("", "", "") => String::new(),
            (region, "", "") => region.to_string(),
            (region, zone, "") => format!("{region}/{zone}"),
            (region, zone, sub_zone) => format!("{region}/{zone}/{sub_zone}"),
        };
        let mut endpoints = Vec::with_capacity(group.lb_endpoints.len());
        for (position, endpoint) in group.lb_endpoints.iter().enumerate() {
            let field = format_args!("lb_endpoints[{position}]").to_string();
            endpoints.push(Listed::compile(endpoint, names, shared).within(field)?);
        }
        Ok(Self {
            locality: locality.into(),
            priority: group.priority,
            weight: group.load_balancing_weight.as_ref().map_or(1, |weight| weight.value),
            endpoints,
        })
    }
}

impl Listed {
    fn compile(endpoint: &proto::LbEndpoint, names: bool, shared: &mut Vec<Pairs>) -> Checked<Self> {
        let address = match &endpoint.host_identifier {
            Some(proto::lb_endpoint::HostIdentifier::Endpoint(endpoint)) => {
                let (host, port) = host_and_port(endpoint.address.as_ref()).within("endpoint")?;
                match host.parse::<IpAddr>() {
                    Ok(ip) => Address::Ip(SocketAddr::new(ip, port)),
                    Err(_) if names && !host.is_empty() => Address::Name(host.into(), port),
                    Err(_) => {
                        let problem = format!("{host:?} is not an IP address");
                        return Err(Invalid::new("endpoint.address.socket_address.address", problem));
                    }
                }
            }
            Some(proto::lb_endpoint::HostIdentifier::EndpointName(_)) => {
                return Err(Invalid::unsupported("endpoint_name"));
            }
            None => return Err(Invalid::new("endpoint", "is missing")),
        };
        let health = HealthStatus::try_from(endpoint.health_status).unwrap_or(HealthStatus::Unknown);
        Ok(Self {
            address,
            weight: endpoint.load_balancing_weight.as_ref().map_or(1, |weight| weight.value.max(1)),
            healthy: matches!(health, HealthStatus::Unknown | HealthStatus::Healthy | HealthStatus::Degraded),
            transport: transport(endpoint.metadata.as_ref(), shared),
            workload: workload(endpoint.metadata.as_ref()),
        })
    }
}

/// Endpoints differ little in this: equal lists are shared.
fn transport(metadata: Option<&Metadata>, shared: &mut Vec<Pairs>) -> Pairs {
    let found = metadata.and_then(|metadata| metadata.filter_metadata.get(TRANSPORT_MATCH));
    let pairs = found.map(texts).unwrap_or_default();
    if let Some(known) = shared.iter().find(|known| known[..] == pairs[..]) {
        return Arc::clone(known);
    }
    let pairs: Pairs = pairs.into();
    if shared.len() < 16 {
        shared.push(Arc::clone(&pairs));
    }
    pairs
}

fn workload(metadata: Option<&Metadata>) -> Option<Arc<Workload>> {
    let istio = metadata?.filter_metadata.get("istio")?;
    let mut parts = text(&istio.fields, "workload")?.split(';').map(Arc::from);
    let mut next = || parts.next().unwrap_or_else(|| Arc::from(""));
    let (name, namespace, service, revision, cluster) = (next(), next(), next(), next(), next());
    Some(Arc::new(Workload { name, namespace, service, revision, cluster }))
}
