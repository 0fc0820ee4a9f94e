//! `isthmus validate`.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use isthmus_resources::{parse, validate as check, warnings};
use owo_colors::OwoColorize;
use serde::Serialize;

use crate::args::{Format, ValidateArgs};
use crate::output;

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
        for (file, text) in texts(path)? {
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

fn texts(path: &Path) -> anyhow::Result<Vec<(String, String)>> {
    let shown = path.display().to_string();
    if shown == "-" {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).context("reading standard input")?;
        return Ok(vec![("standard input".to_string(), text)]);
    }
    if !path.is_dir() {
        let text = fs::read_to_string(path).with_context(|| format!("reading {shown}"))?;
        return Ok(vec![(shown, text)]);
    }
    let mut files = Vec::new();
    for entry in fs::read_dir(path).with_context(|| format!("reading {shown}"))? {
        let file = entry.with_context(|| format!("reading {shown}"))?.path();
        let readable = file.extension().is_some_and(|end| end == "yaml" || end == "yml" || end == "json");
        if readable && file.is_file() {
            files.push(file);
        }
    }
    files.sort_unstable();
    let read = |file: PathBuf| {
        let text = fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
        Ok((file.display().to_string(), text))
    };
    files.into_iter().map(read).collect()
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
