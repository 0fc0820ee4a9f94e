//! What a gateway of a large mesh holds: with every service, whether used or not (it is told not to fetch on demand), and as it
//! comes, with the names of all and the services that are used.

use std::time::Duration;

use crate::proc;

use super::load::{settled, until_open};
use super::origin::ECHO_PORT;
use super::report::Row;
use super::suite::Target;
use super::{Context, ours};

/// Longer than the time after which our gateway gives free memory back.
const GIVEN_BACK: Duration = Duration::from_secs(12);
/// Megabytes (2^20 bytes) that may stay resident.
const MOST: f64 = 60.0;

pub(super) async fn of_services(context: &Context, what: &str, flags: &[&str]) -> anyhow::Result<Row> {
    let count = context.args.services();
    let others: Vec<_> =
        (2..count).map(|number| ours::service(&format!("s{number}.mesh.internal"), ECHO_PORT)).collect();
    let contender = ours::start(context, others, flags).await?;
    until_open(&contender.echo).await?;
    settled(&contender).await?;
    // what reading them took goes back every ten seconds
    tokio::time::sleep(GIVEN_BACK).await;
    let resident = settled(&contender).await?;
    let pid = contender.charged.first().map_or(0, crate::xds::processes::Running::pid);
    let (_, peak) = proc::resident(pid)?;
    #[expect(clippy::cast_precision_loss, reason = "a benchmark's bytes")]
    let megabytes = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    eprintln!("{count} services {what}: {:.1} MB, at most {:.1} MB", megabytes(resident), megabytes(peak));
    let mut row = Row::new(format!("{count} services {what}, MB resident"), "isthmus", Target::Most(MOST));
    row.add("isthmus", megabytes(resident));
    Ok(row)
}
