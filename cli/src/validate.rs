//! `isthmus validate`.

use std::cell::OnceCell;
use std::path::PathBuf;

use anyhow::bail;
use isthmus_resources::{ParseError, parse, validate as check, warnings};
use owo_colors::OwoColorize;
use serde::Serialize;
use serde_json::Value;

use crate::args::{Format, ValidateArgs};
use crate::positions::{Header, Positions};
use crate::{files, output};

/// One thing found.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Finding {
    file: String,
    /// Of the field, or of what would hold it.
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<usize>,
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
    let positions = OnceCell::new();
    let mut find = |raw: &Value, object: String, severity, field: &str, message: String| {
        let text_of = |value: &'_ Value| value.as_str().unwrap_or_default().to_string();
        let (kind, meta) = (text_of(&raw["kind"]), &raw["metadata"]);
        let (namespace, name) = (text_of(&meta["namespace"]), text_of(&meta["name"]));
        let header = Header { kind: &kind, namespace: &namespace, name: &name };
        let positions = positions.get_or_init(|| Positions::of(text));
        let line = if raw.is_null() { None } else { positions.line(header, field) };
        findings.push(Finding { file: file.to_string(), line, object, severity, message });
    };
    for value in parse::values(text) {
        objects += 1;
        let raw = match value {
            Ok(raw) => raw,
            // Its text has the line.
            Err(error) => {
                find(&Value::Null, String::new(), Severity::Error, "", error.to_string());
                continue;
            }
        };
        let object = match parse(raw.clone()) {
            Ok(object) => object,
            Err(error) => {
                let field = match &error {
                    ParseError::Field { field, .. } => field.clone(),
                    _ => String::new(),
                };
                find(&raw, String::new(), Severity::Error, &field, error.to_string());
                continue;
            }
        };
        let name = format!("{} {}", object.kind(), object.meta());
        for problem in check(&object) {
            find(&raw, name.clone(), Severity::Error, &problem.field, problem.to_string());
        }
        for note in warnings(&raw) {
            let field =
                note.split([' ', '[']).next().filter(|word| word.starts_with("spec.")).unwrap_or_default();
            find(&raw, name.clone(), Severity::Warning, field, note.clone());
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
    let line = finding.line.map(|line| format!(":{line}")).unwrap_or_default();
    format!("{}{line}: {severity}: {object}{}\n", finding.file, finding.message)
}
