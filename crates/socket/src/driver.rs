//! The task that turns a thread's ring.

use std::io;
use std::os::fd::AsFd as _;
use std::task::{Context, Poll};

use nix::sys::eventfd::{EfdFlags, EventFd};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::runtime::{Handle, RuntimeFlavor};

use crate::ring::{self, Ring};

/// Why sockets are driven by epoll.
#[derive(Debug, thiserror::Error)]
pub enum Unavailable {
    /// A ring belongs to one thread, and tasks move between several.
    #[error("the runtime has more than one worker thread")]
    Threads,
    /// An old kernel, `kernel.io_uring_disabled`, or a container's seccomp profile.
    #[error("the kernel does not give it: {0}")]
    Kernel(io::Error),
}

/// Lets the sockets that this thread opens from now on use io_uring, for as long as the runtime lives. Sockets work all the same without it. It may
/// be called again.
///
/// # Errors
/// Why there is none. Must be called inside a runtime.
pub fn begin() -> Result<(), Unavailable> {
    if ring::is_here() {
        return Ok(());
    }
    if Handle::current().runtime_flavor() != RuntimeFlavor::CurrentThread {
        return Err(Unavailable::Threads);
    }
    let driver = Driver::new().map_err(Unavailable::Kernel)?;
    #[expect(
        clippy::disallowed_methods,
        reason = "it cannot fail, and must outlive every group whose sockets it turns: it ends with the runtime"
    )]
    tokio::spawn(driver.run());
    Ok(())
}

/// Turns the ring when something was asked for or has come. Dropped with the runtime, it takes the ring with it.
struct Driver {
    events: AsyncFd<EventFd>,
    id: u32,
}

impl Driver {
    fn new() -> io::Result<Self> {
        let events = EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?;
        let ring = Ring::new(events.as_fd())?;
        #[expect(unsafe_code, reason = "the runtime must trust that the descriptor stays the same")]
        // SAFETY: an EventFd owns one descriptor until it is dropped, which its AsyncFd outlives only to deregister it.
        let events = unsafe { AsyncFd::register_with_interest(events, Interest::READABLE)? };
        Ok(Self { events, id: ring::install(ring) })
    }

    async fn run(self) {
        std::future::poll_fn(|cx| self.poll(cx)).await
    }

    fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        // The counter is never read: each event raises it, which epoll tells as a new edge.
        while let Poll::Ready(Ok(mut ready)) = self.events.poll_read_ready(cx) {
            ready.clear_ready();
        }
        ring::turn(self.id, cx.waker());
        Poll::Pending
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        ring::remove(self.id);
    }
}
