//! The launcher: the one process of a run on the real host. It starts the fabric in new namespaces and dies with it.

use std::io::{BufReader, IsTerminal};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::mpsc::channel;

use anyhow::{Context, bail};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::geteuid;

use crate::keep::Keep;
use crate::wire::{Ask, Opening, Proxies, Tell, receive, send};

/// Exit code after Ctrl-C, as shells have it.
const INTERRUPTED: u8 = 130;

/// What the launcher is asked to do.
#[derive(Debug, Default)]
pub struct Options {
    /// Which story.
    pub story: String,
    /// Stay up after it.
    pub keep: bool,
    /// Part to break.
    pub break_part: Option<String>,
    /// Last step.
    pub until: Option<usize>,
    /// Where all logs are copied at the end.
    pub logs: Option<PathBuf>,
    /// What programs log.
    pub program_log: Option<String>,
    /// The demo's proxies.
    pub proxies: Proxies,
    /// Where a kept demo is found by `demo-sh` and others.
    pub state: PathBuf,
}

enum Happened {
    Signal(Signal),
    Ended(std::process::ExitStatus),
    Told(Tell),
}

/// Runs the story in new namespaces; the exit code is the story's.
///
/// # Errors
/// When namespaces cannot be made here, or the state directory is in use.
pub fn launch(options: &Options) -> anyhow::Result<ExitCode> {
    set_pdeathsig(Signal::SIGKILL).context("parent-death signal")?;
    // In the threads below too: signals are waited for, in one place.
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        signals.add(signal);
    }
    signals.thread_block().context("signals")?;

    // Bound out here: inside there is no way to the real host's loopback.
    let mut keep = if options.keep { Some(Keep::open(&options.state)?) } else { None };
    let (mut line, inside) = UnixStream::pair().context("line to the fabric")?;
    let opening = opening(options)?;
    let mut fabric = start(inside.into())?;
    send(&mut line, &Ask::Open(Box::new(opening.clone())))?;

    let (to, happened) = channel();
    let (from_signals, from_line) = (to.clone(), to.clone());
    std::thread::spawn(move || {
        while let Ok(signal) = signals.wait() {
            let _ = from_signals.send(Happened::Signal(signal));
        }
    });
    let mut told = BufReader::new(line.try_clone()?);
    std::thread::spawn(move || {
        while let Ok(Some(tell)) = receive::<Tell>(&mut told) {
            let _ = from_line.send(Happened::Told(tell));
        }
    });
    let pid = fabric.id();
    std::thread::spawn(move || {
        if let Ok(status) = fabric.wait() {
            let _ = to.send(Happened::Ended(status));
        }
    });
    loop {
        match happened.recv().context("the launcher's threads are gone")? {
            Happened::Signal(signal) => {
                if std::io::stderr().is_terminal() {
                    eprintln!();
                }
                stop(pid);
                let code = if signal == Signal::SIGTERM && keep.is_some() { 0 } else { INTERRUPTED };
                // The end of the fabric is the end of every process in it.
                while !matches!(happened.recv(), Ok(Happened::Ended(_)) | Err(_)) {}
                return Ok(ExitCode::from(code));
            }
            Happened::Ended(status) => {
                return Ok(match status.code() {
                    Some(code) => ExitCode::from(u8::try_from(code).unwrap_or(1)),
                    None => bail!("the testbed was killed"),
                });
            }
            Happened::Told(Tell::Kept { clusters }) => {
                if let Some(keep) = &mut keep {
                    keep.serve(&opening.run, &clusters, &line)?;
                }
            }
            Happened::Told(Tell::Added { result }) => {
                if let Some(keep) = &mut keep {
                    keep.added(result);
                }
            }
        }
    }
}

fn opening(options: &Options) -> anyhow::Result<Opening> {
    let this = std::env::current_exe().context("own executable")?;
    let programs = this.parent().context("directory of the programs")?;
    let checkout = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("checkout")?;
    let text = |path: &Path| path.display().to_string();
    Ok(Opening {
        run: format!("{}-{}", std::process::id(), programs_stamp()),
        keep: options.keep,
        break_part: options.break_part.clone(),
        until: options.until,
        programs: text(programs),
        deploy: text(&checkout.join("deploy")),
        hidden: vec![text(checkout)],
        path: search_path(),
        logs: match &options.logs {
            Some(folder) => {
                std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
                text(&std::fs::canonicalize(folder)?)
            }
            None => String::new(),
        },
        program_log: options.program_log.clone().unwrap_or_default(),
        story: options.story.clone(),
        proxies: options.proxies,
    })
}

/// The boot's identifier tells runs of a machine apart whose process numbers are alike.
fn programs_stamp() -> String {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/uuid").unwrap_or_default();
    id.chars().take(8).collect()
}

#[expect(clippy::disallowed_methods, reason = "the launcher's one look at the environment")]
fn search_path() -> String {
    let own = std::env::var("PATH").unwrap_or_default();
    // nft, ip and mariadbd are there, and not in every user's PATH.
    format!("{own}:/usr/local/sbin:/usr/sbin:/sbin")
}

fn start(line: OwnedFd) -> anyhow::Result<Child> {
    let this = std::env::current_exe().context("own executable")?;
    let mut unshare = Command::new("unshare");
    if !geteuid().is_root() || !may_make_namespaces() {
        unshare.args(["--user", "--map-root-user"]);
    }
    unshare
        .args(["--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"])
        .arg(this)
        .arg("fabric")
        .env("PATH", search_path())
        .stdin(Stdio::from(line))
        .spawn()
        .context("unshare (of util-linux) does not start")
}

/// Root in a container may lack the right; a user namespace then gives it.
fn may_make_namespaces() -> bool {
    Command::new("unshare")
        .args(["--mount", "true"])
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|s| s.success())
}

/// Kills the fabric's `unshare`; `--kill-child` takes the fabric with it.
fn stop(pid: u32) {
    if let Ok(pid) = i32::try_from(pid) {
        // Gone already is as good.
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), Signal::SIGKILL);
    }
}
