//! Checks: a stock command on a host, and a judgement of what it said.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::host::{COMMAND_WITHIN, Host, Output};
use crate::report::{Broken, Report};

/// What a judge says: a detail worth showing, or why the check does not hold.
pub(super) type Verdict = Result<String, String>;

const MAX_DETAIL: usize = 120;
const AGAIN_AFTER: Duration = Duration::from_millis(100);

/// Runs checks of one step and prints them.
#[derive(Debug)]
pub(super) struct Teller<'a> {
    pub(super) report: &'a Report,
}

impl Teller<'_> {
    /// Checks once.
    pub(super) fn check(
        &self,
        what: &str,
        host: &Arc<Host>,
        command: &str,
        judge: impl Fn(&Output) -> Verdict,
    ) -> anyhow::Result<Output> {
        self.within(Duration::ZERO, what, host, command, judge)
    }

    /// Checks again and again until it holds, for at most this time.
    pub(super) fn within(
        &self,
        limit: Duration,
        what: &str,
        host: &Arc<Host>,
        command: &str,
        judge: impl Fn(&Output) -> Verdict,
    ) -> anyhow::Result<Output> {
        let began = Instant::now();
        let (output, detail) = self.silently(limit, what, host, command, judge)?;
        self.report.checked(what, &[shown(host, command)], &detail, began.elapsed());
        Ok(output)
    }

    /// The same, printing only what does not hold.
    pub(super) fn silently(
        &self,
        limit: Duration,
        what: &str,
        host: &Arc<Host>,
        command: &str,
        judge: impl Fn(&Output) -> Verdict,
    ) -> anyhow::Result<(Output, String)> {
        let began = Instant::now();
        loop {
            let output = host.run_within(COMMAND_WITHIN, command, "")?;
            match judge(&output) {
                Ok(detail) => return Ok((output, detail)),
                Err(why) if began.elapsed() >= limit => {
                    let why = if limit.is_zero() {
                        why
                    } else {
                        format!("{why} (after {:.0} s)", limit.as_secs_f32())
                    };
                    return Err(broken(what, why, host, command, output));
                }
                Err(_) => std::thread::sleep(AGAIN_AFTER),
            }
        }
    }

    /// Judges a command that ran already.
    pub(super) fn judged(
        &self,
        what: &str,
        host: &Arc<Host>,
        command: &str,
        output: &Output,
        judge: &dyn Fn(&Output) -> Verdict,
    ) -> anyhow::Result<()> {
        match judge(output) {
            Ok(detail) => {
                self.report.checked(what, &[shown(host, command)], &detail, output.took);
                Ok(())
            }
            Err(why) => Err(broken(what, why, host, command, output.clone())),
        }
    }

    /// An action of the story, which must succeed; its output.
    pub(super) fn act(&self, what: &str, host: &Arc<Host>, command: &str) -> anyhow::Result<String> {
        self.act_within(Duration::from_secs(20), what, host, command)
    }

    /// The same, with a limit of its own.
    pub(super) fn act_within(
        &self,
        limit: Duration,
        what: &str,
        host: &Arc<Host>,
        command: &str,
    ) -> anyhow::Result<String> {
        let output = host.run_within(limit, command, "")?;
        if !output.is_success() {
            let why = format!("the command failed, {}", output.ending());
            return Err(broken(what, why, host, command, output));
        }
        self.report.did(what, &[shown(host, command)], output.took);
        Ok(output.stdout.trim_end().to_string())
    }

    /// A check whose commands ran elsewhere.
    pub(super) fn note(
        &self,
        what: &str,
        commands: &[String],
        took: Duration,
        verdict: Verdict,
        hosts: Vec<Arc<Host>>,
    ) -> anyhow::Result<()> {
        match verdict {
            Ok(detail) => {
                self.report.checked(what, commands, &detail, took);
                Ok(())
            }
            Err(why) => Err(Broken { what: what.into(), why, evidence: None, hosts }.into()),
        }
    }
}

fn broken(what: &str, why: String, host: &Arc<Host>, command: &str, output: Output) -> anyhow::Error {
    let evidence = Some((shown(host, command), output));
    Broken { what: what.into(), why, evidence, hosts: vec![Arc::clone(host)] }.into()
}

/// As a person would type it there.
pub(super) fn shown(host: &Host, command: &str) -> String {
    format!("{}$ {command}", host.name())
}

/// It ended well.
pub(super) fn succeeds(output: &Output) -> Verdict {
    if output.is_success() { Ok(String::new()) } else { Err(format!("it failed, {}", output.ending())) }
}

/// It ended well and said this.
pub(super) fn says(text: &str) -> impl Fn(&Output) -> Verdict {
    move |output| {
        succeeds(output)?;
        if output.stdout.contains(text) {
            let line = output.stdout.lines().find(|line| line.contains(text)).unwrap_or_default().trim();
            Ok(line.chars().take(MAX_DETAIL).collect())
        } else {
            Err(format!("it does not say {text:?}"))
        }
    }
}
