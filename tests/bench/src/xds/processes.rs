//! Processes of a run. All end with it, in order.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::Context as _;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::time::Instant;

/// How much of a log is shown: the last lines of the last bytes.
const LINES: usize = 12;
const BYTES: u64 = 8 * 1024;

/// A child that is stopped with this value, and with it what it started.
pub struct Running {
    child: Child,
    /// Its name, for messages.
    name: String,
    log: PathBuf,
}

impl Running {
    /// Starts a program; what it writes goes to `NAME.log` in the folder. It leads a process group of its own, so that a terminal's
    /// Ctrl-C comes to the benchmark alone, which ends what it has started one by one.
    ///
    /// # Errors
    /// When there is no such program.
    pub fn start(program: &Path, name: &str, arguments: &[String], folder: &Path) -> anyhow::Result<Self> {
        let path = folder.join(format!("{name}.log"));
        let log = File::create(&path)?;
        let child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0)
            .spawn()
            .with_context(|| format!("{name}: {} does not start", program.display()))?;
        Ok(Self { child, name: name.to_string(), log: path })
    }

    /// Process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Fails when it has ended, with the end of its log.
    ///
    /// # Errors
    /// As said.
    pub fn check(&mut self) -> anyhow::Result<()> {
        match self.child.try_wait()? {
            Some(status) => anyhow::bail!("{} ended early ({status}); {}", self.name, self.last_words()),
            None => Ok(()),
        }
    }

    /// Waits until it is ready, which `ready` finds out.
    ///
    /// # Errors
    /// When it ends before, or is not ready within the time: with the end of its log.
    pub async fn until(
        &mut self,
        within: Duration,
        mut ready: impl AsyncFnMut() -> bool,
    ) -> anyhow::Result<()> {
        let deadline = Instant::now() + within;
        // A question without an answer takes at most as long as there is time.
        while !tokio::time::timeout_at(deadline, ready()).await.unwrap_or(false) {
            self.check()?;
            let late = Instant::now() >= deadline;
            anyhow::ensure!(!late, "{} is not ready after {within:?}; {}", self.name, self.last_words());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        self.check()
    }

    fn last_words(&self) -> String {
        last_words(&self.log)
    }

    /// Ends it in order and waits for that.
    pub fn stop(&mut self) {
        if self.signal(Signal::SIGTERM) {
            for _ in 0..100 {
                if self.child.try_wait().is_ok_and(|ended| ended.is_some()) {
                    return;
                }
                std::thread::sleep(Duration::from_millis(100));
            }
            self.signal(Signal::SIGKILL);
        }
        let _ = self.child.wait();
    }

    /// Whether it was still there. Its process id is its group's, and stays so until it was waited for.
    fn signal(&mut self, signal: Signal) -> bool {
        let there = self.child.try_wait().is_ok_and(|ended| ended.is_none());
        if there && let Ok(pid) = i32::try_from(self.child.id()) {
            let _ = killpg(Pid::from_raw(pid), signal);
        }
        there
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The end of a process's log, for messages.
#[must_use]
pub fn last_words(log: &Path) -> String {
    match tail(log) {
        Ok(text) if text.is_empty() => "it logged nothing".into(),
        Ok(text) => format!("the end of its log:\n{text}"),
        Err(error) => format!("its log {} cannot be read: {error}", log.display()),
    }
}

/// The last lines of a file, which may be large.
fn tail(log: &Path) -> std::io::Result<String> {
    let mut file = File::open(log)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(BYTES)))?;
    let mut bytes = Vec::new();
    file.take(BYTES).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    Ok(lines[lines.len().saturating_sub(LINES)..].join("\n"))
}

/// A port that is free now.
///
/// # Errors
/// When none is.
pub fn free_address() -> anyhow::Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_that_ends_early_is_named_with_the_end_of_its_log() {
        let folder = tempfile::tempdir().unwrap();
        let script = "seq 1 5000; echo 'no such flag'; exit 3";
        let mut running =
            Running::start(Path::new("/bin/sh"), "etcd", &["-c".into(), script.into()], folder.path())
                .unwrap();
        let ended = running.until(Duration::from_secs(60), async || false).await.unwrap_err().to_string();
        assert!(ended.starts_with("etcd ended early (exit status: 3)"), "{ended}");
        assert!(ended.ends_with("\n4999\n5000\nno such flag"), "{ended}");
        assert_eq!(ended.lines().count(), 1 + LINES, "{ended}");
    }

    #[test]
    fn what_a_stopped_one_has_started_ends_too() {
        let folder = tempfile::tempdir().unwrap();
        let script = "sleep infinity & echo $!; wait";
        let mut running =
            Running::start(Path::new("/bin/sh"), "profiler", &["-c".into(), script.into()], folder.path())
                .unwrap();
        let own = loop {
            let text = std::fs::read_to_string(folder.path().join("profiler.log")).unwrap();
            if let Some(pid) = text.strip_suffix('\n') {
                break pid.to_string();
            }
            std::thread::yield_now();
        };
        running.stop();
        let began = std::time::Instant::now();
        loop {
            // Gone, or a zombie that nobody has waited for yet.
            let state = std::fs::read_to_string(format!("/proc/{own}/stat")).unwrap_or_default();
            if state.is_empty() || state.contains(") Z ") {
                break;
            }
            assert!(began.elapsed() < Duration::from_secs(20), "{state}");
            std::thread::yield_now();
        }
    }
}
