//! A host of the testbed, as the fabric sees it: run a command in it, start a program, send signals, switch it off.

use std::collections::HashMap;
use std::io::BufReader;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use nix::sys::signal::Signal;

use crate::init::log_path;
use crate::topology::{Plan, Role};
use crate::wire::{Event, Opening, Order, Status, receive, send};

/// How long a command may take unless its caller says otherwise.
pub const COMMAND_WITHIN: Duration = Duration::from_secs(10);
const BOOT_WITHIN: Duration = Duration::from_secs(10);

/// A running host.
#[derive(Debug)]
pub struct Host {
    /// What it is.
    pub plan: Plan,
    /// The process whose network namespace is the host's, as the fabric numbers it.
    pub pid: u32,
    orders: Mutex<ChildStdin>,
    next: AtomicU64,
    waiting: Arc<Mutex<HashMap<u64, Sender<Event>>>>,
    process: Mutex<Child>,
}

/// What a command did.
#[derive(Debug, Clone)]
pub struct Output {
    /// How it ended; none when it was cut off at its time limit.
    pub status: Option<Status>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    /// How long it ran.
    pub took: Duration,
}

impl Output {
    /// Whether it ended well.
    #[must_use]
    pub fn is_success(&self) -> bool {
        self.status.is_some_and(Status::is_success)
    }

    /// How it ended, in words.
    #[must_use]
    pub fn ending(&self) -> String {
        self.status
            .map_or_else(|| format!("cut off after {:.1} s", self.took.as_secs_f32()), |s| s.to_string())
    }
}

/// A program that runs on a host.
#[derive(Debug)]
pub struct Process {
    /// Its name, which is its log's too.
    pub name: String,
    /// Its process in the host, and its group.
    pub pid: i32,
    host: Arc<Host>,
    ended: Receiver<Event>,
}

impl Host {
    /// Boots a host; its network comes later.
    ///
    /// # Errors
    /// When its namespaces or its file system cannot be made.
    pub fn boot(plan: Plan, opening: &Opening, kubeconfig: &str) -> anyhow::Result<Arc<Self>> {
        let this = std::env::current_exe().context("own executable")?;
        let mut unshare = Command::new("unshare");
        if plan.role == Role::Tap && in_user_namespace() {
            unshare.args(["--user", "--map-user=1000", "--map-group=1000", "--keep-caps"]);
        }
        unshare
            .args(["--mount", "--net", "--pid", "--uts", "--ipc", "--fork", "--kill-child", "--mount-proc"])
            .arg(this)
            .args(["host-init", "--hostname", &plan.name, "--run", &opening.run])
            .args(["--programs", &opening.programs, "--deploy", &opening.deploy, "--path", &opening.path])
            .args([
                "--search",
                &plan.search,
                "--kubeconfig",
                kubeconfig,
                "--program-log",
                &opening.program_log,
            ]);
        for hidden in &opening.hidden {
            unshare.args(["--hidden", hidden]);
        }
        if let Some(network) = plan.network {
            unshare.args(["--nameserver", &network.gateway().to_string()]);
        }
        let mut process = unshare
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("unshare (of util-linux) does not start")?;
        let orders = process.stdin.take().context("pipe to the host")?;
        let mut events = BufReader::new(process.stdout.take().context("pipe from the host")?);

        let (up, is_up) = channel();
        let waiting: Arc<Mutex<HashMap<u64, Sender<Event>>>> = Arc::default();
        let deliver = Arc::clone(&waiting);
        std::thread::spawn(move || {
            while let Ok(Some(event)) = receive::<Event>(&mut events) {
                let (id, last) = match &event {
                    Event::Up | Event::Failed(_) => {
                        // The booting side may have given up.
                        let _ = up.send(event);
                        continue;
                    }
                    Event::Started { id, .. } => (*id, false),
                    Event::Refused { id, .. } | Event::Ended { id, .. } => (*id, true),
                };
                let mut waiting = deliver.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(to) = waiting.get(&id) {
                    // Nobody may care about the end of a program any more.
                    let _ = to.send(event);
                }
                if last {
                    waiting.remove(&id);
                }
            }
            // The host is off: whoever waits for one of its programs learns it by the closed channel.
            deliver.lock().unwrap_or_else(PoisonError::into_inner).clear();
        });
        match is_up.recv_timeout(BOOT_WITHIN) {
            Ok(Event::Up) => {}
            Ok(Event::Failed(error)) => bail!("host {} does not come up: {error}", plan.name),
            Ok(_) => bail!("host {} says something before it is up", plan.name),
            Err(_) => bail!(
                "host {} does not come up: namespaces cannot be made here (try `unshare --mount --net --pid --fork true`)",
                plan.name
            ),
        }
        Ok(Arc::new(Self {
            pid: process.id(),
            plan,
            orders: Mutex::new(orders),
            next: AtomicU64::new(1),
            waiting,
            process: Mutex::new(process),
        }))
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.plan.name
    }

    /// Runs a command to its end, at most for [`COMMAND_WITHIN`].
    ///
    /// # Errors
    /// When the host is off. A command that fails is an answer.
    pub fn run(self: &Arc<Self>, command: &str) -> anyhow::Result<Output> {
        self.run_within(COMMAND_WITHIN, command, "")
    }

    /// Runs a command with this standard input; it is killed at the limit.
    ///
    /// # Errors
    /// When the host is off. A command that fails is an answer.
    pub fn run_within(
        self: &Arc<Self>,
        limit: Duration,
        command: &str,
        stdin: &str,
    ) -> anyhow::Result<Output> {
        self.run_with(limit, command, stdin, &[])
    }

    /// The same, with these added to the environment.
    ///
    /// # Errors
    /// When the host is off. A command that fails is an answer.
    pub fn run_with(
        self: &Arc<Self>,
        limit: Duration,
        command: &str,
        stdin: &str,
        env: &[(&str, &str)],
    ) -> anyhow::Result<Output> {
        let started = Instant::now();
        let process = self.order(command, stdin, env, None)?;
        let deadline = started + limit;
        let mut cut_off = false;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let wait = if cut_off { Duration::from_secs(2) } else { left };
            match process.ended.recv_timeout(wait) {
                Ok(Event::Ended { status, stdout, stderr, .. }) => {
                    let status = (!cut_off).then_some(status);
                    return Ok(Output { status, stdout, stderr, took: started.elapsed() });
                }
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout) if !cut_off => {
                    cut_off = true;
                    process.signal(Signal::SIGKILL)?;
                }
                Err(_) => bail!("host {} is off; it cannot run `{command}`", self.name()),
            }
        }
    }

    /// Runs a command that must succeed; its output, without the last line's end.
    ///
    /// # Errors
    /// When it fails, with what it printed.
    pub fn must(self: &Arc<Self>, command: &str) -> anyhow::Result<String> {
        let output = self.run(command)?;
        if !output.is_success() {
            bail!("{}$ {command}: {}\n{}{}", self.name(), output.ending(), output.stdout, output.stderr);
        }
        Ok(output.stdout.trim_end().to_string())
    }

    /// Writes a file that only its owner may read.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(self: &Arc<Self>, path: &str, text: &str) -> anyhow::Result<()> {
        let folder = Path::new(path).parent().unwrap_or_else(|| Path::new("/")).display().to_string();
        let command = format!("umask 077; mkdir -p {folder} && cat > {path}");
        let output = self.run_within(COMMAND_WITHIN, &command, text)?;
        if !output.is_success() {
            bail!("{}: {path} cannot be written: {}", self.name(), output.stderr);
        }
        Ok(())
    }

    /// Starts a program whose output goes to its log.
    ///
    /// # Errors
    /// When it does not start. One that ends at once has started.
    pub fn start(
        self: &Arc<Self>,
        name: &str,
        command: &str,
        env: &[(&str, &str)],
    ) -> anyhow::Result<Process> {
        let mut process = self.order(&format!("exec {command}"), "", env, Some(log_path(name)))?;
        process.name = name.to_string();
        Ok(process)
    }

    /// The last lines of a program's log.
    #[must_use]
    pub fn log_tail(self: &Arc<Self>, name: &str, lines: usize) -> String {
        match self.run(&format!("tail -n {lines} {}", log_path(name))) {
            Ok(output) => output.stdout,
            Err(error) => format!("({error})"),
        }
    }

    /// Names of the programs that have a log here.
    #[must_use]
    pub fn logs(self: &Arc<Self>) -> Vec<String> {
        let listed = self.run("ls -1tr /var/log/isthmus").map(|output| output.stdout).unwrap_or_default();
        listed.lines().filter_map(|line| line.strip_suffix(".log")).map(str::to_string).collect()
    }

    /// Kills every process of the host at once.
    pub fn power_off(&self) {
        let mut process = self.process.lock().unwrap_or_else(PoisonError::into_inner);
        // Gone already is as good.
        let _ = process.kill();
        let _ = process.wait();
    }

    fn order(
        self: &Arc<Self>,
        command: &str,
        stdin: &str,
        env: &[(&str, &str)],
        log: Option<String>,
    ) -> anyhow::Result<Process> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (to, ended) = channel();
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).insert(id, to);
        let env = env.iter().map(|(name, value)| ((*name).to_string(), (*value).to_string())).collect();
        let order = Order::Start { id, command: command.into(), env, stdin: stdin.into(), log };
        self.send(&order)?;
        match ended.recv_timeout(COMMAND_WITHIN) {
            Ok(Event::Started { pid, .. }) => {
                Ok(Process { name: String::new(), pid, host: Arc::clone(self), ended })
            }
            Ok(Event::Refused { error, .. }) => Err(anyhow!("{}: `{command}`: {error}", self.name())),
            _ => bail!("host {} is off; it cannot run `{command}`", self.name()),
        }
    }

    fn send(&self, order: &Order) -> anyhow::Result<()> {
        let mut orders = self.orders.lock().unwrap_or_else(PoisonError::into_inner);
        send(&mut *orders, order).with_context(|| format!("host {} is off", self.plan.name))
    }
}

impl Process {
    /// The host it runs on.
    #[must_use]
    pub fn host(&self) -> &Arc<Host> {
        &self.host
    }

    /// Sends a signal to it and all that it started.
    ///
    /// # Errors
    /// When the host is off.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        self.host.send(&Order::Signal { group: self.pid, signal: signal as i32 })
    }

    /// How it ended, if it did within this time.
    #[must_use]
    pub fn ended_within(&self, limit: Duration) -> Option<Status> {
        match self.ended.recv_timeout(limit) {
            Ok(Event::Ended { status, .. }) => Some(status),
            // A host that is off has no running programs.
            Err(RecvTimeoutError::Disconnected) => Some(Status::Signal(Signal::SIGKILL as i32)),
            Ok(_) | Err(RecvTimeoutError::Timeout) => None,
        }
    }

    /// Kills it at once and waits for its end.
    ///
    /// # Errors
    /// When it does not end.
    pub fn kill(&self) -> anyhow::Result<()> {
        self.signal(Signal::SIGKILL)?;
        match self.ended_within(Duration::from_secs(5)) {
            Some(_) => Ok(()),
            None => bail!("{}: {} does not end after SIGKILL", self.host.name(), self.name),
        }
    }
}

/// Whether root here is an ordinary user of the machine. tcpdump as root insists on `setgroups`, which such a namespace
/// denies; as another user it does not, so that the tap has a user namespace of its own.
#[must_use]
pub fn in_user_namespace() -> bool {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    !map.split_whitespace().eq(["0", "0", "4294967295"])
}
