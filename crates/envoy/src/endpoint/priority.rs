//! Priorities and shares by locality.

use std::collections::BTreeMap;

use isthmus_model::{Endpoint, Locality};
use isthmus_registry::{MeshService, TrafficDistribution};
use isthmus_resources::istio::LocalityLb;

use super::Group;
use crate::class::Class;
use crate::destination::Effective;

/// What decides about localities for one target and class.
pub(crate) struct Plan<'a> {
    class: &'a Class,
    kind: PlanKind<'a>,
}

enum PlanKind<'a> {
    /// All alike.
    Flat,
    /// Shares.
    Distribute(&'a LocalityLb),
    /// By distance, the labels first where there are any.
    Failover { labels: Vec<String>, by_locality: bool, setting: Option<&'a LocalityLb> },
}

const NETWORK: &str = "topology.istio.io/network";

impl<'a> Plan<'a> {
    /// Istio's order: the rule's `localityLbSetting` (off when disabled), the Service's `trafficDistribution`, the mesh's default
    /// failover. Failover needs outlier detection, because without it nobody would notice that it is needed; a Service that asks
    /// for near endpoints gets it anyway.
    pub(crate) fn of(policy: &Effective<'a>, service: &MeshService, class: &'a Class) -> Self {
        let setting = policy.locality(service);
        let failing_over = policy.outlier.is_some();
        let kind = match (setting, service.traffic_distribution) {
            (Some(setting), _) if setting.enabled == Some(false) => PlanKind::Flat,
            (Some(setting), _) if !setting.distribute.is_empty() => PlanKind::Distribute(setting),
            (Some(_), _) if !failing_over => PlanKind::Flat,
            (Some(setting), _) => PlanKind::Failover {
                labels: setting.failover_priority.clone(),
                by_locality: setting.failover_priority.is_empty() || !setting.failover.is_empty(),
                setting: Some(setting),
            },
            (None, Some(near)) => {
                PlanKind::Failover { labels: near_labels(near), by_locality: false, setting: None }
            }
            (None, None) if failing_over => {
                PlanKind::Failover { labels: Vec::new(), by_locality: true, setting: None }
            }
            (None, None) => PlanKind::Flat,
        };
        Self { class, kind }
    }

    /// The priority of each endpoint; not yet without gaps.
    pub(crate) fn priorities<'e>(&self, endpoints: impl Iterator<Item = &'e Endpoint>) -> Vec<u32> {
        let PlanKind::Failover { labels, by_locality, setting } = &self.kind else {
            return endpoints.map(|_| 0).collect();
        };
        endpoints
            .map(|endpoint| {
                let by_label = self.label_priority(labels, endpoint);
                let by_distance = if *by_locality { self.distance(*setting, &endpoint.locality) } else { 0 };
                by_label * 5 + by_distance
            })
            .collect()
    }

    fn distance(&self, setting: Option<&LocalityLb>, place: &Locality) -> u32 {
        let distance = self.class.locality.distance(place);
        if distance < 3 {
            return distance;
        }
        let failover = setting
            .iter()
            .flat_map(|setting| &setting.failover)
            .find(|failover| failover.from == *self.class.locality.region);
        if failover.is_some_and(|failover| failover.to != *place.region) { 4 } else { 3 }
    }

    /// The later the first label that differs, the better. A leading network label that differs adds the whole length and the
    /// comparison goes on.
    fn label_priority(&self, labels: &[String], endpoint: &Endpoint) -> u32 {
        let count = u32::try_from(labels.len()).unwrap_or(u32::MAX);
        let mut penalty = 0;
        for (position, label) in labels.iter().enumerate() {
            let (key, wanted) = match label.split_once('=') {
                Some((key, value)) => (key, value),
                None => (label.as_str(), self.class.label(label)),
            };
            if endpoint.labels.get(key).unwrap_or_default() == wanted {
                continue;
            }
            if position == 0 && key == NETWORK {
                penalty = count;
                continue;
            }
            return penalty + count - u32::try_from(position).unwrap_or(u32::MAX);
        }
        penalty
    }

    /// Gives localities the shares of the first entry whose origin is ours; localities that it does not name get nothing.
    pub(crate) fn distribute(&self, groups: &mut BTreeMap<(u32, Locality), Group>) {
        let PlanKind::Distribute(setting) = &self.kind else { return };
        let own = &self.class.locality;
        let Some(shares) = setting.distribute.iter().find(|entry| covers(&entry.from, own)) else { return };
        let mut weights: BTreeMap<Locality, u32> = BTreeMap::new();
        for (to, percent) in &shares.to {
            let matching: Vec<_> = groups
                .iter()
                .filter(|((_, place), _)| covers(to, place) && !weights.contains_key(place))
                .map(|((_, place), group)| (place.clone(), group.weight))
                .collect();
            let total: u64 = matching.iter().map(|(_, weight)| u64::from(*weight)).sum();
            for (place, weight) in matching {
                let share = (u64::from(weight) * u64::from(*percent)).div_ceil(total.max(1));
                weights.insert(place, u32::try_from(share).unwrap_or(u32::MAX));
            }
        }
        groups.retain(|(_, place), group| match weights.get(place) {
            Some(weight) if *weight > 0 => {
                group.weight = *weight;
                true
            }
            _ => false,
        });
    }
}

fn near_labels(near: TrafficDistribution) -> Vec<String> {
    let mut labels = vec![NETWORK, "topology.kubernetes.io/region", "topology.kubernetes.io/zone"];
    if near == TrafficDistribution::SameNode {
        labels.extend(["topology.istio.io/subzone", "kubernetes.io/hostname"]);
    }
    labels.into_iter().map(str::to_string).collect()
}

/// Whether `region/zone/subzone` with `*` or missing parts covers a place.
fn covers(pattern: &str, place: &Locality) -> bool {
    let parts = [&place.region, &place.zone, &place.subzone];
    pattern
        .split('/')
        .zip(parts)
        .all(|(wanted, part)| wanted == "*" || wanted.is_empty() || wanted == &**part)
}
