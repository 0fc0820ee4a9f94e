//! Loopback on ports that the kernel chose.

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

/// A port that nobody listens on, for a program that cannot be told "any". Somebody else may take it before that program does.
///
/// # Panics
/// When the machine has no loopback.
#[must_use]
pub fn free_port() -> u16 {
    let bound = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|bound| bound.local_addr());
    bound.expect("loopback has a free port").port()
}
