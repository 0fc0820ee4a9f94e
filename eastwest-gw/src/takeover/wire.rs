//! What two processes say to each other: JSON behind its length, a descriptor beside it.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::UnixStream;

/// The longest message, in bytes.
const LONGEST: usize = 64 * 1024;

#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "camelCase")]
pub(super) enum Message {
    /// New to old: what do you have?
    Ask { version: u32 },
    /// Old to new, with a descriptor: the lock of the data directory.
    Lock,
    /// Old to new, with a descriptor: the socket of one of the gateway's own pages.
    Page { name: String, asked: SocketAddr },
    /// Old to new, with a descriptor: the socket of a listener.
    Listener { name: String, asked: SocketAddr },
    /// Old to new: that was all.
    Whole,
    /// New to old: I am ready, stop accepting.
    Ready,
    /// Old to new: I have stopped.
    Stopped,
    /// Old to new: no.
    Refused { why: String },
}

/// Sends a message, and with it a descriptor.
pub(super) async fn send(
    stream: &mut UnixStream,
    message: &Message,
    descriptor: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    let body = serde_json::to_vec(message)?;
    let length = u32::try_from(body.len()).map_err(io::Error::other)?.to_be_bytes();
    // The length carries the descriptor, so that whoever reads the length has it.
    let sent = stream
        .async_io(Interest::WRITABLE, || {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            let descriptors = descriptor.as_slice();
            if !descriptors.is_empty() {
                control.push(SendAncillaryMessage::ScmRights(descriptors));
            }
            Ok(rustix::net::sendmsg(&*stream, &[IoSlice::new(&length)], &mut control, SendFlags::NOSIGNAL)?)
        })
        .await?;
    stream.write_all(&length[sent..]).await?;
    stream.write_all(&body).await
}

/// The next message, and the descriptor that came with it.
pub(super) async fn receive(stream: &mut UnixStream) -> io::Result<(Message, Option<OwnedFd>)> {
    let mut length = [0; 4];
    let (count, descriptor) = stream
        .async_io(Interest::READABLE, || {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let mut into = [IoSliceMut::new(&mut length)];
            let read = rustix::net::recvmsg(&*stream, &mut into, &mut control, RecvFlags::CMSG_CLOEXEC)?;
            let descriptor = control.drain().find_map(|message| match message {
                RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
                _ => None,
            });
            Ok((read.bytes, descriptor))
        })
        .await?;
    if count == 0 {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the other process went away"));
    }
    stream.read_exact(&mut length[count..]).await?;
    let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
    if length > LONGEST {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a message longer than any"));
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    Ok((serde_json::from_slice(&body)?, descriptor))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[tokio::test]
    async fn descriptors_arrive_with_their_messages() {
        let (mut here, mut there) = UnixStream::pair().unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let asked = listener.local_addr().unwrap();
        send(&mut here, &Message::Ask { version: 7 }, None).await.unwrap();
        let named = Message::Listener { name: "0.0.0.0_15443".into(), asked };
        send(&mut here, &named, Some(listener.as_fd())).await.unwrap();
        send(&mut here, &Message::Whole, None).await.unwrap();
        drop((listener, here));
        assert!(matches!(receive(&mut there).await.unwrap(), (Message::Ask { version: 7 }, None)));
        let (Message::Listener { name, .. }, Some(socket)) = receive(&mut there).await.unwrap() else {
            panic!("a listener with its socket");
        };
        assert_eq!(name, "0.0.0.0_15443");
        assert_eq!(std::net::TcpListener::from(socket).local_addr().unwrap(), asked, "it lives on here");
        assert!(matches!(receive(&mut there).await.unwrap(), (Message::Whole, None)));
        assert_eq!(receive(&mut there).await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[tokio::test]
    async fn what_is_no_message_is_refused() {
        let (mut here, mut there) = UnixStream::pair().unwrap();
        here.write_all(&u32::MAX.to_be_bytes()).await.unwrap();
        assert_eq!(receive(&mut there).await.unwrap_err().kind(), io::ErrorKind::InvalidData);
        let (mut here, mut there) = UnixStream::pair().unwrap();
        here.write_all(b"\0\0\0\x02{}").await.unwrap();
        assert!(receive(&mut there).await.is_err());
    }
}
