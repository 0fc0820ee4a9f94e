//! What every program needs at the door: crypto provider, telemetry, signals, exit codes.

pub mod exit;
pub mod memory;
pub mod metrics;
pub mod signals;
pub mod telemetry;

pub use exit::{WorkerArgs, run, run_with};
pub use metrics::SharedRegistry;
