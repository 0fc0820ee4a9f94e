//! What Gateway objects lose to older ones, said in their status.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use isthmus_envoy::{Conflicts, gateway_conflicts};
use isthmus_kube::Cluster;
use isthmus_kube::conditions::write_conflicts;
use isthmus_lifecycle::{Clock, Signal};
use isthmus_registry::Snapshot;
use isthmus_resources::Kind;
use tokio::sync::watch;

/// Between two looks.
const PAUSE: Duration = Duration::from_secs(1);
/// Before what failed is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// Says conflicts as they come and go, until told to stop. They are found from objects alone, so that all replicas say the same.
pub async fn tell(
    cluster: Cluster,
    clock: Arc<dyn Clock>,
    mut snapshots: watch::Receiver<Arc<Snapshot>>,
    stop: Signal,
) {
    let mut said: Option<(Arc<Snapshot>, Conflicts)> = None;
    let mut again = false;
    loop {
        tokio::select! {
            biased;
            () = stop.stopping() => return,
            changed = snapshots.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(RETRY), if again => {}
        }
        let snapshot = Arc::clone(&snapshots.borrow_and_update());
        if !snapshot.is_complete()
            || said.as_ref().is_some_and(|(before, _)| !again && same(before, &snapshot))
        {
            continue;
        }
        let found = gateway_conflicts(&snapshot);
        // Objects that are new may be old ones, made anew, whose status is empty.
        let known = said
            .as_ref()
            .is_some_and(|(before, conflicts)| *conflicts == found && before.config.same(&snapshot.config));
        if again || !known {
            again = !write(&cluster, &*clock, &found).await;
        }
        said = Some((snapshot, found));
        tokio::select! {
            biased;
            () = stop.stopping() => return,
            () = tokio::time::sleep(PAUSE) => {}
        }
    }
}

/// Whether nothing differs that decides about conflicts.
fn same(before: &Snapshot, now: &Snapshot) -> bool {
    before.config.same(&now.config)
        && before.services.same(&now.services)
        && before.workloads.same(&now.workloads)
}

async fn write(cluster: &Cluster, clock: &dyn Clock, found: &Conflicts) -> bool {
    let named = found
        .iter()
        .map(|((namespace, name), messages)| ((namespace.to_string(), name.to_string()), messages.clone()));
    let losses: BTreeMap<(String, String), Vec<String>> = named.collect();
    let written = write_conflicts(cluster, clock, Kind::Gateway, &losses).await;
    written.unwrap_or_else(|error| {
        tracing::warn!(%error, "conflicts of gateways not written");
        false
    })
}
