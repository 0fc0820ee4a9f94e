//! Whether the workload works: probes, thresholds, and reports on change only.

pub mod probe;
pub mod spec;

use std::sync::Arc;
use std::time::Duration;

use isthmus_lifecycle::Signal;
use isthmus_xds::HealthReport;
use tokio::sync::watch;

pub use probe::{Probe, Target};
pub use spec::InvalidProbe;

/// A workload that starts is asked at least this often, until the first verdict.
const STARTING: Duration = Duration::from_millis(250);

/// When and how often to probe, and how many results count (Kubernetes' words; defaults as Istio's agent's).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schedule {
    /// Before the first.
    pub initial_delay: Duration,
    /// Between two.
    pub period: Duration,
    /// For each.
    pub timeout: Duration,
    /// Successes in a row until healthy.
    pub successes: u32,
    /// Failures in a row until unhealthy.
    pub failures: u32,
}

impl Default for Schedule {
    fn default() -> Self {
        Self {
            initial_delay: Duration::ZERO,
            period: Duration::from_secs(10),
            timeout: Duration::from_secs(1),
            successes: 1,
            failures: 1,
        }
    }
}

/// Counts results. Pure.
#[derive(Debug)]
pub struct Judge {
    successes: u32,
    failures: u32,
    in_a_row: (bool, u32),
    healthy: Option<bool>,
}

impl Judge {
    /// Nothing known yet.
    #[must_use]
    pub fn new(schedule: &Schedule) -> Self {
        Self {
            successes: schedule.successes.max(1),
            failures: schedule.failures.max(1),
            in_a_row: (false, 0),
            healthy: None,
        }
    }

    /// One result; a report when it turns the verdict.
    pub fn take(&mut self, result: Result<(), String>) -> Option<HealthReport> {
        let good = result.is_ok();
        self.in_a_row =
            if self.in_a_row.0 == good { (good, self.in_a_row.1.saturating_add(1)) } else { (good, 1) };
        let needed = if good { self.successes } else { self.failures };
        if self.in_a_row.1 < needed || self.healthy == Some(good) {
            return None;
        }
        self.healthy = Some(good);
        Some(match result {
            Ok(()) => HealthReport::Healthy,
            Err(message) => HealthReport::Unhealthy(message),
        })
    }
}

/// What is reported, and to be seen in the agent's status. None before the first verdict.
pub type Verdict = watch::Receiver<Option<HealthReport>>;

/// Probes until told to stop. `alive` says whether the workload's process runs, where the agent runs it: a dead one is
/// unhealthy at once, whatever the probe would say.
pub async fn watch(
    schedule: Schedule,
    probe: Option<Arc<dyn Probe>>,
    mut alive: watch::Receiver<bool>,
    verdict: watch::Sender<Option<HealthReport>>,
    stop: Signal,
) {
    let mut judge = Judge::new(&schedule);
    let mut supervised = true;
    let mut wait = schedule.initial_delay;
    loop {
        tokio::select! {
            biased; // stopping beats probing
            () = stop.stopping() => return,
            changed = alive.changed(), if supervised => {
                supervised = changed.is_ok();
                judge = Judge::new(&schedule);
                wait = schedule.initial_delay;
                if !*alive.borrow() {
                    let dead = HealthReport::Unhealthy("the process is not running".to_string());
                    verdict.send_replace(Some(dead));
                }
            }
            () = tokio::time::sleep(wait) => {
                wait = if judge.healthy.is_some() { schedule.period } else { schedule.period.min(STARTING) };
                if !*alive.borrow() {
                    continue;
                }
                let result = match &probe {
                    Some(probe) => once(&**probe, schedule.timeout).await,
                    None => Ok(()),
                };
                if let Some(report) = judge.take(result) {
                    tell(&report);
                    verdict.send_replace(Some(report));
                }
            }
        }
    }
}

async fn once(probe: &dyn Probe, timeout: Duration) -> Result<(), String> {
    match tokio::time::timeout(timeout, probe.probe()).await {
        Ok(result) => result,
        Err(_) => Err(format!("{}: no answer within {} ms", probe.describe(), timeout.as_millis())),
    }
}

fn tell(report: &HealthReport) {
    match report {
        HealthReport::Healthy => tracing::info!("workload is healthy"),
        HealthReport::Unhealthy(reason) => tracing::warn!(%reason, "workload is unhealthy"),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU8, Ordering};

    use futures::future::BoxFuture;
    use isthmus_lifecycle::Drain;

    use super::*;

    fn bad() -> Result<(), String> {
        Err("refused".to_string())
    }

    #[test]
    fn a_report_is_made_only_when_the_verdict_turns() {
        let mut judge = Judge::new(&Schedule { successes: 2, failures: 3, ..Schedule::default() });
        assert_eq!(judge.take(Ok(())), None);
        assert_eq!(judge.take(Ok(())), Some(HealthReport::Healthy));
        assert_eq!(judge.take(Ok(())), None);
        assert_eq!((judge.take(bad()), judge.take(bad())), (None, None));
        assert_eq!(judge.take(Ok(())), None);
        assert_eq!((judge.take(bad()), judge.take(bad())), (None, None));
        assert_eq!(judge.take(bad()), Some(HealthReport::Unhealthy("refused".into())));
        assert_eq!(judge.take(bad()), None);
    }

    /// 0 good, 1 bad, 2 silent.
    struct Scripted(AtomicU8);

    impl Probe for Scripted {
        fn probe(&self) -> BoxFuture<'_, Result<(), String>> {
            Box::pin(async {
                match self.0.load(Ordering::SeqCst) {
                    0 => Ok(()),
                    1 => bad(),
                    _ => std::future::pending().await,
                }
            })
        }

        fn describe(&self) -> String {
            "scripted".to_string()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn silence_counts_as_failure_and_a_dead_process_is_unhealthy_at_once() {
        let scripted = Arc::new(Scripted(AtomicU8::new(0)));
        let drain = Drain::new();
        let (alive, living) = watch::channel(true);
        let (verdict, mut seen) = watch::channel(None);
        let probe: Arc<dyn Probe> = Arc::clone(&scripted) as _;
        let watching = watch(Schedule::default(), Some(probe), living, verdict, drain.signal());
        let story = async {
            let unhealthy = |found: &Option<HealthReport>| matches!(found, Some(HealthReport::Unhealthy(_)));
            seen.wait_for(|found| *found == Some(HealthReport::Healthy)).await.unwrap();
            scripted.0.store(2, Ordering::SeqCst);
            let found = seen.wait_for(unhealthy).await.unwrap().clone();
            assert_eq!(found, Some(HealthReport::Unhealthy("scripted: no answer within 1000 ms".into())));
            scripted.0.store(0, Ordering::SeqCst);
            seen.wait_for(|found| *found == Some(HealthReport::Healthy)).await.unwrap();
            let before = tokio::time::Instant::now();
            alive.send_replace(false);
            seen.wait_for(unhealthy).await.unwrap();
            assert_eq!(before.elapsed(), Duration::ZERO);
            alive.send_replace(true);
            seen.wait_for(|found| *found == Some(HealthReport::Healthy)).await.unwrap();
            drain.refuse();
        };
        tokio::join!(watching, story);
    }
}
