//! The story, step by step.

use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Context;

use crate::fabric::{Fabric, Line};
use crate::report::Report;
use crate::topology::{self, Network};
use crate::wire::{Ask, Kubeconfig, Tell};

mod bookinfo;
mod check;
mod control_life;
mod failover;
mod joined;
mod load;
mod mesh;
mod mysql;
mod names;
mod networks;
mod own;
mod plain;
mod tls_records;
mod trust;
mod vm_life;
mod wire_bytes;

const MAX_LOG_LINES: usize = 20_000;

/// Parts that a run can break on purpose.
pub const PARTS: [&str; 6] = ["federation", "gateway", "dns", "capture", "trust", "registration"];

/// Tells the story that was asked for.
///
/// # Errors
/// When the testbed itself fails; a step that does not hold is an exit code.
pub fn run(fabric: &Fabric, line: Line) -> anyhow::Result<ExitCode> {
    match fabric.opening().story.as_str() {
        "plain" | "plain-hang" => plain::run(fabric, &line),
        "own" => own::run(fabric),
        _ => demo(fabric, line),
    }
}

type Step<'a> = (&'static str, Box<dyn FnMut(&check::Teller<'_>) -> anyhow::Result<()> + 'a>);

fn demo(fabric: &Fabric, mut line: Line) -> anyhow::Result<ExitCode> {
    fabric.boot(topology::demo())?;
    let mesh = mesh::Mesh::new(fabric);
    let steps: Vec<Step<'_>> = vec![
        ("Three networks", Box::new(|teller| networks::run(teller, fabric))),
        ("Joined by hand", Box::new(|teller| joined::run(teller, &mesh))),
        ("Bookinfo over three networks", Box::new(|teller| bookinfo::run(teller, &mesh))),
        ("Names that no DNS server knows", Box::new(|teller| names::run(teller, &mesh))),
        ("Trust", Box::new(|teller| trust::run(teller, &mesh))),
        ("Failover", Box::new(|teller| failover::run(teller, &mesh))),
        ("The VM's life", Box::new(|teller| vm_life::run(teller, &mesh))),
        ("The control planes' life", Box::new(|teller| control_life::run(teller, &mesh))),
    ];
    let code = tell(fabric, steps);
    copy_logs(fabric)?;
    if code != ExitCode::SUCCESS || !fabric.opening().keep {
        return Ok(code);
    }
    let mut clusters = Vec::new();
    for cluster in [Network::East, Network::West] {
        let host = mesh.control_plane(cluster)?;
        // Absent when the story was cut short.
        let file = host.run("cat $KUBECONFIG")?;
        if file.is_success() {
            clusters.push(Kubeconfig {
                cluster: cluster.name().into(),
                host: host.name().into(),
                text: file.stdout,
            });
        }
    }
    line.tell(&Tell::Kept { clusters })?;
    // Until the launcher is gone, which ends this process as well.
    while let Ok(ask) = line.asks.recv() {
        if let Ask::AddHost { name, network } = ask {
            let result = fabric.add(&name, network).map_err(|error| format!("{error:#}"));
            line.tell(&Tell::Added { result })?;
        }
    }
    Ok(code)
}

/// To the folder that was named, which is the real host's.
fn copy_logs(fabric: &Fabric) -> anyhow::Result<()> {
    if fabric.opening().logs.is_empty() {
        return Ok(());
    }
    for host in fabric.hosts() {
        for log in host.logs() {
            let name = format!("{}--{log}.log", host.name());
            let text = host.log_tail(&log, MAX_LOG_LINES);
            let path = Path::new(&fabric.opening().logs).join(name);
            std::fs::write(&path, text).with_context(|| path.display().to_string())?;
        }
    }
    Ok(())
}

/// Runs steps in order, to the first that does not hold.
fn tell(fabric: &Fabric, steps: Vec<Step<'_>>) -> ExitCode {
    let mut report = Report::default();
    for (index, (title, mut step)) in steps.into_iter().enumerate() {
        let number = index + 1;
        if fabric.opening().until.is_some_and(|last| number > last) {
            break;
        }
        report.begin(number, title);
        let began = Instant::now();
        if let Err(error) = step(&check::Teller { report: &report }) {
            report.failed(number, title, &error);
            return ExitCode::FAILURE;
        }
        report.held(number, title, began.elapsed());
    }
    report.finish();
    ExitCode::SUCCESS
}
