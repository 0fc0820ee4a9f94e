//! What the client does.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::contender::{Contender, Entry};
use super::origin::MESSAGE;
use crate::proc;

/// Longer than anything here may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// Before a window of measurement begins.
const WARM_UP: Duration = Duration::from_millis(300);
/// Reads of the bulk client.
const BUFFER: usize = 256 * 1024;

/// What was used between two moments, by the contender and by client and origin.
#[derive(Debug, Clone, Copy)]
pub struct Used {
    /// Units of work.
    pub units: u64,
    /// Seconds on a CPU of the contender.
    pub contender: f64,
    /// The same of client, origin and the kernel's own threads for interrupts, which do part of the contender's work.
    pub ends: f64,
}

struct Moment {
    contender: f64,
    ends: f64,
}

impl Moment {
    fn now(contender: &Contender) -> anyhow::Result<Self> {
        Ok(Self {
            contender: contender.cpu()?,
            ends: proc::cpu_seconds(std::process::id())? + proc::softirq_seconds()?,
        })
    }

    fn used_since(&self, before: &Self, units: u64) -> Used {
        Used { units, contender: self.contender - before.contender, ends: self.ends - before.ends }
    }
}

/// A connection on which the origin has answered the hello.
async fn open(entry: &Entry) -> anyhow::Result<TcpStream> {
    let opened = async {
        let mut stream = TcpStream::connect(entry.address).await?;
        stream.set_nodelay(true)?;
        stream.write_all(&entry.hello).await?;
        anyhow::ensure!(stream.read_u8().await? == 1, "the hello was answered by another");
        Ok(stream)
    };
    let place = || format!("a connection by {}", entry.address);
    tokio::time::timeout(PATIENCE, opened).await.with_context(place)?.with_context(place)
}

/// Waits until a contender relays.
///
/// # Errors
/// When it does not within the time.
pub async fn until_open(entry: &Entry) -> anyhow::Result<()> {
    let began = Instant::now();
    loop {
        match tokio::time::timeout(Duration::from_secs(1), open(entry)).await {
            Ok(Ok(_)) => return Ok(()),
            Ok(Err(error)) if began.elapsed() > PATIENCE => return Err(error),
            _ => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

/// Runs `count` clients side by side and counts what they do within a window.
async fn window<F>(
    contender: &Contender,
    entry: &Entry,
    count: usize,
    length: Duration,
    client: impl Fn(Entry, Arc<AtomicU64>) -> F,
) -> anyhow::Result<Used>
where
    F: Future<Output = anyhow::Result<()>> + Send + 'static,
{
    let done = Arc::new(AtomicU64::new(0));
    let mut clients = JoinSet::new();
    for _ in 0..count {
        clients.spawn(client(entry.clone(), Arc::clone(&done)));
    }
    tokio::time::sleep(WARM_UP).await;
    let (before, first) = (Moment::now(contender)?, done.load(Ordering::Relaxed));
    tokio::time::sleep(length).await;
    let used = Moment::now(contender)?.used_since(&before, done.load(Ordering::Relaxed) - first);
    // They go on for ever: one that has ended has failed.
    if let Some(ended) = clients.try_join_next() {
        ended?.with_context(|| format!("under load, by {}", contender.name))?;
    }
    clients.shutdown().await;
    anyhow::ensure!(used.units > 0, "{}: nothing was done within {length:?}", contender.name);
    Ok(used)
}

/// Units are bytes.
///
/// # Errors
/// When a connection fails.
pub async fn bulk(contender: &Contender, connections: usize, length: Duration) -> anyhow::Result<Used> {
    window(contender, &contender.bulk, connections, length, |entry, done| async move {
        let mut stream = open(&entry).await?;
        let mut buffer = vec![0; BUFFER];
        loop {
            match stream.read(&mut buffer).await? {
                0 => anyhow::bail!("the origin sends without end, and this ended"),
                count => done.fetch_add(count as u64, Ordering::Relaxed),
            };
        }
    })
    .await
}

/// Units are connections: opened, greeted, answered, and ended in order.
///
/// # Errors
/// When a connection fails.
pub async fn connections(contender: &Contender, clients: usize, length: Duration) -> anyhow::Result<Used> {
    window(contender, &contender.echo, clients, length, |entry, done| async move {
        loop {
            let mut stream = open(&entry).await?;
            stream.shutdown().await?;
            anyhow::ensure!(stream.read(&mut [0]).await? == 0, "bytes after the end");
            done.fetch_add(1, Ordering::Relaxed);
        }
    })
    .await
}

/// Units are messages there and back.
///
/// # Errors
/// When a connection fails.
pub async fn round_trips(contender: &Contender, clients: usize, length: Duration) -> anyhow::Result<Used> {
    window(contender, &contender.echo, clients, length, |entry, done| async move {
        let mut stream = open(&entry).await?;
        let mut message = [7; MESSAGE];
        loop {
            stream.write_all(&message).await?;
            stream.read_exact(&mut message).await?;
            done.fetch_add(1, Ordering::Relaxed);
        }
    })
    .await
}

/// Resident bytes of a contender for each of so many connections that were opened and say nothing.
///
/// # Errors
/// When a connection fails.
pub async fn idle(contender: &Contender, connections: usize) -> anyhow::Result<f64> {
    // What is made at the first connections stays out.
    open_many(&contender.echo, connections / 20).await?;
    let before = settled(contender).await?;
    let held = open_many(&contender.echo, connections).await?;
    let after = settled(contender).await?;
    drop(held);
    #[expect(clippy::cast_precision_loss, reason = "a benchmark's bytes")]
    Ok((after as f64 - before as f64) / connections as f64)
}

async fn open_many(entry: &Entry, count: usize) -> anyhow::Result<Vec<TcpStream>> {
    const AT_ONCE: usize = 32;
    let (mut opening, mut held) = (JoinSet::new(), Vec::new());
    for _ in 0..count {
        if opening.len() >= AT_ONCE
            && let Some(opened) = opening.join_next().await
        {
            held.push(opened??);
        }
        let entry = entry.clone();
        opening.spawn(async move { open(&entry).await });
    }
    while let Some(opened) = opening.join_next().await {
        held.push(opened??);
    }
    Ok(held)
}

/// Resident memory once it no longer moves.
///
/// # Errors
/// When the process has ended.
pub async fn settled(contender: &Contender) -> anyhow::Result<u64> {
    const STEP: Duration = Duration::from_millis(250);
    let (mut last, mut same) = (contender.resident()?, 0);
    for _ in 0..80 {
        tokio::time::sleep(STEP).await;
        let now = contender.resident()?;
        same = if now == last { same + 1 } else { 0 };
        last = now;
        if same == 4 {
            break;
        }
    }
    Ok(last)
}
