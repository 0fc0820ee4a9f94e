//! Envoy's process: started, started again, drained. It ends with the agent.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use isthmus_lifecycle::{Backoff, Guard, Readiness, Signal};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::time::Instant;

use super::{Config, Envoy};

/// Lines of its log that are told when it ends.
const LAST: usize = 12;
/// Bytes of one line.
const LINE: u64 = 4096;
/// Between two looks at it while it starts or drains.
const GLANCE: Duration = Duration::from_millis(50);
/// One that has served for so long did not fail at its start.
const SETTLED: Duration = Duration::from_secs(10);
/// Time to end after it was told to.
const FAREWELL: Duration = Duration::from_secs(2);
/// Milliseconds after which it writes its access log (Istio's, for Envoys beside workloads).
const FLUSH: &str = "1000";
/// Threads, where nobody says how many: enough beside a workload.
const THREADS: usize = 2;

/// How it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// It runs and has not taken all its listeners yet.
    Starting,
    /// It serves.
    Live,
    /// It has ended, and is started again.
    Down {
        /// How it ended, with the last of its log.
        reason: Arc<str>,
    },
    /// It serves what is open, and ends.
    Draining,
}

impl State {
    pub(super) fn describe(&self) -> Value {
        match self {
            Self::Starting => json!("Starting"),
            Self::Live => json!("Live"),
            Self::Down { reason } => json!({ "Down": &**reason }),
            Self::Draining => json!("Draining"),
        }
    }
}

/// What it is started with.
pub(super) struct Launch {
    pub(super) config: Config,
    pub(super) bootstrap: PathBuf,
}

/// Runs it for as long as the agent runs.
pub(super) struct Supervisor {
    pub(super) launch: Launch,
    pub(super) envoy: Envoy,
    pub(super) state: watch::Sender<State>,
    pub(super) readiness: Readiness,
}

impl Supervisor {
    pub(super) async fn run(self, first: Guard, stop: Signal) {
        let mut guard = Some(first);
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(10));
        loop {
            let held = guard.take().unwrap_or_else(|| self.readiness.hold("envoy"));
            let began = Instant::now();
            let reason = match self.once(held, &stop).await {
                Some(reason) => reason,
                None => return,
            };
            if began.elapsed() >= SETTLED {
                backoff.reset();
            }
            self.state.send_replace(State::Down { reason: reason.as_str().into() });
            guard = Some(self.readiness.hold("envoy"));
            let delay = backoff.next_delay();
            tracing::error!(reason, again_in_ms = delay.as_millis(), "Envoy has ended, starting it again");
            tokio::select! {
                biased; // stopping beats starting
                () = stop.stopping() => return,
                () = tokio::time::sleep(delay) => {}
            }
        }
    }

    /// One run. Returns why it ended; none when it was meant to.
    async fn once(&self, guard: Guard, stop: &Signal) -> Option<String> {
        // One that was killed leaves its socket behind.
        let _ = std::fs::remove_file(self.envoy.admin.path());
        let mut child = match self.launch.spawn() {
            Ok(child) => child,
            Err(error) => return Some(format!("{}: {error}", self.launch.config.program.display())),
        };
        self.state.send_replace(State::Starting);
        let said = Said::default();
        let (log, lines) = (child.stderr.take(), child.stdout.take());
        let listening = async { tokio::join!(said.clone().listen(log), pass_on(lines)) };
        tokio::pin!(listening);
        let mut guard = Some(guard);
        let living = self.live();
        tokio::pin!(living);
        loop {
            tokio::select! {
                biased;
                () = stop.stopping() => {
                    self.state.send_replace(State::Draining);
                    tokio::select! {
                        () = self.drain(&mut child, stop) => {}
                        _ = &mut listening => drop(child.wait().await),
                    }
                    return None;
                }
                // Its log ends with it.
                _ = &mut listening => {
                    let ended = child.wait().await;
                    let status = ended.map_or_else(|error| error.to_string(), |status| status.to_string());
                    return Some(said.last(&status));
                }
                () = &mut living, if guard.is_some() => {
                    guard = None;
                    self.state.send_replace(State::Live);
                    tracing::info!("Envoy serves");
                }
            }
        }
    }

    /// Completes when it serves.
    async fn live(&self) {
        while !self.envoy.is_live().await {
            tokio::time::sleep(GLANCE).await;
        }
    }

    /// Refuses what is new once peers have had time to hear of it, waits for what is open, then ends it.
    async fn drain(&self, child: &mut Child, stop: &Signal) {
        let admin = &self.envoy.admin;
        if let Err(error) = admin.post("/drain_listeners?graceful&skip_exit").await {
            tracing::debug!(%error, "Envoy is not told to drain");
        }
        loop {
            match admin.get("/stats?format=json&filter=^listener\\..*downstream_cx_active$").await {
                Ok(text) if super::shown::connections(&text) > 0 => {}
                _ => break,
            }
            tokio::select! {
                biased;
                () = stop.cut() => break,
                () = tokio::time::sleep(GLANCE) => {}
            }
        }
        if let Err(error) = admin.post("/quitquitquit").await {
            tracing::debug!(%error, "Envoy is not told to end");
        }
        if tokio::time::timeout(FAREWELL, child.wait()).await.is_err() {
            tracing::warn!("Envoy does not end, killing it");
            // An error means that it has ended.
            let _ = child.kill().await;
        }
    }
}

impl Launch {
    fn spawn(&self) -> std::io::Result<Child> {
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = self.config.concurrency.map_or(THREADS.min(cpus), usize::from);
        let mut whole = self.config.wrapper.iter().map(PathBuf::from).chain([self.config.program.clone()]);
        let mut command = Command::new(whole.next().unwrap_or_default());
        command.args(whole);
        command.arg("--config-path").arg(&self.bootstrap);
        command.args(["--disable-hot-restart", "--log-level", "warning", "--log-format", "%l|%n|%v"]);
        command.args(["--concurrency", &threads.to_string()]);
        command.args(["--file-flush-interval-msec", FLUSH]);
        command.args(["--drain-time-s", &self.config.drain.as_secs().max(1).to_string()]);
        if let Some(user) = self.config.user {
            command.uid(user).gid(user);
        }
        let child = command
            .stdin(Stdio::null())
            // Never ours: an access log opens /dev/stdout by name, which may be a socket or another user's.
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // Of its own group, so that a terminal's signals reach it through us.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()?;
        if let (Some(user), Some(output)) = (self.config.user, &child.stdout) {
            std::os::unix::fs::fchown(output, Some(user), Some(user))?;
        }
        Ok(child)
    }
}

/// Passes its output on to ours, until it ends. Where nobody reads ours any more it is thrown away: it must not wait.
async fn pass_on(lines: Option<impl AsyncRead + Unpin>) {
    let Some(mut lines) = lines else { return };
    if let Err(error) = tokio::io::copy(&mut lines, &mut tokio::io::stdout()).await {
        tracing::debug!(%error, "Envoy's output is not passed on");
        let _ = tokio::io::copy(&mut lines, &mut tokio::io::sink()).await;
    }
}

/// What Envoy said last.
#[derive(Debug, Clone, Default)]
struct Said(Arc<Mutex<VecDeque<String>>>);

impl Said {
    /// Passes its log on, until it ends.
    async fn listen(self, log: Option<impl AsyncRead + Unpin>) {
        let Some(log) = log else { return };
        let mut log = BufReader::new(log);
        let mut line = Vec::new();
        loop {
            line.clear();
            match (&mut log).take(LINE).read_until(b'\n', &mut line).await {
                Ok(0) | Err(_) => return,
                Ok(_) => self.take(String::from_utf8_lossy(&line).trim_end()),
            }
        }
    }

    fn take(&self, line: &str) {
        if line.is_empty() {
            return;
        }
        let mut parts = line.splitn(3, '|');
        match (parts.next(), parts.next(), parts.next()) {
            (Some("error" | "critical"), Some(logger), Some(text)) => {
                tracing::error!(target: "envoy", logger, "{text}");
            }
            (Some("warning"), Some(logger), Some(text)) => tracing::warn!(target: "envoy", logger, "{text}"),
            (Some("info" | "debug" | "trace"), Some(logger), Some(text)) => {
                tracing::debug!(target: "envoy", logger, "{text}");
            }
            _ => tracing::warn!(target: "envoy", "{line}"),
        }
        let mut last = self.0.lock();
        if last.len() == LAST {
            last.pop_front();
        }
        last.push_back(line.to_string());
    }

    fn last(&self, status: &str) -> String {
        let last = self.0.lock();
        if last.is_empty() {
            return format!("{status}, without a word");
        }
        let lines: Vec<&str> = last.iter().map(String::as_str).collect();
        format!("{status}; it said last: {}", lines.join(" / "))
    }
}
