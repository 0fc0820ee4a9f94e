//! Whole-mesh scenarios, the namespace testbed, the demo.
//!
//! The testbed's process tree: the *launcher* (on the real host) starts `unshare`, which starts the *fabric* (PID 1 of
//! everything, with one bridge for each network), which starts one `unshare` for each host, whose PID 1 is the host's
//! *init*. Each hangs on the one above by a pipe and by the parent-death signal, so that nothing survives any of them.

pub mod demo;
pub mod fabric;
pub mod host;
pub mod init;
pub mod keep;
pub mod launch;
pub mod mounts;
pub mod report;
pub mod resolver;
pub mod topology;
pub mod wire;
