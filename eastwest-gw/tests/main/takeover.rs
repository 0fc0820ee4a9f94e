//! A new process takes over under load: nobody notices.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use isthmus_lifecycle::{Drain, TaskGroup};
use isthmus_testkit::MeshCa;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::left::{SNI, left_behind};
use crate::running::{Process, echo, hello, say};

/// Clients that connect, ask and end, again and again.
struct Load {
    served: Arc<AtomicUsize>,
    failures: Arc<parking_lot::Mutex<Vec<String>>>,
    drain: Drain,
    tasks: TaskGroup,
}

impl Load {
    fn on(gateway: SocketAddr, hello: &Arc<[u8]>) -> Self {
        let drain = Drain::new();
        let tasks = TaskGroup::new("load", drain.clone());
        let load = Self { served: Arc::default(), failures: Arc::default(), drain, tasks };
        for _ in 0..8 {
            let (served, failures) = (Arc::clone(&load.served), Arc::clone(&load.failures));
            let (hello, stop) = (Arc::clone(hello), load.drain.signal());
            load.tasks.spawn_infallible("client", async move {
                while !stop.is_stopping() {
                    match say(gateway, &hello).await {
                        Ok(answer) if answer.strip_prefix(b"west:") == Some(&hello) => {
                            served.fetch_add(1, Ordering::Relaxed);
                        }
                        Ok(answer) => failures.lock().push(format!("{} bytes came back", answer.len())),
                        Err(error) => failures.lock().push(error.to_string()),
                    }
                }
            });
        }
        load
    }

    /// Waits until this many more were served.
    async fn more(&self, count: usize) {
        let until = self.served.load(Ordering::Relaxed) + count;
        let reached = async {
            while self.served.load(Ordering::Relaxed) < until && self.failures.lock().is_empty() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(60), reached).await.expect("clients are served");
        assert_eq!(*self.failures.lock(), Vec::<String>::new());
    }

    async fn end(self) -> (usize, Vec<String>) {
        self.drain.refuse();
        self.tasks.finished().await;
        (self.served.load(Ordering::Relaxed), std::mem::take(&mut *self.failures.lock()))
    }
}

/// A connection that stays open.
struct Held(TcpStream);

impl Held {
    async fn open(gateway: SocketAddr, hello: &[u8]) -> Self {
        let mut stream = TcpStream::connect(gateway).await.unwrap();
        stream.write_all(hello).await.unwrap();
        let mut answer = vec![0; 5 + hello.len()];
        stream.read_exact(&mut answer).await.unwrap();
        Self(stream)
    }

    async fn ask(&mut self) {
        self.0.write_all(b"ping").await.unwrap();
        let mut answer = [0; 4];
        self.0.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"ping");
    }
}

#[tokio::test]
async fn a_new_process_takes_over_under_load_and_no_connection_is_lost() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let tasks = TaskGroup::new("world", Drain::new());
    let workload = echo(&tasks).await;
    let directory = tempfile::tempdir().unwrap();
    left_behind(directory.path(), &MeshCa::new(), workload).await;
    let hello: Arc<[u8]> = hello(SNI).into();

    let mut first = Process::start(directory.path(), &[]).await;
    let gateway = first.gateway;
    let load = Load::on(gateway, &hello);
    load.more(50).await;
    let mut held = Held::open(gateway, &hello).await;

    let mut second = Process::start(directory.path(), &["--takeover"]).await;
    assert_eq!(second.gateway, gateway, "the same socket");
    load.more(50).await;
    held.ask().await;
    assert!(first.runs(), "it serves what is open");
    drop(held);
    assert!(first.ended().await.success(), "it ends with its last connection");

    // One that fails before it is ready changes nothing.
    let (status, log) =
        Process::try_start(directory.path(), &["--takeover", "--service-account", "istio-system/other"])
            .await
            .err()
            .unwrap();
    assert!(!status.success() && log.contains("use a token"), "{log}");
    load.more(50).await;
    assert!(second.runs());
    // Nor does one that does not know of the other.
    let (status, log) = Process::try_start(directory.path(), &[]).await.err().unwrap();
    assert!(!status.success() && log.contains("--takeover"), "{log}");

    let third = Process::start(directory.path(), &["--takeover"]).await;
    load.more(50).await;
    assert!(second.ended().await.success());
    let (served, failures) = load.end().await;
    assert_eq!(failures, Vec::<String>::new(), "of {served}");

    // Killed, it takes nothing with it that the next one needs.
    third.kill().await;
    assert!(say(gateway, &hello).await.is_err(), "nobody holds the socket any more");
    let fourth = Process::start(directory.path(), &["--takeover"]).await;
    assert!(say(fourth.gateway, &hello).await.unwrap().starts_with(b"west:"));
    fourth.kill().await;
    tasks.drain().immediate();
}

#[tokio::test]
async fn a_stop_refuses_new_connections_and_ends_with_the_last_that_is_open() {
    let tasks = TaskGroup::new("world", Drain::new());
    let workload = echo(&tasks).await;
    let directory = tempfile::tempdir().unwrap();
    left_behind(directory.path(), &MeshCa::new(), workload).await;
    let hello = hello(SNI);
    // Longer than this test waits for anything.
    let mut process = Process::start(directory.path(), &["--drain", "1h"]).await;
    let mut held = Held::open(process.gateway, &hello).await;
    process.terminate();
    let refused = async { while say(process.gateway, &hello).await.is_ok() {} };
    tokio::time::timeout(std::time::Duration::from_secs(10), refused).await.expect("nobody new is served");
    held.ask().await;
    assert!(process.runs());
    drop(held);
    assert!(process.ended().await.success());
    tasks.drain().immediate();
}
