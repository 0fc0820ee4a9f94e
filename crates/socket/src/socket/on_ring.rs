//! A socket of a ring.

use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::task::{Context, Poll, Waker, ready};

use nix::libc;
use socket2::SockRef;
use tokio::io::ReadBuf;

use crate::ring::{self, Flag, Ring, SIZE};

/// A socket of a ring.
#[derive(Debug)]
pub(super) struct OnRing {
    /// Taken when dropped.
    pub(super) socket: Option<OwnedFd>,
    pub(super) key: u32,
    ring: u32,
}

fn gone() -> io::Error {
    io::Error::new(io::ErrorKind::NotConnected, "its event loop has ended, or belongs to another thread")
}

impl OnRing {
    /// Gives the socket back where there is no ring.
    pub(super) fn new(socket: socket2::Socket, readable: bool) -> Result<Self, socket2::Socket> {
        let number = socket.as_raw_fd();
        match ring::with(None, |ring| (ring.add(number, readable), ring.id())) {
            Some((key, ring)) => Ok(Self { socket: Some(socket.into()), key, ring }),
            None => Err(socket),
        }
    }

    pub(super) fn with<T>(&self, work: impl FnOnce(&mut Ring) -> T) -> io::Result<T> {
        ring::with(Some(self.ring), work).ok_or_else(gone)
    }

    /// The same, for work that keeps a waker instead of another, which is dropped where the ring is not borrowed.
    pub(super) fn wait<T>(
        &self,
        work: impl FnOnce(&mut Ring) -> (Poll<io::Result<T>>, Option<Waker>),
    ) -> Poll<io::Result<T>> {
        match self.with(work) {
            Ok((polled, former)) => {
                drop(former);
                polled
            }
            Err(error) => Poll::Ready(Err(error)),
        }
    }

    pub(super) fn io(&self) -> SockRef<'_> {
        SockRef::from(self.socket.as_ref().expect("taken only when dropped"))
    }

    pub(super) fn poll_idle(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.wait(|ring| {
            let slot = &mut ring.slots[self.key as usize];
            if let Some(error) = slot.failure() {
                return (Poll::Ready(Err(error)), None);
            }
            if slot.is_busy() {
                return (Poll::Pending, slot.wait_write(cx.waker()));
            }
            (Poll::Ready(Ok(())), None)
        })
    }

    pub(super) fn poll_first_byte(&self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        self.wait(|ring| {
            let slot = &mut ring.slots[self.key as usize];
            if slot.has_bytes() {
                return (Poll::Ready(Ok(true)), None);
            }
            if let Some(error) = slot.failure() {
                return (Poll::Ready(Err(error)), None);
            }
            if slot.has(Flag::Ended) {
                return (Poll::Ready(Ok(false)), None);
            }
            if slot.has(Flag::Readable) {
                let mut byte = [std::mem::MaybeUninit::uninit()];
                match self.io().recv_with_flags(&mut byte, libc::MSG_PEEK | libc::MSG_DONTWAIT) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        slot.set(Flag::Readable, false)
                    }
                    peeked => return (Poll::Ready(peeked.map(|count| count > 0)), None),
                }
            }
            let former = slot.wait_read(cx.waker());
            ring.receive(self.key);
            (Poll::Pending, former)
        })
    }

    pub(super) fn poll_read(&self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if buffer.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        self.wait(|ring| {
            let slot = &mut ring.slots[self.key as usize];
            let mut taken = 0;
            if slot.has_bytes() {
                taken = ring.take(self.key, buffer.initialize_unfilled());
                buffer.advance(taken);
            }
            let slot = &mut ring.slots[self.key as usize];
            // There may be more: what was received was cut to a buffer's size.
            let again = slot.has(Flag::Readable) && !slot.holds_bytes() && buffer.remaining() > 0;
            if taken > 0 && !again {
                return (Poll::Ready(Ok(())), None);
            }
            if taken == 0
                && let Some(error) = slot.failure()
            {
                return (Poll::Ready(Err(error)), None);
            }
            if slot.has(Flag::Ended) {
                return (Poll::Ready(Ok(())), None);
            }
            if again {
                let room = buffer.remaining();
                let read = self.read_now(buffer);
                match read {
                    Ok(count) => {
                        if count < room && count > 0 {
                            slot.set(Flag::Readable, false);
                        }
                        if count == 0 && taken == 0 {
                            slot.set(Flag::Ended, true);
                        }
                        slot.moves_much = taken + count > SIZE;
                        return (Poll::Ready(Ok(())), None);
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        slot.set(Flag::Readable, false)
                    }
                    // It comes again at the next read.
                    Err(_) if taken > 0 => return (Poll::Ready(Ok(())), None),
                    Err(error) => return (Poll::Ready(Err(error)), None),
                }
                if taken > 0 {
                    return (Poll::Ready(Ok(())), None);
                }
            }
            let former = slot.wait_read(cx.waker());
            ring.receive(self.key);
            (Poll::Pending, former)
        })
    }

    pub(super) fn read_now(&self, buffer: &mut ReadBuf<'_>) -> io::Result<usize> {
        let count = nix::sys::socket::recv(
            self.io().as_raw_fd(),
            buffer.initialize_unfilled(),
            nix::sys::socket::MsgFlags::MSG_DONTWAIT,
        )?;
        buffer.advance(count);
        Ok(count)
    }

    pub(super) fn poll_write(&self, cx: &mut Context<'_>, parts: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let length: usize = parts.iter().map(|part| part.len()).sum();
        if length == 0 {
            return Poll::Ready(Ok(0));
        }
        self.wait(|ring| {
            let slot = &mut ring.slots[self.key as usize];
            if let Some(error) = slot.failure() {
                return (Poll::Ready(Err(error)), None);
            }
            if slot.is_busy() || slot.has(Flag::PollingOut) {
                return (Poll::Pending, slot.wait_write(cx.waker()));
            }
            let small = length <= SIZE && !slot.has(Flag::Direct);
            if small && ring.send(self.key, parts.iter().map(|part| &**part)) {
                return (Poll::Ready(Ok(length)), None);
            }
            let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
            match self.io().send_vectored_with_flags(parts, flags) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let slot = &mut ring.slots[self.key as usize];
                    let former = slot.wait_write(cx.waker());
                    ring.poll_out(self.key);
                    (Poll::Pending, former)
                }
                sent => (Poll::Ready(sent), None),
            }
        })
    }

    /// By the call itself: a ring gives it to a worker thread, which looks the descriptor up when it comes to it, and by then it may be another's.
    pub(super) fn poll_shutdown(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_idle(cx))?;
        Poll::Ready(self.io().shutdown(std::net::Shutdown::Write))
    }
}

impl Drop for OnRing {
    fn drop(&mut self) {
        let Some(socket) = self.socket.take() else { return };
        let mut kept = Some(socket);
        // Where the ring is gone the descriptor is simply closed.
        let wakers = self.with(|ring| kept.take().map(|socket| ring.close(self.key, socket)));
        drop((wakers, kept));
    }
}
