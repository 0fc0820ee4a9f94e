//! Where configuration comes from: an API server of Kubernetes, or our own.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use axum::Router;
use isthmus_kube::controllers::Which;
use isthmus_kube::{ApiError, Cluster, ConnectError};
use isthmus_lifecycle::{Backoff, Clock, TaskGroup};
use tokio::time::Instant;

use crate::config::Config;
use crate::listener;
use crate::standalone::Standalone;

/// How long the API server may take to answer at all: both are perhaps being started.
const PATIENCE: Duration = Duration::from_secs(60);

/// The API server of this cluster.
#[derive(Debug)]
pub enum Source {
    /// Ours, bound and not yet serving.
    Standalone(Box<Standalone>),
    /// One of Kubernetes.
    Kubernetes(Cluster),
}

impl Source {
    /// Starts our own, or finds the one of Kubernetes. Makes `config.api_address` the one that is bound.
    ///
    /// # Errors
    /// When neither is asked for and there is no ServiceAccount of a Pod; when what was asked for cannot be had.
    pub async fn build(
        config: &mut Config,
        clock: &Arc<dyn Clock>,
        tasks: &TaskGroup,
    ) -> anyhow::Result<Self> {
        if config.standalone {
            let listener = listener::bind(&mut config.api_address, "--api-address")?;
            let standalone = Standalone::build(config, listener, Arc::clone(clock), tasks).await?;
            return Ok(Self::Standalone(Box::new(standalone)));
        }
        let cluster = match &config.kubeconfig {
            Some(file) => Cluster::from_kubeconfig(Some(file), config.context.as_deref()).await?,
            None => Cluster::from_service_account().map_err(|error| match error {
                ConnectError::NotInPod => anyhow::anyhow!(
                    "no API server: give --kubeconfig FILE to read that of Kubernetes (a Pod with a ServiceAccount needs no flag), \
                     or --standalone to serve one here"
                ),
                other => other.into(),
            })?,
        };
        tracing::info!(server = cluster.server(), "reading Kubernetes' API server");
        reach(&cluster).await.context("the API server of Kubernetes")?;
        Ok(Self::Kubernetes(cluster))
    }

    /// Whether it is ours.
    #[must_use]
    pub fn is_standalone(&self) -> bool {
        matches!(self, Self::Standalone(_))
    }

    /// The API, as the control plane.
    #[must_use]
    pub fn cluster(&self) -> Cluster {
        match self {
            Self::Standalone(own) => own.cluster(),
            Self::Kubernetes(cluster) => cluster.clone(),
        }
    }

    /// Which controllers are ours to run: Kubernetes has its own.
    #[must_use]
    pub fn controllers(&self) -> Which {
        match self {
            Self::Standalone(_) => Which::Standalone,
            Self::Kubernetes(_) => Which::Kubernetes,
        }
    }

    /// Serves our own API, with pages for admins; gives the pages back where the API server is not ours.
    pub fn serve(self, pages: Router, tasks: &TaskGroup) -> Option<Router> {
        match self {
            Self::Standalone(own) => {
                own.mount_debug(pages);
                own.serve(tasks);
                None
            }
            Self::Kubernetes(_) => Some(pages),
        }
    }
}

/// Waits for the first answer. What will not change by waiting is told at once.
async fn reach(cluster: &Cluster) -> Result<(), ApiError> {
    let started = Instant::now();
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
    loop {
        match cluster.check().await {
            Err(error) if error.is_transient() && started.elapsed() < PATIENCE => {
                tracing::warn!(%error, "the API server does not answer yet");
                backoff.wait().await;
            }
            outcome => return outcome,
        }
    }
}
