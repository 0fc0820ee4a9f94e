//! Traffic capture: one nftables table held by a lease, and the original destination of what it redirects.
//!
//! The table `inet isthmus` redirects only while its set `lease` holds the address family. The agent renews the elements
//! every second; they expire after five. An agent that is killed or frozen thus gives the host its network back without
//! any watchdog. Ports under STRICT mutual TLS are another set, without expiry: without a lease they are refused.

pub mod config;
pub mod lease;
pub mod nft;
pub mod original;
pub mod resolvers;
pub mod rules;

pub use config::{Config, Dns, Strict};
pub use lease::{Capture, CaptureError};
pub use nft::NftError;
pub use original::{mark, original_destination};
pub use resolvers::Resolvers;

/// Mark of the agent's own sockets (Istio's 1337): capture leaves them alone.
pub const MARK: u32 = 0x539;

/// Where outbound connections are redirected.
pub const OUTBOUND_PORT: u16 = 15001;

/// Where inbound connections are redirected.
pub const INBOUND_PORT: u16 = 15006;

/// Where DNS queries are redirected.
pub const DNS_PORT: u16 = 15053;
