//! One thread's io_uring, with the sockets that use it.
//!
//! Requests are collected while tasks run, and go to the kernel together when the driver has its turn. A socket asks for a read only when its
//! task waits for one, so a peer is held back as with read(2); what comes lies in a buffer of a small store that the kernel takes from, so
//! a socket that waits holds none. Where the store is empty, or much is moved, the ring only says when a socket is ready.

mod memory;
mod slot;

use std::cell::RefCell;
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::Waker;

use io_uring::squeue::{Entry, Flags};
use io_uring::types::{CancelBuilder, Fd};
use io_uring::{IoUring, cqueue, opcode};
use nix::libc;
use slab::Slab;
use socket2::SockAddr;

pub(crate) use memory::SIZE;
use memory::{Received, Sending};
pub(crate) use slot::{Flag, Slot};

/// Requests that wait for the next turn; more are handed over at once.
const REQUESTS: u32 = 1024;
/// Answers of one turn; more are kept by the kernel.
const ANSWERS: u32 = 4096;
/// What the kernel does at least of its deferred work when it is entered (`IO_LOCAL_TW_DEFAULT_MAX`).
const WORK: usize = 20;
/// `user_data` of requests that nobody waits for.
const NOBODY: u64 = u64::MAX;

/// What a request was, in the low bits of its `user_data`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Receive = 0,
    Send = 1,
    PollIn = 2,
    PollOut = 3,
    Connect = 4,
}

const KIND_BITS: u32 = 3;

pub(crate) struct Ring {
    id: u32,
    io: IoUring,
    received: Received,
    sending: Sending,
    pub(crate) slots: Slab<Slot>,
    /// Addresses of connects that the kernel has not read yet.
    #[expect(clippy::vec_box, reason = "the kernel has their addresses, which must not move")]
    addresses: Vec<Box<SockAddr>>,
    driver: Waker,
    /// Requests without an answer.
    open: usize,
    /// How often in a row the flag of deferred work was followed to no answer.
    believed: usize,
    /// The driver knows that there is something to do.
    called: bool,
    woken: Vec<Waker>,
}

thread_local! {
    static RING: RefCell<Option<Ring>> = const { RefCell::new(None) };
}

static NEXT: AtomicU32 = AtomicU32::new(1);

/// Whether this thread has a ring.
pub(crate) fn is_here() -> bool {
    RING.with_borrow(Option::is_some)
}

/// The id of this thread's ring from now on.
pub(crate) fn install(ring: Ring) -> u32 {
    let id = ring.id;
    RING.set(Some(ring));
    id
}

/// Does something with the ring of this thread, if it has one (and, where it matters, it is this one).
pub(crate) fn with<T>(id: Option<u32>, work: impl FnOnce(&mut Ring) -> T) -> Option<T> {
    RING.try_with(|ring| {
        let mut ring = ring.try_borrow_mut().ok()?;
        ring.as_mut().filter(|ring| id.is_none_or(|id| ring.id == id)).map(work)
    })
    .ok()
    .flatten()
}

/// Hands over what was asked for, and wakes those who were answered.
pub(crate) fn turn(id: u32, driver: &Waker) {
    let woken = with(Some(id), |ring| {
        if !ring.driver.will_wake(driver) {
            ring.driver.clone_from(driver);
        }
        ring.turn();
        std::mem::take(&mut ring.woken)
    });
    // Outside: whoever is woken, or dropped with its waker, may come back here.
    let Some(mut woken) = woken else { return };
    woken.drain(..).for_each(Waker::wake);
    with(Some(id), |ring| ring.woken = woken);
}

/// Ends a ring; its sockets can only be closed from now on.
pub(crate) fn remove(id: u32) {
    let ring = with(Some(id), |_| ()).and_then(|()| RING.try_with(RefCell::take).ok().flatten());
    if let Some(mut ring) = ring {
        ring.turn();
    }
}

impl Ring {
    pub(crate) fn new(events: BorrowedFd<'_>) -> io::Result<Self> {
        let io = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .setup_cqsize(ANSWERS)
            .build(REQUESTS)?;
        let received = Received::register(&io)?;
        io.submitter().register_eventfd(events.as_raw_fd())?;
        Ok(Self {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            io,
            received,
            sending: Sending::default(),
            slots: Slab::new(),
            addresses: Vec::new(),
            driver: Waker::noop().clone(),
            open: 0,
            believed: 0,
            called: false,
            woken: Vec::new(),
        })
    }

    pub(crate) fn id(&self) -> u32 {
        self.id
    }

    /// Adds a socket, which must be in blocking mode: the kernel then waits for it, and refuses to in the other.
    pub(crate) fn add(&mut self, socket: RawFd, readable: bool) -> u32 {
        let key = self.slots.insert(Slot::new(socket, readable));
        u32::try_from(key).expect("fewer sockets than descriptors, which are 31 bits")
    }

    fn push(&mut self, entry: &Entry) {
        if !self.called {
            self.called = true;
            self.driver.wake_by_ref();
        }
        #[expect(unsafe_code, reason = "a request names memory that the compiler does not see")]
        // SAFETY: buffers belong to `received` and `sending`, which outlive their requests (`remove` leaks them where some are open), a
        // connect's address lies in `addresses` until it was read, and a descriptor is closed by a later request or after the last answer.
        while unsafe { self.io.submission().push(entry) }.is_err() {
            // An error leaves the queue as it is, and comes again in the driver's turn; here only room is needed.
            if self.io.submit().is_err() {
                std::thread::yield_now();
            }
            if self.io.submission().is_empty() {
                self.addresses.clear();
            }
        }
    }

    fn ask(&mut self, key: u32, kind: Kind, entry: Entry) {
        self.slots[key as usize].open += 1;
        self.open += 1;
        self.push(&entry.user_data(u64::from(key) << KIND_BITS | kind as u64));
    }

    /// Reads into a buffer of the kernel's choice when something comes. Where that would be a small part of it, it is only told of.
    pub(crate) fn receive(&mut self, key: u32) {
        let slot = &mut self.slots[key as usize];
        if slot.has(Flag::Direct) || slot.moves_much {
            return self.poll_in(key);
        }
        if slot.has(Flag::Receiving) || slot.has(Flag::PollingIn) {
            return;
        }
        slot.set(Flag::Receiving, true);
        let size = u32::try_from(SIZE).expect("a small constant");
        let receive = opcode::Recv::new(Fd(slot.socket), std::ptr::null_mut(), size)
            .buf_group(memory::GROUP)
            .ioprio(POLL_FIRST);
        self.ask(key, Kind::Receive, receive.build().flags(Flags::BUFFER_SELECT));
    }

    pub(crate) fn poll_in(&mut self, key: u32) {
        let slot = &mut self.slots[key as usize];
        if slot.has(Flag::PollingIn) || slot.has(Flag::Receiving) {
            return;
        }
        slot.set(Flag::PollingIn, true);
        let mask = (libc::POLLIN | libc::POLLRDHUP).cast_unsigned();
        let poll = opcode::PollAdd::new(Fd(slot.socket), mask.into());
        self.ask(key, Kind::PollIn, poll.build());
    }

    pub(crate) fn poll_out(&mut self, key: u32) {
        let slot = &mut self.slots[key as usize];
        if slot.has(Flag::PollingOut) {
            return;
        }
        slot.set(Flag::PollingOut, true);
        let poll = opcode::PollAdd::new(Fd(slot.socket), libc::POLLOUT.cast_unsigned().into());
        self.ask(key, Kind::PollOut, poll.build());
    }

    /// Sends all of these parts, together at most [`SIZE`]. False when no buffer is left.
    pub(crate) fn send<'a>(&mut self, key: u32, parts: impl Iterator<Item = &'a [u8]>) -> bool {
        let Some((buffer, start, length)) = self.sending.fill(parts) else { return false };
        let slot = &mut self.slots[key as usize];
        slot.sending = Some((buffer, length));
        let flags = libc::MSG_WAITALL | libc::MSG_NOSIGNAL;
        let send = opcode::Send::new(Fd(slot.socket), start, length.into()).flags(flags);
        self.ask(key, Kind::Send, send.build());
        true
    }

    /// Connects, and says `first` (at most [`SIZE`]) as soon as that is done. Bytes that will be said.
    pub(crate) fn connect(&mut self, key: u32, address: SockAddr, first: &[u8]) -> usize {
        // Both into one batch: a chain ends with it.
        let queue = self.io.submission();
        let room = queue.capacity() - queue.len();
        drop(queue);
        if room < 2 {
            // An error comes again in the driver's turn; the chain is then cut, and the bytes are refused.
            let _ = self.io.submit();
        }
        let address = Box::new(address);
        let slot = &mut self.slots[key as usize];
        slot.set(Flag::Connecting, true);
        let connect = opcode::Connect::new(Fd(slot.socket), address.as_ptr().cast(), address.len()).build();
        self.addresses.push(address);
        let first = &first[..first.len().min(SIZE)];
        let linked = !first.is_empty() && self.sending.has_room();
        self.ask(key, Kind::Connect, if linked { connect.flags(Flags::IO_LINK) } else { connect });
        if linked && self.send(key, std::iter::once(first)) { first.len() } else { 0 }
    }

    /// Copies what was received. Zero when nothing was.
    pub(crate) fn take(&mut self, key: u32, into: &mut [u8]) -> usize {
        let slot = &mut self.slots[key as usize];
        let Some(got) = &mut slot.got else { return 0 };
        let bytes = &self.received.bytes(got.buffer)[usize::from(got.from)..usize::from(got.to)];
        let count = bytes.len().min(into.len());
        into[..count].copy_from_slice(&bytes[..count]);
        got.from += u16::try_from(count).expect("within a buffer");
        if got.from == got.to {
            self.received.give_back(got.buffer);
            slot.got = None;
        }
        count
    }

    /// Closes a socket. What it still waits for is called off.
    pub(crate) fn close(&mut self, key: u32, socket: OwnedFd) -> (Option<Waker>, Option<Waker>) {
        let slot = &mut self.slots[key as usize];
        let wakers = (slot.reader.take(), slot.writer.take());
        if let Some(got) = slot.got.take() {
            self.received.give_back(got.buffer);
        }
        let socket = std::os::fd::IntoRawFd::into_raw_fd(socket);
        if slot.open == 0 {
            self.slots.remove(key as usize);
            self.push_close(socket);
        } else {
            slot.set(Flag::Orphan, true);
            let all = CancelBuilder::fd(Fd(socket)).all();
            self.push(&opcode::AsyncCancel2::new(all).build().user_data(NOBODY));
        }
        wakers
    }

    fn push_close(&mut self, socket: RawFd) {
        self.push(&opcode::Close::new(Fd(socket)).build().flags(Flags::SKIP_SUCCESS).user_data(NOBODY));
    }

    fn turn(&mut self) {
        self.called = true;
        loop {
            let submit = u32::try_from(self.io.submission().len()).expect("at most the queue's length");
            #[expect(unsafe_code, reason = "io_uring_enter may be handed pointers")]
            // SAFETY: there is no argument.
            let entered = unsafe { self.io.submitter().enter::<libc::sigset_t>(submit, 0, GETEVENTS, None) };
            if self.io.submission().is_empty() {
                self.addresses.clear();
            }
            let answered = self.reap();
            if answered {
                self.believed = 0;
            }
            match entered {
                Err(error) if error.raw_os_error() == Some(libc::EINTR) => {}
                // Too many answers wait: there is room now, or in the next turn.
                Err(_) if !answered => {
                    self.driver.wake_by_ref();
                    break;
                }
                Err(_) => {}
                Ok(_) => {
                    // The kernel does a bounded part of its work at a time, and of the rest it tells by this flag alone, not by the event.
                    let queue = self.io.submission();
                    let (left, flagged) = (!queue.is_empty() || queue.cq_overflow(), queue.taskrun());
                    drop(queue);
                    if left || flagged && answered {
                        continue;
                    }
                    // The flag may also be late: raised by another CPU for work that is done already, and then only more work lowers it. So it is
                    // believed as often as there can be work, each time with what tasks ask for meanwhile.
                    self.believed = if flagged { self.believed + 1 } else { 0 };
                    if flagged && self.believed <= self.open / WORK + 1 {
                        self.driver.wake_by_ref();
                    }
                    break;
                }
            }
        }
        self.called = false;
    }

    fn reap(&mut self) -> bool {
        let mut any = false;
        loop {
            let Some(answer) = self.io.completion().next() else { return any };
            any = true;
            let (data, result, flags) = (answer.user_data(), answer.result(), answer.flags());
            if data == NOBODY {
                continue;
            }
            let buffer = cqueue::buffer_select(flags);
            let key = usize::try_from(data >> KIND_BITS).unwrap_or(usize::MAX);
            let Some(slot) = self.slots.get_mut(key) else { continue };
            slot.open -= 1;
            self.open -= 1;
            match data & ((1 << KIND_BITS) - 1) {
                kind if kind == Kind::Receive as u64 => {
                    let given = slot.received(result, buffer, cqueue::sock_nonempty(flags));
                    if !given && let Some(buffer) = buffer {
                        self.received.give_back(buffer);
                    }
                }
                kind if kind == Kind::Send as u64 => {
                    if let Some((buffer, length)) = slot.sending.take() {
                        self.sending.give_back(buffer);
                        slot.sent(result, length);
                    }
                }
                kind if kind == Kind::PollIn as u64 => {
                    slot.set(Flag::PollingIn, false);
                    slot.set(Flag::Readable, true);
                    slot.wake_reader = true;
                }
                kind if kind == Kind::PollOut as u64 => {
                    slot.set(Flag::PollingOut, false);
                    slot.wake_writer = true;
                }
                _ => slot.connected(result),
            }
            if std::mem::take(&mut slot.wake_reader) {
                self.woken.extend(slot.reader.take());
            }
            if std::mem::take(&mut slot.wake_writer) {
                self.woken.extend(slot.writer.take());
            }
            if slot.has(Flag::Orphan) && slot.open == 0 {
                let slot = self.slots.remove(key);
                if let Some(got) = slot.got {
                    self.received.give_back(got.buffer);
                }
                self.push_close(slot.socket);
            }
        }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        let mut open = false;
        for (_, slot) in &self.slots {
            open |= slot.open > 0;
            if slot.has(Flag::Orphan) {
                #[expect(unsafe_code, reason = "the number became ours when its owner was dropped")]
                // SAFETY: as said; nothing closes it later, since the ring ends here.
                drop(unsafe { OwnedFd::from_raw_fd(slot.socket) });
            }
        }
        if open {
            // The kernel may still write into them.
            self.received.leak();
            self.sending.leak();
        }
    }
}

/// `IORING_RECVSEND_POLL_FIRST`: nothing is there yet, so do not try before waiting.
const POLL_FIRST: u16 = 1;
/// `IORING_ENTER_GETEVENTS`.
const GETEVENTS: u32 = 1;
