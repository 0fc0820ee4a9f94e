//! The story as a whole: it holds, and with a part broken it fails at the step that names that part.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

const TESTBED: &str = env!("CARGO_BIN_EXE_isthmus-testbed");
const PROGRAMS: [&str; 6] =
    ["bookinfo", "isthmus", "isthmus-primary", "isthmus-sidecar", "isthmus-eastwest-gw", "isthmus-vm-agent"];
/// What a person may have to wait for it.
const WITHIN: Duration = Duration::from_secs(180);

/// One story at a time: their time limits are those of one.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn demo(arguments: &[&str]) -> (bool, String) {
    demo_by(Command::new(TESTBED).arg("demo").args(arguments))
}

fn demo_by(command: &mut Command) -> (bool, String) {
    for program in PROGRAMS {
        let path = PathBuf::from(TESTBED).with_file_name(program);
        assert!(path.exists(), "{} is missing; run `cargo build --workspace` first", path.display());
    }
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let output = command.stdin(Stdio::null()).output().expect("the testbed starts");
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.success(), text)
}

#[test]
fn every_step_holds() {
    holds(Command::new(TESTBED).arg("demo"));
}

#[test]
fn every_step_holds_for_an_ordinary_user() {
    // Whoever runs this test, with user number 1000 and no capability.
    holds(Command::new("unshare").args(["--user", "--map-user=1000", "--map-group=1000", TESTBED, "demo"]));
}

/// The whole story with an Envoy beside every agent, the VM's too.
#[test]
fn every_step_holds_with_envoys() {
    if isthmus_testkit::envoy::program("every_step_holds_with_envoys").is_some() {
        holds(Command::new(TESTBED).args(["demo", "--proxy", "envoy"]));
    }
}

/// To the end of the failover: Envoys and our own proxies call one another, within a cluster and over the border.
#[test]
fn every_step_holds_with_proxies_by_turns() {
    if isthmus_testkit::envoy::program("every_step_holds_with_proxies_by_turns").is_some() {
        holds(Command::new(TESTBED).args(["demo", "--proxy", "mixed", "--until", "6"]));
    }
}

fn holds(testbed: &mut Command) {
    let began = Instant::now();
    let (held, text) = demo_by(testbed);
    assert!(held, "{text}");
    assert!(began.elapsed() < WITHIN, "the story took {:?}\n{text}", began.elapsed());
    assert!(text.contains("Every step held."), "{text}");
}

/// The verdict names step and part: `FAILED at step 3, …: gateway, …`.
fn fails_at(part: &str, step: usize) {
    let (held, text) = demo(&["--break", part]);
    assert!(!held, "nothing noticed that {part} is broken\n{text}");
    let verdict = text.lines().find(|line| line.starts_with("FAILED at step")).unwrap_or_default();
    assert!(verdict.starts_with(&format!("FAILED at step {step},")), "{verdict}\n{text}");
    assert!(verdict.contains(&format!(": {part}: ")), "the step does not name {part}: {verdict}\n{text}");
}

#[test]
fn broken_registration_fails_step_2() {
    fails_at("registration", 2);
}

#[test]
fn broken_federation_fails_step_2() {
    fails_at("federation", 2);
}

#[test]
fn a_broken_gateway_fails_step_3() {
    fails_at("gateway", 3);
}

#[test]
fn broken_capture_fails_step_3() {
    fails_at("capture", 3);
}

#[test]
fn broken_dns_fails_step_4() {
    fails_at("dns", 4);
}

#[test]
fn broken_trust_fails_step_5() {
    fails_at("trust", 5);
}
