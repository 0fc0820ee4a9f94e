//! What a person reads: a line a step with its time, below it the checks with the commands that anyone can repeat.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use owo_colors::OwoColorize as _;

use crate::host::{Host, Output};

const WIDTH: usize = 78;
const LOG_LINES: usize = 25;
const LOG_WIDTH: usize = 500;

/// A check that did not hold, with all that a person needs to see why.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {why}")]
pub struct Broken {
    /// What should have held.
    pub what: String,
    /// Why it did not.
    pub why: String,
    /// The last try's command and output.
    pub evidence: Option<(String, Output)>,
    /// Hosts whose logs may tell more.
    pub hosts: Vec<Arc<Host>>,
}

/// The story's printer.
#[derive(Debug)]
pub struct Report {
    began: Instant,
    steps: Vec<(usize, &'static str, Duration)>,
}

impl Default for Report {
    fn default() -> Self {
        Self { began: Instant::now(), steps: Vec::new() }
    }
}

impl Report {
    /// A step begins.
    pub fn begin(&self, number: usize, title: &str) {
        anstream::println!("\n{} {}", format!("{number}").bold(), title.bold());
    }

    /// A step held.
    pub fn held(&mut self, number: usize, title: &'static str, took: Duration) {
        self.steps.push((number, title, took));
        let line = format!("{number} {title}");
        anstream::println!(
            "{} {line}{}{}",
            "✓".green().bold(),
            " ".repeat(WIDTH.saturating_sub(line.chars().count() + 11)),
            seconds(took).bold()
        );
    }

    /// An action that is part of the story.
    pub fn did(&self, what: &str, commands: &[String], took: Duration) {
        // What is only started takes no time worth showing.
        let took = if took.is_zero() { String::new() } else { pad(what) + &seconds(took) };
        anstream::println!("  {} {what}{}", "·".dimmed(), took.dimmed());
        print_commands(commands);
    }

    /// A check held.
    pub fn checked(&self, what: &str, commands: &[String], detail: &str, took: Duration) {
        anstream::println!("  {} {what}{}{}", "✓".green(), pad(what), seconds(took).dimmed());
        print_commands(commands);
        for line in detail.lines() {
            anstream::println!("      {}", line.cyan());
        }
    }

    /// A step did not hold.
    pub fn failed(&self, number: usize, title: &str, error: &anyhow::Error) {
        let Some(broken) = error.downcast_ref::<Broken>() else {
            anstream::println!("  {} {}", "✗".red().bold(), format!("{error:#}").red());
            return self.verdict_failed(number, title, &format!("{error:#}"));
        };
        anstream::println!("  {} {}: {}", "✗".red().bold(), broken.what.red().bold(), broken.why.red());
        if let Some((command, output)) = &broken.evidence {
            print_commands(std::slice::from_ref(command));
            for line in output.stdout.lines().chain(output.stderr.lines()).take(60) {
                anstream::println!("      {line}");
            }
            anstream::println!(
                "      {}",
                format!("({}, {})", output.ending(), seconds(output.took).trim()).dimmed()
            );
        }
        for host in &broken.hosts {
            for log in host.logs() {
                anstream::println!("    {}", format!("{}: end of {log}'s log", host.name()).bold());
                for line in host.log_tail(&log, LOG_LINES).lines() {
                    let line: String = line.chars().take(LOG_WIDTH).collect();
                    anstream::println!("      {}", line.dimmed());
                }
            }
        }
        self.verdict_failed(number, title, &format!("{}: {}", broken.what, broken.why));
    }

    fn verdict_failed(&self, number: usize, title: &str, why: &str) {
        anstream::println!(
            "\n{} {}",
            format!("FAILED at step {number}, {title}:").red().bold(),
            why.lines().next().unwrap_or_default()
        );
    }

    /// The end: every step with its time.
    pub fn finish(&self) {
        let mut table = String::new();
        for (number, title, took) in &self.steps {
            let _ = writeln!(table, "  {number}  {title:<60}{}", seconds(*took));
        }
        anstream::println!("\n{}\n{table}", "Every step held.".green().bold());
        anstream::println!("  {:<63}{}", "in all", seconds(self.began.elapsed()).bold());
    }
}

fn print_commands(commands: &[String]) {
    for line in commands.iter().flat_map(|command| command.lines()) {
        anstream::println!("      {}", line.dimmed());
    }
}

fn pad(what: &str) -> String {
    " ".repeat(WIDTH.saturating_sub(what.chars().count() + 13).max(1))
}

/// Right-aligned, with one unit for all.
#[must_use]
pub fn seconds(time: Duration) -> String {
    format!("{:>7.2} s", time.as_secs_f64())
}
