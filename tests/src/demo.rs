//! The story, step by step.

use std::process::ExitCode;
use std::time::Instant;

use crate::fabric::{Fabric, Line};
use crate::report::Report;
use crate::topology;

mod check;
mod mysql;
mod networks;
mod plain;

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

fn demo(fabric: &Fabric, _line: Line) -> anyhow::Result<ExitCode> {
    fabric.boot(topology::demo())?;
    let steps: Vec<Step<'_>> = vec![("Three networks", Box::new(|teller| networks::run(teller, fabric)))];
    Ok(tell(fabric, steps))
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
