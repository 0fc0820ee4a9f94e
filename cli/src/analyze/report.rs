//! What was found.

use std::collections::{BTreeMap, BTreeSet};

use super::code::{self, Code, Level};
use crate::objects::{Item, Note, Place, Read, What};
use crate::positions::{Header, Positions};

/// Istio's annotation with codes that are not to be reported.
const SUPPRESS: &str = "galley.istio.io/analyze-suppress";

/// One thing found.
#[derive(Debug, Clone)]
pub(super) struct Finding {
    pub(super) code: &'static Code,
    pub(super) level: Level,
    /// Kind, namespace and name; none of what is about all.
    pub(super) object: Option<(String, String, String)>,
    pub(super) place: Place,
    /// Path such as `spec.hosts[0]`; empty for the whole object.
    pub(super) field: String,
    pub(super) line: Option<usize>,
    pub(super) message: String,
    /// What to do.
    pub(super) advice: String,
    /// Whether the object's own annotation says that this is meant.
    pub(super) hushed: bool,
}

impl Finding {
    /// `KIND NAMESPACE/NAME`.
    pub(super) fn origin(&self) -> String {
        match &self.object {
            None => String::new(),
            Some((kind, namespace, name)) if namespace.is_empty() => format!("{kind} {name}"),
            Some((kind, namespace, name)) => format!("{kind} {namespace}/{name}"),
        }
    }

    /// `FILE:LINE`.
    pub(super) fn reference(&self) -> String {
        match (self.place.file.as_ref(), self.line) {
            ("", _) => String::new(),
            (file, Some(line)) => format!("{file}:{line}"),
            (file, None) => file.to_string(),
        }
    }
}

/// Collects findings.
#[derive(Debug, Default)]
pub(super) struct Report {
    pub(super) findings: Vec<Finding>,
    /// What could not be checked, and how often it was met.
    unchecked: BTreeMap<String, usize>,
}

impl Report {
    /// Adds a finding about a field of an object.
    pub(super) fn add(
        &mut self,
        code: &'static Code,
        item: &Item,
        field: impl Into<String>,
        message: impl Into<String>,
        advice: impl Into<String>,
    ) {
        let (object, meta) = (&item.object, item.object.meta());
        self.findings.push(Finding {
            code,
            level: code.level,
            object: Some((
                object.kind().to_string(),
                meta.namespace_str().to_string(),
                meta.name.to_string(),
            )),
            place: item.place.clone(),
            field: field.into(),
            line: None,
            message: message.into(),
            advice: advice.into(),
            hushed: hushed(code, item),
        });
    }

    /// Adds a finding about no object.
    pub(super) fn general(
        &mut self,
        code: &'static Code,
        message: impl Into<String>,
        advice: impl Into<String>,
    ) {
        self.findings.push(Finding {
            code,
            level: code.level,
            object: None,
            place: Place::default(),
            field: String::new(),
            line: None,
            message: message.into(),
            advice: advice.into(),
            hushed: false,
        });
    }

    /// Takes the last finding less seriously than its code.
    pub(super) fn soften(&mut self, level: Level) {
        if let Some(last) = self.findings.last_mut() {
            last.level = last.level.min(level);
        }
    }

    /// Something that could not be looked up.
    pub(super) fn unchecked(&mut self, what: impl Into<String>) {
        *self.unchecked.entry(what.into()).or_default() += 1;
    }

    /// What reading found.
    pub(super) fn notes(&mut self, notes: &[Note]) {
        for note in notes {
            let mut add = |code: &'static Code, field: String, message: String, advice: &str| {
                self.findings.push(Finding {
                    code,
                    level: code.level,
                    object: (!note.header.2.is_empty()).then(|| note.header.clone()),
                    place: note.place.clone(),
                    field,
                    line: None,
                    message,
                    advice: advice.to_string(),
                    hushed: false,
                });
            };
            match &note.what {
                What::File(problem) => add(&code::INVALID, String::new(), problem.clone(), ""),
                What::Unreadable(error) => {
                    let (field, message) = unreadable(error);
                    add(&code::INVALID, field, message, "");
                }
                What::Invalid(problems) => {
                    for problem in problems {
                        add(&code::INVALID, problem.field.clone(), problem.message.clone(), "");
                    }
                }
                What::Unenforced(text) => {
                    let (field, message) = match text.split_once(' ') {
                        Some((field, rest)) if field.starts_with("spec.") => {
                            (field.to_string(), rest.to_string())
                        }
                        _ => (String::new(), text.clone()),
                    };
                    add(&code::NOT_ENFORCED, field, message, "");
                }
                What::Twice(before) => {
                    let message = format!("it is in {before} too, and this one counts");
                    add(&code::TWICE, String::new(), message, "keep one of the two");
                }
            }
        }
    }

    /// The findings in order, with lines, each once.
    pub(super) fn finish(mut self, reads: &[&Read]) -> Vec<Finding> {
        let unchecked = std::mem::take(&mut self.unchecked);
        for (what, times) in unchecked {
            let message = match times {
                1 => format!("not checked: {what}"),
                _ => format!("not checked ({times} times): {what}"),
            };
            self.general(&code::NOT_CHECKED, message, "give these files too, or --live");
        }
        self.find_lines(reads);
        let mut findings = self.findings;
        findings.sort_by(|a, b| {
            let key = |one: &Finding| {
                (
                    one.place.file.to_string(),
                    one.line.unwrap_or(0),
                    one.origin(),
                    one.code.id,
                    one.field.clone(),
                )
            };
            (a.object.is_none(), std::cmp::Reverse(a.level), key(a)).cmp(&(
                b.object.is_none(),
                std::cmp::Reverse(b.level),
                key(b),
            ))
        });
        let mut seen = BTreeSet::new();
        findings.retain(|one| {
            seen.insert((
                one.code.id,
                one.origin(),
                one.place.file.to_string(),
                one.field.clone(),
                one.message.clone(),
            ))
        });
        findings
    }

    fn find_lines(&mut self, reads: &[&Read]) {
        let mut known: BTreeMap<String, Positions> = BTreeMap::new();
        for finding in &mut self.findings {
            let (Some((kind, namespace, name)), file) = (&finding.object, &finding.place.file) else {
                continue;
            };
            if !known.contains_key(file.as_ref()) {
                let Some(text) = reads.iter().find_map(|read| read.texts.get(file)) else { continue };
                known.insert(file.to_string(), Positions::of(text));
            }
            let header = Header { kind, namespace, name };
            // `a[].b` of rules that name every item: the list itself.
            let field = finding.field.split("[]").next().unwrap_or_default();
            finding.line = known.get(file.as_ref()).and_then(|positions| positions.line(header, field));
        }
    }
}

/// Whether an object says of itself that a code is not to be reported.
fn hushed(code: &Code, item: &Item) -> bool {
    let list = item.object.meta().annotations.get(SUPPRESS).unwrap_or_default();
    list.split(',').map(str::trim).any(|one| one == "*" || one == code.id)
}

fn unreadable(error: &isthmus_resources::ParseError) -> (String, String) {
    use isthmus_resources::ParseError;
    match error {
        ParseError::Field { field, problem, .. } => (field.clone(), problem.clone()),
        ParseError::Yaml { problem, .. } => (String::new(), format!("not YAML: {problem}")),
        ParseError::Shape { .. } | ParseError::UnknownKind { .. } => (String::new(), error.to_string()),
    }
}
