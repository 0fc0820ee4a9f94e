//! Drain, task groups, readiness guards, backoff, clocks.
