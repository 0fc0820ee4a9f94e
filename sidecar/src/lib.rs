//! `isthmus-sidecar run … -- COMMAND`: the agent beside a workload. It joins, starts everything, then starts the command, and ends as
//! the command ends.

pub mod args;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use isthmus_agent::child::{Asked, Signal, Signals, Workload as Child, wrapper};
use isthmus_agent::{Agent, Config, Ports, Workload, enroll};
use isthmus_lifecycle::{Drain, SystemClock};
use isthmus_model::Locality;
use tokio::sync::watch;

pub use args::Args;
use args::{Command, RunArgs};

/// Runs to its end; the exit code is the command's.
///
/// # Errors
/// When the agent does not start, or fails in a part that it cannot do without.
pub async fn run(args: Args) -> anyhow::Result<u8> {
    let args = match args.command {
        Command::Run(run) => {
            isthmus_process::telemetry::init(&args.log)?;
            run
        }
        Command::Become(args) => {
            let error = isthmus_agent::child::become_workload(&args.command, args.parent, args.open_files);
            eprintln!("isthmus-sidecar: {error}");
            // As a shell says it.
            return Ok(127);
        }
    };
    let open_files = isthmus_agent::limits::raise_open_files();
    let mut signals = Signals::listen().context("signal handlers")?;
    let (alive, living) = watch::channel(false);
    let drain = Drain::new();
    let starting = Box::pin(start(&args, living, &drain));
    let agent = tokio::select! {
        started = starting => started?,
        Asked::Stop(_) = stop_asked(&mut signals) => return Ok(0),
    };
    let outcome = beside(&args, &agent, &mut signals, alive, &drain, &wrapper(open_files)).await;
    drain.graceful(args.agent.drain).await;
    match (outcome?, agent.finished().await) {
        (_, Some(failure)) => anyhow::bail!("{failure}"),
        (code, None) => Ok(code),
    }
}

async fn start(args: &RunArgs, living: watch::Receiver<bool>, drain: &Drain) -> anyhow::Result<Agent> {
    let mark = args.agent.mark()?;
    let addresses = args.agent.addresses()?;
    let resolvers = isthmus_agent::args::resolvers()?;
    let token = args.token_file.as_deref().map(isthmus_agent::args::token_file).transpose()?;
    let enrollment = args.agent.enrollment(&args.data_dir, token, Some(args.service_account.clone()), mark);
    let enrolled = enroll(enrollment).await?;
    let workload = workload(args, addresses);
    let agent = Agent::start(
        Config {
            enrolled,
            workload,
            ports: Ports::standard(&resolvers),
            resolvers,
            resolv_conf: Some(isthmus_agent::args::RESOLV_CONF.into()),
            capture: args.agent.capture(),
            proxy: args.agent.choice(args.workers.concurrency, wrapper(None)),
            probe: args.probe.clone().map(|what| (args.schedule(), what)),
            alive: Some(living),
            mark,
            clock: Arc::new(SystemClock),
        },
        drain.clone(),
    )
    .await?;
    Ok(agent)
}

fn workload(args: &RunArgs, addresses: Vec<IpAddr>) -> Workload {
    let (name, workload) = args.names(&isthmus_agent::args::hostname());
    Workload {
        kind: "sidecar",
        name: name.into(),
        workload: workload.into(),
        labels: args.labels.iter().cloned().collect(),
        ports: args.ports.clone(),
        addresses,
        locality: Locality::parse(args.agent.locality.as_deref().unwrap_or_default()),
        registration: isthmus_agent::Registration::Pod,
        health_checked: args.probe.is_some(),
        dns_capture: true,
        network_view: None,
    }
}

/// Starts the command once the agent is ready, and stays until it ends or someone asks to stop.
async fn beside(
    args: &RunArgs,
    agent: &Agent,
    signals: &mut Signals,
    alive: watch::Sender<bool>,
    drain: &Drain,
    wrapper: &[String],
) -> anyhow::Result<u8> {
    let stop = drain.signal();
    let mut patience = tokio::time::interval(Duration::from_secs(10));
    patience.reset();
    let ready = agent.ready();
    tokio::pin!(ready);
    loop {
        tokio::select! {
            () = &mut ready => break,
            Asked::Stop(_) = stop_asked(signals) => return Ok(0),
            () = stop.stopping() => return Ok(1),
            _ = patience.tick() => {
                tracing::warn!(awaited = ?agent.awaited(), "not ready yet, the workload waits");
            }
        }
    }
    tracing::info!(command = %args.command.join(" "), "ready, starting the workload");
    let bootstrap = isthmus_agent::grpc::bootstrap_file(&args.data_dir);
    let bootstrap = Some(bootstrap).filter(|bootstrap| bootstrap.exists());
    let environment = bootstrap.as_deref().map(|bootstrap| ("GRPC_XDS_BOOTSTRAP", bootstrap));
    let mut child = Child::start(wrapper, &args.command, environment.as_slice(), alive)?;
    loop {
        let asked = tokio::select! {
            ended = child.ended() => return Ok(ended?),
            () = stop.stopping() => {
                // The agent is going: without it the workload would stand there unguarded.
                let ended = child.stop(Signal::SIGTERM, args.grace).await?;
                return Ok(ended.max(1));
            }
            asked = signals.next() => asked,
        };
        match asked {
            Asked::Pass(signal) => child.signal(signal),
            Asked::Stop(signal) => {
                tracing::info!(%signal, "stopping the workload");
                agent.farewell().await;
                return Ok(child.stop(signal, args.grace).await?);
            }
        }
    }
}

async fn stop_asked(signals: &mut Signals) -> Asked {
    loop {
        let asked = signals.next().await;
        if matches!(asked, Asked::Stop(_)) {
            return asked;
        }
    }
}
