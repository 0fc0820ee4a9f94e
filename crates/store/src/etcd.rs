//! The store in etcd, shared by several replicas.
//!
//! Keys live under `NAMESPACE/k/`. Every write also touches the marker `NAMESPACE/k-` in the same transaction, so that
//! the marker's revision is the latest revision of our own keys, whoever else uses this etcd, and a watch over both
//! always learns how far it has come.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use etcd_client::{
    Client, Compare, CompareOp, ConnectOptions, DeleteOptions, EventType, GetOptions, PutOptions, Txn, TxnOp,
    TxnOpResponse, WatchOptions,
};
use futures::StreamExt;

use crate::Store;
use crate::error::{OpenError, StoreError, WatchError};
use crate::types::{Event, Expect, KeyValue, LeaseId, Page, Range, WatchBatch, WatchStream, Write};

/// How long one call may take.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Keys in one answer of etcd at most.
const PAGE: usize = 500;
/// An answer's size at most: a page of the largest values.
const MAX_MESSAGE: usize = 1 << 30;

/// A store in etcd.
#[derive(Clone)]
pub struct EtcdStore {
    client: Client,
    root: String,
    marker: String,
    end: String,
}

impl std::fmt::Debug for EtcdStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EtcdStore").field("root", &self.root).finish_non_exhaustive()
    }
}

impl EtcdStore {
    /// Connects, and makes sure that etcd answers. `namespace` is a path such as `/isthmus`: stores with different
    /// ones do not see each other's keys.
    pub async fn connect(
        endpoints: &[String],
        namespace: &str,
        options: Option<ConnectOptions>,
    ) -> Result<Self, OpenError> {
        let unusable = |reason: String| OpenError::Etcd { endpoints: endpoints.join(","), reason };
        let options = options
            .unwrap_or_default()
            .with_connect_timeout(Duration::from_secs(5))
            .with_keep_alive(Duration::from_secs(10), Duration::from_secs(5))
            .with_keep_alive_while_idle(true);
        let client =
            Client::connect(endpoints, Some(options)).await.map_err(|error| unusable(error.to_string()))?;
        let store = Self {
            client,
            root: format!("{namespace}/k/"),
            marker: format!("{namespace}/k-"),
            end: format!("{namespace}/k0"),
        };
        // The marker must exist before a first watch asks for its revision.
        let first = Txn::new()
            .when([Compare::version(store.marker.as_str(), CompareOp::Equal, 0)])
            .and_then([TxnOp::put(store.marker.as_str(), "", None)]);
        let mut kv = store.client.kv_client();
        call(kv.txn(first)).await.map_err(|error| unusable(error.to_string()))?;
        Ok(store)
    }

    fn key(&self, key: &str) -> String {
        format!("{}{key}", self.root)
    }

    fn read(&self, kv: &etcd_client::KeyValue) -> Option<KeyValue> {
        let key = std::str::from_utf8(kv.key()).ok()?.strip_prefix(&self.root)?.to_string();
        Some(KeyValue {
            key,
            value: Bytes::copy_from_slice(kv.value()),
            create_revision: number(kv.create_revision()),
            mod_revision: number(kv.mod_revision()),
            lease: (kv.lease() != 0).then_some(kv.lease()),
        })
    }

    async fn write(
        &self,
        key: &str,
        expect: Expect,
        must_exist: bool,
        op: TxnOp,
    ) -> Result<Write, StoreError> {
        let full = self.key(key);
        let mut compares = Vec::new();
        match expect {
            Expect::Any => {}
            Expect::Absent => compares.push(Compare::version(full.as_str(), CompareOp::Equal, 0)),
            Expect::Revision(revision) => compares.push(Compare::mod_revision(
                full.as_str(),
                CompareOp::Equal,
                i64::try_from(revision).unwrap_or(i64::MAX),
            )),
        }
        if must_exist {
            compares.push(Compare::version(full.as_str(), CompareOp::Greater, 0));
        }
        let txn = Txn::new()
            .when(compares)
            .and_then([op, TxnOp::put(self.marker.as_str(), "", None)])
            .or_else([TxnOp::get(full.as_str(), None)]);
        let mut client = self.client.kv_client().max_decoding_message_size(MAX_MESSAGE);
        let response = call(client.txn(txn)).await?;
        let first = response.op_responses().into_iter().next();
        if !response.succeeded() {
            let current = match &first {
                Some(TxnOpResponse::Get(found)) => found.kvs().first().and_then(|kv| self.read(kv)),
                _ => None,
            };
            return Ok(Write::Conflict(current));
        }
        let previous = match &first {
            Some(TxnOpResponse::Put(put)) => put.prev_key().and_then(|kv| self.read(kv)),
            Some(TxnOpResponse::Delete(deleted)) => deleted.prev_kvs().first().and_then(|kv| self.read(kv)),
            _ => None,
        };
        let revision = response.header().map_or(0, |header| number(header.revision()));
        Ok(Write::Done { revision, previous })
    }

    /// Turns etcd's answer to a watch into whole revisions of our keys.
    fn batch(&self, response: &etcd_client::WatchResponse, prefix: &str) -> Option<WatchBatch> {
        let mut batch = WatchBatch { events: Vec::new(), revision: 0 };
        for event in response.events() {
            let Some(kv) = event.kv() else { continue };
            let revision = number(kv.mod_revision());
            batch.revision = batch.revision.max(revision);
            let Some(now) = self.read(kv) else { continue };
            if !now.key.starts_with(prefix) {
                continue;
            }
            let previous = event.prev_kv().and_then(|kv| self.read(kv));
            let key = now.key.clone();
            let current = (event.event_type() == EventType::Put).then_some(now);
            batch.events.push(Event { revision, key, current, previous });
        }
        (batch.revision > 0).then_some(batch)
    }
}

#[async_trait]
impl Store for EtcdStore {
    async fn get(&self, key: &str) -> Result<Option<KeyValue>, StoreError> {
        let mut client = self.client.kv_client().max_decoding_message_size(MAX_MESSAGE);
        let response = call(client.get(self.key(key), None)).await?;
        Ok(response.kvs().first().and_then(|kv| self.read(kv)))
    }

    async fn range(&self, range: Range) -> Result<Page, StoreError> {
        let mut client = self.client.kv_client().max_decoding_message_size(MAX_MESSAGE);
        let end = prefix_end(&self.key(&range.prefix));
        let mut start = match &range.after {
            Some(after) if *after >= range.prefix => format!("{}\0", self.key(after)),
            _ => self.key(&range.prefix),
        };
        let mut page = Page { items: Vec::new(), revision: range.revision.unwrap_or(0), more: false };
        loop {
            let left = if range.limit == 0 { PAGE } else { (range.limit - page.items.len()).min(PAGE) };
            let options = GetOptions::new()
                .with_range(end.clone())
                .with_limit(i64::try_from(left).unwrap_or(i64::MAX))
                .with_revision(i64::try_from(page.revision).unwrap_or(i64::MAX));
            let response =
                call(client.get(start.clone(), Some(options))).await.map_err(|error| match error {
                    StoreError::Compacted { .. } => StoreError::Compacted { asked: page.revision, oldest: 0 },
                    StoreError::Future { .. } => StoreError::Future { asked: page.revision, latest: 0 },
                    other => other,
                })?;
            if page.revision == 0 {
                page.revision = response.header().map_or(0, |header| number(header.revision()));
            }
            if let Some(last) = response.kvs().last() {
                start = format!("{}\0", String::from_utf8_lossy(last.key()));
            }
            page.items.extend(response.kvs().iter().filter_map(|kv| self.read(kv)));
            page.more = response.more();
            if !page.more || (range.limit > 0 && page.items.len() >= range.limit) {
                return Ok(page);
            }
        }
    }

    async fn put(
        &self,
        key: &str,
        value: Bytes,
        expect: Expect,
        lease: Option<LeaseId>,
    ) -> Result<Write, StoreError> {
        let options = PutOptions::new().with_prev_key().with_lease(lease.unwrap_or(0));
        let op = TxnOp::put(self.key(key), value, Some(options));
        self.write(key, expect, false, op).await.map_err(|error| match (error, lease) {
            (StoreError::NoLease(_), Some(lease)) => StoreError::NoLease(lease),
            (other, _) => other,
        })
    }

    async fn delete(&self, key: &str, expect: Expect) -> Result<Write, StoreError> {
        let op = TxnOp::delete(self.key(key), Some(DeleteOptions::new().with_prev_key()));
        self.write(key, expect, true, op).await
    }

    async fn watch(&self, prefix: &str, from: u64) -> Result<WatchStream, StoreError> {
        // etcd would take 0 for "now".
        let from = i64::try_from(from.max(1)).unwrap_or(i64::MAX);
        let options =
            WatchOptions::new().with_range(self.end.as_str()).with_start_revision(from).with_prev_key();
        let mut client = self.client.watch_client().max_decoding_message_size(MAX_MESSAGE);
        let responses = call(client.watch(self.marker.as_str(), Some(options))).await?;
        let state = Some((self.clone(), responses, prefix.to_string()));
        Ok(futures::stream::unfold(state, |state| async move {
            let (store, mut responses, prefix) = state?;
            loop {
                let response = match responses.message().await {
                    Ok(Some(response)) => response,
                    Ok(None) => return Some((Err(WatchError::Cut("etcd ended it".to_string())), None)),
                    Err(error) => return Some((Err(WatchError::Cut(error.to_string())), None)),
                };
                if response.canceled() {
                    let error = match number(response.compact_revision()) {
                        0 => WatchError::Cut(response.cancel_reason().to_string()),
                        oldest => WatchError::Compacted { oldest },
                    };
                    return Some((Err(error), None));
                }
                if let Some(batch) = store.batch(&response, &prefix) {
                    return Some((Ok(batch), Some((store, responses, prefix))));
                }
            }
        })
        .boxed())
    }

    async fn revision(&self) -> Result<u64, StoreError> {
        let mut client = self.client.kv_client();
        let response = call(client.get(self.marker.as_str(), None)).await?;
        Ok(response.kvs().first().map_or(0, |kv| number(kv.mod_revision())))
    }

    async fn lease_grant(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        let seconds = i64::try_from(ttl.as_secs().max(1)).unwrap_or(i64::MAX);
        let mut client = self.client.lease_client();
        Ok(call(client.grant(seconds, None)).await?.id())
    }

    async fn lease_keep_alive(&self, lease: LeaseId) -> Result<bool, StoreError> {
        let mut client = self.client.lease_client();
        // The call reads etcd's first answer itself, and reports a lease that has ended as this error.
        match tokio::time::timeout(TIMEOUT, client.keep_alive(lease)).await {
            Ok(Ok(_)) => Ok(true),
            Ok(Err(etcd_client::Error::LeaseKeepAliveError(_))) => Ok(false),
            Ok(Err(error)) => Err(classify(error)),
            Err(_) => Err(StoreError::Unavailable("timed out".to_string())),
        }
    }

    async fn lease_revoke(&self, lease: LeaseId) -> Result<bool, StoreError> {
        let mut client = self.client.lease_client();
        match call(client.revoke(lease)).await {
            Ok(_) => Ok(true),
            Err(StoreError::NoLease(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// One call within its time, its error in our words.
async fn call<T>(request: impl Future<Output = Result<T, etcd_client::Error>>) -> Result<T, StoreError> {
    match tokio::time::timeout(TIMEOUT, request).await {
        Ok(answer) => answer.map_err(classify),
        Err(_) => Err(StoreError::Unavailable(format!("no answer in {} s", TIMEOUT.as_secs()))),
    }
}

fn classify(error: etcd_client::Error) -> StoreError {
    let text = error.to_string();
    if text.contains("required revision has been compacted") {
        return StoreError::Compacted { asked: 0, oldest: 0 };
    }
    if text.contains("required revision is a future revision") {
        return StoreError::Future { asked: 0, latest: 0 };
    }
    if text.contains("requested lease not found") {
        return StoreError::NoLease(0);
    }
    StoreError::Unavailable(text)
}

fn number(revision: i64) -> u64 {
    u64::try_from(revision).unwrap_or(0)
}

/// The first key after all keys with this prefix.
fn prefix_end(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    while let Some(last) = end.pop() {
        if last < 0xff {
            end.push(last + 1);
            break;
        }
    }
    end
}
