//! What every program needs at the door: telemetry, admin endpoints, signals, exit codes.
