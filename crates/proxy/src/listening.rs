//! Sockets that listen, and the loop that accepts from them.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Weak};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use futures::FutureExt as _;
use isthmus_lifecycle::OnFailure;
use isthmus_socket::{Listener as Listening, Socket};
use parking_lot::Mutex;
use socket2::{Domain, Protocol, Type};
use tokio_util::sync::CancellationToken;

use crate::config::Keepalive;
use crate::connect::tune;
use crate::resource::listener::{Listener, Place};
use crate::serve::serve;
use crate::shared::{Admitted, Shared};
use crate::stream::reset;

/// Connections that the kernel keeps until they are accepted.
const BACKLOG: i32 = 4096;
/// Connections that are accepted before the signals are looked at again.
const TOGETHER: usize = 32;
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
    state: Mutex<State>,
}

/// Where a socket is.
enum State {
    /// Its connections wait in the kernel: there is no listener yet, or a predecessor still serves.
    Waiting(Arc<Listening>),
    /// Its loop owns it.
    Accepting(Weak<Listening>),
    /// There is none: a predecessor has the address and did not hand it over.
    Owed(Place),
}

impl Bound {
    pub(crate) fn new(
        asked: SocketAddr,
        listener: Option<Arc<Listener>>,
        socket: Listening,
    ) -> io::Result<Self> {
        let address = socket.local_addr()?;
        Ok(Self::with(asked, address, listener, State::Waiting(Arc::new(socket))))
    }

    /// A listener whose address becomes free when the predecessor goes.
    pub(crate) fn owed(place: Place, listener: Arc<Listener>) -> Self {
        Self::with(place.address, place.address, Some(listener), State::Owed(place))
    }

    fn with(asked: SocketAddr, address: SocketAddr, listener: Option<Arc<Listener>>, state: State) -> Self {
        Self {
            asked,
            address,
            listener: ArcSwapOption::new(listener),
            closed: CancellationToken::new(),
            state: Mutex::new(state),
        }
    }

    /// Accepts until the proxy stops or the listener is closed. It changes nothing when it already does.
    ///
    /// # Errors
    /// When the socket was owed and cannot be had.
    pub(crate) fn begin(self: &Arc<Self>, shared: &Arc<Shared>) -> io::Result<()> {
        let mut state = self.state.lock();
        let socket = match &*state {
            State::Accepting(_) => return Ok(()),
            State::Waiting(socket) => Arc::clone(socket),
            State::Owed(place) => Arc::new(bind(*place, &shared.config.limits.keepalive)?),
        };
        *state = State::Accepting(Arc::downgrade(&socket));
        drop(state);
        accept(shared, self, socket);
        Ok(())
    }

    /// The socket once more, for a successor.
    pub(crate) fn duplicate(&self) -> io::Result<Option<OwnedFd>> {
        let socket = match &*self.state.lock() {
            State::Waiting(socket) => Some(Arc::clone(socket)),
            State::Accepting(socket) => socket.upgrade(),
            State::Owed(_) => None,
        };
        socket.map(|socket| socket.as_fd().try_clone_to_owned()).transpose()
    }
}

/// Listens. What is set on the socket holds for the connections that it accepts (Linux hands it down), without a call for each.
pub(crate) fn bind(place: Place, keepalive: &Keepalive) -> io::Result<Listening> {
    let socket = socket2::Socket::new(Domain::for_address(place.address), Type::STREAM, Some(Protocol::TCP))?;
    if place.address.is_ipv6() {
        // As Envoy: [::] is IPv6 alone unless asked, so that 0.0.0.0 may have the same port.
        socket.set_only_v6(!place.dual_stack)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    tune(&socket, keepalive)?;
    socket.bind(&place.address.into())?;
    socket.listen(BACKLOG)?;
    Listening::new(socket)
}

/// A listening socket of a predecessor.
pub(crate) fn adopt(socket: OwnedFd, keepalive: &Keepalive) -> io::Result<Listening> {
    let socket = socket2::Socket::from(socket);
    if !socket.is_listener()? {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "the socket that was handed over does not listen",
        ));
    }
    socket.set_nonblocking(true)?;
    tune(&socket, keepalive)?;
    Listening::new(socket)
}

fn accept(shared: &Arc<Shared>, bound: &Arc<Bound>, socket: Arc<Listening>) {
    let (proxy, bound) = (Arc::clone(shared), Arc::clone(bound));
    let stop = shared.tasks.signal();
    shared.tasks.spawn("listener", OnFailure::Stop, async move {
        loop {
            let mut accepted = tokio::select! {
                biased;
                () = stop.stopping() => return Ok::<(), io::Error>(()),
                () = bound.closed.cancelled() => return Ok(()),
                accepted = socket.accept() => accepted,
            };
            // What was accepted is served, also the last of a round.
            for left in (0..TOGETHER).rev() {
                match accepted {
                    Ok((stream, source)) => admit(&proxy, &bound, stream, source),
                    Err(error) if is_of_one_connection(&error) => {}
                    Err(error) => {
                        tracing::warn!(address = %bound.address, %error, "cannot accept, trying again");
                        tokio::time::sleep(EXHAUSTED).await;
                        break;
                    }
                }
                if left == 0 {
                    break;
                }
                match socket.accept().now_or_never() {
                    Some(next) => accepted = next,
                    None => break,
                }
            }
        }
    });
}

fn admit(shared: &Arc<Shared>, bound: &Bound, stream: Socket, source: SocketAddr) {
    let Some(listener) = bound.listener.load_full() else {
        shared.metrics.refused("no_listener");
        return reset(&stream);
    };
    // Behind a balancer that announces its clients the source is known later.
    let by_source = !listener.captures && listener.announced.is_none();
    let Some(admitted) = Admitted::ask(shared, source.ip(), by_source) else {
        return reset(&stream);
    };
    shared.tasks.spawn_many(serve(Arc::clone(shared), listener, stream, source, admitted));
}

/// accept(2): errors that a connection had before it was accepted.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}
