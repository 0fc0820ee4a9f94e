//! `isthmus-primary`: the control plane that owns configuration, signs certificates, serves xDS and federates with its peers.
//!
//! Four steps, each its own part: sources (`isthmus_kube` watches, `isthmus_federation` listens), the pipeline that owns the registry,
//! views for each open stream, and serving on port 15012.

pub mod api;
pub mod app;
pub mod caller;
pub mod config;
pub mod describe;
pub mod files;
pub mod gateways;
pub mod link;
pub mod listener;
pub mod memory;
pub mod mesh;
pub mod nodes;
pub mod pipeline;
pub mod serving;
pub mod source;
pub mod standalone;
pub mod status;
pub mod upkeep;
pub mod views;

use config::Config;

/// Runs until a stop signal.
///
/// # Errors
/// When it cannot start, or a part that it cannot do without fails.
pub async fn run(config: Config) -> anyhow::Result<()> {
    isthmus_process::telemetry::init(&config.log)?;
    app::App::build(config).await?.run().await
}
