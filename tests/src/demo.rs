//! The story, step by step.

use std::process::ExitCode;
use std::time::Instant;

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
mod plain;
mod tls_records;
mod trust;
mod vm_life;
mod wire_bytes;

/// Parts that a run can break on purpose.
pub const PARTS: [&str; 6] = ["federation", "gateway", "dns", "capture", "trust", "registration"];

/// Tells the story that was asked for.
///
/// # Errors
/// When the testbed itself fails; a step that does not hold is an exit code.
pub fn run(fabric: &Fabric, line: Line) -> anyhow::Result<ExitCode> {
    match fabric.opening().story.as_str() {
        "plain" | "plain-hang" => plain::run(fabric, &line),
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
    if code != ExitCode::SUCCESS || !fabric.opening().keep {
        return Ok(code);
    }
    let clusters = [Network::East, Network::West].into_iter().map(|cluster| {
        let host = mesh.control_plane(cluster)?;
        let text = host.must("cat $KUBECONFIG")?;
        Ok(Kubeconfig { cluster: cluster.name().into(), host: host.name().into(), text })
    });
    line.tell(&Tell::Kept { clusters: clusters.collect::<anyhow::Result<_>>()? })?;
    // Until the launcher is gone, which ends this process as well.
    while let Ok(ask) = line.asks.recv() {
        if let Ask::AddHost { name, network } = ask {
            let result = fabric.add(&name, network).map_err(|error| format!("{error:#}"));
            line.tell(&Tell::Added { result })?;
        }
    }
    Ok(code)
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
