//! Takes failing endpoints out and brings them back.
//!
//! What counts as a failure: the connection is refused or times out, the TLS handshake fails or times out, or the connection
//! is reset before its first byte came. A clean end without a byte counts as nothing. An ejected endpoint returns after its
//! time only once a connection to it, TLS handshake included, has succeeded without a user's: a black hole costs no request
//! more than once. Only a connection for which nothing else is left is sent to an ejected endpoint, once: Envoy would refuse it,
//! which is quicker, and certain to fail.

use std::sync::{Arc, Weak};

use tokio::time::Instant;

use crate::balance::Host;
use crate::cluster::Cluster;
use crate::connect::Connector;
use crate::metrics::Metrics;

/// Ejects and readmits for one proxy.
pub(crate) struct Outliers {
    pub(crate) connector: Arc<Connector>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) tasks: isthmus_lifecycle::TaskGroup,
}

impl Outliers {
    /// A connection to this host failed before it carried anything.
    pub(crate) fn failed(&self, cluster: &Arc<Cluster>, host: &Arc<Host>) {
        let streak = host.failed();
        let Some(outlier) = &cluster.config.outlier else { return };
        if streak < outlier.consecutive || cluster.eject(host, Instant::now()).is_none() {
            return;
        }
        self.metrics.ejected(cluster.name());
        let (name, address) = (cluster.name(), host.address);
        tracing::warn!(cluster = %name, endpoint = %address, failures = streak, "endpoint ejected");
        self.watch(cluster, host);
    }

    /// Brings an ejected host back in its time.
    pub(crate) fn watch(&self, cluster: &Arc<Cluster>, host: &Arc<Host>) {
        let recovery = recover(Arc::downgrade(cluster), Arc::clone(host), Arc::clone(&self.connector));
        let stop = self.tasks.signal();
        self.tasks.spawn_infallible("recovery", async move {
            tokio::select! {
                () = stop.stopping() => {}
                () = recovery => {}
            }
        });
    }
}

async fn recover(cluster: Weak<Cluster>, host: Arc<Host>, connector: Arc<Connector>) {
    while let Some(until) = host.ejected_until() {
        tokio::time::sleep_until(until).await;
        // A cluster that was replaced handed its hosts to its successor, which watches them itself.
        let Some(cluster) = cluster.upgrade() else { return };
        let Some(outlier) = cluster.config.outlier else { return };
        let Some(endpoint) = cluster.endpoint(host.address) else { return };
        match connector.probe(&cluster, &endpoint).await {
            Ok(()) => {
                cluster.readmit(&host);
                return;
            }
            Err(error) => {
                tracing::debug!(cluster = %cluster.name(), endpoint = %host.address, %error, "still failing");
                host.extend(&outlier, Instant::now());
            }
        }
    }
}
