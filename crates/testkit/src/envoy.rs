//! The Envoy that tests run.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The one in `PATH`, or the one that `tests/needs.sh` puts beside the built programs; none where neither is, which is said in one
/// line.
#[must_use]
pub fn program(test: &str) -> Option<PathBuf> {
    let beside = std::env::current_exe().ok().and_then(|test| Some(test.parent()?.parent()?.join("envoy")));
    let found = [Some(PathBuf::from("envoy")), beside].into_iter().flatten().find(|program| runs(program));
    if found.is_none() {
        eprintln!("skipped: {test} needs Envoy, which `make needs` brings");
    }
    found
}

fn runs(program: &Path) -> bool {
    let asked = Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    asked.is_ok_and(|status| status.success())
}
