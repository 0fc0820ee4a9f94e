//! Gateways that are known by a host name, as cloud load balancers are: looked up here, again and again, since their addresses move.

use std::collections::BTreeSet;
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

/// Between two rounds.
const EVERY: Duration = Duration::from_secs(30);
/// Patience for one name.
const PATIENCE: Duration = Duration::from_secs(5);

/// A name and the addresses that it has; none when it could not be looked up.
pub(super) type Found = (Arc<str>, Vec<IpAddr>);

/// The names, and the round that is under way.
pub(super) struct Names {
    wanted: BTreeSet<Arc<str>>,
    due: Instant,
    round: Option<Pin<Box<dyn Future<Output = Vec<Found>> + Send>>>,
}

impl Names {
    pub(super) fn new() -> Self {
        Self { wanted: BTreeSet::new(), due: Instant::now(), round: None }
    }

    /// The names to look up from now on; new ones at once.
    pub(super) fn want(&mut self, names: BTreeSet<Arc<str>>) {
        if !names.is_subset(&self.wanted) {
            self.due = Instant::now();
        }
        self.wanted = names;
    }

    /// What the next round found. May be dropped and asked again: a round goes on where it was.
    pub(super) async fn next(&mut self) -> Vec<Found> {
        loop {
            if let Some(round) = &mut self.round {
                let found = round.await;
                self.round = None;
                self.due = Instant::now() + EVERY;
                return found;
            }
            if self.wanted.is_empty() {
                std::future::pending::<()>().await;
            }
            tokio::time::sleep_until(self.due).await;
            self.round = Some(Box::pin(round(self.wanted.clone())));
        }
    }
}

/// One after the other: there are few, and a slow one only delays the next round.
async fn round(names: BTreeSet<Arc<str>>) -> Vec<Found> {
    let mut found = Vec::with_capacity(names.len());
    for name in names {
        let addresses = match tokio::time::timeout(PATIENCE, tokio::net::lookup_host((&*name, 0))).await {
            Ok(Ok(sockets)) => sockets.map(|socket| socket.ip()).collect(),
            Ok(Err(error)) => {
                tracing::warn!(gateway = %name, %error, "gateway's name cannot be looked up; its last addresses stay");
                Vec::new()
            }
            Err(_) => {
                tracing::warn!(gateway = %name, "gateway's name was not answered in time; its last addresses stay");
                Vec::new()
            }
        };
        found.push((name, addresses));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn names_are_looked_up_as_soon_as_they_are_wanted_and_a_dropped_question_loses_nothing() {
        let mut names = Names::new();
        assert!(
            tokio::time::timeout(Duration::from_millis(1), names.next()).await.is_err(),
            "nothing is wanted"
        );
        names.want([Arc::from("localhost")].into());
        // Dropped at its first wait.
        let _ = tokio::time::timeout(Duration::ZERO, names.next()).await;
        let found = names.next().await;
        assert_eq!(&*found[0].0, "localhost");
        assert!(found[0].1.iter().all(IpAddr::is_loopback) && !found[0].1.is_empty(), "{found:?}");
    }
}
