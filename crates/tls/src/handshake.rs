//! Drives rustls through a handshake; afterwards the connection is ours.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Poll, ready};

use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{ConnectionState, EncodeError, UnbufferedStatus};
use rustls::{CommonState, Error, ExtractedSecrets, HandshakeKind, ProtocolVersion};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};

use crate::buffers::{BUFFER, Buffer};
use crate::refused::HandshakeError;
use crate::stream::{Begun, Keeper};

/// What waits for the first bytes of the application is no larger, or goes out at once.
const MOST_QUEUED: usize = 8 * 1024;

/// Either side of a handshake.
pub(crate) trait Machine: Sized {
    type Data;
    /// What it says last may wait for the first bytes of the application.
    const LAST_MAY_WAIT: bool;
    fn process<'c, 'i>(&'c mut self, incoming: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data>;
    fn common(&self) -> &CommonState;
    fn finish(self) -> Result<(ExtractedSecrets, Keeper), Error>;
}

impl Machine for UnbufferedClientConnection {
    type Data = ClientConnectionData;
    const LAST_MAY_WAIT: bool = false;

    fn process<'c, 'i>(&'c mut self, incoming: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(incoming)
    }

    fn common(&self) -> &CommonState {
        self
    }

    fn finish(self) -> Result<(ExtractedSecrets, Keeper), Error> {
        let (secrets, kernel) = self.dangerous_into_kernel_connection()?;
        Ok((secrets, Keeper::Client(kernel)))
    }
}

impl Machine for UnbufferedServerConnection {
    type Data = ServerConnectionData;
    const LAST_MAY_WAIT: bool = true;

    fn process<'c, 'i>(&'c mut self, incoming: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(incoming)
    }

    fn common(&self) -> &CommonState {
        self
    }

    fn finish(self) -> Result<(ExtractedSecrets, Keeper), Error> {
        let (secrets, kernel) = self.dangerous_into_kernel_connection()?;
        Ok((secrets, Keeper::Server(kernel)))
    }
}

/// What rustls wants next.
enum Next {
    Again,
    Send,
    Receive,
    Done,
    /// The peer said its end.
    End,
}

/// Shakes hands. `judge` sees the connection before anything is handed to the application.
pub(crate) async fn shake<M: Machine, S: AsyncRead + AsyncWrite + Unpin, P>(
    mut machine: M,
    io: &mut S,
    judge: impl FnOnce(&CommonState) -> Result<P, HandshakeError>,
) -> Result<(Begun, P), HandshakeError> {
    let mut incoming = Vec::new();
    let (mut outgoing, mut opened, mut ended) = (Vec::new(), Vec::new(), false);
    loop {
        let UnbufferedStatus { discard, state } = machine.process(&mut incoming);
        let next = state.and_then(|state| advance(state, &mut outgoing, &mut opened));
        incoming.drain(..discard);
        let next = match next {
            Ok(next) => next,
            Err(error) => {
                say_why(&mut machine, io, &mut incoming, &mut outgoing).await;
                return Err(handshake_error(error));
            }
        };
        let shaking = machine.common().is_handshaking();
        let may_wait =
            M::LAST_MAY_WAIT && machine.common().protocol_version() == Some(ProtocolVersion::TLSv1_3);
        match next {
            Next::Again => {}
            // A server's tickets go with its first bytes: alone they would cost both sides a call.
            Next::Send if !shaking && outgoing.len() <= MOST_QUEUED && may_wait => {}
            Next::Send => {
                io.write_all(&outgoing).await.map_err(HandshakeError::Io)?;
                outgoing.clear();
            }
            Next::End if shaking => return Err(HandshakeError::Io(io::ErrorKind::UnexpectedEof.into())),
            // All that a client had to say may have come with the end of its handshake.
            Next::End => ended = true,
            Next::Done if !shaking => break,
            Next::Receive | Next::Done => {
                if incoming.len() == BUFFER {
                    return Err(handshake_error(Error::General(
                        "a handshake message that never ends".into(),
                    )));
                }
                if receive(io, &mut incoming).await.map_err(HandshakeError::Io)? == 0 {
                    return Err(HandshakeError::Io(io::ErrorKind::UnexpectedEof.into()));
                }
            }
        }
    }
    let peer = judge(machine.common())?;
    let resumed = machine.common().handshake_kind() == Some(HandshakeKind::Resumed);
    let (secrets, keeper) = machine.finish().map_err(handshake_error)?;
    let sealed = if ended { Vec::new() } else { incoming };
    outgoing.shrink_to_fit();
    Ok((Begun { secrets, keeper, resumed, opened, sealed, ended, queued: outgoing }, peer))
}

/// Reads behind what came before, until a buffer would be full. A peer that is silent holds no buffer, only what it said.
async fn receive<S: AsyncRead + Unpin>(io: &mut S, incoming: &mut Vec<u8>) -> io::Result<usize> {
    poll_fn(|cx| {
        let mut buffer = Buffer::take();
        let mut view = ReadBuf::new(&mut buffer[incoming.len()..]);
        ready!(Pin::new(&mut *io).poll_read(cx, &mut view))?;
        incoming.extend_from_slice(view.filled());
        Poll::Ready(Ok(view.filled().len()))
    })
    .await
}

fn advance<D>(
    state: ConnectionState<'_, '_, D>,
    outgoing: &mut Vec<u8>,
    opened: &mut Vec<u8>,
) -> Result<Next, Error> {
    match state {
        ConnectionState::EncodeTlsData(mut data) => {
            let length = outgoing.len();
            let needed = match data.encode(&mut []) {
                Err(EncodeError::InsufficientSize(size)) => size.required_size,
                _ => 0,
            };
            outgoing.resize(length + needed, 0);
            data.encode(&mut outgoing[length..]).map_err(|error| Error::General(error.to_string()))?;
            Ok(Next::Again)
        }
        ConnectionState::TransmitTlsData(data) => {
            data.done();
            Ok(Next::Send)
        }
        ConnectionState::BlockedHandshake => Ok(Next::Receive),
        ConnectionState::WriteTraffic(_) => Ok(Next::Done),
        ConnectionState::ReadTraffic(mut data) => {
            while let Some(record) = data.next_record() {
                opened.extend_from_slice(record?.payload);
            }
            Ok(Next::Again)
        }
        ConnectionState::PeerClosed | ConnectionState::Closed => Ok(Next::End),
        _ => Err(Error::General("data before the handshake, which was not asked for".into())),
    }
}

/// Sends the alert that rustls has for the peer, if the socket takes it.
async fn say_why<M: Machine, S: AsyncWrite + Unpin>(
    machine: &mut M,
    io: &mut S,
    incoming: &mut [u8],
    outgoing: &mut Vec<u8>,
) {
    // It comes before anything that was received is looked at.
    if let Ok(state @ ConnectionState::EncodeTlsData(_)) = machine.process(incoming).state {
        let _ = advance(state, outgoing, &mut Vec::new());
    }
    if !outgoing.is_empty() {
        // What the peer makes of it is its own affair.
        let _ = io.write_all(outgoing).await;
    }
}

fn handshake_error(error: Error) -> HandshakeError {
    io::Error::new(io::ErrorKind::InvalidData, error).into()
}
