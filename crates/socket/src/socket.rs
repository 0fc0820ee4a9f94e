//! The socket.

mod on_ring;

use std::future::poll_fn;
use std::io::{self, IoSlice, Read as _};
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use nix::libc;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::task::coop;

use crate::ring::Flag;
use on_ring::OnRing;

/// A TCP connection. Its writes are taken like the kernel takes them: an error may show at the next call.
#[derive(Debug)]
pub struct Socket(Kind);

#[derive(Debug)]
enum Kind {
    /// By the runtime's epoll. Boxed, since it is the rarer and by far the larger.
    Runtime(Box<TcpStream>),
    Ring(OnRing),
}

impl Socket {
    /// A connection that was accepted, in blocking mode as accept(2) gives it.
    ///
    /// # Errors
    /// As for the runtime's own streams.
    pub fn accepted(socket: socket2::Socket) -> io::Result<Self> {
        match OnRing::new(socket, true) {
            Ok(socket) => Ok(Self(Kind::Ring(socket))),
            Err(socket) => Ok(Self(Kind::Runtime(Box::new(TcpStream::from_std(non_blocking(socket)?)?)))),
        }
    }

    /// Connects a new socket, which is in blocking mode, and says `first`. The first bytes bring the handshake's last acknowledgement with them: one packet
    /// less.
    ///
    /// # Errors
    /// connect(2), and send(2) where something is said.
    pub async fn connect(socket: socket2::Socket, address: SocketAddr, first: &[u8]) -> io::Result<Self> {
        if !first.is_empty() {
            socket.set_tcp_quickack(false)?;
        }
        let socket = match OnRing::new(socket, false) {
            Ok(socket) => socket,
            Err(socket) => {
                let stream = connect_by_runtime(socket, address, first).await?;
                return Ok(Self(Kind::Runtime(Box::new(stream))));
            }
        };
        let key = socket.key;
        let said = socket.with(|ring| ring.connect(key, address.into(), first))?;
        poll_fn(|cx| {
            socket.wait(|ring| {
                let slot = &mut ring.slots[key as usize];
                if slot.has(Flag::Connecting) {
                    return (Poll::Pending, slot.wait_write(cx.waker()));
                }
                (Poll::Ready(slot.failure().map_or(Ok(()), Err)), None)
            })
        })
        .await?;
        let mut socket = Self(Kind::Ring(socket));
        if said < first.len() {
            socket.write_all(&first[said..]).await?;
        }
        Ok(socket)
    }

    /// The address of our end.
    ///
    /// # Errors
    /// getsockname(2).
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        let address = SockRef::from(self).local_addr()?;
        address.as_socket().ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// Reads what is there, without waiting to be told that something is.
    ///
    /// # Errors
    /// recv(2); `WouldBlock` when nothing is there.
    pub fn try_read(&mut self, cx: &mut Context<'_>, into: &mut [u8]) -> io::Result<usize> {
        let mut view = ReadBuf::new(into);
        match Pin::new(&mut *self).poll_read(cx, &mut view) {
            Poll::Ready(read) => read.map(|()| view.filled().len()),
            Poll::Pending => match &self.0 {
                // It waits for epoll to say so.
                Kind::Runtime(stream) => (&*SockRef::from(&**stream)).read(into),
                Kind::Ring(_) => Err(io::ErrorKind::WouldBlock.into()),
            },
        }
    }

    /// Waits until something can be read, which stays unread. False: the peer has ended instead.
    ///
    /// # Errors
    /// When the connection broke.
    pub async fn first_byte(&self) -> io::Result<bool> {
        match &self.0 {
            Kind::Runtime(stream) => {
                let ready = stream.ready(Interest::READABLE).await?;
                // A peer that goes on has sent bytes; one that has ended may have.
                if ready.is_readable() && !ready.is_read_closed() {
                    return Ok(true);
                }
                Ok(stream.peek(&mut [0]).await? > 0)
            }
            Kind::Ring(socket) => poll_fn(|cx| socket.poll_first_byte(cx)).await,
        }
    }

    /// Ready when the kernel has all that was written.
    ///
    /// # Errors
    /// When it did not take it.
    pub fn poll_sent(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &self.0 {
            Kind::Runtime(_) => Poll::Ready(Ok(())),
            Kind::Ring(socket) => socket.poll_idle(cx),
        }
    }

    /// Whether nothing that was received, or is about to be, lies beside the socket itself.
    #[must_use]
    pub fn is_bare(&self) -> bool {
        match &self.0 {
            Kind::Runtime(_) => true,
            Kind::Ring(socket) => {
                let key = socket.key as usize;
                socket.with(|ring| !ring.slots[key].holds_bytes()).unwrap_or(true)
            }
        }
    }

    /// From now on the descriptor may be used by calls that must not block, such as splice(2). Everything that was written must have been sent.
    ///
    /// # Errors
    /// fcntl(2).
    pub fn make_direct(&self) -> io::Result<()> {
        let Kind::Ring(socket) = &self.0 else { return Ok(()) };
        let key = socket.key as usize;
        if socket.with(|ring| ring.slots[key].has(Flag::Direct))? {
            return Ok(());
        }
        SockRef::from(self).set_nonblocking(true)?;
        socket.with(|ring| {
            ring.slots[key].set(Flag::Direct, true);
            ring.slots[key].set(Flag::Readable, true);
        })
    }

    /// Ready when a read may find something.
    ///
    /// # Errors
    /// When the runtime ends.
    pub fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &self.0 {
            Kind::Runtime(stream) => stream.poll_read_ready(cx),
            Kind::Ring(socket) => socket.wait(|ring| {
                let slot = &mut ring.slots[socket.key as usize];
                if slot.has(Flag::Readable) || slot.has(Flag::Ended) {
                    return (Poll::Ready(Ok(())), None);
                }
                let former = slot.wait_read(cx.waker());
                ring.poll_in(socket.key);
                (Poll::Pending, former)
            }),
        }
    }

    /// Ready when a write may be taken.
    ///
    /// # Errors
    /// When the runtime ends.
    pub fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &self.0 {
            Kind::Runtime(stream) => stream.poll_write_ready(cx),
            Kind::Ring(socket) => socket.wait(|ring| {
                let slot = &mut ring.slots[socket.key as usize];
                if slot.has(Flag::PollingOut) {
                    return (Poll::Pending, slot.wait_write(cx.waker()));
                }
                (Poll::Ready(Ok(())), None)
            }),
        }
    }

    /// Makes a call that must not block. When it would have, the next [`Socket::poll_read_ready`] or [`Socket::poll_write_ready`] waits.
    ///
    /// # Errors
    /// The call's.
    pub fn try_io<T>(&self, interest: Interest, call: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        let socket = match &self.0 {
            Kind::Runtime(stream) => return stream.try_io(interest, call),
            Kind::Ring(socket) => socket,
        };
        let done = call();
        if matches!(&done, Err(error) if error.kind() == io::ErrorKind::WouldBlock) {
            socket.with(|ring| {
                if interest.is_readable() {
                    ring.slots[socket.key as usize].set(Flag::Readable, false);
                } else {
                    ring.poll_out(socket.key);
                }
            })?;
        }
        done
    }
}

/// The standard library's way to non-blocking mode is one call into the kernel, and not two.
fn non_blocking(socket: socket2::Socket) -> io::Result<std::net::TcpStream> {
    let stream = std::net::TcpStream::from(socket);
    stream.set_nonblocking(true)?;
    Ok(stream)
}

async fn connect_by_runtime(
    socket: socket2::Socket,
    address: SocketAddr,
    first: &[u8],
) -> io::Result<TcpStream> {
    let socket = non_blocking(socket)?;
    match SockRef::from(&socket).connect(&address.into()) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => return Err(error),
        _ => {}
    }
    // Not before: epoll says of a socket that connects nowhere that it can be written to.
    let mut stream = TcpStream::from_std(socket)?;
    // A near peer has answered by now; a failure says why at once, and comes again if it is not.
    let mut said = 0;
    if !first.is_empty() {
        said = match SockRef::from(&stream).send(first) {
            Ok(said) => said,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(error) => return Err(error),
        };
        if said == first.len() {
            return Ok(stream);
        }
    }
    stream.writable().await?;
    if let Some(error) = stream.take_error()? {
        return Err(error);
    }
    stream.write_all(&first[said..]).await?;
    Ok(stream)
}

/// A task that always finds something to do lets others run after a while, as with the runtime's own sockets.
fn in_turn<T>(cx: &mut Context<'_>, poll: impl FnOnce(&mut Context<'_>) -> Poll<T>) -> Poll<T> {
    let turn = ready!(coop::poll_proceed(cx));
    let polled = poll(cx);
    if polled.is_ready() {
        turn.made_progress();
    }
    polled
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.0 {
            Kind::Runtime(stream) => stream.as_fd(),
            Kind::Ring(socket) => socket.socket.as_ref().expect("taken only when dropped").as_fd(),
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.0 {
            Kind::Runtime(stream) => Pin::new(&mut **stream).poll_read(cx, buffer),
            Kind::Ring(socket) => in_turn(cx, |cx| socket.poll_read(cx, buffer)),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.0 {
            Kind::Runtime(stream) => Pin::new(&mut **stream).poll_write_vectored(cx, parts),
            Kind::Ring(socket) => in_turn(cx, |cx| socket.poll_write(cx, parts)),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// What was written is on its way.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.0 {
            Kind::Runtime(stream) => Pin::new(&mut **stream).poll_shutdown(cx),
            Kind::Ring(socket) => socket.poll_shutdown(cx),
        }
    }
}
