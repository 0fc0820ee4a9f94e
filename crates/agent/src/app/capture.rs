//! The task that holds traffic capture.

use isthmus_capture::{Capture, CaptureError, Config, Dns, Resolvers, Strict};
use isthmus_lifecycle::{Guard, Readiness, Signal};
use tokio::sync::watch;

/// What the rules follow.
pub(super) struct Inputs {
    /// Everything but DNS.
    pub(super) base: Config,
    /// The host's resolvers.
    pub(super) resolvers: watch::Receiver<Resolvers>,
    /// What is refused while no agent guards it.
    pub(super) strict: watch::Receiver<Strict>,
}

/// Waits for the first full configuration, then holds capture until the drain.
pub(super) async fn hold(
    inputs: Inputs,
    resources: Readiness,
    guard: Guard,
    stop: Signal,
) -> Result<(), CaptureError> {
    let Inputs { base, mut resolvers, mut strict } = inputs;
    tokio::select! {
        biased; // stopping beats starting
        () = stop.stopping() => return Ok(()),
        () = resources.ready() => {}
    }
    let first = with_dns(&base, &resolvers.borrow_and_update());
    let now = strict.borrow_and_update().clone();
    let capture = Capture::install(first.clone(), now).await?;
    tracing::info!("traffic capture in force");
    drop(guard);
    let (change, configured) = watch::channel(first);
    let follow = async {
        while resolvers.changed().await.is_ok() {
            change.send_replace(with_dns(&base, &resolvers.borrow_and_update()));
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        held = capture.hold(configured, strict, stop) => held,
        () = follow => Ok(()),
    }
}

fn with_dns(base: &Config, resolvers: &Resolvers) -> Config {
    let dns = if resolvers.servers.is_empty() {
        tracing::warn!("/etc/resolv.conf names no server: DNS queries of this host are not captured");
        Dns::Off
    } else {
        Dns::Servers(resolvers.servers.clone())
    };
    Config { dns, ..base.clone() }
}
