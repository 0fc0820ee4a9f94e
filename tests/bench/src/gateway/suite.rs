//! Contenders of one kind under the same loads in turn.

use std::time::Duration;

use super::args::Args;
use super::contender::Contender;
use super::load::{self, Used};
use super::report::{Report, Row};

/// The way without a gateway: what it uses is no contender's.
const DIRECT: &str = "direct";
/// Our own column.
const OURS: &str = "isthmus";

/// What contenders are compared by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Measure {
    /// CPU seconds for each gigabyte (10^9 bytes).
    Bulk,
    /// Microseconds of CPU time for each new connection.
    Connections,
    /// Microseconds of CPU time for each round trip.
    RoundTrips,
    /// Kilobytes (1024 bytes) of resident memory for each idle connection.
    Idle,
}

impl Measure {
    fn title(self) -> &'static str {
        match self {
            Self::Bulk => "bulk, CPU s/GB",
            Self::Connections => "new connection, µs CPU",
            Self::RoundTrips => "64-byte round trip, µs CPU",
            Self::Idle => "idle connection, KB",
        }
    }

    /// From what a unit used, in seconds and units, to the figure that is shown.
    fn scale(self) -> f64 {
        match self {
            Self::Bulk => 1e9,
            Self::Connections | Self::RoundTrips => 1e6,
            Self::Idle => 1.0,
        }
    }
}

/// What we want to reach.
#[derive(Debug, Clone, Copy)]
pub enum Target {
    /// At most this share of the best peer's figure.
    Ratio(f64),
    /// At most this figure.
    Most(f64),
}

/// A measure and its target.
pub type Wanted = (Measure, Target);

/// The gateway's targets.
#[must_use]
pub fn gateway_target(measure: Measure) -> Target {
    match measure {
        Measure::Bulk => Target::Ratio(0.5),
        Measure::Connections => Target::Ratio(0.9),
        Measure::RoundTrips => Target::Ratio(1.0),
        Measure::Idle => Target::Most(1.5),
    }
}

/// Measures all contenders in turn, round after round, and adds the medians to the report.
///
/// # Errors
/// When a load fails.
pub async fn run(
    title: &str,
    contenders: &[Contender],
    wanted: &[Wanted],
    args: &Args,
    report: &mut Report,
) -> anyhow::Result<()> {
    for contender in contenders {
        load::until_open(&contender.echo).await?;
        load::until_open(&contender.bulk).await?;
    }
    for (measure, target) in wanted {
        let rows = one(title, contenders, *measure, *target, args).await?;
        rows.into_iter().for_each(|row| report.add(row));
    }
    Ok(())
}

async fn one(
    title: &str,
    contenders: &[Contender],
    measure: Measure,
    target: Target,
    args: &Args,
) -> anyhow::Result<Vec<Row>> {
    let mut row = Row::new(format!("{title}: {}", measure.title()), OURS, target);
    if measure == Measure::Idle {
        let count = if args.quick { 1_000 } else { 4_000 };
        for contender in contenders.iter().filter(|contender| !contender.charged.is_empty()) {
            let figure = load::idle(contender, count).await? / 1024.0;
            progress(&row.title, contender.name, figure);
            row.add(contender.name, figure);
        }
        return Ok(vec![row]);
    }
    let mut whole = Row::new(format!("{} with the ends' share", row.title), OURS, target);
    for round in 0..args.rounds() {
        let mut direct = None;
        // Not always the same one first.
        let (without, mut others): (Vec<_>, Vec<_>) =
            contenders.iter().partition(|contender| contender.name == DIRECT);
        let turn = round % others.len().max(1);
        others.rotate_left(turn);
        for contender in without.into_iter().chain(others) {
            let used = load_of(measure, contender, args).await?;
            #[expect(clippy::cast_precision_loss, reason = "a benchmark's units")]
            let each = |seconds: f64| seconds / used.units as f64 * measure.scale();
            if contender.name == DIRECT {
                direct = Some(each(used.ends));
                progress(&row.title, DIRECT, each(used.ends));
                continue;
            }
            progress(&row.title, contender.name, each(used.contender));
            row.add(contender.name, each(used.contender));
            if let Some(direct) = direct {
                whole.add(contender.name, each(used.contender + used.ends) - direct);
            }
        }
    }
    Ok(vec![row, whole])
}

async fn load_of(measure: Measure, contender: &Contender, args: &Args) -> anyhow::Result<Used> {
    const BULK_CONNECTIONS: usize = 8;
    const CLIENTS: usize = 32;
    let length = Duration::from_millis(if args.quick { 500 } else { 2_500 });
    match measure {
        Measure::Bulk => load::bulk(contender, BULK_CONNECTIONS, length).await,
        Measure::Connections => load::connections(contender, CLIENTS, length).await,
        Measure::RoundTrips | Measure::Idle => load::round_trips(contender, CLIENTS, length).await,
    }
}

fn progress(title: &str, contender: &str, figure: f64) {
    eprintln!("{title}: {contender} {figure:.2}");
}
