//! Socket facts: the mark that exempts, and where a redirected connection was going.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;

use socket2::SockRef;

/// Marks a socket as the agent's own.
///
/// # Errors
/// Without `CAP_NET_ADMIN` or `CAP_NET_RAW` over this network namespace.
pub fn mark<S: AsFd>(socket: &S, mark: u32) -> io::Result<()> {
    SockRef::from(socket).set_mark(mark)
}

/// Where an accepted connection was going before it was redirected; its own local address when it was not.
///
/// # Errors
/// When the socket is no longer connected.
pub fn original_destination<S: AsFd>(socket: &S) -> io::Result<SocketAddr> {
    let socket = SockRef::from(socket);
    let local = socket
        .local_addr()?
        .as_socket()
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "not an IP socket"))?;
    // A dual-stack listener sees IPv4 peers as mapped addresses, and conntrack knows them as IPv4.
    let original = match local.ip().to_canonical() {
        IpAddr::V4(_) => socket.original_dst_v4(),
        IpAddr::V6(_) => socket.original_dst_v6(),
    };
    match original {
        Ok(address) => Ok(address.as_socket().unwrap_or(local)),
        // Not tracked, so not redirected.
        Err(error) if matches!(error.raw_os_error(), Some(nix::libc::ENOENT | nix::libc::ENOPROTOOPT)) => {
            Ok(SocketAddr::new(local.ip().to_canonical(), local.port()))
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn a_direct_connection_was_going_where_it_arrived() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let _client = TcpStream::connect(address).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        assert_eq!(original_destination(&accepted).unwrap(), address);
    }
}
