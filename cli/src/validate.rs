//! `isthmus validate`.

use std::path::PathBuf;

use anyhow::bail;
use isthmus_resources::{parse, validate as check, warnings};
use owo_colors::OwoColorize;
use serde::Serialize;

use crate::args::{Format, ValidateArgs};
use crate::{files, output};

/// One thing found.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Finding {
    file: String,
    object: String,
    severity: Severity,
    message: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Severity {
    Error,
    Warning,
}

/// Checks every object of every file.
pub(crate) fn run(args: &ValidateArgs) -> anyhow::Result<()> {
    let mut findings = Vec::new();
    let mut objects = 0;
    for path in &args.files {
        for (file, text) in files::texts(path)? {
            objects += inspect(&file, &text, &mut findings);
        }
    }
    let errors = findings.iter().filter(|finding| finding.severity == Severity::Error).count();
    let warnings = findings.len() - errors;
    match args.output.output {
        Format::Text => {
            let lines: Vec<String> = findings.iter().map(line).collect();
            output::print(&lines.concat())?;
            if errors == 0 {
                output::print(&format!("{objects} objects valid, {warnings} warnings\n"))?;
            }
        }
        other => output::structured(&findings, other)?,
    }
    if errors > 0 {
        bail!("{errors} errors in {objects} objects; nothing was applied");
    }
    if objects == 0 {
        bail!("no objects found in {}", display(&args.files));
    }
    Ok(())
}

fn display(files: &[PathBuf]) -> String {
    files.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}

/// Adds what is wrong with the objects of a text; how many there are.
fn inspect(file: &str, text: &str, findings: &mut Vec<Finding>) -> usize {
    let mut objects = 0;
    let mut find = |object: String, severity, message: String| {
        findings.push(Finding { file: file.to_string(), object, severity, message });
    };
    for value in parse::values(text) {
        objects += 1;
        let parsed = value.and_then(|value| {
            let notes = warnings(&value);
            parse(value).map(|object| (object, notes))
        });
        match parsed {
            Err(error) => find(String::new(), Severity::Error, error.to_string()),
            Ok((object, notes)) => {
                let name = format!("{} {}", object.kind(), object.meta());
                for problem in check(&object) {
                    find(name.clone(), Severity::Error, problem.to_string());
                }
                for note in notes {
                    find(name.clone(), Severity::Warning, note);
                }
            }
        }
    }
    objects
}

fn line(finding: &Finding) -> String {
    let severity = match finding.severity {
        Severity::Error => "error".red().bold().to_string(),
        Severity::Warning => "warning".yellow().bold().to_string(),
    };
    // What could not be parsed names its object in the message.
    let object = match finding.object.as_str() {
        "" => String::new(),
        some => format!("{some}: "),
    };
    format!("{}: {severity}: {object}{}\n", finding.file, finding.message)
}
