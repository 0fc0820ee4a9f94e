//! Requests that go on while something breaks: how many failed, how long the slowest took, who answered.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::host::{Host, Process};

/// One request, as anyone can repeat it; its last line is for us.
pub(super) const REQUEST: &str =
    "curl -s -m 10 -w '\\n%{http_code} %{time_total}\\n' http://127.0.0.1:9080/api/v1/products/0/reviews";
/// Requests that run at a time.
pub(super) const WORKERS: usize = 3;

/// Requests that run in the background.
#[derive(Debug)]
pub(super) struct Load {
    host: Arc<Host>,
    workers: Vec<Process>,
}

/// What became of them.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) requests: usize,
    pub(super) failed: usize,
    pub(super) slowest: Duration,
    /// Requests by the version of reviews that answered.
    pub(super) versions: BTreeMap<String, usize>,
    /// The version that answered last.
    pub(super) last: String,
    /// What a failed request got.
    pub(super) example: Option<String>,
}

impl Load {
    /// Begins on a host: three at a time, one after another.
    pub(super) fn start(host: &Arc<Host>) -> anyhow::Result<Self> {
        host.must("rm -f /tmp/load-*")?;
        let workers = (0..WORKERS)
            .map(|number| {
                let script = format!(
                    "sh -c 'while [ ! -e /tmp/load-stop ]; do {}; sleep 0.03; done > /tmp/load-{number}'",
                    REQUEST.replace('\'', "'\\''")
                );
                host.start(&format!("load-{number}"), &script, &[])
            })
            .collect::<anyhow::Result<Vec<_>>>()?;
        Ok(Self { host: Arc::clone(host), workers })
    }

    /// Ends and counts.
    pub(super) fn finish(self) -> anyhow::Result<Tally> {
        self.host.must("touch /tmp/load-stop")?;
        let mut tally = Tally::default();
        for (number, worker) in self.workers.iter().enumerate() {
            // One that hangs is counted by what it wrote so far.
            let _ = worker.ended_within(Duration::from_secs(12));
            tally.add(&self.host.must(&format!("cat /tmp/load-{number}"))?);
        }
        self.host.must("rm -f /tmp/load-* /var/log/isthmus/load-*")?;
        Ok(tally)
    }
}

impl Tally {
    fn add(&mut self, text: &str) {
        let mut body = "";
        for line in text.lines() {
            let numbers = line.split_once(' ').filter(|(code, _)| code.len() == 3);
            let Some((code, seconds)) =
                numbers.and_then(|(c, s)| Some((c.parse::<u16>().ok()?, s.parse::<f64>().ok()?)))
            else {
                body = line;
                continue;
            };
            self.requests += 1;
            self.slowest = self.slowest.max(Duration::from_secs_f64(seconds));
            if code == 200 && body.contains("\"stars\":") {
                let version = version_of(body);
                *self.versions.entry(version.clone()).or_default() += 1;
                self.last = version;
            } else {
                self.failed += 1;
                self.example
                    .get_or_insert_with(|| format!("{code} {}", body.chars().take(160).collect::<String>()));
            }
            body = "";
        }
    }

    /// `3 of 250 requests failed, the slowest took 0.52 s; answered by v2 (120), v3 (127)`.
    pub(super) fn line(&self) -> String {
        let by: Vec<String> =
            self.versions.iter().map(|(version, count)| format!("{version} ({count})")).collect();
        format!(
            "{} of {} requests failed, the slowest took {:.2} s; answered by {}",
            self.failed,
            self.requests,
            self.slowest.as_secs_f64(),
            by.join(", ")
        )
    }
}

/// The version of reviews that gave an answer of [`REQUEST`].
pub(super) fn version(answer: &str) -> String {
    answer.lines().next().map(version_of).unwrap_or_default()
}

/// The version in reviews' own `servedBy`.
fn version_of(body: &str) -> String {
    let parsed: serde_json::Value = serde_json::from_str(body).unwrap_or_default();
    parsed["servedBy"]["version"].as_str().unwrap_or("?").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_and_versions_are_counted() {
        let mut tally = Tally::default();
        tally.add(
            "{\"reviews\":[{\"rating\":{\"stars\":5}}],\"servedBy\":{\"version\":\"v2\"}}\n200 0.010\n\
             {\"error\":\"Sorry\"}\n500 3.5\n\n000 10.0\n\
             {\"reviews\":[{\"rating\":{\"error\":\"no\"}}],\"servedBy\":{\"version\":\"v3\"}}\n200 0.2\n",
        );
        assert_eq!((tally.requests, tally.failed, tally.last.as_str()), (4, 3, "v2"));
        assert_eq!(tally.slowest, Duration::from_secs(10));
        assert!(
            tally.line().starts_with("3 of 4 requests failed, the slowest took 10.00 s"),
            "{}",
            tally.line()
        );
    }
}
