//! `isthmus completion`.

use clap::CommandFactory;

use crate::args::Args;
use crate::output;

/// Prints the script.
pub(crate) fn run(shell: clap_complete::Shell) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Args::command(), "isthmus", &mut script);
    output::print(&String::from_utf8_lossy(&script))
}
