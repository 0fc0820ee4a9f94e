//! An administrator's client of Kubernetes' own API server, once that is ready.

use std::time::Duration;

use isthmus_testkit::Kubernetes;
use kube::config::{KubeConfigOptions, Kubeconfig};

/// A client that may do everything.
pub(crate) async fn client(kubernetes: &Kubernetes) -> kube::Client {
    let kubeconfig = Kubeconfig::read_from(kubernetes.kubeconfig()).expect("a kubeconfig");
    let options = KubeConfigOptions::default();
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &options).await.expect("a configuration");
    let client = kube::Client::try_from(config).expect("a client");
    until_served(&client, "/readyz").await;
    until_served(&client, "/api/v1/namespaces/default").await;
    client
}

/// Asks until the answer is a success.
pub(crate) async fn until_served(client: &kube::Client, path: &str) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(120);
    let mut pause = tokio::time::interval(Duration::from_millis(200));
    loop {
        pause.tick().await;
        let request = http::Request::get(path).body(kube::client::Body::empty()).expect("a request");
        if client.send(request).await.is_ok_and(|answer| answer.status().is_success()) {
            return;
        }
        assert!(tokio::time::Instant::now() < deadline, "{path} is not served after two minutes");
    }
}
