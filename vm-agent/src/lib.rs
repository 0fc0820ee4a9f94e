//! `isthmus-vm-agent`: brings a virtual machine into the mesh. A token is needed once; then the identity renews itself.

pub mod args;
mod ask;
mod group;
mod status;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use isthmus_agent::child::{Asked, Signals};
use isthmus_agent::data::DataError;
use isthmus_agent::health::spec::of_group;
use isthmus_agent::{Agent, Config, DataDir, Enrolled, Membership, Ports, Registration, Workload, enroll};
use isthmus_lifecycle::{Drain, SystemClock};
use isthmus_model::token::{Grant, JoinToken};

pub use args::Args;
use args::{Command, DataArgs, RunArgs};

/// A machine without a control plane in reach is told so after this.
const JOIN_PATIENCE: Duration = Duration::from_secs(30);
/// An agent that was asked to quit has so long.
const LEAVE_PATIENCE: Duration = Duration::from_secs(30);

/// Runs to its end.
///
/// # Errors
/// When the machine is no member, the agent does not start, or fails in a part that it cannot do without.
pub async fn run(args: Args) -> anyhow::Result<()> {
    isthmus_process::telemetry::init(&args.log)?;
    match args.command {
        Command::Join(join) => {
            let token = read_token(&join.token)?;
            let Grant::Vm(_) = token.grant else {
                bail!(
                    "this token is for workloads of a host: use it with `isthmus-sidecar run --token-file`"
                );
            };
            let enrolled = become_member(&join.run, Some(token)).await?;
            let member = &enrolled.membership;
            println!(
                "joined cluster {} as {}, on network {:?}",
                member.cluster,
                member.spiffe(),
                member.network.as_str()
            );
            println!("keys and certificate are in {}", enrolled.data.identity().display());
            if join.no_run {
                println!("next: isthmus-vm-agent run --data-dir {}", join.run.data.data_dir.display());
                return Ok(());
            }
            serve(join.run, enrolled).await
        }
        Command::Run(run) => {
            let enrolled = become_member(&run, None).await?;
            serve(*run, enrolled).await
        }
        Command::Leave(data) => leave(&data).await,
        Command::Status(args) => status::run(&args).await,
        Command::Become(args) => {
            Err(isthmus_agent::child::become_workload(&args.command, args.parent, args.open_files).into())
        }
    }
}

fn read_token(text: &str) -> anyhow::Result<JoinToken> {
    if text == "-" {
        return Ok(std::io::read_to_string(std::io::stdin()).context("standard input")?.parse()?);
    }
    Ok(text.parse()?)
}

async fn become_member(args: &RunArgs, token: Option<JoinToken>) -> anyhow::Result<Enrolled> {
    let mark = args.agent.mark()?;
    let mut enrollment = args.agent.enrollment(&args.data.data_dir, token, None, mark);
    enrollment.patience = Some(JOIN_PATIENCE);
    Ok(enroll(enrollment).await?)
}

async fn serve(args: RunArgs, enrolled: Enrolled) -> anyhow::Result<()> {
    let mut signals = Signals::listen().context("signal handlers")?;
    let _ = isthmus_agent::limits::raise_open_files();
    let drain = Drain::new();
    let agent = Box::pin(start(&args, enrolled, &drain)).await?;
    let stop = drain.signal();
    let mut patience = tokio::time::interval(Duration::from_secs(10));
    patience.reset();
    let mut ready = false;
    loop {
        tokio::select! {
            () = agent.ready(), if !ready => {
                ready = true;
                tracing::info!("ready");
            }
            _ = patience.tick(), if !ready => {
                tracing::warn!(awaited = ?agent.awaited(), "not ready yet");
            }
            () = stop.stopping() => break,
            asked = signals.next() => if let Asked::Stop(signal) = asked {
                tracing::info!(%signal, "stopping");
                agent.farewell().await;
                break;
            },
        }
    }
    drain.graceful(args.agent.drain).await;
    match agent.finished().await {
        Some(failure) => bail!("{failure}"),
        None => Ok(()),
    }
}

async fn start(args: &RunArgs, enrolled: Enrolled, drain: &Drain) -> anyhow::Result<Agent> {
    let mark = args.agent.mark()?;
    let resolvers = isthmus_agent::args::resolvers()?;
    let spec = enrolled.membership.group_spec.clone().unwrap_or_default();
    let probe = of_group(&spec)?;
    let workload = workload(args, &enrolled.membership, &spec, probe.is_some())?;
    let config = Config {
        enrolled,
        workload,
        ports: Ports::standard(&resolvers),
        resolvers,
        resolv_conf: Some(isthmus_agent::args::RESOLV_CONF.into()),
        capture: args.agent.capture(),
        proxy: args.agent.choice(args.workers.concurrency, isthmus_agent::child::wrapper(None)),
        probe,
        alive: None,
        mark,
        clock: Arc::new(SystemClock),
    };
    Ok(Agent::start(config, drain.clone()).await?)
}

fn workload(
    args: &RunArgs,
    membership: &Membership,
    spec: &serde_json::Value,
    health_checked: bool,
) -> anyhow::Result<Workload> {
    let group = membership.group.as_ref().map(|group| Arc::clone(&group.name));
    let Some(group) = group else {
        bail!(
            "this machine joined as a host, not as a VM; use isthmus-sidecar, or join with a token of `isthmus vm token`"
        );
    };
    let mut labels = group::labels(spec);
    labels.extend(args.labels.iter().cloned());
    let locality = match &args.agent.locality {
        Some(text) => isthmus_model::Locality::parse(text),
        None => group::locality(spec),
    };
    Ok(Workload {
        kind: "sidecar",
        name: args.name.clone().unwrap_or_else(isthmus_agent::args::hostname).into(),
        workload: group,
        labels: labels.into_iter().collect(),
        ports: group::ports(spec),
        addresses: args.agent.addresses()?,
        locality,
        registration: Registration::Group,
        health_checked,
        dns_capture: true,
        network_view: None,
    })
}

/// Stops a running agent, removes capture, forgets the membership. The control plane needs no word: the entry goes with the stream.
async fn leave(data: &DataArgs) -> anyhow::Result<()> {
    let directory = free(&data.data_dir).await?;
    isthmus_capture::lease::remove().await?;
    println!("traffic capture removed: this machine's traffic is direct");
    directory.forget()?;
    println!("membership forgotten; this machine's entry in the mesh disappears with its connection");
    Ok(())
}

async fn free(path: &Path) -> anyhow::Result<DataDir> {
    match DataDir::open(path) {
        Ok(directory) => return Ok(directory),
        Err(DataError::InUse(_)) => {}
        Err(error) => return Err(error.into()),
    }
    ask::quit().await.context("the running agent cannot be asked to quit; stop it first")?;
    println!("asked the running agent to quit");
    let deadline = tokio::time::Instant::now() + LEAVE_PATIENCE;
    loop {
        match DataDir::open(path) {
            Ok(directory) => return Ok(directory),
            Err(DataError::InUse(_)) if tokio::time::Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
}
