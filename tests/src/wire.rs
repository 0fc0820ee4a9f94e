//! What the testbed's processes say to one another: one JSON object a line.

use std::io::{BufRead, Write};

use anyhow::Context;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::topology::Network;

/// From the fabric to a host's init.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Order {
    /// Start a program; answered by `Started` or `Refused`, later by `Ended`.
    Start {
        /// Repeated in the answers.
        id: u64,
        /// Run by `sh -c`.
        command: String,
        /// Added to the host's environment.
        env: Vec<(String, String)>,
        /// Its standard input.
        stdin: String,
        /// Where a program's output goes; none captures it into `Ended`.
        log: Option<String>,
    },
    /// Send a signal to a process group.
    Signal {
        /// Process group in the host.
        group: i32,
        /// Number of the signal.
        signal: i32,
    },
}

/// From a host's init to the fabric.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Event {
    /// The host's file system is private now, its name set.
    Up,
    /// The host cannot come up.
    Failed(String),
    /// A program runs.
    Started {
        /// Of the order.
        id: u64,
        /// Process in the host, which is its group too.
        pid: i32,
    },
    /// A program did not start.
    Refused {
        /// Of the order.
        id: u64,
        /// Why.
        error: String,
    },
    /// A program is gone.
    Ended {
        /// Of the order.
        id: u64,
        /// How.
        status: Status,
        /// Captured, cut at a bound.
        stdout: String,
        /// Captured, cut at a bound.
        stderr: String,
    },
}

/// How a program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Status {
    /// By itself.
    Code(i32),
    /// By a signal.
    Signal(i32),
}

impl Status {
    /// Whether it ended well.
    #[must_use]
    pub fn is_success(self) -> bool {
        self == Self::Code(0)
    }
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::Signal(signal) => write!(f, "signal {signal}"),
        }
    }
}

/// Which proxies the workloads and the VM have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "camelCase")]
pub enum Proxies {
    /// Ours, within the agents.
    #[default]
    Isthmus,
    /// An Envoy beside each agent.
    Envoy,
    /// The one and the other by turns, so that each kind calls and is called by the other.
    Mixed,
}

/// What a person asked for.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Opening {
    /// Tells this run's processes from others'.
    pub run: String,
    /// Stay up after the story.
    pub keep: bool,
    /// Part to break.
    pub break_part: Option<String>,
    /// Last step to run.
    pub until: Option<usize>,
    /// Directory of the programs.
    pub programs: String,
    /// The folder `deploy` of the checkout.
    pub deploy: String,
    /// Folders that no host sees.
    pub hidden: Vec<String>,
    /// `PATH` of the launcher, put behind the programs'.
    pub path: String,
    /// Where to copy all logs at the end; empty for nowhere.
    pub logs: String,
    /// What programs log, such as `info,isthmus_xds=debug`; empty for their default.
    pub program_log: String,
    /// Which story: `demo`, or a plain one of the tests.
    pub story: String,
    /// The demo's proxies.
    pub proxies: Proxies,
}

/// From the launcher to the fabric.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Ask {
    /// First message.
    Open(Box<Opening>),
    /// Boot one more host.
    AddHost {
        /// Host name.
        name: String,
        /// Network.
        network: Network,
    },
}

/// From the fabric to the launcher.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Tell {
    /// The story held and the mesh stays up.
    Kept {
        /// Cluster name, `admin.kubeconfig`, its host.
        clusters: Vec<Kubeconfig>,
    },
    /// Answer to `AddHost`.
    Added {
        /// Address, or why not.
        result: Result<String, String>,
    },
}

/// The admin's way into one cluster.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Kubeconfig {
    /// Cluster, which names the context.
    pub cluster: String,
    /// Host of its API server.
    pub host: String,
    /// Text of the file.
    pub text: String,
}

/// Writes one line.
///
/// # Errors
/// When the other side is gone.
pub fn send<T: Serialize>(to: &mut impl Write, message: &T) -> anyhow::Result<()> {
    let mut line = serde_json::to_vec(message).context("message")?;
    line.push(b'\n');
    to.write_all(&line)?;
    to.flush()?;
    Ok(())
}

/// Reads one line; none at the end.
///
/// # Errors
/// When it is not such a message.
pub fn receive<T: DeserializeOwned>(from: &mut impl BufRead) -> anyhow::Result<Option<T>> {
    let mut line = String::new();
    if from.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    serde_json::from_str(&line).with_context(|| format!("message {line:?}")).map(Some)
}
