//! One direction inside the kernel: socket to pipe to socket.

use std::io;
use std::task::{Context, Poll, ready};

use isthmus_socket::Socket;
use nix::errno::Errno;
use nix::fcntl::{SpliceFFlags, splice};
use tokio::io::Interest;

use super::half::Failure;
use super::store::Pipe;

/// Asked for at once: at most what a pipe holds is given.
const CHUNK: usize = 1 << 20;
/// A direction whose reads bring less goes back to user space, where small messages cost less.
const SMALL: usize = 4 * 1024;

/// State of a direction that may splice.
#[derive(Debug, Default)]
pub(super) struct Splice {
    on: bool,
    /// Held only while there are bytes in it.
    pipe: Option<Pipe>,
    inside: usize,
    moved: u64,
}

/// What happened.
pub(super) enum Step {
    /// The reader has ended, and all it sent is written.
    Ended,
    /// Little comes: go on in user space. Nothing is left in the pipe.
    Small,
}

impl Splice {
    pub(super) fn is_on(&self) -> bool {
        self.on
    }

    pub(super) fn switch_on(&mut self) {
        self.on = true;
    }

    /// Bytes read since the last call.
    pub(super) fn take_moved(&mut self) -> u64 {
        std::mem::take(&mut self.moved)
    }

    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &Socket,
        to: &Socket,
    ) -> Poll<Result<Step, Failure>> {
        ready!(to.poll_sent(cx)).map_err(Failure::Writer)?;
        to.make_direct().map_err(Failure::Writer)?;
        from.make_direct().map_err(Failure::Reader)?;
        loop {
            ready!(self.poll_empty(cx, to))?;
            match from.poll_read_ready(cx) {
                Poll::Ready(ready) => ready.map_err(Failure::Reader)?,
                Poll::Pending => {
                    if let Some(pipe) = self.pipe.take() {
                        pipe.give_back();
                    }
                    return Poll::Pending;
                }
            }
            let pipe = match self.pipe.take() {
                Some(pipe) => pipe,
                None => Pipe::take().map_err(Failure::Reader)?,
            };
            let read = from.try_io(Interest::READABLE, || transfer(from, &pipe.into, CHUNK));
            self.pipe = Some(pipe);
            match read {
                Ok(0) => {
                    self.release();
                    return Poll::Ready(Ok(Step::Ended));
                }
                Ok(count) => {
                    self.inside = count;
                    self.moved += count as u64;
                    if count < SMALL {
                        ready!(self.poll_empty(cx, to))?;
                        self.release();
                        return Poll::Ready(Ok(Step::Small));
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(Failure::Reader(error))),
            }
        }
    }

    /// Writes what is in the pipe.
    fn poll_empty(&mut self, cx: &mut Context<'_>, to: &Socket) -> Poll<Result<(), Failure>> {
        while self.inside > 0 {
            ready!(to.poll_write_ready(cx)).map_err(Failure::Writer)?;
            let Some(pipe) = &self.pipe else { break };
            match to.try_io(Interest::WRITABLE, || transfer(&pipe.out, to, self.inside)) {
                Ok(0) => return Poll::Ready(Err(Failure::Writer(io::ErrorKind::WriteZero.into()))),
                Ok(written) => self.inside -= written,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(Failure::Writer(error))),
            }
        }
        Poll::Ready(Ok(()))
    }

    fn release(&mut self) {
        self.on = false;
        if let Some(pipe) = self.pipe.take() {
            pipe.give_back();
        }
    }
}

fn transfer(from: &impl std::os::fd::AsFd, to: &impl std::os::fd::AsFd, most: usize) -> io::Result<usize> {
    let flags = SpliceFFlags::SPLICE_F_MOVE | SpliceFFlags::SPLICE_F_NONBLOCK;
    loop {
        match splice(from, None, to, None, most, flags) {
            Err(Errno::EINTR) => {}
            done => return Ok(done?),
        }
    }
}
