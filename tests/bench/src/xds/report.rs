//! What was measured, for people and for programs.

use std::fmt::Write as _;
use std::time::Instant;

use serde::Serialize;

use super::late::Quantiles;
use super::options::Options;
use super::simulator::{Connected, Settled};
use crate::proc;

/// Reads the control plane's counters.
pub struct Meter {
    pid: u32,
}

/// A moment.
pub struct Mark {
    at: Instant,
    cpu: f64,
}

/// What a phase took of the control plane.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Cost {
    /// Wall time, in seconds.
    pub seconds: f64,
    /// CPU time, in seconds.
    pub cpu_seconds: f64,
    /// Resident memory at the end, in bytes.
    pub resident: u64,
    /// Its peak within the phase, in bytes.
    pub peak: u64,
}

impl Cost {
    /// The mean of so many rounds.
    #[must_use]
    pub fn shared_by(mut self, rounds: u32) -> Self {
        self.seconds /= f64::from(rounds.max(1));
        self.cpu_seconds /= f64::from(rounds.max(1));
        self
    }
}

impl Meter {
    /// Of this process.
    #[must_use]
    pub fn new(pid: u32) -> Self {
        Self { pid }
    }

    /// Now.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn mark(&self) -> anyhow::Result<Mark> {
        Ok(Mark { at: Instant::now(), cpu: proc::cpu_seconds(self.pid)? })
    }

    /// Since a moment.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn cost(&self, mark: &Mark) -> anyhow::Result<Cost> {
        let now = self.now()?;
        Ok(Cost { seconds: mark.at.elapsed().as_secs_f64(), cpu_seconds: now.cpu_seconds - mark.cpu, ..now })
    }

    /// Since the process began, without wall time.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn since_start(&self) -> anyhow::Result<Cost> {
        self.now()
    }

    /// The counters.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn now(&self) -> anyhow::Result<Cost> {
        let (resident, peak) = proc::resident(self.pid)?;
        Ok(Cost { seconds: 0.0, cpu_seconds: proc::cpu_seconds(self.pid)?, resident, peak })
    }

    /// Starts the peak anew: `clear_refs` of proc(5).
    ///
    /// # Errors
    /// When the process is gone or is not ours.
    pub fn forget_peak(&self) -> anyhow::Result<()> {
        Ok(std::fs::write(format!("/proc/{}/clear_refs", self.pid), "5")?)
    }
}

/// One phase.
#[derive(Clone, Debug, Serialize)]
pub struct Phase {
    /// What it is.
    pub name: String,
    /// What it took.
    pub cost: Cost,
    /// Proxies that got everything, of a phase that connects.
    pub connected: Option<Connections>,
    /// Receipts, of a phase that changes something.
    pub changed: Option<Receipts>,
    /// More to say.
    pub note: Option<String>,
}

/// Proxies that connected.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Connections {
    /// That have everything.
    pub complete: usize,
    /// Connections that failed on the way.
    pub failures: usize,
    /// Megabytes that each received.
    pub megabytes_each: f64,
}

/// Changes that were received.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Receipts {
    /// Of proxies that speak delta: milliseconds from before the API write to the receipt.
    pub delta: Quantiles,
    /// Of proxies that speak state of the world.
    pub sotw: Quantiles,
    /// Pairs of proxy and service that never got the last state.
    pub behind: usize,
    /// Kilobytes that each proxy received.
    pub kilobytes_each: f64,
}

impl Phase {
    /// A phase that took this.
    #[must_use]
    pub fn new(name: &str, cost: Cost) -> Self {
        Self { name: name.to_string(), cost, connected: None, changed: None, note: None }
    }

    /// All connected.
    #[expect(clippy::cast_precision_loss, reason = "megabytes")]
    pub fn connected(&mut self, connected: &Connected, proxies: usize) {
        self.cost.seconds = connected.seconds;
        self.connected = Some(Connections {
            complete: connected.complete,
            failures: connected.failures,
            megabytes_each: connected.bytes as f64 / 1e6 / proxies.max(1) as f64,
        });
    }

    /// Something was changed and received.
    #[expect(clippy::cast_precision_loss, reason = "kilobytes")]
    pub fn settled(&mut self, settled: &Settled, proxies: usize) {
        self.changed = Some(Receipts {
            delta: settled.delta,
            sotw: settled.sotw,
            behind: settled.behind,
            kilobytes_each: settled.bytes as f64 / 1e3 / proxies.max(1) as f64,
        });
    }

    fn line(&self) -> String {
        let cost = &self.cost;
        let mut line = format!(
            "{:<46} {:>7.2} s {:>8.3} CPU s {:>7.1} MB peak {:>7.1} MB",
            self.name,
            cost.seconds,
            cost.cpu_seconds,
            megabytes(cost.peak),
            megabytes(cost.resident),
        );
        // Writing to a string cannot fail.
        if let Some(found) = &self.connected {
            let _ = write!(
                line,
                "; {} complete, {:.2} MB each, {} failures",
                found.complete, found.megabytes_each, found.failures
            );
        }
        if let Some(found) = &self.changed {
            for (flavour, late) in [("", &found.delta), (" in state of the world", &found.sotw)] {
                if late.count > 0 {
                    let Quantiles { count, p50, p99, max } = late;
                    let _ = write!(
                        line,
                        "; {count} receipts{flavour}, {p50:.1}/{p99:.1}/{max:.1} ms (p50/p99/max)"
                    );
                }
            }
            let _ = write!(line, "; {} behind, {:.1} kB each", found.behind, found.kilobytes_each);
        }
        if let Some(note) = &self.note {
            let _ = write!(line, "; {note}");
        }
        line
    }
}

#[expect(clippy::cast_precision_loss, reason = "megabytes")]
fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

/// A run's results.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Services.
    pub services: u32,
    /// Endpoints of each.
    pub endpoints: u32,
    /// Proxies.
    pub proxies: usize,
    /// Namespaces.
    pub namespaces: u32,
    /// State of the world, in a hundred.
    pub sotw: u8,
    /// In order.
    pub phases: Vec<Phase>,
}

impl Report {
    /// Nothing measured yet.
    #[must_use]
    pub fn new(options: &Options) -> Self {
        let Options { services, endpoints, proxies, namespaces, sotw, .. } = *options;
        Self { services, endpoints, proxies, namespaces, sotw, phases: Vec::new() }
    }

    /// The last phase.
    #[must_use]
    pub fn last_line(&self) -> String {
        self.phases.last().map(Phase::line).unwrap_or_default()
    }

    /// For people.
    #[must_use]
    pub fn table(&self) -> String {
        let mut text = format!(
            "{} services x {} endpoints, {} proxies in {} namespaces, {} % state of the world\n",
            self.services, self.endpoints, self.proxies, self.namespaces, self.sotw
        );
        for phase in &self.phases {
            text.push_str(&phase.line());
            text.push('\n');
        }
        text
    }
}
