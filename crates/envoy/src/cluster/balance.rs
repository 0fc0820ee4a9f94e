//! The algorithm that chooses among endpoints, with its settings.

use envoy_types::pb::envoy::config::cluster::v3 as pb;
use envoy_types::pb::envoy::config::cluster::v3::cluster::{
    LbConfig, LbPolicy, LeastRequestLbConfig, MaglevLbConfig, RingHashLbConfig, RoundRobinLbConfig,
    SlowStartConfig,
};
use envoy_types::pb::envoy::config::core::v3::RuntimeDouble;
use envoy_types::pb::envoy::r#type::v3::Percent;
use envoy_types::pb::google::protobuf::UInt64Value;
use isthmus_resources::istio::{ConsistentHash, LoadBalancer, SimpleLb, Warmup};

use crate::destination::Effective;
use crate::wire::duration;

/// Points of a ring when nothing is said.
const RING: u64 = 1024;

/// Sets what a policy asks for.
pub(crate) fn apply(cluster: &mut pb::Cluster, policy: &Effective<'_>) {
    let balancer = policy.balancer;
    if let Some(hash) = balancer.and_then(|balancer| balancer.consistent_hash.as_ref()) {
        return hashed(cluster, hash);
    }
    let algorithm = match balancer.and_then(|balancer| balancer.simple).unwrap_or_default() {
        SimpleLb::Random => LbPolicy::Random,
        SimpleLb::RoundRobin => LbPolicy::RoundRobin,
        // PASSTHROUGH needs an ORIGINAL_DST cluster, which a named service never needs here
        SimpleLb::Unspecified | SimpleLb::LeastConn | SimpleLb::LeastRequest | SimpleLb::Passthrough => {
            LbPolicy::LeastRequest
        }
    };
    cluster.lb_policy = algorithm as i32;
    let Some(slow_start_config) = balancer.and_then(warming) else { return };
    let slow_start_config = Some(slow_start_config);
    cluster.lb_config = match algorithm {
        LbPolicy::LeastRequest => Some(LbConfig::LeastRequestLbConfig(LeastRequestLbConfig {
            slow_start_config,
            ..Default::default()
        })),
        LbPolicy::RoundRobin => Some(LbConfig::RoundRobinLbConfig(RoundRobinLbConfig { slow_start_config })),
        _ => None,
    };
}

fn hashed(cluster: &mut pb::Cluster, hash: &ConsistentHash) {
    let given = |size: u64| (size > 0).then_some(UInt64Value { value: size });
    if let Some(maglev) = hash.maglev {
        cluster.lb_policy = LbPolicy::Maglev as i32;
        let table_size = given(maglev.table_size);
        cluster.lb_config =
            table_size.map(|size| LbConfig::MaglevLbConfig(MaglevLbConfig { table_size: Some(size) }));
        return;
    }
    cluster.lb_policy = LbPolicy::RingHash as i32;
    let asked = hash.ring_hash.map_or(hash.minimum_ring_size, |ring| ring.minimum_ring_size);
    let minimum_ring_size = given(if asked == 0 { RING } else { asked });
    cluster.lb_config =
        Some(LbConfig::RingHashLbConfig(RingHashLbConfig { minimum_ring_size, ..Default::default() }));
}

/// How new endpoints come into their share; in older rules there is a time alone.
fn warming(balancer: &LoadBalancer) -> Option<SlowStartConfig> {
    let older = || Some(Warmup { duration: balancer.warmup_duration_secs?.into(), ..Warmup::default() });
    let warmup = balancer.warmup.or_else(older)?;
    let window = warmup.duration.filter(|time| !time.0.is_zero())?;
    Some(SlowStartConfig {
        slow_start_window: Some(duration(window.0)),
        aggression: warmup.aggression.map(|aggression| RuntimeDouble {
            default_value: aggression,
            // Envoy wants a key, which nobody sets
            runtime_key: "isthmus.slow_start.aggression".to_string(),
        }),
        min_weight_percent: Some(Percent { value: warmup.minimum_percent.unwrap_or(10.0) }),
    })
}
