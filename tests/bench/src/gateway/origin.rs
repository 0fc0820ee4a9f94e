//! What is behind the gateways: one port that sends without end and one that answers.
//!
//! Both take one TLS record first, which is the client's hello, and answer it with one byte.

use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::thread::JoinHandle;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

/// Bytes of a message.
pub const MESSAGE: usize = 64;
/// The addresses of the endpoints of one contender: each has its own, so that the ports which another's ended connections still
/// hold are not in its way.
#[must_use]
pub fn addresses(contender: u8) -> [Ipv4Addr; 4] {
    [2, 3, 4, 5].map(|last| Ipv4Addr::new(127, 0, contender, last))
}

/// Where bytes come without end.
pub const BULK_PORT: u16 = 9000;
/// Where messages are answered.
pub const ECHO_PORT: u16 = 9001;
/// One write of the sender.
const CHUNK: usize = 256 * 1024;

/// The thread that serves; ends when dropped.
#[derive(Debug)]
pub struct Origin {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Origin {
    pub(super) fn start() -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (bulk, echo) = {
            let _inside = runtime.enter();
            (listen(BULK_PORT)?, listen(ECHO_PORT)?)
        };
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::Builder::new().name("origin".into()).spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    () = accept(bulk, send) => {}
                    () = accept(echo, answer) => {}
                    _ = stopped => {}
                }
            });
        })?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn listen(port: u16) -> anyhow::Result<TcpListener> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)?;
    socket.bind(&SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port)).into())?;
    socket.listen(8192)?;
    Ok(TcpListener::from_std(socket.into())?)
}

async fn accept<F: Future<Output = std::io::Result<()>> + Send + 'static>(
    listener: TcpListener,
    serve: impl Fn(TcpStream) -> F,
) {
    let mut connections = JoinSet::new();
    loop {
        if let Ok((stream, _)) = listener.accept().await {
            connections.spawn(serve(stream));
        }
        while connections.try_join_next().is_some() {}
    }
}

/// Takes the hello and answers it.
async fn begin(stream: &mut TcpStream) -> std::io::Result<()> {
    let mut buffer = vec![0; 4096];
    let mut have = 0;
    loop {
        let count = stream.read(&mut buffer[have..]).await?;
        if count == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        have += count;
        // A TLS record's header: type, version, length.
        if have >= 5 && have >= 5 + usize::from(u16::from_be_bytes([buffer[3], buffer[4]])) {
            return stream.write_all(&[1]).await;
        }
    }
}

async fn send(mut stream: TcpStream) -> std::io::Result<()> {
    begin(&mut stream).await?;
    let chunk = vec![0; CHUNK];
    loop {
        stream.write_all(&chunk).await?;
    }
}

async fn answer(mut stream: TcpStream) -> std::io::Result<()> {
    begin(&mut stream).await?;
    let mut message = [0; MESSAGE];
    loop {
        match stream.read(&mut message).await? {
            0 => return Ok(()),
            count => stream.write_all(&message[..count]).await?,
        }
    }
}
