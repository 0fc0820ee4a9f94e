//! Loopback listeners on ports that the kernel chose.

use std::net::{Ipv4Addr, SocketAddr};

use tokio::net::TcpListener;

/// A listener on 127.0.0.1 and its address.
///
/// # Panics
/// When the machine has no loopback.
pub async fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("loopback has a free port");
    let address = listener.local_addr().expect("a bound listener has an address");
    (listener, address)
}
