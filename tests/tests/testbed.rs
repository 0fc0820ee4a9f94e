//! The testbed itself: it isolates, it works for whoever runs it, and it leaves nothing behind.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const TESTBED: &str = env!("CARGO_BIN_EXE_isthmus-testbed");

fn testbed(arguments: &[&str]) -> Command {
    let mut command = Command::new(TESTBED);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Bookinfo is a program of another package: cargo builds it for `--workspace` only.
fn bookinfo_is_built() {
    let program = PathBuf::from(TESTBED).with_file_name("bookinfo");
    assert!(program.exists(), "{} is missing; run `cargo build --workspace` first", program.display());
}

/// Network namespaces of a run's processes.
fn namespaces_of(run: &str) -> BTreeSet<PathBuf> {
    processes()
        .filter(|process| fs::read_to_string(process.join("cmdline")).is_ok_and(|line| line.contains(run)))
        .filter_map(|process| fs::read_link(process.join("ns/net")).ok())
        .collect()
}

fn processes() -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir("/proc").expect("/proc is there").flatten().map(|entry| entry.path());
    entries.filter(|path| {
        path.file_name().is_some_and(|n| n.to_string_lossy().bytes().all(|b| b.is_ascii_digit()))
    })
}

fn in_any(namespaces: &BTreeSet<PathBuf>) -> Vec<PathBuf> {
    processes()
        .filter(|process| fs::read_link(process.join("ns/net")).is_ok_and(|net| namespaces.contains(&net)))
        .collect()
}

/// Waits for a state; the bound only ends a test that fails.
fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::yield_now();
    }
}

/// Starts a run that stays up, and waits until it does.
fn hanging() -> Child {
    let mut child = testbed(&["plain", "--hang"]).spawn().expect("the testbed starts");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines().map_while(Result::ok);
    assert!(lines.any(|line| line.contains("waiting")), "the run does not come up");
    child
}

#[test]
fn bookinfo_works_without_a_mesh_and_networks_are_apart() {
    bookinfo_is_built();
    let output = testbed(&["plain"]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("between networks 0 of"), "{text}");
    assert!(!text.contains('\u{1b}'), "no colours into a pipe");
}

#[test]
fn an_ordinary_user_can_run_it() {
    bookinfo_is_built();
    // Whoever runs this test, with user number 1000 and no capability.
    let output = Command::new("unshare")
        .args(["--user", "--map-user=1000", "--map-group=1000", TESTBED, "plain"])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn two_runs_at_once_do_not_meet() {
    bookinfo_is_built();
    let runs = [testbed(&["plain"]).spawn().unwrap(), testbed(&["plain"]).spawn().unwrap()];
    for run in runs {
        let output = run.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    }
}

#[test]
fn whatever_is_killed_nothing_stays_behind() {
    bookinfo_is_built();
    for victim in ["launcher", "unshare", "fabric"] {
        for signal in ["KILL", "INT", "TERM"] {
            // The others are told to stop by nobody but their ancestor.
            if victim != "launcher" && signal != "KILL" {
                continue;
            }
            let mut run = hanging();
            let id = format!("{}-", run.id());
            let namespaces = namespaces_of(&id);
            assert!(namespaces.len() > 10, "hosts are namespaces: {namespaces:?}");
            let pid = match victim {
                "launcher" => run.id(),
                "unshare" => child_of(run.id()),
                _ => child_of(child_of(run.id())),
            };
            let killed =
                Command::new("kill").args([&format!("-{signal}"), &pid.to_string()]).status().unwrap();
            assert!(killed.success());
            run.wait().unwrap();
            wait_until(&format!("{victim} got SIG{signal}, and processes are left"), || {
                in_any(&namespaces).is_empty()
            });
            let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
            assert!(!mounts.contains("/run/isthmus"), "{mounts}");
        }
    }
}

fn child_of(parent: u32) -> u32 {
    let children = processes().filter_map(|process| {
        let stat = fs::read_to_string(process.join("stat")).ok()?;
        let after_name: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
        let is_child = *after_name.get(1)? == parent.to_string();
        let pid = process.file_name()?.to_str()?.parse().ok()?;
        is_child.then_some(pid)
    });
    children.min().expect("the parent has a child")
}
