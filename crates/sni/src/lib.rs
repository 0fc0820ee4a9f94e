//! East-west server-name grammar and a bounded ClientHello reader. Pure: no sockets, no clock.

pub mod hello;
pub mod name;

pub use hello::{ClientHello, HelloError, HelloReader};
pub use name::{InvalidServerName, ServerName, ServiceName, name_hash};

/// Application protocols by which Istio's proxies mark their mutual TLS. A gateway passes only these through
/// AUTO_PASSTHROUGH chains, an inbound listener tells mesh TLS from the application's own by them.
pub const ISTIO_ALPN: [&str; 5] =
    ["istio", "istio-peer-exchange", "istio-http/1.0", "istio-http/1.1", "istio-h2"];
