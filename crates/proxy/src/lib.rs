//! The data path: listeners, mutual TLS, TCP routing, balancing, outlier ejection, authorization, telemetry.
