//! An established connection.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use rustls::client::ClientConnectionData;
use rustls::kernel::KernelConnection;
use rustls::server::ServerConnectionData;
use rustls::{Error, ExtractedSecrets, InvalidMessage, PeerMisbehaved, ProtocolVersion};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::buffers::{BUFFER, Buffer};
use crate::record::{self, ALERT, DATA, HANDSHAKE, Keys, MOST_PLAIN};

const NEW_SESSION_TICKET: u8 = 4;
const KEY_UPDATE: u8 = 24;
/// Messages of the handshake that come later, in parts: at most so much is kept.
const MOST_MESSAGE: usize = 64 * 1024;
/// Slices that are written together and are no longer than this make one record, for which they are copied; longer ones make their own.
const MOST_GATHERED: usize = 4 * 1024;
/// Of what is sealed and not sent at most so much is moved out of its buffer, which is as much as two writes of HTTP/2 are.
const MOST_UNSENT: usize = BUFFER / 2;

/// What rustls still does: the next keys, and sessions to resume.
pub(crate) enum Keeper {
    Client(KernelConnection<ClientConnectionData>),
    Server(KernelConnection<ServerConnectionData>),
}

/// A connection whose handshake is done. While nothing moves it holds no buffer, and of a record that is not whole no more than
/// came of it.
#[derive(Debug)]
pub struct TlsStream<S> {
    io: S,
    state: State,
}

#[derive(Debug)]
struct State {
    read: Keys,
    write: Keys,
    keeper: Keeper,
    resumed: bool,
    /// What came with the handshake, until the first read.
    early: Option<Box<Early>>,
    /// Received and not yet handed out.
    incoming: Option<Incoming>,
    /// The front of a record while no more of it comes: a peer that stops inside a record must not hold a buffer.
    begun: Vec<u8>,
    /// Sealed and not yet sent.
    outgoing: Option<Outgoing>,
    /// The same, of a peer that does not read: it goes out before `outgoing`.
    unsent: Vec<u8>,
    /// Goes out in front of what is written first.
    queued: Vec<u8>,
    /// A message of the handshake that is not whole yet.
    message: Vec<u8>,
    /// The peer asked for our next key.
    owes_update: bool,
    /// The peer said its end.
    ended: bool,
    /// We said ours.
    closed: bool,
}

#[derive(Debug)]
struct Early {
    opened: Vec<u8>,
    sealed: Vec<u8>,
}

#[derive(Debug)]
struct Incoming {
    buffer: Buffer,
    /// Plaintext that was opened.
    plain: (usize, usize),
    /// Records that were not.
    sealed: (usize, usize),
}

#[derive(Debug)]
struct Outgoing {
    buffer: Buffer,
    from: usize,
    to: usize,
}

/// What a handshake leaves.
pub(crate) struct Begun {
    pub(crate) secrets: ExtractedSecrets,
    pub(crate) keeper: Keeper,
    pub(crate) resumed: bool,
    /// Received behind the handshake: what rustls opened, and what it did not.
    pub(crate) opened: Vec<u8>,
    pub(crate) sealed: Vec<u8>,
    /// The peer said its end behind that.
    pub(crate) ended: bool,
    /// Sealed by rustls, to be sent with the first bytes.
    pub(crate) queued: Vec<u8>,
}

impl<S> TlsStream<S> {
    pub(crate) fn new(io: S, begun: Begun) -> Result<Self, Error> {
        let version = begun.keeper.version();
        let (tx, rx) = (begun.secrets.tx, begun.secrets.rx);
        let (opened, sealed) = (begun.opened, begun.sealed);
        let length = opened.len() + sealed.len();
        if length > BUFFER {
            return Err(Error::General("more than a buffer came with the handshake".into()));
        }
        let early = (length > 0).then(|| Box::new(Early { opened, sealed }));
        let state = State {
            read: Keys::new(version, rx.0, &rx.1)?,
            write: Keys::new(version, tx.0, &tx.1)?,
            keeper: begun.keeper,
            resumed: begun.resumed,
            early,
            incoming: None,
            begun: Vec::new(),
            outgoing: None,
            unsent: Vec::new(),
            queued: begun.queued,
            message: Vec::new(),
            owes_update: false,
            ended: begun.ended,
            closed: false,
        };
        Ok(Self { io, state })
    }

    /// What it runs over.
    #[must_use]
    pub fn get_ref(&self) -> &S {
        &self.io
    }

    /// Whether its handshake resumed an earlier session.
    #[must_use]
    pub fn is_resumed(&self) -> bool {
        self.state.resumed
    }
}

#[cfg(test)]
impl<S> TlsStream<S> {
    /// Bytes of memory for what was received and what is to be sent.
    pub(crate) fn held(&self) -> usize {
        let state = &self.state;
        let buffers = usize::from(state.incoming.is_some()) + usize::from(state.outgoing.is_some());
        let early = state.early.as_ref().map_or(0, |early| early.opened.capacity() + early.sealed.capacity());
        let kept = [&state.begun, &state.unsent, &state.queued, &state.message];
        buffers * BUFFER + early + kept.map(Vec::capacity).iter().sum::<usize>()
    }
}

impl Keeper {
    fn version(&self) -> ProtocolVersion {
        match self {
            Self::Client(client) => client.protocol_version(),
            Self::Server(server) => server.protocol_version(),
        }
    }

    fn next_read(&mut self) -> Result<Keys, Error> {
        let version = self.version();
        let (sequence, secrets) = match self {
            Self::Client(client) => client.update_rx_secret()?,
            Self::Server(server) => server.update_rx_secret()?,
        };
        Keys::new(version, sequence, &secrets)
    }

    fn next_write(&mut self) -> Result<Keys, Error> {
        let version = self.version();
        let (sequence, secrets) = match self {
            Self::Client(client) => client.update_tx_secret()?,
            Self::Server(server) => server.update_tx_secret()?,
        };
        Keys::new(version, sequence, &secrets)
    }
}

impl State {
    /// Hands out plaintext, opening records as far as there is room. Whether any was.
    fn deliver(&mut self, out: &mut ReadBuf<'_>) -> Result<bool, Error> {
        let before = out.filled().len();
        while let Some(incoming) = &mut self.incoming {
            let (from, to) = incoming.plain;
            let count = (to - from).min(out.remaining());
            out.put_slice(&incoming.buffer[from..from + count]);
            incoming.plain.0 += count;
            if from + count < to {
                break;
            }
            let (from, to) = incoming.sealed;
            if from == to {
                self.incoming = None;
                break;
            }
            let Some(length) =
                record::length(&incoming.buffer[from..to])?.filter(|length| *length <= to - from)
            else {
                break;
            };
            let room = self.read.room(length);
            if room <= out.remaining() {
                incoming.sealed.0 += length;
                let target = out.initialize_unfilled_to(room);
                let (kind, opened) = self.read.open(&incoming.buffer[from..from + length], target)?;
                if kind == DATA {
                    out.advance(opened);
                } else {
                    let message = target[..opened].to_vec();
                    self.control(kind, &message)?;
                }
                continue;
            }
            // It needs a byte more than its plaintext, or the reader takes little at a time: then it is opened beside, and kept.
            if out.filled().len() > before && room > out.remaining() + 1 {
                break;
            }
            let mut beside = Buffer::take();
            let (kind, opened) = self.read.open(&incoming.buffer[from..from + length], &mut beside)?;
            incoming.sealed.0 += length;
            if kind == DATA {
                // The plaintext takes its record's place.
                incoming.buffer[from..from + opened].copy_from_slice(&beside[..opened]);
                incoming.plain = (from, from + opened);
            } else {
                self.control(kind, &beside[..opened])?;
            }
        }
        Ok(out.filled().len() > before)
    }

    /// Takes a record that is no application's.
    fn control(&mut self, kind: u8, bytes: &[u8]) -> Result<(), Error> {
        match kind {
            ALERT => match record::alert(bytes)? {
                None => {
                    // What comes behind it is not looked at.
                    (self.ended, self.incoming) = (true, None);
                    Ok(())
                }
                Some(rustls::AlertDescription::UserCanceled) => Ok(()),
                Some(description) => Err(Error::AlertReceived(description)),
            },
            HANDSHAKE => {
                self.message.extend_from_slice(bytes);
                self.messages()
            }
            _ => Err(Error::InvalidMessage(InvalidMessage::InvalidContentType)),
        }
    }

    /// Messages of the handshake behind it. TLS 1.2 has none that we take part in.
    fn messages(&mut self) -> Result<(), Error> {
        if self.keeper.version() != ProtocolVersion::TLSv1_3 {
            return Err(Error::General("the peer wants to renegotiate".into()));
        }
        while let [kind, high, middle, low, rest @ ..] = &self.message[..] {
            let kind = *kind;
            let length = u32::from_be_bytes([0, *high, *middle, *low]) as usize;
            if length > MOST_MESSAGE {
                return Err(Error::InvalidMessage(InvalidMessage::MessageTooLarge));
            }
            let Some(body) = rest.get(..length) else { return Ok(()) };
            match (kind, body, &mut self.keeper) {
                (NEW_SESSION_TICKET, ticket, Keeper::Client(client)) => {
                    client.handle_new_session_ticket(ticket)?
                }
                (KEY_UPDATE, [asked @ (0 | 1)], keeper) => {
                    // RFC 8446 section 5.1: nothing of the old key may follow it in its record.
                    if rest.len() > length {
                        return Err(Error::PeerMisbehaved(PeerMisbehaved::KeyEpochWithPendingFragment));
                    }
                    self.read = keeper.next_read()?;
                    self.owes_update |= *asked == 1;
                }
                _ => {
                    return Err(Error::PeerMisbehaved(
                        PeerMisbehaved::MessageInterleavedWithHandshakeMessage,
                    ));
                }
            }
            self.message.drain(..4 + length);
        }
        if self.message.is_empty() {
            self.message = Vec::new();
        }
        Ok(())
    }

    /// Seals as much as a buffer takes; how much.
    fn seal(&mut self, kind: u8, mut plain: &[u8]) -> Result<usize, Error> {
        let whole = plain.len();
        let outgoing =
            self.outgoing.get_or_insert_with(|| Outgoing { buffer: Buffer::take(), from: 0, to: 0 });
        if !self.queued.is_empty() {
            let queued = std::mem::take(&mut self.queued);
            outgoing.buffer[..queued.len()].copy_from_slice(&queued);
            outgoing.to = queued.len();
        }
        if self.write.is_worn() || self.owes_update {
            self.owes_update = false;
            outgoing.to +=
                self.write.seal(HANDSHAKE, &[KEY_UPDATE, 0, 0, 1, 0], &mut outgoing.buffer[outgoing.to..])?;
            self.write = self.keeper.next_write()?;
        }
        while !plain.is_empty() {
            let next = plain.len().min(MOST_PLAIN);
            if BUFFER - outgoing.to < self.write.sealed_length(next) {
                break;
            }
            outgoing.to += self.write.seal(kind, &plain[..next], &mut outgoing.buffer[outgoing.to..])?;
            plain = &plain[next..];
        }
        Ok(whole - plain.len())
    }

    fn poll_send<S: AsyncWrite + Unpin>(&mut self, cx: &mut Context<'_>, io: &mut S) -> Poll<io::Result<()>> {
        while !self.unsent.is_empty() {
            match ready!(Pin::new(&mut *io).poll_write(cx, &self.unsent))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count if count == self.unsent.len() => self.unsent = Vec::new(),
                count => drop(self.unsent.drain(..count)),
            }
        }
        while let Some(outgoing) = &mut self.outgoing {
            if outgoing.from == outgoing.to {
                self.outgoing = None;
                break;
            }
            let bytes = &outgoing.buffer[outgoing.from..outgoing.to];
            match ready!(Pin::new(&mut *io).poll_write(cx, bytes))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => outgoing.from += count,
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Seals what `plain` says and sends as much as the socket takes now.
    fn send<S: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        io: &mut S,
        plain: &[IoSlice<'_>],
    ) -> io::Result<usize> {
        let mut taken = 0;
        let whole = plain.iter().map(|slice| slice.len()).sum();
        if plain.len() > 1 && whole <= MOST_GATHERED {
            let (mut gathered, mut length) = ([0; MOST_GATHERED], 0);
            for slice in plain {
                gathered[length..length + slice.len()].copy_from_slice(slice);
                length += slice.len();
            }
            taken = self.seal(DATA, &gathered[..whole]).map_err(broken)?;
        } else {
            for slice in plain {
                let sealed = self.seal(DATA, slice).map_err(broken)?;
                taken += sealed;
                if sealed < slice.len() {
                    break;
                }
            }
        }
        if let Poll::Ready(sent) = self.poll_send(cx, io) {
            return sent.map(|()| taken);
        }
        if let Some(outgoing) = self.outgoing.take_if(|outgoing| outgoing.to - outgoing.from <= MOST_UNSENT) {
            self.unsent = outgoing.buffer[outgoing.from..outgoing.to].to_vec();
        }
        Ok(taken)
    }
}

impl Incoming {
    fn new() -> Self {
        Self { buffer: Buffer::take(), plain: (0, 0), sealed: (0, 0) }
    }

    /// The plaintext of an early record, and records behind it.
    fn early(Early { opened, sealed }: &Early) -> Self {
        let (middle, end) = (opened.len(), opened.len() + sealed.len());
        let mut buffer = Buffer::take();
        buffer[..middle].copy_from_slice(opened);
        buffer[middle..end].copy_from_slice(sealed);
        Self { buffer, plain: (0, middle), sealed: (middle, end) }
    }

    /// Makes room behind what is there.
    fn compact(&mut self) {
        let (from, to) = self.sealed;
        self.buffer.copy_within(from..to, 0);
        self.sealed = (0, to - from);
        self.plain = (0, 0);
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for TlsStream<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Self { io, state } = self.get_mut();
        if let Some(early) = state.early.take() {
            state.incoming = Some(Incoming::early(&early));
        }
        loop {
            if state.deliver(out).map_err(broken)? || state.ended || out.remaining() == 0 {
                return Poll::Ready(Ok(()));
            }
            let mut incoming = state.incoming.take().unwrap_or_else(Incoming::new);
            incoming.compact();
            // The front of a record lies in one of the two.
            let (here, begun) = (incoming.sealed.1, state.begun.len());
            let mut view = ReadBuf::new(&mut incoming.buffer[here + begun..]);
            let read = Pin::new(&mut *io).poll_read(cx, &mut view);
            let count = view.filled().len();
            match read {
                Poll::Ready(Ok(())) if count > 0 => {
                    if record::length(&state.begun).is_ok_and(|length| length > Some(begun + count)) {
                        // Still not whole: what came before stays where it is, so that a record in tiny pieces is copied once.
                        state.begun.extend_from_slice(&incoming.buffer[begun..begun + count]);
                        continue;
                    }
                    if begun > 0 {
                        incoming.buffer[..begun].copy_from_slice(&std::mem::take(&mut state.begun));
                    }
                    incoming.sealed.1 = here + begun + count;
                    state.incoming = Some(incoming);
                }
                Poll::Ready(Ok(())) => {
                    let cut = "the peer closed the connection without saying its end (close_notify)";
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::UnexpectedEof, cut)));
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {
                    if here > 0 {
                        state.begun = incoming.buffer[..here].to_vec();
                    }
                    return Poll::Pending;
                }
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for TlsStream<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    /// What was taken may still lie here when it is sealed and the socket is full: the next write or flush sends it first.
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let Self { io, state } = self.get_mut();
        if state.closed {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        ready!(state.poll_send(cx, io))?;
        Poll::Ready(state.send(cx, io, slices))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { io, state } = self.get_mut();
        ready!(state.poll_send(cx, io))?;
        Pin::new(io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { io, state } = self.get_mut();
        if !state.closed {
            ready!(state.poll_send(cx, io))?;
            state.closed = true;
            // A warning: close_notify.
            state.seal(ALERT, &[1, 0]).map_err(broken)?;
        }
        ready!(state.poll_send(cx, io))?;
        Pin::new(io).poll_shutdown(cx)
    }
}

fn broken(error: Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

impl std::fmt::Debug for Keeper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if matches!(self, Self::Client(_)) { "Client" } else { "Server" })
    }
}
