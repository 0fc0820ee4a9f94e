//! SIGTERM and SIGINT begin a graceful stop; the second one cuts it short.

use std::time::Duration;

use isthmus_lifecycle::Drain;
use tokio::signal::unix::{SignalKind, signal};

/// Waits for a stop signal, then drains with this grace.
///
/// # Errors
/// When the handlers cannot be installed.
pub async fn drain_on_signal(drain: &Drain, grace: Duration) -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let stop = drain.signal();
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        () = stop.stopping() => return Ok(()),
    }
    tracing::info!(grace_s = grace.as_secs(), "stopping");
    tokio::select! {
        () = drain.graceful(grace) => {}
        _ = terminate.recv() => drain.immediate(),
        _ = interrupt.recv() => drain.immediate(),
    }
    Ok(())
}
