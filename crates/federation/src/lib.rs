//! The peer protocol: what two control planes tell each other, over one stream.
//!
//! - [`log::Log`]: what we export, as a log with cursors. [`imports::Imports`]: what one peer exports, last good, on disk through
//!   [`last_good::LastGood`]. [`link::Link`]: one stream between the two, a state machine without I/O or clock.
//! - [`hub::Federation`]: all peers of a control plane: dials, accepts, keeps one stream per peer, passes changes on.
//!
//! # How a record goes away
//!
//! Only by its owner's word. A log lives as long as its process and has an epoch; a stream that breaks resumes at a cursor of the
//! same epoch. After a restart the owner starts a new epoch and sends everything; the receiver stages it and takes it over at
//! `Synced`. A record that the new epoch did not mention was withdrawn while its owner was down, or is not known yet: the receiver
//! keeps serving it and asks (`Held`); the owner, who has sent `Synced` only after its own sources were complete, answers with its
//! record or with a tombstone. So an owner that comes back empty-handed, is cut off half-way, or says nothing deletes nothing.
//!
//! # How a divergence heals
//!
//! A heartbeat carries a count and a hash for each type, at a cursor. On a stream everything before it has arrived: if what the
//! receiver holds is not that, something was lost by a fault, and the receiver calls again for everything, which replaces nothing
//! until it has all been said. A question that was not answered by the next heartbeat is asked again.

pub mod hub;
pub mod imports;
pub mod last_good;
pub mod link;
pub mod log;
pub mod metrics;
pub mod peer;
pub mod record;

pub use hub::{Connector, Dial, Federation, Options, Service};
pub use last_good::{Directory, LastGood};
pub use metrics::Metrics;
pub use peer::{Me, PeerConfig, PeerName};
