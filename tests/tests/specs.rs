//! The demo applies specs and nothing that a control plane should write; systemd units start what there is, locked in.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde::Deserialize as _;
use serde_json::Value;

const APPLIED: [&str; 10] = [
    "Namespace",
    "ServiceAccount",
    "Service",
    "PeerAuthentication",
    "AuthorizationPolicy",
    "DestinationRule",
    "Gateway",
    "WorkloadGroup",
    "ServiceEntry",
    "VirtualService",
];

#[test]
fn the_demo_applies_specs_only() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/demo");
    let mut objects = 0;
    for entry in fs::read_dir(folder).unwrap().flatten() {
        if entry.path().extension().is_none_or(|extension| extension != "yaml") {
            continue;
        }
        let text = fs::read_to_string(entry.path()).unwrap();
        for document in serde_yaml::Deserializer::from_str(&text) {
            let object = Value::deserialize(document).unwrap();
            let kind = object["kind"].as_str().unwrap_or_default();
            assert!(APPLIED.contains(&kind), "{}: {kind}", entry.path().display());
            assert!(object.get("status").is_none(), "{}: {kind} with a status", entry.path().display());
            objects += 1;
        }
    }
    assert!(objects > 15, "{objects} objects");
}

/// Of ten: what systemd thinks of a service that is locked in, but needs the network and root's power over it.
const EXPOSED: &str = "--threshold=27";

#[test]
fn systemd_units_are_sound_and_start_what_there_is() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/systemd");
    let programs = Path::new(env!("CARGO_BIN_EXE_isthmus-testbed")).parent().unwrap();
    let copies = tempfile::tempdir().unwrap();
    let mut units = 0;
    for entry in fs::read_dir(folder).unwrap().flatten() {
        let text = fs::read_to_string(entry.path()).unwrap();
        let command = text.lines().find_map(|line| line.strip_prefix("ExecStart=/usr/bin/")).unwrap();
        let mut words = command.split(' ');
        let program = programs.join(words.next().unwrap());
        // Help is given behind flags that are known alone.
        succeeds(Command::new(&program).args(words).arg("--help"));
        let copy = copies.path().join(entry.file_name());
        fs::write(&copy, text.replace("/usr/bin", programs.to_str().unwrap())).unwrap();
        if Command::new("systemd-analyze").arg("--version").output().is_err() {
            eprintln!("skipped: no systemd-analyze to look at {copy:?}");
            return;
        }
        let said = succeeds(Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&copy));
        assert_eq!(said, "", "{copy:?}");
        succeeds(Command::new("systemd-analyze").args(["security", "--offline=yes", EXPOSED]).arg(&copy));
        units += 1;
    }
    assert_eq!(units, 2);
}

/// What it said on standard error.
fn succeeds(command: &mut Command) -> String {
    let output = command.output().expect("a program that is there");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{command:?}: {}{said}", String::from_utf8_lossy(&output.stdout));
    said
}
