//! Sockets that listen, and the loop that accepts from them.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use isthmus_lifecycle::OnFailure;
use parking_lot::Mutex;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use crate::connect::{KEEPALIVE, tune};
use crate::resource::listener::Listener;
use crate::serve::serve;
use crate::shared::{Admitted, Shared};
use crate::stream::reset;

/// Connections that the kernel keeps until they are accepted.
const BACKLOG: i32 = 4096;
/// Pause when the process has no descriptor left for one more connection.
const EXHAUSTED: Duration = Duration::from_millis(50);

/// A socket, and the listener that speaks for it at the moment.
pub(crate) struct Bound {
    /// Where it was to listen.
    pub(crate) asked: SocketAddr,
    /// Where it does: the port may have been 0.
    pub(crate) address: SocketAddr,
    pub(crate) listener: ArcSwapOption<Listener>,
    pub(crate) closed: CancellationToken,
    /// The socket, until there is a listener.
    pub(crate) waiting: Mutex<Option<TcpListener>>,
}

/// Listens. What is set on the socket holds for the connections that it accepts (Linux hands it down), without a call for each.
pub(crate) fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    tune(&socket, &KEEPALIVE)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Accepts until the proxy stops or the listener is closed.
pub(crate) fn start(shared: &Arc<Shared>, bound: &Arc<Bound>, socket: TcpListener) {
    let (proxy, bound) = (Arc::clone(shared), Arc::clone(bound));
    let stop = shared.tasks.signal();
    shared.tasks.spawn("listener", OnFailure::Stop, async move {
        loop {
            let accepted = tokio::select! {
                biased;
                () = stop.stopping() => return Ok::<(), io::Error>(()),
                () = bound.closed.cancelled() => return Ok(()),
                accepted = socket.accept() => accepted,
            };
            match accepted {
                Ok((stream, source)) => admit(&proxy, &bound, stream, source),
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => {
                    tracing::warn!(address = %bound.address, %error, "cannot accept, trying again");
                    tokio::time::sleep(EXHAUSTED).await;
                }
            }
        }
    });
}

fn admit(shared: &Arc<Shared>, bound: &Bound, stream: TcpStream, source: SocketAddr) {
    let Some(listener) = bound.listener.load_full() else {
        shared.metrics.refused("no_listener");
        return reset(&stream);
    };
    let Some(admitted) = Admitted::ask(shared, source.ip(), !listener.captures) else {
        return reset(&stream);
    };
    shared.tasks.spawn_many(serve(Arc::clone(shared), listener, stream, source, admitted));
}

/// accept(2): errors that a connection had before it was accepted.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}
