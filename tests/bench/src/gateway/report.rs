//! What was measured, for people and for programs.

use std::collections::BTreeMap;

use comfy_table::presets::UTF8_HORIZONTAL_ONLY;
use comfy_table::{CellAlignment, Table};
use serde::Serialize;

use super::suite::Target;

/// Columns in their order; others follow.
const ORDER: [&str; 5] = ["isthmus", "envoy", "haproxy", "nginx", "haproxy-splice"];

/// One measure of all contenders.
#[derive(Debug, Serialize)]
pub struct Row {
    /// What was measured, with its unit.
    pub title: String,
    #[serde(skip)]
    own: &'static str,
    #[serde(skip)]
    target: Target,
    /// Figures by contender, one for each round.
    pub rounds: BTreeMap<String, Vec<f64>>,
}

/// All of them.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    rows: Vec<Judged>,
}

/// A row and what it means.
#[derive(Debug, Serialize)]
struct Judged {
    #[serde(flatten)]
    row: Row,
    medians: BTreeMap<String, f64>,
    /// Ours as a share of the best peer's.
    ratio: Option<f64>,
    target: String,
    reached: Option<bool>,
}

impl Row {
    /// `own` is the column that is judged.
    #[must_use]
    pub fn new(title: String, own: &'static str, target: Target) -> Self {
        Self { title, own, target, rounds: BTreeMap::new() }
    }

    /// Adds a round's figure.
    pub fn add(&mut self, contender: &str, figure: f64) {
        self.rounds.entry(contender.to_string()).or_default().push(figure);
    }

    fn judge(self) -> Judged {
        let medians: BTreeMap<String, f64> =
            self.rounds.iter().map(|(name, figures)| (name.clone(), median(figures))).collect();
        let own = medians.get(self.own).copied();
        // A peer with a setting that is not its default is shown beside, and not compared with.
        let peers = medians.iter().filter(|(name, _)| *name != self.own && !name.contains('-'));
        let best = peers.map(|(_, figure)| *figure).min_by(f64::total_cmp);
        let ratio = own.zip(best).map(|(own, best)| own / best);
        let (target, reached) = match self.target {
            Target::Ratio(most) => (format!("≤ {most} × best"), ratio.map(|ratio| ratio <= most)),
            Target::Most(most) => (format!("≤ {most}"), own.map(|own| own <= most)),
        };
        Judged { row: self, medians, ratio, target, reached }
    }
}

impl Report {
    /// Adds a measure.
    pub fn add(&mut self, row: Row) {
        if !row.rounds.is_empty() {
            self.rows.push(row.judge());
        }
    }

    /// A table for people.
    pub(super) fn table(&self) -> String {
        let mut columns: Vec<&str> = Vec::new();
        let found = || self.rows.iter().flat_map(|row| row.medians.keys().map(String::as_str));
        for name in ORDER.into_iter().filter(|name| found().any(|found| found == *name)).chain(found()) {
            if !columns.contains(&name) {
                columns.push(name);
            }
        }
        let mut table = Table::new();
        table.load_style(UTF8_HORIZONTAL_ONLY);
        let ends = ["ratio", "target", ""];
        table.set_header([""].into_iter().chain(columns.iter().copied()).chain(ends));
        for judged in &self.rows {
            let figures =
                columns.iter().map(|name| judged.medians.get(*name).map_or_else(String::new, figure));
            let verdict = match judged.reached {
                Some(true) => "reached",
                Some(false) => "missed",
                None => "",
            };
            let ratio = judged.ratio.map_or_else(String::new, |ratio| format!("{ratio:.2}"));
            let ends = [ratio, judged.target.clone(), verdict.to_string()];
            table.add_row([judged.row.title.clone()].into_iter().chain(figures).chain(ends));
        }
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        format!("{table}\n")
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as map_or_else hands it over")]
fn figure(figure: &f64) -> String {
    if figure.abs() < 10.0 { format!("{figure:.2}") } else { format!("{figure:.1}") }
}

fn median(figures: &[f64]) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        length if length % 2 == 1 => sorted[length / 2],
        length => f64::midpoint(sorted[length / 2 - 1], sorted[length / 2]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ours_is_compared_with_the_best_peer() {
        let mut row = Row::new("bulk".into(), "isthmus", Target::Ratio(0.5));
        for (name, figures) in
            [("isthmus", [0.3, 0.2, 0.25]), ("envoy", [0.6, 0.5, 0.7]), ("nginx", [0.8, 0.9, 0.7])]
        {
            figures.into_iter().for_each(|figure| row.add(name, figure));
        }
        let judged = row.judge();
        assert_eq!(judged.medians["envoy"], 0.6);
        assert_eq!(judged.ratio, Some(0.25 / 0.6));
        assert_eq!(judged.reached, Some(true));
    }

    #[test]
    fn a_peer_beside_the_defaults_is_not_compared_with() {
        let mut row = Row::new("bulk".into(), "isthmus", Target::Ratio(0.5));
        row.add("isthmus", 1.0);
        row.add("haproxy-splice", 1.0);
        row.add("haproxy", 4.0);
        assert_eq!(row.judge().ratio, Some(0.25));
    }
}
