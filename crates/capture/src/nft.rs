//! Runs the stock `nft` program: a whole text is one transaction.

use std::process::Stdio;
use std::time::Duration;

use thiserror::Error;
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, Command};

/// `nft` answers in milliseconds; a machine that starves it longer is told so.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where it lies when `PATH` has no `sbin`, as an ordinary user's often has not.
const PLACES: [&str; 3] = ["nft", "/usr/sbin/nft", "/sbin/nft"];

/// Why rules were not applied. None of a refused text is in force.
#[derive(Debug, Error)]
pub enum NftError {
    /// Not installed.
    #[error("nft is not installed: install the package nftables")]
    Missing,
    /// Did not start or its pipe broke.
    #[error("nft does not run: {0}")]
    Run(#[from] std::io::Error),
    /// Refused the text.
    #[error(
        "nft refused the rules: {0}; it needs CAP_NET_ADMIN in this network namespace and nf_tables in the kernel"
    )]
    Refused(String),
    /// Did not end.
    #[error("nft did not end within {} s", PATIENCE.as_secs())]
    Slow,
}

/// Applies a text as one transaction.
///
/// # Errors
/// When `nft` is missing, refuses, or does not end within 10 s.
pub async fn apply(text: &str) -> Result<(), NftError> {
    let mut child = start()?;
    let work = async {
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(text.as_bytes()).await?;
        }
        child.wait_with_output().await
    };
    let output = tokio::time::timeout(PATIENCE, work).await.map_err(|_| NftError::Slow)??;
    if output.status.success() {
        return Ok(());
    }
    // The first line names the mistake; the rest repeats the text with carets.
    let problem = String::from_utf8_lossy(&output.stderr);
    Err(NftError::Refused(problem.lines().next().unwrap_or("no reason given").to_string()))
}

fn start() -> Result<Child, NftError> {
    for place in PLACES {
        let child = Command::new(place)
            .args(["-f", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn();
        match child {
            Ok(child) => return Ok(child),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(NftError::Missing)
}
