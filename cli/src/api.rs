//! API servers, reached with the flags of the command line. Every question has a time limit.

use std::time::Duration;

use anyhow::{anyhow, bail};
use isthmus_kube::{ApiError, Cluster};

use crate::args::ServerArgs;

/// The API server of one context.
#[derive(Debug)]
pub(crate) struct Api {
    pub(crate) cluster: Cluster,
    timeout: Duration,
}

impl Api {
    /// For commands about one cluster.
    pub(crate) async fn connect(server: &ServerArgs) -> anyhow::Result<Self> {
        if server.all_contexts {
            bail!(
                "--all-contexts is for status, analyze and link list; this command is about one cluster: --context NAME"
            );
        }
        Self::open(server, server.context.as_deref()).await
    }

    /// For commands that may be about several.
    pub(crate) async fn connect_all(server: &ServerArgs) -> anyhow::Result<Vec<Self>> {
        if !server.all_contexts {
            return Ok(vec![Self::open(server, server.context.as_deref()).await?]);
        }
        let mut all = Vec::new();
        for context in Cluster::contexts(server.kubeconfig.as_deref()).await? {
            all.push(Self::open(server, Some(&context)).await?);
        }
        if all.is_empty() {
            bail!("the kubeconfig has no contexts");
        }
        Ok(all)
    }

    /// A control plane's own pages, without an API server.
    pub(crate) fn at(server: &ServerArgs, url: &str) -> anyhow::Result<Self> {
        if server.all_contexts {
            bail!("--control-plane is one control plane, --all-contexts are several; give one of the two");
        }
        Ok(Self { cluster: Cluster::at(url)?, timeout: server.timeout })
    }

    /// A page of the control plane.
    pub(crate) async fn page(&self, path: &str) -> anyhow::Result<String> {
        let asked = self.within(self.cluster.raw_get(path)).await;
        asked.map_err(|error| match error.downcast_ref() {
            // A server of Kubernetes knows nothing of them.
            Some(ApiError::NotFound { message, .. }) if !message.starts_with("no proxy") => error.context(
                "beside Kubernetes these pages are on the control plane's monitoring port: `kubectl port-forward -n istio-system POD 15014`, \
                 then --control-plane http://127.0.0.1:15014",
            ),
            _ => error,
        })
    }

    async fn open(server: &ServerArgs, context: Option<&str>) -> anyhow::Result<Self> {
        let cluster = Cluster::from_kubeconfig(server.kubeconfig.as_deref(), context).await?;
        Ok(Self { cluster, timeout: server.timeout })
    }

    /// The context's name.
    pub(crate) fn context(&self) -> &str {
        self.cluster.name()
    }

    /// Waits for an answer, not for ever.
    pub(crate) async fn within<T>(
        &self,
        asked: impl Future<Output = Result<T, ApiError>>,
    ) -> anyhow::Result<T> {
        match tokio::time::timeout(self.timeout, asked).await {
            Ok(answer) => Ok(answer?),
            Err(_) => Err(anyhow!(
                "the API server at {} did not answer within {} s (--timeout)",
                self.cluster.server(),
                self.timeout.as_secs()
            )),
        }
    }
}
