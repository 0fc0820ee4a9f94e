//! What listens.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};

use socket2::{SockRef, Socket};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A listening socket. It stays in epoll: its connections are accepted by those who serve them, and not watched twice.
#[derive(Debug)]
pub struct Listener(AsyncFd<Socket>);

impl Listener {
    /// From a socket that listens in non-blocking mode.
    ///
    /// # Errors
    /// epoll_ctl(2).
    pub fn new(socket: Socket) -> io::Result<Self> {
        #[expect(unsafe_code, reason = "the runtime must trust that the descriptor stays the same")]
        // SAFETY: a Socket owns one descriptor until it is dropped, and nothing takes it out of here.
        let socket = unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE)? };
        Ok(Self(socket))
    }

    /// The next connection and its source.
    ///
    /// # Errors
    /// accept(2), those of the connection itself included.
    pub async fn accept(&self) -> io::Result<(crate::Socket, SocketAddr)> {
        let (socket, source) = self.0.async_io(Interest::READABLE, Socket::accept).await?;
        let source = source.as_socket().ok_or(io::ErrorKind::InvalidData)?;
        Ok((crate::Socket::accepted(socket)?, source))
    }

    /// Where it listens.
    ///
    /// # Errors
    /// getsockname(2).
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        let address = SockRef::from(self).local_addr()?;
        address.as_socket().ok_or_else(|| io::ErrorKind::InvalidData.into())
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.get_ref().as_fd()
    }
}
