//! Sessions to resume, on both sides, for as long as leaf and trust stay what they were.
//!
//! rustls does not ask the verifiers when a session is resumed. So whoever resumes one judges the certificate of the first
//! handshake again, with the trust of the moment ([`crate::verify`]), and a change of leaf or trust forgets all sessions.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use rustls::NamedGroup;
use rustls::client::{ClientSessionStore, Tls12ClientSessionValue, Tls13ClientSessionValue};
use rustls::server::ProducesTickets;
use rustls_pki_types::ServerName;

use crate::identity::{Identity, Snapshot};

/// Server names that a configuration remembers sessions of.
const MOST_NAMES: usize = 64;
/// Sessions of one server name: as many connections as may begin at the same time and resume. Each serves once.
const MOST_SESSIONS: usize = 32;

/// A client's sessions with the servers of one expectation. No other configuration offers them.
#[derive(Debug)]
pub(crate) struct Sessions {
    identity: Identity,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    /// The leaf and the trust that they began with.
    of: Weak<Snapshot>,
    names: HashMap<ServerName<'static>, Known>,
}

#[derive(Debug, Default)]
struct Known {
    group: Option<NamedGroup>,
    sessions: VecDeque<Tls13ClientSessionValue>,
}

impl Sessions {
    pub(crate) fn new(identity: Identity) -> Self {
        Self { identity, held: Mutex::default() }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.identity.snapshot();
        if held.of.as_ptr() != Arc::as_ptr(&now) {
            *held = Held { of: Arc::downgrade(&now), names: HashMap::new() };
        }
        held
    }
}

impl Held {
    fn known(&mut self, name: ServerName<'static>) -> &mut Known {
        if self.names.len() >= MOST_NAMES && !self.names.contains_key(&name) {
            self.names.clear();
        }
        self.names.entry(name).or_default()
    }
}

impl ClientSessionStore for Sessions {
    fn set_kx_hint(&self, name: ServerName<'static>, group: NamedGroup) {
        self.held().known(name).group = Some(group);
    }

    fn kx_hint(&self, name: &ServerName<'_>) -> Option<NamedGroup> {
        self.held().names.get(name).and_then(|known| known.group)
    }

    fn set_tls12_session(&self, _name: ServerName<'static>, _session: Tls12ClientSessionValue) {}

    fn tls12_session(&self, _name: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        None
    }

    fn remove_tls12_session(&self, _name: &ServerName<'static>) {}

    fn insert_tls13_ticket(&self, name: ServerName<'static>, session: Tls13ClientSessionValue) {
        let mut held = self.held();
        let sessions = &mut held.known(name).sessions;
        if sessions.len() >= MOST_SESSIONS {
            sessions.pop_front();
        }
        sessions.push_back(session);
    }

    fn take_tls13_ticket(&self, name: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.held().names.get_mut(name)?.sessions.pop_back()
    }
}

/// A server's tickets: readable while leaf and trust stay what they were, and for half a day at most.
#[derive(Debug)]
pub(crate) struct Tickets(pub(crate) Identity);

impl ProducesTickets for Tickets {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        self.0.with(|now| now.tickets().map_or(0, ProducesTickets::lifetime))
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.0.with(|now| now.tickets()?.encrypt(plain))
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        self.0.with(|now| now.tickets()?.decrypt(cipher))
    }
}
