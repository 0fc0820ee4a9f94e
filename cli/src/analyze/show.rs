//! Findings for people and for scripts.

use anyhow::bail;
use isthmus_model::ClusterId;
use owo_colors::OwoColorize;
use serde_json::{Map, Value, json};

use super::Level;
use super::code::ALL;
use super::report::Finding;
use crate::args::{AnalyzeArgs, AnalyzeForm as Form, Format, Suppression};
use crate::output::{self, Verdict, cell, judged};

/// All that can be found.
pub(super) fn codes(form: Form) -> anyhow::Result<()> {
    let form = match form {
        Form::Log => {
            let rows = ALL.iter().map(|code| {
                vec![cell(code.id), judged(code.level.word(), verdict(code.level)), cell(code.about)]
            });
            return output::print(&output::table(&["CODE", "LEVEL", "WHAT"], rows.collect()));
        }
        Form::Json => Format::Json,
        Form::Yaml => Format::Yaml,
    };
    let all: Vec<Value> = ALL
        .iter()
        .map(|code| json!({"code": code.id, "level": code.level.word(), "about": code.about}))
        .collect();
    output::structured(&all, form)
}

fn verdict(level: Level) -> Verdict {
    match level {
        Level::Info => Verdict::Good,
        Level::Warning => Verdict::Doubtful,
        Level::Error => Verdict::Bad,
    }
}

/// Shows what is wanted; an error when something is bad enough.
pub(super) fn findings(
    args: &AnalyzeArgs,
    of_clusters: Vec<(ClusterId, Vec<Finding>)>,
    several: bool,
    objects: usize,
) -> anyhow::Result<()> {
    let mut shown = Vec::new();
    for (cluster, mut all) in of_clusters {
        all.retain(|finding| is_wanted(args, finding));
        shown.extend(all.into_iter().map(|finding| (cluster.clone(), finding)));
    }
    let bad = shown.iter().filter(|(_, one)| one.level >= args.failure_threshold).count();
    shown.retain(|(_, one)| one.level >= args.output_threshold);
    match args.output {
        Form::Log => {
            let text: String =
                shown.iter().map(|(cluster, one)| line(one, several.then_some(cluster))).collect();
            output::print(&text)?;
            output::print(&format!("{}\n", summary(shown.iter().map(|(_, one)| one.level), objects)))?;
        }
        form => {
            let all: Vec<Value> =
                shown.iter().map(|(cluster, one)| value(one, several.then_some(cluster))).collect();
            output::structured(&all, if form == Form::Yaml { Format::Yaml } else { Format::Json })?;
        }
    }
    match bad {
        0 => Ok(()),
        bad => bail!("{bad} findings at or above level {}", args.failure_threshold.word()),
    }
}

fn is_wanted(args: &AnalyzeArgs, finding: &Finding) -> bool {
    let namespace = finding.object.as_ref().map(|(_, namespace, _)| namespace.as_str());
    let elsewhere = args
        .namespace
        .as_deref()
        .is_some_and(|wanted| namespace.is_some_and(|one| !one.is_empty() && one != wanted));
    let origin = finding.origin();
    let suppressed =
        |one: &Suppression| (one.code == "*" || one.code == finding.code.id) && fits(&one.object, &origin);
    !elsewhere && !finding.hushed && !args.suppress.iter().any(suppressed)
}

/// Whether a text fits a pattern in which `*` stands for anything.
fn fits(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|first| text.strip_prefix(first)) else { return false };
    let mut parts: Vec<&str> = parts.collect();
    let Some(last) = parts.pop() else { return rest.is_empty() };
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

/// `Error [IST0101] (VirtualService shop/a mesh.yaml:12) spec.hosts[0]: …`, and what to do on a line of its own.
fn line(finding: &Finding, cluster: Option<&ClusterId>) -> String {
    let level = finding.level.word();
    let level = match finding.level {
        Level::Info => level.cyan().to_string(),
        Level::Warning => level.yellow().bold().to_string(),
        Level::Error => level.red().bold().to_string(),
    };
    let cluster = cluster.map(|cluster| format!("cluster {cluster}"));
    let parts = [cluster.unwrap_or_default(), finding.origin(), finding.reference()];
    let parts: Vec<String> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    let place = if parts.is_empty() { String::new() } else { format!(" ({})", parts.join(" ").bold()) };
    let field = if finding.field.is_empty() { String::new() } else { format!("{}: ", finding.field) };
    let advice =
        if finding.advice.is_empty() { String::new() } else { format!("    {}\n", finding.advice.dimmed()) };
    format!("{level} [{}]{place} {field}{}\n{advice}", finding.code.id, finding.message)
}

fn value(finding: &Finding, cluster: Option<&ClusterId>) -> Value {
    let mut members = Map::new();
    let parts = [
        ("code", finding.code.id.to_string()),
        ("level", finding.level.word().to_string()),
        ("cluster", cluster.map(ToString::to_string).unwrap_or_default()),
        ("origin", finding.origin()),
        ("reference", finding.reference()),
        ("field", finding.field.clone()),
        ("message", finding.message.clone()),
        ("advice", finding.advice.clone()),
    ];
    for (name, text) in parts {
        if !text.is_empty() {
            members.insert(name.to_string(), Value::String(text));
        }
    }
    Value::Object(members)
}

fn summary(levels: impl Iterator<Item = Level>, objects: usize) -> String {
    let levels: Vec<Level> = levels.collect();
    let count = |wanted: Level, word: &str| {
        let number = levels.iter().filter(|level| **level == wanted).count();
        let plural = if number == 1 { "" } else { "s" };
        (number > 0).then(|| format!("{number} {word}{plural}"))
    };
    let parts =
        [count(Level::Error, "error"), count(Level::Warning, "warning"), count(Level::Info, "remark")];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    match parts.is_empty() {
        true => format!("{} nothing found in {objects} objects", "✓".green()),
        false => format!("{} in {objects} objects", parts.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_anything() {
        assert!(fits("DestinationRule shop/*", "DestinationRule shop/reviews"));
        assert!(fits("*", "") && fits("* shop/*s", "Service shop/reviews") && fits("a", "a"));
        assert!(!fits("DestinationRule shop/*", "DestinationRule other/reviews"));
        assert!(!fits("a", "ab") && !fits("a*c", "ab") && !fits("ab*b", "ab"));
    }
}
