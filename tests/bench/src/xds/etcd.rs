//! Fills the etcd below an API server that has not started yet: a hundred thousand objects in seconds, where the API server's own
//! creating of them takes minutes.

use std::time::Duration;

use anyhow::Context as _;
use etcd_client::{Client, Txn, TxnOp};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::stored::Stored;

/// Writes of one transaction (etcd's own limit is 128)…
const OPERATIONS: usize = 100;
/// … and their bytes (etcd's own limit is 1.5 MiB).
const BYTES: usize = 1024 * 1024;
/// Transactions under way.
const AT_ONCE: usize = 4;

/// Writes objects, in no order. `progress` is told how many are done.
///
/// # Errors
/// When etcd refuses one or is gone.
pub async fn fill(
    client: &Client,
    objects: impl Iterator<Item = anyhow::Result<Stored>>,
    progress: impl Fn(usize),
) -> anyhow::Result<()> {
    let mut done = 0;
    let mut writers = JoinSet::new();
    let mut told = Instant::now();
    let mut objects = objects.peekable();
    loop {
        while writers.len() < AT_ONCE && objects.peek().is_some() {
            let (batch, mut kv) = (batch(&mut objects)?, client.kv_client());
            writers.spawn(async move {
                let count = batch.len();
                kv.txn(Txn::new().and_then(batch)).await.context("writing objects into etcd")?;
                anyhow::Ok(count)
            });
        }
        let Some(written) = writers.join_next().await else { break };
        done += written??;
        if told.elapsed() >= Duration::from_secs(2) {
            told = Instant::now();
            progress(done);
        }
    }
    progress(done);
    Ok(())
}

fn batch(
    objects: &mut std::iter::Peekable<impl Iterator<Item = anyhow::Result<Stored>>>,
) -> anyhow::Result<Vec<TxnOp>> {
    let (mut operations, mut bytes) = (Vec::with_capacity(OPERATIONS), 0);
    while operations.len() < OPERATIONS
        && let Some(next) = objects.next_if(|next| {
            let size = next.as_ref().map_or(0, |object| object.key.len() + object.value.len());
            operations.is_empty() || bytes + size <= BYTES
        })
    {
        let Stored { key, value } = next?;
        bytes += key.len() + value.len();
        operations.push(TxnOp::put(key, value, None));
    }
    Ok(operations)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_keeps_below_both_limits_and_loses_nothing() {
        let of = |size: usize| Ok(Stored { key: "k".into(), value: vec![0; size - 1] });
        let sizes: Vec<usize> = [10; 250].into_iter().chain([BYTES / 2, BYTES / 2, BYTES * 2, 1]).collect();
        let mut objects = sizes.into_iter().map(of).peekable();
        let mut found = Vec::new();
        while objects.peek().is_some() {
            found.push(batch(&mut objects).unwrap().len());
        }
        assert_eq!(found, [100, 100, 51, 1, 1, 1]);
    }
}
