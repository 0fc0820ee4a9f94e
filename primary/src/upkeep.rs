//! What a burst of work took goes back to the system.

use std::sync::Arc;
use std::time::Duration;

use isthmus_lifecycle::Signal;
use isthmus_registry::Snapshot;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use crate::views::Views;

/// How often it is looked whether something was done: often enough that lists are not kept for long, and rarely enough that it costs
/// nothing.
const EVERY: Duration = Duration::from_secs(5);

/// Trims the allocator when the first lists have been read, and afterwards when snapshots were made or streams came or went, in quiet
/// times and in busy ones.
pub async fn trim_after_work(mut snapshots: watch::Receiver<Arc<Snapshot>>, views: Views, stop: Signal) {
    tokio::select! {
        biased;
        () = stop.stopping() => return,
        complete = snapshots.wait_for(|snapshot| snapshot.is_complete()) => if complete.is_err() {
            return;
        },
    }
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut seen, mut settled) = (None, false);
    loop {
        tokio::select! {
            biased;
            () = stop.stopping() => return,
            _ = ticks.tick() => {}
        }
        let now = Some((snapshots.borrow().number, views.streams()));
        let same = now == seen;
        // What was done last was perhaps still at work when it was looked: once more in quiet.
        if !(same && settled) {
            trim().await;
        }
        (seen, settled) = (now, same);
    }
}

/// On a thread that may wait: it looks through all that is free.
async fn trim() {
    let _ = tokio::task::spawn_blocking(isthmus_process::memory::trim).await;
}
