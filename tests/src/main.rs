//! `isthmus-testbed`: the demo, and the namespaces in which it happens.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use isthmus_tests::wire::Proxies;
use isthmus_tests::{fabric, init, keep, launch, resolver, topology};

#[derive(Debug, Parser)]
#[command(
    name = "isthmus-testbed",
    version,
    about = "The mesh in network namespaces: two clusters, three networks, a VM"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Where a demo that stays up leaves its kubeconfig and its control socket
    #[arg(long, env = "ISTHMUS_DEMO_STATE", global = true, default_value_os_t = default_state())]
    state: PathBuf,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Tell and check the story; exit code 0 if every step held
    Demo {
        /// Stay up afterwards, reachable on 127.0.0.1
        #[arg(long)]
        keep: bool,
        /// Break this part; the story must then fail at the step that names it
        #[arg(long = "break", value_name = "PART", value_parser = isthmus_tests::demo::PARTS)]
        break_part: Option<String>,
        /// Stop after this step
        #[arg(long, value_name = "STEP")]
        until: Option<usize>,
        /// Copy every program's log there at the end
        #[arg(long, value_name = "DIR")]
        logs: Option<PathBuf>,
        /// What programs log, such as `info,isthmus_xds=debug`
        #[arg(long, value_name = "FILTER")]
        program_log: Option<String>,
        /// Which proxies the workloads and the VM have
        #[arg(long, value_enum, value_name = "PROXIES", default_value_t = Proxies::Isthmus)]
        proxy: Proxies,
    },
    /// The same Bookinfo without any mesh, in one network
    Plain {
        /// Stay up until interrupted
        #[arg(long)]
        hang: bool,
    },
    /// README's chapter about a mesh without the demo, word for word
    Own,
    /// A shell, or a command, on a host of the demo that stays up
    Sh {
        /// Host name
        host: String,
        /// Command and arguments; a shell when absent
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<String>,
    },
    /// Add a host to the demo that stays up
    AddHost {
        /// Host name
        name: String,
        /// Network: east, west or site
        network: String,
    },
    /// Stop the demo that stays up
    Stop,
    #[command(hide = true)]
    Fabric,
    #[command(hide = true)]
    HostInit(init::InitArgs),
    #[command(hide = true)]
    Resolver {
        #[arg(long)]
        listen: SocketAddr,
    },
    #[command(hide = true)]
    Forward {
        #[arg(long)]
        to: SocketAddr,
    },
    #[command(hide = true)]
    Sweep,
}

fn default_state() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new(".")).join(".demo")
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("isthmus-testbed: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let done = |()| ExitCode::SUCCESS;
    match cli.command {
        Command::Demo { keep, break_part, until, logs, program_log, proxy } => {
            launch::launch(&launch::Options {
                story: "demo".into(),
                keep,
                break_part,
                until,
                logs,
                program_log,
                proxies: proxy,
                state: cli.state,
            })
        }
        Command::Plain { hang } => {
            let story = if hang { "plain-hang" } else { "plain" };
            launch::launch(&launch::Options { story: story.into(), ..launch::Options::default() })
        }
        Command::Own => {
            launch::launch(&launch::Options { story: "own".into(), ..launch::Options::default() })
        }
        Command::Sh { host, command } => keep::shell(&cli.state, &host, &command),
        Command::AddHost { name, network } => {
            let network = topology::Network::parse(&network)?;
            keep::add_host(&cli.state, &name, network).map(done)
        }
        Command::Stop => keep::stop(&cli.state).map(done),
        Command::Fabric => fabric::run(),
        Command::HostInit(args) => init::run(&args).map(done),
        Command::Resolver { listen } => resolver::run(listen).map(done),
        Command::Forward { to } => keep::forward(to).map(done),
        Command::Sweep => keep::sweep(&cli.state).map(done),
    }
}
