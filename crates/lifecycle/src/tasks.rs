//! Named task groups: nothing is spawned without saying what its failure means.

use std::future::Future;
use std::sync::Arc;

use tokio_util::task::TaskTracker;

use crate::drain::{Drain, Signal};

/// What the end of a task with an error, or its panic, means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnFailure {
    /// It is logged; others go on. For one connection or one stream.
    Log,
    /// The program cannot do without it and stops. For listeners and sources.
    Stop,
}

/// Tasks that live and die together. Cheap to clone.
#[derive(Debug, Clone)]
pub struct TaskGroup {
    name: &'static str,
    tracker: TaskTracker,
    drain: Drain,
    failed: Arc<tokio::sync::watch::Sender<Option<String>>>,
}

impl TaskGroup {
    /// A group whose tasks see this drain.
    #[must_use]
    pub fn new(name: &'static str, drain: Drain) -> Self {
        Self {
            name,
            tracker: TaskTracker::new(),
            drain,
            failed: Arc::new(tokio::sync::watch::Sender::new(None)),
        }
    }

    /// The signal that tasks of this group watch.
    #[must_use]
    pub fn signal(&self) -> Signal {
        self.drain.signal()
    }

    /// The drain that stops this group.
    #[must_use]
    pub fn drain(&self) -> &Drain {
        &self.drain
    }

    /// Runs a task until it ends.
    pub fn spawn<F, E>(&self, task: &'static str, on_failure: OnFailure, future: F)
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: std::fmt::Display + Send + 'static,
    {
        let (group, drain, failed) = (self.name, self.drain.clone(), Arc::clone(&self.failed));
        // An outer task sees the inner one's panic.
        #[expect(clippy::disallowed_methods, reason = "the one place that spawns")]
        let inner = tokio::spawn(self.tracker.track_future(future));
        let watch = async move {
            let problem = match inner.await {
                Ok(Ok(())) => return,
                Ok(Err(error)) => error.to_string(),
                Err(join) if join.is_cancelled() => return,
                Err(_) => "panicked; this is a bug".to_string(),
            };
            match on_failure {
                OnFailure::Log => tracing::warn!(group, task, error = %problem, "task failed"),
                OnFailure::Stop => {
                    tracing::error!(group, task, error = %problem, "task failed, stopping");
                    failed.send_replace(Some(format!("{task}: {problem}")));
                    drain.immediate();
                }
            }
        };
        #[expect(clippy::disallowed_methods, reason = "the one place that spawns")]
        tokio::spawn(self.tracker.track_future(watch));
    }

    /// Runs a task that cannot fail; a panic is logged.
    pub fn spawn_infallible<F>(&self, task: &'static str, future: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.spawn(task, OnFailure::Log, async move {
            future.await;
            Ok::<(), std::convert::Infallible>(())
        });
    }

    /// Runs one of very many tasks, such as a connection: without a watcher, which would double their number. A panic ends the
    /// task alone and is written by the panic hook.
    pub fn spawn_many<F>(&self, future: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        #[expect(clippy::disallowed_methods, reason = "the one place that spawns")]
        tokio::spawn(self.tracker.track_future(future));
    }

    /// How many tasks run, their watchers included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.tracker.len()
    }

    /// Whether none runs.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tracker.is_empty()
    }

    /// Waits until all tasks have ended. New ones may still be spawned meanwhile.
    pub async fn finished(&self) {
        self.tracker.close();
        self.tracker.wait().await;
    }

    /// The failure that stopped the group, if one did.
    #[must_use]
    pub fn failure(&self) -> Option<String> {
        self.failed.borrow().clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_vital_task_that_fails_stops_the_group() {
        let group = TaskGroup::new("test", Drain::new());
        let signal = group.signal();
        group.spawn_infallible("waits", async move { signal.stopping().await });
        group.spawn("listener", OnFailure::Stop, async { Err("address in use") });
        group.finished().await;
        assert_eq!(group.failure().as_deref(), Some("listener: address in use"));
    }

    #[tokio::test]
    async fn a_panic_in_one_connection_leaves_the_others() {
        let group = TaskGroup::new("test", Drain::new());
        group.spawn_infallible("connection", async { panic!("boom") });
        group.finished().await;
        assert_eq!(group.failure(), None);
        assert!(!group.signal().is_stopping());
    }
}
