//! One clock for the writer and the proxies, which are two processes: tenths of a millisecond since the run began, in 24 bits
//! (28 minutes), so that an address can carry it.

use std::time::SystemTime;

/// Ticks of 0.1 ms since a moment that both processes know.
#[derive(Clone, Copy, Debug)]
pub struct Ticks {
    /// The moment, in nanoseconds since 1970.
    pub base: i128,
}

impl Ticks {
    /// Starting now.
    #[must_use]
    pub fn start() -> Self {
        Self { base: jiff::Timestamp::now().as_nanosecond() }
    }

    /// The time now; never 0.
    #[must_use]
    pub fn now(self) -> u32 {
        let ticks = (jiff::Timestamp::now().as_nanosecond() - self.base) / 100_000;
        u32::try_from(ticks).unwrap_or(0).clamp(1, 0x00ff_ffff)
    }
}

/// The time now, for certificates.
#[must_use]
pub fn system_time() -> SystemTime {
    jiff::Timestamp::now().into()
}
