//! A host's init: PID 1 of its PID namespace. It makes the file system private, then starts and signals programs as the
//! fabric orders, and reaps everything. When the fabric is gone, so is the host.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use anyhow::Context;
use clap::Args;
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{Pid, sethostname};

use crate::mounts::{self, View};
use crate::wire::{Event, Order, Status, receive, send};

/// Captured output is cut here.
const MAX_OUTPUT: u64 = 1024 * 1024;

/// What a host is told at its start.
#[derive(Debug, Args)]
pub struct InitArgs {
    /// Host name
    #[arg(long)]
    hostname: String,
    /// The run that it belongs to; only read from its command line by others
    #[arg(long)]
    run: String,
    /// Directory of the programs
    #[arg(long)]
    programs: PathBuf,
    /// The folder `deploy`
    #[arg(long)]
    deploy: PathBuf,
    /// Folders to hide
    #[arg(long)]
    hidden: Vec<PathBuf>,
    /// `PATH` behind the programs'
    #[arg(long)]
    path: String,
    /// Address of the network's DNS server
    #[arg(long)]
    nameserver: Option<String>,
    /// Search list of the resolver
    #[arg(long, default_value = "")]
    search: String,
    /// What programs log
    #[arg(long, default_value = "")]
    program_log: String,
    /// The admin's kubeconfig, on a control plane's host
    #[arg(long, default_value = "")]
    kubeconfig: String,
}

struct Running {
    id: u64,
    capture: Option<(File, File)>,
}

#[derive(Default)]
struct Table {
    running: Mutex<HashMap<i32, Running>>,
    changed: Condvar,
}

/// Runs until standard input ends.
///
/// # Errors
/// When the fabric is gone.
pub fn run(args: &InitArgs) -> anyhow::Result<()> {
    let out = Arc::new(Mutex::new(std::io::stdout()));
    let tell = |event: &Event| send(&mut *out.lock().unwrap_or_else(PoisonError::into_inner), event);
    if let Err(error) = prepare(args) {
        return tell(&Event::Failed(format!("{error:#}")));
    }
    tell(&Event::Up)?;

    let table = Arc::new(Table::default());
    let (reaped, told) = (Arc::clone(&table), Arc::clone(&out));
    std::thread::spawn(move || reap(&reaped, &told));

    let environment = environment(args);
    let mut orders = BufReader::new(std::io::stdin());
    while let Some(order) = receive::<Order>(&mut orders)? {
        match order {
            Order::Start { id, command, env, stdin, log } => {
                // Held until the process is in the table, so that its end is never seen first.
                let mut running = table.running.lock().unwrap_or_else(PoisonError::into_inner);
                match start(&environment, &command, &env, &stdin, log.as_deref()) {
                    Ok((pid, capture)) => {
                        running.insert(pid, Running { id, capture });
                        tell(&Event::Started { id, pid })?;
                        table.changed.notify_all();
                    }
                    Err(error) => tell(&Event::Refused { id, error: format!("{error:#}") })?,
                }
            }
            Order::Signal { group, signal } => {
                // Gone already: that is what the signal was for.
                if let Ok(signal) = Signal::try_from(signal) {
                    let _ = kill(Pid::from_raw(-group), signal);
                }
            }
        }
    }
    Ok(())
}

fn prepare(args: &InitArgs) -> anyhow::Result<()> {
    sethostname(&args.hostname).context("host name")?;
    let mut resolver = String::new();
    if let Some(server) = &args.nameserver {
        resolver.push_str(&format!("nameserver {server}\noptions timeout:2 attempts:2\n"));
    }
    if !args.search.is_empty() {
        resolver.push_str(&format!("search {}\noptions ndots:5\n", args.search));
    }
    let etc = [
        ("resolv.conf", resolver),
        ("hosts", "127.0.0.1 localhost\n".to_string()),
        ("hostname", format!("{}\n", args.hostname)),
        ("nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n".to_string()),
    ];
    mounts::isolate(&View { programs: &args.programs, deploy: &args.deploy, hidden: &args.hidden, etc: &etc })
}

/// What every program of this host has in its environment.
fn environment(args: &InitArgs) -> Vec<(String, String)> {
    let path = format!("{}:{}", mounts::PROGRAMS, args.path);
    let mut environment: Vec<(String, String)> = [
        ("PATH", path.as_str()),
        ("HOME", mounts::HOME),
        ("LANG", "C.UTF-8"),
        ("TERM", "dumb"),
        ("HOSTNAME", &args.hostname),
    ]
    .map(|(name, value)| (name.to_string(), value.to_string()))
    .into();
    if !args.program_log.is_empty() {
        environment.push(("ISTHMUS_LOG".into(), args.program_log.clone()));
    }
    if !args.kubeconfig.is_empty() {
        environment.push(("KUBECONFIG".into(), args.kubeconfig.clone()));
    }
    environment
}

fn start(
    environment: &[(String, String)],
    command: &str,
    env: &[(String, String)],
    stdin: &str,
    log: Option<&str>,
) -> anyhow::Result<(i32, Option<(File, File)>)> {
    let mut sh = Command::new("/bin/sh");
    sh.args(["-c", command]).env_clear().envs(environment.iter().cloned()).envs(env.iter().cloned());
    // A group of its own, so that a signal reaches all that it started and nothing else.
    sh.process_group(0);
    if stdin.is_empty() {
        sh.stdin(Stdio::null());
    } else {
        let mut file = tempfile::tempfile().context("standard input")?;
        file.write_all(stdin.as_bytes())?;
        file.seek(SeekFrom::Start(0))?;
        sh.stdin(file);
    }
    let capture = match log {
        Some(path) => {
            let file = OpenOptions::new().create(true).append(true).open(path).context(path.to_string())?;
            sh.stdout(file.try_clone()?).stderr(file);
            None
        }
        None => {
            let (out, err) = (tempfile::tempfile()?, tempfile::tempfile()?);
            sh.stdout(out.try_clone()?).stderr(err.try_clone()?);
            Some((out, err))
        }
    };
    let child = sh.spawn().context("sh")?;
    // Reaped by `reap`, as everything else here.
    Ok((i32::try_from(child.id())?, capture))
}

/// Waits for every process, the orphans too, and reports those that were ordered.
fn reap(table: &Table, out: &Mutex<std::io::Stdout>) {
    loop {
        let (pid, status) = match waitpid(None::<Pid>, None) {
            Ok(WaitStatus::Exited(pid, code)) => (pid.as_raw(), Status::Code(code)),
            Ok(WaitStatus::Signaled(pid, signal, _)) => (pid.as_raw(), Status::Signal(signal as i32)),
            Ok(_) | Err(Errno::EINTR) => continue,
            // No child at all: wait for one to be started.
            Err(_) => {
                let running = table.running.lock().unwrap_or_else(PoisonError::into_inner);
                let _running = table
                    .changed
                    .wait_while(running, |running| running.is_empty())
                    .unwrap_or_else(PoisonError::into_inner);
                continue;
            }
        };
        let ended = table.running.lock().unwrap_or_else(PoisonError::into_inner).remove(&pid);
        let Some(Running { id, capture }) = ended else { continue };
        let (stdout, stderr) = match capture {
            Some((out, err)) => (read(out), read(err)),
            None => (String::new(), String::new()),
        };
        let event = Event::Ended { id, status, stdout, stderr };
        if send(&mut *out.lock().unwrap_or_else(PoisonError::into_inner), &event).is_err() {
            return;
        }
    }
}

fn read(mut file: File) -> String {
    let mut bytes = Vec::new();
    let read = file.seek(SeekFrom::Start(0)).and_then(|_| file.take(MAX_OUTPUT).read_to_end(&mut bytes));
    match read {
        Ok(_) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) => format!("(output lost: {error})"),
    }
}

/// Where a program's log is in its host.
#[must_use]
pub fn log_path(program: &str) -> String {
    Path::new("/var/log/isthmus").join(format!("{program}.log")).display().to_string()
}
