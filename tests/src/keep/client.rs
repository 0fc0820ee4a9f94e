//! What other terminals do with a demo that stays up: a shell on a host, one more host, the end.

use std::fs;
use std::io::BufReader;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;

use super::{Answer, RUN, Request, SOCKET, enter, find_host};
use crate::mounts;
use crate::topology::Network;
use crate::wire::{receive, send};

/// A shell or a command on a host.
///
/// # Errors
/// When no demo stays up, or it has no such host.
pub fn shell(state: &Path, host: &str, command: &[String]) -> anyhow::Result<ExitCode> {
    let (pid, arguments) = find_host(&run_of(state)?, host)?;
    let after = |flag: &str| {
        let at = arguments.iter().position(|argument| argument == flag)?;
        arguments.get(at + 1).cloned()
    };
    let mut nsenter = enter(pid, &["--mount", "--net", "--pid", "--uts", "--ipc"]);
    nsenter.args(["env", "-i", "sh", "-c"]);
    let path = format!("PATH={}:{}", mounts::PROGRAMS, after("--path").unwrap_or_default());
    let mut script = format!("cd {home} && exec env HOME={home} LANG=C.UTF-8 ", home = mounts::HOME);
    if let Some(kubeconfig) = after("--kubeconfig").filter(|path| !path.is_empty()) {
        script.push_str(&format!("KUBECONFIG={kubeconfig} "));
    }
    script.push_str("\"$@\"");
    nsenter.args([script.as_str(), "sh", path.as_str(), &format!("HOSTNAME={host}"), &terminal()]);
    if command.is_empty() {
        nsenter.args([&format!("PS1={host}$ "), "bash", "--norc", "-i"]);
    } else {
        nsenter.args(command);
    }
    let status = nsenter.status().context("nsenter (of util-linux) does not start")?;
    Ok(ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1)))
}

#[expect(clippy::disallowed_methods, reason = "the shell needs the terminal's kind")]
fn terminal() -> String {
    format!("TERM={}", std::env::var("TERM").unwrap_or_else(|_| "dumb".into()))
}

/// Adds a host.
///
/// # Errors
/// When no demo stays up, the name is taken or is none.
pub fn add_host(state: &Path, name: &str, network: Network) -> anyhow::Result<()> {
    let address = ask(state, &Request::AddHost { name: name.into(), network })?;
    println!(
        "host {name} is up in network {} with address {address}; make demo-sh HOST={name}",
        network.name()
    );
    Ok(())
}

/// Stops the demo.
///
/// # Errors
/// When none stays up.
pub fn stop(state: &Path) -> anyhow::Result<()> {
    ask(state, &Request::Stop)?;
    while state.join(SOCKET).exists() {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    println!("stopped");
    Ok(())
}

fn ask(state: &Path, request: &Request) -> anyhow::Result<String> {
    let mut stream = UnixStream::connect(state.join(SOCKET)).map_err(|_| none_stays_up(state))?;
    send(&mut stream, request)?;
    let answer = receive::<Answer>(&mut BufReader::new(stream))?;
    answer.context("the demo is ending")?.map_err(anyhow::Error::msg)
}

fn run_of(state: &Path) -> anyhow::Result<String> {
    fs::read_to_string(state.join(RUN)).map_err(|_| none_stays_up(state))
}

fn none_stays_up(state: &Path) -> anyhow::Error {
    anyhow::anyhow!("no demo stays up in {}; start one with `make demo KEEP=1`", state.display())
}
