//! What every long-running part needs: drain, task groups, readiness guards, backoff, clocks.

pub mod backoff;
pub mod clock;
pub mod drain;
pub mod ready;
pub mod tasks;

pub use backoff::Backoff;
pub use clock::{Clock, ManualClock, SystemClock};
pub use drain::{Drain, Signal};
pub use ready::{Guard, Readiness};
pub use tasks::{OnFailure, TaskGroup};
