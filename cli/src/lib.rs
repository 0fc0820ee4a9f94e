//! The command `isthmus`: certificates, links, tokens, inspection.
//!
//! What a script wants goes to standard output; advice and warnings go to standard error. Exit codes: 0 done, 1 failed,
//! 2 wrong usage.

mod analyze;
mod api;
mod args;
mod ca;
mod completion;
mod files;
mod grant;
mod gw;
mod link;
mod mesh;
mod objects;
mod output;
mod positions;
mod preview;
mod proxy_config;
mod status;
mod tokens;
mod validate;

pub use args::Args;

use args::{Command, HostCommand, VmCommand};

/// Runs one command.
///
/// # Errors
/// When it failed; the text says of what, and what to do.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let server = args.server;
    match args.command {
        Command::Ca(command) => ca::run(&command),
        Command::Vm(VmCommand::Token(options)) => tokens::vm(&server, &options).await,
        Command::Host(HostCommand::Token(options)) => tokens::host(&server, &options).await,
        Command::Gw(command) => gw::run(&command).await,
        Command::Link(command) => link::run(&server, &command).await,
        Command::Status(options) => status::run(&server, &options).await,
        Command::ProxyConfig(options) => proxy_config::run(&server, &options).await,
        Command::Validate(options) => validate::run(&options),
        Command::Analyze(options) => analyze::run(&server, &options).await,
        Command::Crds => output::documents(&isthmus_resources::crds()),
        Command::Preview(options) => preview::run(&options),
        Command::Version(options) => output::version(options.output),
        Command::Completion { shell } => completion::run(shell),
    }
}

/// What `isthmus preview` shows, for programs that compare it.
///
/// # Errors
/// When it fails, when an object was refused, and when the arguments are another command's.
pub fn previewed(args: &Args) -> anyhow::Result<serde_json::Value> {
    let Command::Preview(options) = &args.command else { anyhow::bail!("the command is not preview") };
    let mut remarks = preview::Remarks::default();
    let shown = preview::resources(options, &mut remarks)?;
    remarks.end()?;
    Ok(shown)
}
