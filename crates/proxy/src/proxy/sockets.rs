//! The sockets of a proxy: opened for listeners, inherited from a predecessor, handed to a successor.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use isthmus_socket::Listener as Listening;

use super::{INBOUND, OUTBOUND};
use crate::listening::{Bound, adopt, bind};
use crate::resource::listener::{Listener, Place};
use crate::shared::Shared;

/// A listening socket on its way from one process to the next.
#[derive(Debug)]
pub struct ListeningSocket {
    /// Name of its listener.
    pub listener: Arc<str>,
    /// The address that the listener asked for; its port may be 0.
    pub asked: SocketAddr,
    /// The socket.
    pub socket: OwnedFd,
}

/// Sockets by listener name.
#[derive(Default)]
pub(super) struct Sockets {
    by_name: HashMap<Arc<str>, Vec<Arc<Bound>>>,
    /// Those of a predecessor that no listener has asked for yet.
    inherited: Vec<ListeningSocket>,
    /// A predecessor still serves: nothing is accepted yet.
    held: bool,
}

impl Sockets {
    /// Sockets that accept nothing until [`Sockets::open`].
    pub(super) fn held(inherited: Vec<ListeningSocket>) -> Self {
        Self { inherited, held: true, ..Self::default() }
    }

    /// Listens for captured connections, which wait in the kernel until there is a listener.
    pub(super) fn capture(&mut self, listener: &str, address: SocketAddr, shared: &Shared) -> io::Result<()> {
        let place = Place { address, dual_stack: true };
        let socket = self.socket(listener, place, shared.config.limits.keepalive)?;
        let bound = Bound::new(socket.local_addr()?, None, socket)?;
        self.by_name.insert(listener.into(), vec![Arc::new(bound)]);
        Ok(())
    }

    /// Opens sockets for a listener, or gives those that it has to its new form. All or none: a listener that cannot move stays
    /// where it is.
    pub(super) fn listen(&mut self, listener: &Arc<Listener>, shared: &Arc<Shared>) -> io::Result<()> {
        let captures = is_capture(&listener.name);
        let former = self.by_name.get(&listener.name).cloned().unwrap_or_default();
        if captures && !former.is_empty() {
            for bound in &former {
                bound.listener.store(Some(Arc::clone(listener)));
                bound.begin(shared)?;
            }
            return Ok(());
        }
        let mut bounds = Vec::with_capacity(listener.places.len());
        for place in &listener.places {
            let kept = former.iter().find(|bound| bound.asked == place.address);
            bounds.push(match kept {
                Some(bound) => Arc::clone(bound),
                None => Arc::new(self.bound(listener, *place, shared)?),
            });
        }
        for bound in &bounds {
            bound.listener.store(Some(Arc::clone(listener)));
            if !self.held {
                bound.begin(shared)?;
            }
        }
        for bound in former.iter().filter(|old| !bounds.iter().any(|kept| Arc::ptr_eq(kept, old))) {
            bound.closed.cancel();
        }
        self.by_name.insert(Arc::clone(&listener.name), bounds);
        Ok(())
    }

    fn bound(&mut self, listener: &Arc<Listener>, place: Place, shared: &Shared) -> io::Result<Bound> {
        let keepalive = listener.keepalive.unwrap_or(shared.config.limits.keepalive);
        match self.socket(&listener.name, place, keepalive) {
            Ok(socket) => Bound::new(place.address, Some(Arc::clone(listener)), socket),
            // The predecessor opened it after it had handed over: it is free when that has gone.
            Err(error) if self.held && error.kind() == io::ErrorKind::AddrInUse => {
                Ok(Bound::owed(place, Arc::clone(listener)))
            }
            Err(error) => Err(io::Error::new(error.kind(), format!("{}: {error}", place.address))),
        }
    }

    fn socket(
        &mut self,
        listener: &str,
        place: Place,
        keepalive: crate::config::Keepalive,
    ) -> io::Result<Listening> {
        let address = |socket: &ListeningSocket| {
            socket2::SockRef::from(&socket.socket).local_addr().ok().and_then(|address| address.as_socket())
        };
        let fits = |socket: &ListeningSocket| {
            (&*socket.listener == listener && socket.asked == place.address)
                || address(socket) == Some(place.address)
        };
        match self.inherited.iter().position(fits) {
            Some(at) => adopt(self.inherited.swap_remove(at).socket, &keepalive),
            None => bind(place, &keepalive),
        }
    }

    /// Closes a listener's sockets. Capture sockets stay, and refuse.
    pub(super) fn unlisten(&mut self, name: &str) {
        let Some(bounds) = self.by_name.get(name) else { return };
        for bound in bounds {
            bound.listener.store(None);
        }
        if !is_capture(name) {
            bounds.iter().for_each(|bound| bound.closed.cancel());
            self.by_name.remove(name);
        }
    }

    /// The predecessor has stopped accepting: begins, and closes what no listener asked for.
    pub(super) fn open(&mut self, shared: &Arc<Shared>) {
        self.held = false;
        self.inherited.clear();
        for (name, bounds) in &self.by_name {
            for bound in bounds.iter().filter(|bound| bound.listener.load().is_some()) {
                if let Err(error) = bound.begin(shared) {
                    tracing::error!(listener = %name, address = %bound.asked, %error, "cannot listen; the listener must change to be tried again");
                    shared.metrics.rejected("listener");
                }
            }
        }
    }

    /// All sockets once more, for a successor.
    pub(super) fn duplicate(&self) -> io::Result<Vec<ListeningSocket>> {
        let mut all = Vec::new();
        for (name, bounds) in &self.by_name {
            for bound in bounds {
                if let Some(socket) = bound.duplicate()? {
                    all.push(ListeningSocket { listener: Arc::clone(name), asked: bound.asked, socket });
                }
            }
        }
        Ok(all)
    }

    pub(super) fn addresses(&self) -> Vec<(Arc<str>, SocketAddr)> {
        let all =
            self.by_name.iter().flat_map(|(name, bounds)| bounds.iter().map(move |bound| (name, bound)));
        all.map(|(name, bound)| (Arc::clone(name), bound.address)).collect()
    }
}

impl AsFd for ListeningSocket {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn is_capture(name: &str) -> bool {
    [OUTBOUND, INBOUND].contains(&name)
}
