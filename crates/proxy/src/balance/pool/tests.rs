use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::balance::Host;
use crate::resource::tls::Upstream;

const RULES: Rules = Rules { overprovisioning: 140, panic: 0.0, weighted_localities: false };

fn endpoint(n: usize, weight: u32, healthy: bool) -> Arc<Endpoint> {
    Arc::new(Endpoint {
        host: Host::new(SocketAddr::from(([10, 0, (n / 256) as u8, (n % 256) as u8], 80))),
        weight,
        healthy,
        transport: Upstream::Plain,
        workload: None,
        locality: "".into(),
        priority: 0,
        passed: arc_swap::ArcSwapOption::empty(),
    })
}

/// A priority with so many healthy endpoints of so many.
fn level(start: usize, healthy: usize, total: usize) -> Level {
    let endpoints = (0..total).map(|n| endpoint(start + n, 1, n < healthy)).collect();
    Level { localities: vec![(1, endpoints)] }
}

fn loads_of(levels: &[(usize, usize)]) -> Vec<u32> {
    loads(levels, 140).0
}

#[test]
fn load_leaves_a_priority_as_envoy_says() {
    // Envoy's table for two priorities and 1.4.
    assert_eq!(loads_of(&[(100, 100), (100, 100)]), [100, 0]);
    assert_eq!(loads_of(&[(72, 100), (72, 100)]), [100, 0]);
    assert_eq!(loads_of(&[(71, 100), (71, 100)]), [99, 1]);
    assert_eq!(loads_of(&[(50, 100), (50, 100)]), [70, 30]);
    assert_eq!(loads_of(&[(25, 100), (100, 100)]), [35, 65]);
    assert_eq!(loads_of(&[(0, 100), (100, 100)]), [0, 100]);
    assert_eq!(loads_of(&[(0, 1), (0, 1), (1, 1)]), [0, 0, 100]);
    // Together below 100 %: scaled up.
    assert_eq!(loads_of(&[(25, 100), (25, 100)]), [50, 50]);
    assert_eq!(loads_of(&[(5, 100), (65, 100)]), [8, 92]);
    assert_eq!(loads_of(&[(0, 100), (0, 100)]), [0, 0]);
    assert_eq!(loads_of(&[(0, 0), (3, 3)]), [0, 100], "a priority without endpoints takes nothing");
}

#[test]
fn a_priority_whose_endpoints_were_all_tried_hands_over() {
    let levels = [level(0, 1, 1), level(1, 1, 1)];
    let home = levels[0].localities[0].1[0].address();
    let rotation = AtomicUsize::new(0);
    let fresh = Pool::arrange(&levels, RULES, &HashSet::new());
    assert_eq!(fresh.pick(Policy::LeastRequest, &rotation).unwrap().address(), home);
    let retry = Pool::arrange(&levels, RULES, &HashSet::from([home]));
    assert_ne!(retry.pick(Policy::LeastRequest, &rotation).unwrap().address(), home);
    let all = levels.iter().map(|level| level.localities[0].1[0].address()).collect();
    assert!(Pool::arrange(&levels, RULES, &all).pick(Policy::Random, &rotation).is_none());
    let panics = Rules { panic: 50.0, ..RULES };
    assert!(
        Pool::arrange(&levels, panics, &all).pick(Policy::Random, &rotation).is_none(),
        "not even a panic repeats what was tried"
    );
}

#[test]
fn below_the_panic_threshold_unhealthy_endpoints_serve_too() {
    let levels = [level(0, 0, 4)];
    let rotation = AtomicUsize::new(0);
    assert!(Pool::arrange(&levels, RULES, &HashSet::new()).pick(Policy::Random, &rotation).is_none());
    let panics = Rules { panic: 50.0, ..RULES };
    assert!(Pool::arrange(&levels, panics, &HashSet::new()).pick(Policy::Random, &rotation).is_some());
}

#[test]
fn picks_follow_weights() {
    let endpoints = vec![endpoint(1, 1, true), endpoint(2, 3, true)];
    let levels = [Level { localities: vec![(1, endpoints)] }];
    let pool = Pool::arrange(&levels, RULES, &HashSet::new());
    let rotation = AtomicUsize::new(0);
    let mut counts: BTreeMap<u32, u32> = BTreeMap::new();
    for _ in 0..400 {
        *counts.entry(pool.pick(Policy::RoundRobin, &rotation).unwrap().weight).or_default() += 1;
    }
    assert_eq!(counts, BTreeMap::from([(1, 100), (3, 300)]));
    let mut heavy = 0;
    for _ in 0..4000 {
        heavy += u32::from(pool.pick(Policy::Random, &rotation).unwrap().weight == 3);
    }
    assert!((2800..3200).contains(&heavy), "{heavy} of 4000 went to the endpoint with 3/4 of the weight");
}

#[test]
fn the_busier_endpoint_gets_less() {
    let levels = [Level { localities: vec![(1, vec![endpoint(1, 1, true), endpoint(2, 1, true)])] }];
    let busy = Arc::clone(&levels[0].localities[0].1[0]);
    let _held: Vec<_> = (0..10).map(|_| busy.host.begin()).collect();
    let pool = Pool::arrange(&levels, RULES, &HashSet::new());
    let rotation = AtomicUsize::new(0);
    let to_busy =
        (0..1000).filter(|_| Arc::ptr_eq(pool.pick(Policy::LeastRequest, &rotation).unwrap(), &busy)).count();
    assert!(to_busy < 250, "{to_busy} of 1000 went to the busy one");
}

#[test]
fn locality_weights_count_when_asked_for() {
    let localities =
        vec![(9, vec![endpoint(1, 1, true)]), (1, vec![endpoint(2, 1, true), endpoint(3, 1, true)])];
    let first = localities[0].1[0].address();
    let levels = [Level { localities }];
    let weighted = Rules { weighted_localities: true, ..RULES };
    let pool = Pool::arrange(&levels, weighted, &HashSet::new());
    let rotation = AtomicUsize::new(0);
    let share =
        (0..2000).filter(|_| pool.pick(Policy::Random, &rotation).unwrap().address() == first).count();
    assert!((1700..1900).contains(&share), "{share} of 2000 went to the locality with 9/10 of the weight");
}

proptest! {
    #[test]
    fn loads_sum_to_all_or_nothing_and_never_fall_on_the_dead(
        healths in prop::collection::vec((0usize..20, 0usize..20), 1..5)
    ) {
        let healths: Vec<_> = healths.into_iter().map(|(a, b)| (a.min(b), a.max(b))).collect();
        let (loads, _) = loads(&healths, 140);
        let alive = healths.iter().any(|(healthy, _)| *healthy > 0);
        prop_assert_eq!(loads.iter().sum::<u32>(), if alive { 100 } else { 0 });
        for (load, (healthy, _)) in loads.iter().zip(&healths) {
            prop_assert!(*load == 0 || *healthy > 0);
        }
    }
}
