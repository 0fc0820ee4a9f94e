//! What a ring knows of one socket.

use std::io;
use std::os::fd::RawFd;
use std::task::Waker;

use nix::libc;

/// What may be so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flag {
    /// A read waits.
    Receiving = 1,
    PollingIn = 2,
    PollingOut = 4,
    Connecting = 8,
    /// The peer has said its end.
    Ended = 16,
    /// A read may find something.
    Readable = 32,
    /// In non-blocking mode: the ring only says when it is ready.
    Direct = 64,
    /// Its owner is gone; it is closed when nothing is open any more.
    Orphan = 128,
}

/// Bytes that were received and not taken yet.
#[derive(Debug)]
pub(crate) struct Got {
    pub(super) buffer: u16,
    pub(super) from: u16,
    pub(super) to: u16,
}

#[derive(Debug)]
pub(crate) struct Slot {
    pub(super) reader: Option<Waker>,
    pub(super) writer: Option<Waker>,
    pub(super) socket: RawFd,
    /// Its error number, if it broke.
    failed: i32,
    pub(super) got: Option<Got>,
    /// The buffer of what is being sent, and how much that is.
    pub(super) sending: Option<(u16, u16)>,
    flags: u8,
    /// Requests without an answer.
    pub(super) open: u8,
    pub(super) wake_reader: bool,
    pub(super) wake_writer: bool,
    /// More than a buffer came last time.
    pub(crate) moves_much: bool,
}

impl Slot {
    pub(super) fn new(socket: RawFd, readable: bool) -> Self {
        let flags = if readable { Flag::Readable as u8 } else { 0 };
        Self {
            reader: None,
            writer: None,
            socket,
            failed: 0,
            got: None,
            sending: None,
            flags,
            open: 0,
            wake_reader: false,
            wake_writer: false,
            moves_much: false,
        }
    }

    pub(crate) fn has(&self, flag: Flag) -> bool {
        self.flags & flag as u8 != 0
    }

    pub(crate) fn set(&mut self, flag: Flag, on: bool) {
        if on { self.flags |= flag as u8 } else { self.flags &= !(flag as u8) }
    }

    /// Bytes are here that a read of the socket itself does not find.
    pub(crate) fn holds_bytes(&self) -> bool {
        self.got.is_some() || self.has(Flag::Receiving)
    }

    pub(crate) fn has_bytes(&self) -> bool {
        self.got.is_some()
    }

    /// A write or the connect is not done.
    pub(crate) fn is_busy(&self) -> bool {
        self.sending.is_some() || self.has(Flag::Connecting)
    }

    pub(crate) fn failure(&self) -> Option<io::Error> {
        (self.failed != 0).then(|| io::Error::from_raw_os_error(self.failed))
    }

    fn fail(&mut self, number: i32) {
        if self.failed == 0 {
            self.failed = number;
        }
        self.wake_reader = true;
        self.wake_writer = true;
    }

    /// Whether it keeps the buffer.
    pub(super) fn received(&mut self, result: i32, buffer: Option<u16>, more: bool) -> bool {
        self.set(Flag::Receiving, false);
        self.wake_reader = true;
        match (result, buffer) {
            (0, _) => self.set(Flag::Ended, true),
            (count @ 1.., Some(buffer)) => {
                self.set(Flag::Readable, more);
                let to = u16::try_from(count).expect("at most a buffer's size was asked for");
                self.got = Some(Got { buffer, from: 0, to });
                return true;
            }
            // No buffer was free, or it was interrupted: the reader looks for itself.
            _ if [-libc::ENOBUFS, -libc::EINTR].contains(&result) => self.set(Flag::Readable, true),
            // It was set to non-blocking mode meanwhile.
            _ if result == -libc::EAGAIN => self.set(Flag::Direct, true),
            _ if result == -libc::ECANCELED => {}
            (number, _) => self.fail(-number),
        }
        false
    }

    pub(super) fn sent(&mut self, result: i32, length: u16) {
        self.wake_writer = true;
        if result == -libc::ECANCELED {
            // Its connect failed, or the socket was dropped.
        } else if result < 0 {
            self.fail(-result);
        } else if result < i32::from(length) {
            self.fail(libc::ECONNRESET);
        }
    }

    pub(super) fn connected(&mut self, result: i32) {
        self.set(Flag::Connecting, false);
        self.wake_writer = true;
        if result < 0 {
            self.fail(-result);
        }
    }

    /// Keeps whom to wake; the former one is to be dropped where the ring is not borrowed.
    #[must_use]
    pub(crate) fn wait_read(&mut self, waker: &Waker) -> Option<Waker> {
        keep(&mut self.reader, waker)
    }

    #[must_use]
    pub(crate) fn wait_write(&mut self, waker: &Waker) -> Option<Waker> {
        keep(&mut self.writer, waker)
    }
}

fn keep(kept: &mut Option<Waker>, waker: &Waker) -> Option<Waker> {
    match kept {
        Some(same) if same.will_wake(waker) => None,
        _ => kept.replace(waker.clone()),
    }
}
