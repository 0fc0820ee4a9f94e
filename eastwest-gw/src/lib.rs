//! Passes mesh TLS between networks by server name, without terminating it.
//!
//! The traffic itself is `isthmus_proxy`'s: listeners by xDS, a bounded ClientHello, a filter chain by server name, an endpoint
//! of the own network, bytes joined in the kernel. This program joins the mesh, subscribes and serves.

mod app;
pub mod args;
mod takeover;

use anyhow::Context as _;
use isthmus_lifecycle::Drain;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

pub use app::App;
pub use args::Args;

/// Runs to its end.
///
/// # Errors
/// When the gateway does not start, or fails in a part that it cannot do without.
pub async fn run(args: Args) -> anyhow::Result<()> {
    isthmus_process::telemetry::init(&args.log)?;
    raise_descriptor_limit(args.limits.max_connections);
    let drain = Drain::new();
    let (grace, stop) = (args.drain, drain.clone());
    let signals = isthmus_process::signals::drain_on_signal(&stop, grace);
    tokio::pin!(signals);
    let app = tokio::select! {
        started = Box::pin(App::start(&args, &drain)) => started?,
        stopped = &mut signals => return stopped.context("signal handlers"),
    };
    let running = app.run();
    tokio::pin!(running);
    tokio::select! {
        ended = &mut running => ended,
        handled = &mut signals => {
            handled.context("signal handlers")?;
            running.await
        }
    }
}

/// A relayed connection needs two descriptors, and bulk borrows two more. What the system does not grant costs connections, not
/// the program.
fn raise_descriptor_limit(connections: usize) {
    let wanted = (connections as u64).saturating_mul(3);
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return };
    if soft < wanted && setrlimit(Resource::RLIMIT_NOFILE, wanted.min(hard).max(soft), hard).is_err() {
        tracing::warn!(soft, "the limit on open files cannot be raised");
    }
    if hard < wanted {
        tracing::info!(
            limit = hard,
            "open files are limited: fewer connections than --max-connections are possible"
        );
    }
}
