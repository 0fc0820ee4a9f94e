//! The endpoints of a cluster at one moment, arranged for picking.
//!
//! Priorities share the load by Envoy's rule. A priority's health is the healthy share of its endpoints times the
//! overprovisioning factor (1.4), at most 100 %: so up to 29 % of them may fail before any load leaves. Load fills the
//! priorities in order; what one cannot take spills to the next. When all together have less than 100 %, each share is
//! scaled up, and a priority below the panic threshold uses its unhealthy endpoints too.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::balance::Endpoint;
use crate::resource::cluster::Policy;

/// All endpoints of one priority, by locality.
#[derive(Debug, Default)]
pub(crate) struct Level {
    pub(crate) localities: Vec<(u32, Vec<Arc<Endpoint>>)>,
}

/// How endpoints are arranged.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rules {
    pub(crate) overprovisioning: u32,
    pub(crate) panic: f64,
    pub(crate) weighted_localities: bool,
}

/// Endpoints ready for picking.
#[derive(Debug)]
pub(crate) struct Pool {
    levels: Vec<Ready>,
}

#[derive(Debug, Default)]
struct Ready {
    /// Of 100.
    load: u32,
    groups: Vec<Group>,
    /// Sum of the groups' weights.
    weight: u64,
}

#[derive(Debug)]
struct Group {
    weight: u64,
    endpoints: Vec<Arc<Endpoint>>,
    /// Running sums of weights, when they differ.
    sums: Option<Vec<u64>>,
}

impl Pool {
    /// Arranges what is available: listed as healthy, not ejected, not in `tried`.
    pub(crate) fn arrange(levels: &[Level], rules: Rules, tried: &HashSet<SocketAddr>) -> Self {
        let usable = |endpoint: &Arc<Endpoint>| {
            endpoint.healthy
                && endpoint.host.ejected_until().is_none()
                && !tried.contains(&endpoint.address())
        };
        let healths: Vec<(usize, usize)> = levels
            .iter()
            .map(|level| {
                let all = || level.localities.iter().flat_map(|(_, endpoints)| endpoints);
                (all().filter(|e| usable(e)).count(), all().count())
            })
            .collect();
        let (loads, full) = loads(&healths, rules.overprovisioning);
        let ready = levels.iter().zip(&healths).zip(loads).map(|((level, (healthy, total)), load)| {
            let share = if *total == 0 { 0.0 } else { *healthy as f64 * 100.0 / *total as f64 };
            let panics = !full && share < rules.panic;
            let in_use = |endpoint: &Arc<Endpoint>| {
                if panics { !tried.contains(&endpoint.address()) } else { usable(endpoint) }
            };
            Ready::arrange(level, load, rules, in_use)
        });
        Self { levels: ready.collect() }
    }

    /// The endpoint for the next connection. None: no endpoint may be used.
    pub(crate) fn pick(&self, policy: Policy, rotation: &AtomicUsize) -> Option<&Arc<Endpoint>> {
        let level = self.level()?;
        let group = level.group()?;
        match policy {
            Policy::Random => group.at_random(),
            Policy::RoundRobin => group.in_turn(rotation.fetch_add(1, Ordering::Relaxed)),
            Policy::LeastRequest => group.less_loaded(),
        }
    }

    /// Percent of the load for each priority.
    pub(crate) fn loads(&self) -> Vec<u32> {
        self.levels.iter().map(|level| level.load).collect()
    }

    fn level(&self) -> Option<&Ready> {
        let sum: u32 = self.levels.iter().map(|level| level.load).sum();
        if sum == 0 {
            // Nothing is healthy: the first priority that panic opens.
            return self.levels.iter().find(|level| level.weight > 0);
        }
        let mut at = rand::random_range(0..sum);
        self.levels.iter().find(|level| match at.checked_sub(level.load) {
            None => true,
            Some(rest) => {
                at = rest;
                false
            }
        })
    }
}

/// The load of each priority in percent, and whether together they can carry all of it.
fn loads(healths: &[(usize, usize)], overprovisioning: u32) -> (Vec<u32>, bool) {
    let health = |(healthy, total): &(usize, usize)| {
        let percent = (*healthy as u64 * u64::from(overprovisioning)).checked_div(*total as u64).unwrap_or(0);
        u32::try_from(percent.min(100)).unwrap_or(100)
    };
    let each: Vec<u32> = healths.iter().map(health).collect();
    let sum: u32 = each.iter().sum::<u32>().min(100);
    if sum == 0 {
        return (vec![0; each.len()], false);
    }
    let mut left = 100;
    let mut loads: Vec<u32> = each
        .iter()
        .map(|health| {
            let load = (health * 100 / sum).min(left);
            left -= load;
            load
        })
        .collect();
    // Rounding leaves a few percent: they go to the first priority that has any health.
    if let Some(first) = each.iter().position(|health| *health > 0) {
        loads[first] += left;
    }
    (loads, sum == 100)
}

impl Ready {
    fn arrange(level: &Level, load: u32, rules: Rules, in_use: impl Fn(&Arc<Endpoint>) -> bool) -> Self {
        let mut groups = Vec::new();
        if rules.weighted_localities {
            for (weight, all) in &level.localities {
                let endpoints: Vec<Arc<Endpoint>> = all.iter().filter(|e| in_use(e)).cloned().collect();
                // Envoy: a locality keeps its weight until more than the overprovisioning's share of it is gone.
                let percent = (endpoints.len() as u64 * u64::from(rules.overprovisioning))
                    .checked_div(all.len() as u64)
                    .unwrap_or(0)
                    .min(100);
                groups.push(Group::new(u64::from(*weight) * percent, endpoints));
            }
        } else {
            let all = level.localities.iter().flat_map(|(_, endpoints)| endpoints);
            groups.push(Group::new(1, all.filter(|e| in_use(e)).cloned().collect()));
        }
        groups.retain(|group| group.weight > 0 && !group.endpoints.is_empty());
        let weight = groups.iter().map(|group| group.weight).sum();
        Self { load, groups, weight }
    }

    fn group(&self) -> Option<&Group> {
        if let [only] = &self.groups[..] {
            return Some(only);
        }
        let mut at = rand::random_range(0..self.weight.max(1));
        self.groups.iter().find(|group| match at.checked_sub(group.weight) {
            None => true,
            Some(rest) => {
                at = rest;
                false
            }
        })
    }
}

impl Group {
    fn new(weight: u64, endpoints: Vec<Arc<Endpoint>>) -> Self {
        let first = endpoints.first().map_or(1, |endpoint| endpoint.weight);
        let differ = endpoints.iter().any(|endpoint| endpoint.weight != first);
        let sums = differ.then(|| {
            let running = endpoints.iter().scan(0u64, |sum, endpoint| {
                *sum += u64::from(endpoint.weight);
                Some(*sum)
            });
            running.collect()
        });
        Self { weight, endpoints, sums }
    }

    fn at_random(&self) -> Option<&Arc<Endpoint>> {
        let at = match &self.sums {
            None => rand::random_range(0..self.endpoints.len()),
            Some(sums) => {
                let point = rand::random_range(0..*sums.last()?);
                sums.partition_point(|sum| *sum <= point)
            }
        };
        self.endpoints.get(at)
    }

    fn in_turn(&self, turn: usize) -> Option<&Arc<Endpoint>> {
        let at = match &self.sums {
            None => turn % self.endpoints.len(),
            Some(sums) => {
                let point = turn as u64 % *sums.last()?;
                sums.partition_point(|sum| *sum <= point)
            }
        };
        self.endpoints.get(at)
    }

    /// The better of two drawn by weight: fewer connections for its weight.
    fn less_loaded(&self) -> Option<&Arc<Endpoint>> {
        let one = self.at_random()?;
        let mut other = self.at_random()?;
        if Arc::ptr_eq(one, other) {
            // A second draw makes small groups compare two endpoints mostly.
            other = self.at_random()?;
        }
        let burden = |endpoint: &Endpoint| f64::from(endpoint.host.active() + 1) / f64::from(endpoint.weight);
        Some(if burden(other) < burden(one) { other } else { one })
    }
}

#[cfg(test)]
mod tests;
