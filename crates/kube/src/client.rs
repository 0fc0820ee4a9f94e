//! A handle on one API server.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use kube::client::Body;
use kube::config::{KubeConfigOptions, Kubeconfig};
use thiserror::Error;
use tower::{BoxError, Service};

const CONNECT: Duration = Duration::from_secs(10);
const SILENCE: Duration = Duration::from_secs(305);
const SERVICE_ACCOUNT_TOKEN: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";

/// An API server, as its client sees it. Cheap to clone.
#[derive(Clone)]
pub struct Cluster {
    client: kube::Client,
    name: Arc<str>,
    server: Arc<str>,
}

/// Why there is no client.
#[derive(Debug, Error)]
pub enum ConnectError {
    /// The kubeconfig cannot be used.
    #[error("kubeconfig {file}: {problem}; give one with --kubeconfig, and a context of it with --context")]
    Kubeconfig {
        /// The file, or where it was looked for.
        file: String,
        /// What is wrong.
        problem: String,
    },
    /// The settings of the kubeconfig cannot be used.
    #[error("kubeconfig {file}, server {server}: {problem}")]
    Client {
        /// The file.
        file: String,
        /// The server's address.
        server: String,
        /// What is wrong.
        problem: String,
    },
    /// Not the address of a server.
    #[error("{url:?} is no address of a server: {problem}; write it like http://127.0.0.1:15014")]
    Address {
        /// The address.
        url: String,
        /// What is wrong.
        problem: String,
    },
    /// No ServiceAccount is mounted here.
    #[error("this is no Pod with a ServiceAccount: there is no {SERVICE_ACCOUNT_TOKEN}")]
    NotInPod,
    /// The ServiceAccount of this Pod cannot be used.
    #[error("the ServiceAccount of this Pod: {0}")]
    ServiceAccount(String),
}

impl Cluster {
    /// From a kubeconfig: this file, or where kubectl looks; this context of it, or the current one.
    ///
    /// # Errors
    /// When the file, the context or its credentials cannot be used. Nothing is connected yet.
    pub async fn from_kubeconfig(file: Option<&Path>, context: Option<&str>) -> Result<Self, ConnectError> {
        let shown = shown(file);
        let bad = |problem: String| ConnectError::Kubeconfig { file: shown.clone(), problem };
        let kubeconfig = read(file, &shown).await?;
        let options =
            KubeConfigOptions { context: context.map(String::from), ..KubeConfigOptions::default() };
        let chosen = context.map(String::from).or_else(|| kubeconfig.current_context.clone());
        let config = kube::Config::from_custom_kubeconfig(kubeconfig, &options)
            .await
            .map_err(|error| bad(chain(&error)))?;
        let server = config.cluster_url.to_string();
        let client = client(config).map_err(|error| ConnectError::Client {
            file: shown.clone(),
            server: server.clone(),
            problem: chain(&error),
        })?;
        let name = chosen.unwrap_or_else(|| "default".to_string());
        Ok(Self { client, name: name.into(), server: server.into() })
    }

    /// A server that asks for no credentials, such as a control plane's own pages behind `kubectl port-forward`.
    ///
    /// # Errors
    /// When the address cannot be used. Nothing is connected yet.
    pub fn at(url: &str) -> Result<Self, ConnectError> {
        let bad = |problem: String| ConnectError::Address { url: url.to_string(), problem };
        let address: http::Uri =
            url.parse().map_err(|error: http::uri::InvalidUri| bad(error.to_string()))?;
        if address.scheme().is_none() || address.authority().is_none() {
            return Err(bad("scheme and host are needed".to_string()));
        }
        let client = client(kube::Config::new(address)).map_err(|error| bad(chain(&error)))?;
        Ok(Self { client, name: url.into(), server: url.into() })
    }

    /// From the ServiceAccount that Kubernetes mounts into a Pod. Its token is read again when it is replaced.
    ///
    /// # Errors
    /// When none is mounted, or what is mounted cannot be used. Nothing is connected yet.
    pub fn from_service_account() -> Result<Self, ConnectError> {
        if !Path::new(SERVICE_ACCOUNT_TOKEN).exists() {
            return Err(ConnectError::NotInPod);
        }
        let bad = |problem: String| ConnectError::ServiceAccount(problem);
        let config = kube::Config::incluster().map_err(|error| bad(chain(&error)))?;
        let server = config.cluster_url.to_string();
        let client = client(config).map_err(|error| bad(chain(&error)))?;
        Ok(Self { client, name: "in-cluster".into(), server: server.into() })
    }

    /// Names of the contexts of a kubeconfig: this file, or where kubectl looks. In the file's order.
    ///
    /// # Errors
    /// When the file cannot be used.
    pub async fn contexts(file: Option<&Path>) -> Result<Vec<String>, ConnectError> {
        let kubeconfig = read(file, &shown(file)).await?;
        Ok(kubeconfig.contexts.into_iter().map(|context| context.name).collect())
    }

    /// From an HTTP service in this process, such as our API server's router.
    pub fn in_process<S, B>(service: S) -> Self
    where
        S: Service<Request<Body>, Response = Response<B>> + Send + 'static,
        S::Future: Send + 'static,
        S::Error: Into<BoxError>,
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let client = kube::Client::new(service, "default");
        Self { client, name: "standalone".into(), server: "(in process)".into() }
    }

    /// The context's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The server's address.
    #[must_use]
    pub fn server(&self) -> &str {
        &self.server
    }

    pub(crate) fn client(&self) -> &kube::Client {
        &self.client
    }
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cluster")
            .field("name", &self.name)
            .field("server", &self.server)
            .finish_non_exhaustive()
    }
}

/// A client that notices a server that is gone.
fn client(mut config: kube::Config) -> Result<kube::Client, kube::Error> {
    config.connect_timeout = Some(CONNECT);
    // A watch hears at least a bookmark a minute, and ends within five; longer silence is a dead connection.
    config.read_timeout = Some(SILENCE);
    kube::Client::try_from(config)
}

fn shown(file: Option<&Path>) -> String {
    file.map_or_else(|| "(default)".to_string(), |path| path.display().to_string())
}

/// Reading is blocking, and short.
async fn read(file: Option<&Path>, shown: &str) -> Result<Kubeconfig, ConnectError> {
    let bad = |problem: String| ConnectError::Kubeconfig { file: shown.to_string(), problem };
    let owned: Option<PathBuf> = file.map(Path::to_path_buf);
    tokio::task::spawn_blocking(move || match owned {
        Some(path) => Kubeconfig::read_from(path),
        None => Kubeconfig::read(),
    })
    .await
    .map_err(|error| bad(error.to_string()))?
    .map_err(|error| match &error {
        kube::config::KubeconfigError::ReadConfig(cause, path) => {
            bad(format!("cannot read {}: {cause}", path.display()))
        }
        other => bad(chain(other)),
    })
}

/// An error with its causes in one line, each said once.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let more = inner.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_address_needs_a_scheme_and_a_host() {
        assert_eq!(Cluster::at("http://127.0.0.1:15014").unwrap().server(), "http://127.0.0.1:15014");
        for bad in ["127.0.0.1:15014", "/pages", "http://", ""] {
            let text = Cluster::at(bad).unwrap_err().to_string();
            assert!(text.contains(&format!("{bad:?}")), "{text}");
        }
    }

    #[tokio::test]
    async fn a_kubeconfig_that_is_not_there_is_named() {
        let error = Cluster::from_kubeconfig(Some(Path::new("/nonexistent/admin.kubeconfig")), None).await;
        let text = error.unwrap_err().to_string();
        assert!(text.contains("/nonexistent/admin.kubeconfig") && text.contains("--kubeconfig"), "{text}");
    }
}
