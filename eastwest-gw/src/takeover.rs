//! A new process takes over from the one that runs, and no connection is lost.
//!
//! Both use one data directory, where the running gateway waits on a Unix socket. The new one asks; the old one writes its
//! last-good resources down and hands over the lock of the directory and its listening sockets, and goes on serving. The new one
//! prepares until it is ready, and says so; only then the old one stops accepting, and answers. Connections that arrive between
//! wait in the kernel, in the queue of the socket that both have. What is open stays with the old one, which ends with the last of
//! it. When either side fails before the new one is ready, the old one serves as if nothing had been asked.

mod give;
mod take;
mod wire;

use std::path::PathBuf;

use isthmus_agent::DataDir;

pub(crate) use give::{Estate, Giver};
pub(crate) use take::{Inheritance, ask};

/// Changes when old and new processes no longer understand each other.
const VERSION: u32 = 1;
/// Where a running gateway waits, in its data directory.
const SOCKET: &str = "takeover";

fn socket(data: &DataDir) -> PathBuf {
    data.file(SOCKET)
}
