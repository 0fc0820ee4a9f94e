//! TCP sockets of the data path.
//!
//! A [`Socket`] is driven by the thread's io_uring where [`begin`] could set one up, and else by the runtime's epoll. With io_uring the small writes,
//! the waits and the closes of all connections of a thread go to the kernel together, in one call for each turn of the runtime: the more a
//! turn has to do, the more that saves (tests/bench/GATEWAY.md). What moves much is read and written at once, or spliced, as
//! with epoll.

mod driver;
mod listener;
mod ring;
mod socket;

pub use driver::{Unavailable, begin};
pub use listener::Listener;
pub use socket::Socket;
