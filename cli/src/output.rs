//! Text for people, JSON and YAML for scripts.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use anyhow::Context;
use comfy_table::{Attribute, Cell, Color, ContentArrangement, Table, presets};
use serde::Serialize;

use crate::args::Format;

/// Writes to standard output; colours go when it is not a terminal. A reader that went away is no failure.
pub(crate) fn print(text: &str) -> anyhow::Result<()> {
    let mut out = anstream::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other.context("writing to standard output"),
    }
}

/// Advice and warnings, on standard error: standard output stays what a script wants.
pub(crate) fn advise(text: &str) {
    // Nobody to advise is no failure.
    let _ = writeln!(anstream::stderr(), "{text}");
}

/// What is being done, on one line of standard error, when somebody looks at it. The line goes when this is dropped.
#[derive(Debug)]
pub(crate) struct Progress {
    seen: bool,
}

impl Progress {
    /// Nothing is said yet.
    pub(crate) fn new() -> Self {
        Self { seen: io::stderr().is_terminal() }
    }

    /// Says it in place of what was said before.
    pub(crate) fn say(&self, text: &str) {
        if self.seen {
            let _ = write!(io::stderr(), "\r\x1b[K{text}");
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.say("");
    }
}

/// A value for scripts.
pub(crate) fn structured(value: &impl Serialize, format: Format) -> anyhow::Result<()> {
    match format {
        Format::Yaml => print(&serde_yaml::to_string(value).context("writing YAML")?),
        Format::Json | Format::Text => {
            let mut text = serde_json::to_string_pretty(value).context("writing JSON")?;
            text.push('\n');
            print(&text)
        }
    }
}

/// Objects as YAML documents, for `kubectl apply -f -`.
pub(crate) fn documents(objects: &[serde_json::Value]) -> anyhow::Result<()> {
    let mut text = String::new();
    for object in objects {
        text.push_str("---\n");
        text.push_str(&serde_yaml::to_string(object).context("writing YAML")?);
    }
    print(&text)
}

/// `isthmus version`.
pub(crate) fn version(format: Format) -> anyhow::Result<()> {
    let version = env!("CARGO_PKG_VERSION");
    match format {
        Format::Text => print(&format!("isthmus {version}\n")),
        other => structured(&serde_json::json!({ "version": version }), other),
    }
}

/// A table as kubectl prints them: no lines, headers in capitals, two blanks between columns.
pub(crate) fn table(headers: &[&str], rows: Vec<Vec<Cell>>) -> String {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled)
        .enforce_styling();
    table.set_header(headers.iter().map(|header| Cell::new(header).add_attribute(Attribute::Bold)));
    table.add_rows(rows);
    table.style_text_only();
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    let mut text = String::new();
    for line in table.lines() {
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// A plain cell; a dash where there is nothing to say.
pub(crate) fn cell(text: impl Into<String>) -> Cell {
    let text = text.into();
    match text.is_empty() {
        true => Cell::new("-").fg(Color::DarkGrey),
        false => Cell::new(text),
    }
}

/// A cell in the colour of its meaning.
pub(crate) fn judged(text: impl Into<String>, verdict: Verdict) -> Cell {
    let color = match verdict {
        Verdict::Good => Color::DarkGreen,
        Verdict::Doubtful => Color::DarkYellow,
        Verdict::Bad => Color::DarkRed,
    };
    cell(text).fg(color)
}

/// What a state means to the reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// As it should be.
    Good,
    /// May recover alone.
    Doubtful,
    /// Wants somebody.
    Bad,
}

/// A bold heading.
pub(crate) fn heading(text: &str) -> String {
    use owo_colors::OwoColorize;
    format!("{}\n", text.bold())
}

/// `850ms`, `12s`, `3m4s`, `5h12m`, `41d`.
pub(crate) fn age(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0 => format!("{}ms", duration.as_millis()),
        1..120 => format!("{seconds}s"),
        120..7200 => format!("{}m{}s", seconds / 60, seconds % 60),
        7200..172_800 => format!("{}h{}m", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_read_like_kubectls() {
        let text = |ms| age(Duration::from_millis(ms));
        assert_eq!(text(850), "850ms");
        assert_eq!(text(119_000), "119s");
        assert_eq!(text(184_000), "3m4s");
        assert_eq!(text(18_720_000), "5h12m");
        assert_eq!(text(86_400_000 * 41), "41d");
    }

    #[test]
    fn columns_are_aligned_and_lines_do_not_end_in_blanks() {
        let text = table(&["NAME", "STATE"], vec![vec![cell("a-long-name"), judged("ok", Verdict::Good)]]);
        let plain = anstream::adapter::strip_str(&text).to_string();
        assert_eq!(plain, "NAME         STATE\na-long-name  ok\n");
    }
}
