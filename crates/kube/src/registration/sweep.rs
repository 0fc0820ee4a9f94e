//! Upkeep: records are renewed, and workloads that nobody serves are taken away.

use std::sync::Arc;
use std::time::Duration;

use isthmus_resources::Kind;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::pod::{LEASE_SECONDS, RECORD, micros};
use super::state::Connection;
use super::{Inner, Place, text};
use crate::api::{ApiError, LEASE};

/// Sweeps come once in so many graces.
const GRACES: u32 = 10;

pub(super) fn spawn(inner: &Arc<Inner>) {
    let stop = inner.tasks.signal();
    let registrar = Arc::downgrade(inner);
    let every = inner.config.grace.max(Duration::from_millis(100)) * GRACES;
    let settle = inner.config.settle;
    inner.tasks.spawn_infallible("registration sweep", async move {
        // The first sweep comes as soon as workloads have had their time to come back.
        let mut wait = settle;
        loop {
            tokio::select! {
                biased;
                () = stop.stopping() => return,
                () = tokio::time::sleep(wait) => {}
            }
            wait = every;
            let Some(registrar) = registrar.upgrade() else { return };
            registrar.sweep().await;
        }
    });
    let stop = inner.tasks.signal();
    let registrar = Arc::downgrade(inner);
    inner.tasks.spawn_infallible("registration renewal", async move {
        let every = Duration::from_secs(u64::from(LEASE_SECONDS) / 3);
        loop {
            tokio::select! {
                biased;
                () = stop.stopping() => return,
                () = tokio::time::sleep(every) => {}
            }
            let Some(registrar) = registrar.upgrade() else { return };
            registrar.renew().await;
        }
    });
}

impl Inner {
    async fn renew(&self) {
        let places: Vec<Place> = self.streams.lock().keys().filter(|place| place.pod).cloned().collect();
        for place in places {
            let patch = json!({"spec": {"renewTime": micros(self.now())}});
            match self.cluster.merge(LEASE, Some(&place.namespace), &place.name, None, patch).await {
                Ok(_) | Err(ApiError::NotFound { .. }) => {}
                Err(error) => {
                    // The others would fail alike; the next round tries again.
                    tracing::warn!(%error, "record not renewed");
                    return;
                }
            }
        }
    }

    async fn sweep(&self) {
        let entries = self.cluster.list_installed(Kind::WorkloadEntry, None, None).await;
        let leases = match self.config.writes_pods {
            true => self.cluster.list(LEASE, None, Some(&format!("{RECORD}=pod"))).await,
            false => Ok(Vec::new()),
        };
        for (pod, list) in [(false, entries), (true, leases)] {
            let records = match list {
                Ok(records) => records,
                Err(error) => {
                    tracing::warn!(%error, "registrations not swept");
                    continue;
                }
            };
            for record in records {
                let place = Place {
                    pod,
                    namespace: text(&record, "/metadata/namespace").to_string(),
                    name: text(&record, "/metadata/name").to_string(),
                };
                self.sweep_one(&place, &record).await;
            }
        }
    }

    async fn sweep_one(&self, place: &Place, record: &Value) {
        if self.is_connected(place) {
            return;
        }
        let connection = Connection::read(record);
        let now = self.now();
        if connection.is_expired(now, self.config.grace) {
            if let Err(error) = self.expire(place).await {
                tracing::warn!(%error, "registration not cleaned up");
            }
            return;
        }
        if connection.connected.is_none() {
            return;
        }
        // Its record says that it is connected. Is it?
        let mine = connection.controller.as_deref() == Some(self.config.holder.as_str());
        let settled = now.duration_since(self.started).as_secs_f64() >= self.config.settle.as_secs_f64();
        if mine && settled {
            tracing::info!(namespace = %place.namespace, name = %place.name, "workload did not come back");
            self.disconnected(place, None).await;
            self.expire_after_grace(place).await;
        } else if !mine && place.pod && settled && is_stale(record, now) {
            // Its control plane is gone and the workload came to no other one.
            if let Err(error) = self.take_over(place, record).await {
                tracing::debug!(%error, "stale record not taken over");
            }
        }
    }

    /// Takes a stale record over as disconnected.
    async fn take_over(&self, place: &Place, record: &Value) -> Result<(), ApiError> {
        let mut patch = super::state::disconnect_patch(record, self.now());
        patch["metadata"]["annotations"][super::state::CONTROLLER] = json!(self.config.holder);
        self.cluster.merge(place.record(), Some(&place.namespace), &place.name, None, patch).await?;
        self.expire_after_grace(place).await;
        Ok(())
    }
}

/// Whether a Lease was not renewed for twice its duration.
fn is_stale(record: &Value, now: Timestamp) -> bool {
    let Ok(renewed) = text(record, "/spec/renewTime").parse::<Timestamp>() else { return false };
    let seconds = record["spec"]["leaseDurationSeconds"].as_u64().unwrap_or(u64::from(LEASE_SECONDS));
    now.duration_since(renewed).as_secs() > i64::try_from(seconds * 2).unwrap_or(i64::MAX)
}
