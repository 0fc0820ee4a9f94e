//! The workload's process, where the agent runs it: started, told of signals, ended.

use std::path::Path;
use std::process::ExitStatus;
use std::time::Duration;

pub use nix::sys::signal::Signal;
use nix::sys::signal::kill;
use nix::unistd::Pid;
use thiserror::Error;
use tokio::process::{Child, Command};
use tokio::signal::unix::SignalKind;
use tokio::sync::watch;

/// Why a command did not start.
#[derive(Debug, Error)]
#[error("{command}: {source}")]
pub struct SpawnError {
    command: String,
    source: std::io::Error,
}

/// A running workload.
#[derive(Debug)]
pub struct Workload {
    child: Child,
    name: String,
    alive: watch::Sender<bool>,
}

impl Workload {
    /// Starts the command with our own input and output, through `wrapper` (program and arguments) when it is not empty.
    /// `environment` is added to ours; `alive` follows it.
    ///
    /// # Errors
    /// When the program is not found or not executable, or the command is empty.
    pub fn start(
        wrapper: &[String],
        command: &[String],
        environment: &[(&str, &Path)],
        alive: watch::Sender<bool>,
    ) -> Result<Self, SpawnError> {
        let name = command.first().cloned().unwrap_or_default();
        let failed = |source| SpawnError { command: name.clone(), source };
        let whole = [wrapper, command].concat();
        let child = Command::new(whole.first().map_or("", String::as_str))
            .args(whole.iter().skip(1))
            .envs(environment.iter().copied())
            // Of its own group, so that a terminal's signals reach it once: from us.
            .process_group(0)
            .spawn()
            .map_err(failed)?;
        alive.send_replace(true);
        Ok(Self { child, name, alive })
    }

    /// Completes when it has ended, with the exit code to end with: its own, or 128 and the signal's number.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub async fn ended(&mut self) -> std::io::Result<u8> {
        let status = self.child.wait().await?;
        self.alive.send_replace(false);
        tracing::info!(command = %self.name, %status, "workload ended");
        Ok(code(status))
    }

    /// Passes a signal on; one that has ended already takes none.
    pub fn signal(&self, signal: Signal) {
        let Some(id) = self.child.id().and_then(|id| i32::try_from(id).ok()) else { return };
        if let Err(error) = kill(Pid::from_raw(id), signal) {
            tracing::warn!(command = %self.name, %signal, %error, "signal not passed on");
        }
    }

    /// Ends it: a signal, and the hard one when it has not ended after `grace`.
    ///
    /// # Errors
    /// When the kernel does not tell how it ended.
    pub async fn stop(&mut self, signal: Signal, grace: Duration) -> std::io::Result<u8> {
        self.signal(signal);
        if let Ok(code) = tokio::time::timeout(grace, self.ended()).await {
            return code;
        }
        tracing::warn!(command = %self.name, grace_s = grace.as_secs(), "workload does not end, killing it");
        self.signal(Signal::SIGKILL);
        self.ended().await
    }
}

/// Becomes the command, and ends when the process that started us ends, however that ends: a workload without its agent would
/// stand there unguarded. To be called in a fresh process whose parent is `parent`.
///
/// # Errors
/// Returns only when it did not become the command: the program is not found or not executable, or the parent is gone.
pub fn become_workload(command: &[String], parent: u32, open_files: Option<u64>) -> SpawnError {
    use std::os::unix::process::CommandExt as _;
    let name = command.first().cloned().unwrap_or_default();
    let failed = |source| SpawnError { command: name.clone(), source };
    if let Err(errno) = nix::sys::prctl::set_pdeathsig(Signal::SIGKILL) {
        return failed(errno.into());
    }
    // It may have ended before it could be told.
    if u32::try_from(nix::unistd::getppid().as_raw()) != Ok(parent) {
        return failed(std::io::Error::other("the agent has ended"));
    }
    if let Some(soft) = open_files
        && let Err(error) = crate::limits::set_open_files(soft)
    {
        return failed(error);
    }
    failed(std::process::Command::new(&name).args(command.iter().skip(1)).exec())
}

/// This program again, as what becomes a process that ends with us: its hidden subcommand `become`. `open_files` is the soft limit
/// to go back to.
#[must_use]
pub fn wrapper(open_files: Option<u64>) -> Vec<String> {
    let parent = std::process::id().to_string();
    let mut wrapper = ["/proc/self/exe", "become", "--parent", &parent].map(String::from).to_vec();
    if let Some(soft) = open_files {
        wrapper.extend(["--open-files".to_string(), soft.to_string()]);
    }
    wrapper.push("--".to_string());
    wrapper
}

/// Flags of `become`.
#[derive(Debug, Clone, clap::Args)]
pub struct BecomeArgs {
    /// Process of the agent
    #[arg(long)]
    pub parent: u32,
    /// Soft limit on open files to go back to
    #[arg(long)]
    pub open_files: Option<u64>,
    /// The program and its arguments
    #[arg(last = true, required = true)]
    pub command: Vec<String>,
}

fn code(status: ExitStatus) -> u8 {
    use std::os::unix::process::ExitStatusExt;
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(1);
    u8::try_from(code).unwrap_or(1)
}

/// Signals for the workload.
#[derive(Debug)]
pub struct Signals {
    stop: [tokio::signal::unix::Signal; 2],
    pass: Vec<(tokio::signal::unix::Signal, Signal)>,
}

/// What a signal asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// To end, by this signal.
    Stop(Signal),
    /// To be passed on.
    Pass(Signal),
}

impl Signals {
    /// Listens from now on.
    ///
    /// # Errors
    /// When handlers cannot be installed.
    pub fn listen() -> std::io::Result<Self> {
        let on = tokio::signal::unix::signal;
        let pass = [
            (SignalKind::hangup(), Signal::SIGHUP),
            (SignalKind::quit(), Signal::SIGQUIT),
            (SignalKind::user_defined1(), Signal::SIGUSR1),
            (SignalKind::user_defined2(), Signal::SIGUSR2),
        ];
        let pass = pass.into_iter().map(|(kind, signal)| Ok((on(kind)?, signal)));
        Ok(Self {
            stop: [on(SignalKind::terminate())?, on(SignalKind::interrupt())?],
            pass: pass.collect::<std::io::Result<_>>()?,
        })
    }

    /// The next one.
    pub async fn next(&mut self) -> Asked {
        let [terminate, interrupt] = &mut self.stop;
        let passed = self.pass.iter_mut().map(|(stream, signal)| {
            Box::pin(async move {
                stream.recv().await;
                *signal
            })
        });
        tokio::select! {
            _ = terminate.recv() => Asked::Stop(Signal::SIGTERM),
            _ = interrupt.recv() => Asked::Stop(Signal::SIGINT),
            (signal, ..) = futures::future::select_all(passed) => Asked::Pass(signal),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(text: &str) -> Vec<String> {
        ["sh", "-c", text].map(String::from).to_vec()
    }

    #[tokio::test]
    async fn its_exit_code_becomes_ours() {
        let (alive, mut seen) = watch::channel(false);
        let mut workload = Workload::start(&[], &command("exit 7"), &[], alive).unwrap();
        assert_eq!(workload.ended().await.unwrap(), 7);
        assert!(!*seen.borrow_and_update());
    }

    #[tokio::test]
    async fn one_that_ignores_the_signal_is_killed_after_the_grace() {
        let (alive, _seen) = watch::channel(false);
        let mut workload =
            Workload::start(&[], &command("trap '' TERM; while :; do sleep 0.01; done"), &[], alive).unwrap();
        let ended = workload.stop(Signal::SIGTERM, Duration::from_millis(300)).await.unwrap();
        // Either the trap was set in time and SIGKILL ended it, or SIGTERM came first.
        assert!(ended == 128 + 9 || ended == 128 + 15, "{ended}");
        let missing =
            Workload::start(&[], &["/no/such/program".into()], &[], watch::channel(false).0).unwrap_err();
        assert!(missing.to_string().starts_with("/no/such/program: "), "{missing}");
    }
}
