//! What Kubernetes' own controllers do, for an API server without them: EndpointSlices from selectors; and what Istio does everywhere:
//! addresses for ServiceEntries, root certificates for namespaces. (Owners, namespaces and their default ServiceAccounts are the API
//! server's own.)
//!
//! All of it is idempotent and made from the same objects alike, so that two replicas over one store agree without a leader.

mod addresses;
pub mod roots;
mod slices;

use std::time::Duration;

use isthmus_lifecycle::{Backoff, TaskGroup};
use isthmus_model::ClusterId;
use isthmus_resources::derived::addresses::Addresses;
use isthmus_resources::derived::slices::Slices;
use isthmus_resources::{Event, Kind};
use tokio::sync::mpsc;

use crate::client::Cluster;
use crate::watch::{Watch, watch};

/// Which controllers run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// Over our own API server: all.
    Standalone,
    /// Beside Kubernetes' controllers: only the allocation of addresses.
    Kubernetes,
}

/// Starts the controllers; they end with the task group's drain.
pub fn run(cluster: &Cluster, id: ClusterId, which: Which, tasks: &TaskGroup) {
    let kinds = match which {
        Which::Standalone => vec![Kind::Service, Kind::Pod, Kind::EndpointSlice, Kind::ServiceEntry],
        Which::Kubernetes => vec![Kind::ServiceEntry],
    };
    let (events, receive) = mpsc::channel(256);
    watch(cluster, Watch { id, kinds: kinds.clone(), events, findings: None, ready: None }, tasks);
    let controllers = Controllers {
        cluster: cluster.clone(),
        awaited: kinds,
        slices: Slices::default(),
        addresses: Addresses::default(),
    };
    let stop = tasks.signal();
    tasks.spawn_infallible("controllers", async move {
        tokio::select! {
            biased;
            () = stop.stopping() => {}
            () = controllers.run(receive) => {}
        }
    });
}

struct Controllers {
    cluster: Cluster,
    /// Kinds that were not listed yet. Until all are, what is missing is unknown, and nothing is written.
    awaited: Vec<Kind>,
    slices: Slices,
    addresses: Addresses,
}

impl Controllers {
    async fn run(mut self, mut events: mpsc::Receiver<Event>) {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(10));
        let mut batch = Vec::new();
        let mut retry = false;
        loop {
            let received = tokio::select! {
                received = events.recv_many(&mut batch, 256) => received,
                () = backoff.wait(), if retry => usize::MAX,
            };
            if received == 0 {
                return;
            }
            for event in batch.drain(..) {
                if let isthmus_resources::Change::Listed(kind, _) = &event.change {
                    self.awaited.retain(|awaited| awaited != kind);
                }
                self.addresses.apply(&event.change);
                self.slices.apply(event.change);
            }
            if !self.awaited.is_empty() {
                continue;
            }
            let mut done = slices::write(&mut self.slices, &self.cluster).await;
            done &= addresses::write(&mut self.addresses, &self.cluster).await;
            retry = !done;
            if done {
                backoff.reset();
            }
        }
    }
}
