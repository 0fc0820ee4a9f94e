//! The description of a mesh that its control plane leaves for the command line, and where its gateways are.

use isthmus_resources::convert::{NETWORK_LABEL, Site, network_gateways};
use isthmus_resources::{Kind, Object, parse};
use serde_json::{Value, json};

use crate::api::ApiError;
use crate::client::Cluster;

/// Where a control plane keeps its own objects.
pub const SYSTEM_NAMESPACE: &str = "istio-system";
/// ConfigMap with the description.
pub const MESH_CONFIG_MAP: &str = "isthmus-mesh";

/// A control plane, as others need to know it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MeshInfo {
    /// Mesh.
    pub mesh_id: String,
    /// Cluster.
    pub cluster: String,
    /// Its network.
    pub network: String,
    /// Its revision.
    pub revision: String,
    /// Trust domain.
    pub trust_domain: String,
    /// Server name to verify and to send.
    pub server_name: String,
    /// `HOST:PORT` at which it is reached directly.
    pub addresses: Vec<String>,
    /// Roots in PEM.
    pub roots: String,
}

impl Cluster {
    /// Writes the description; nothing when it stands there already.
    ///
    /// # Errors
    /// When the API server fails.
    pub async fn write_mesh(&self, info: &MeshInfo) -> Result<(), ApiError> {
        let data = json!({
            "meshId": info.mesh_id,
            "cluster": info.cluster,
            "network": info.network,
            "revision": info.revision,
            "trustDomain": info.trust_domain,
            "serverName": info.server_name,
            "addresses": info.addresses.join(","),
            "roots.pem": info.roots,
        });
        let found = self.get(Kind::ConfigMap, Some(SYSTEM_NAMESPACE), MESH_CONFIG_MAP).await?;
        if found.is_some_and(|found| found["data"] == data) {
            return Ok(());
        }
        let object = json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": MESH_CONFIG_MAP, "namespace": SYSTEM_NAMESPACE},
            "data": data,
        });
        self.put(Kind::ConfigMap, object).await.map(drop)
    }

    /// The description; none when no control plane has written one.
    ///
    /// # Errors
    /// When the API server fails.
    pub async fn read_mesh(&self) -> Result<Option<MeshInfo>, ApiError> {
        let found = self.get(Kind::ConfigMap, Some(SYSTEM_NAMESPACE), MESH_CONFIG_MAP).await?;
        Ok(found.map(|object| {
            let text = |key: &str| object["data"][key].as_str().unwrap_or_default().to_string();
            MeshInfo {
                mesh_id: text("meshId"),
                cluster: text("cluster"),
                network: text("network"),
                revision: text("revision"),
                trust_domain: text("trustDomain"),
                server_name: text("serverName"),
                addresses: text("addresses")
                    .split(',')
                    .filter(|part| !part.is_empty())
                    .map(String::from)
                    .collect(),
                roots: text("roots.pem"),
            }
        }))
    }

    /// Makes sure that a namespace is there.
    ///
    /// # Errors
    /// When the API server fails.
    pub async fn ensure_namespace(&self, name: &str) -> Result<(), ApiError> {
        self.ensure(
            Kind::Namespace,
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}),
        )
        .await
    }

    /// Makes sure that a service account is there.
    ///
    /// # Errors
    /// When the API server fails, or the namespace is missing.
    pub async fn ensure_service_account(&self, namespace: &str, name: &str) -> Result<(), ApiError> {
        let object = json!({
            "apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name, "namespace": namespace},
        });
        self.ensure(Kind::ServiceAccount, object).await
    }

    async fn ensure(&self, kind: Kind, object: Value) -> Result<(), ApiError> {
        let namespace = object["metadata"]["namespace"].as_str().map(String::from);
        let name = object["metadata"]["name"].as_str().unwrap_or_default().to_string();
        if self.get(kind, namespace.as_deref(), &name).await?.is_some() {
            return Ok(());
        }
        match self.create(kind, object).await {
            Ok(_) | Err(ApiError::AlreadyExists { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Sets the cluster's network: label `topology.istio.io/network` of the system namespace.
    ///
    /// # Errors
    /// When the API server fails.
    pub async fn set_network(&self, network: &str) -> Result<(), ApiError> {
        let found = self.get(Kind::Namespace, None, SYSTEM_NAMESPACE).await?;
        if found.is_some_and(|found| found["metadata"]["labels"][NETWORK_LABEL] == network) {
            return Ok(());
        }
        let patch = json!({"metadata": {"labels": {NETWORK_LABEL: network}}});
        self.merge(Kind::Namespace, None, SYSTEM_NAMESPACE, None, patch).await.map(drop)
    }

    /// `HOST:PORT` of the gateways into a network, by their labelled Services; of all networks when none is given. The port
    /// is that of cross-network traffic, or the control plane's (`tls-istiod`, 15012) when `control_plane` is set.
    ///
    /// # Errors
    /// When the API server fails.
    pub async fn gateways(
        &self,
        network: Option<&str>,
        control_plane: bool,
    ) -> Result<Vec<String>, ApiError> {
        let services = self.list(Kind::Service, None, Some(NETWORK_LABEL)).await?;
        let mut found = Vec::new();
        for value in services {
            let Ok(Object::Service(service)) = parse(value) else { continue };
            let labelled = service.meta.labels.get(NETWORK_LABEL).unwrap_or_default();
            if network.is_some_and(|wanted| wanted != labelled) {
                continue;
            }
            let (Ok(cluster), Ok(domain), Ok(unnamed)) =
                ("local".parse(), "cluster.local".parse(), "".parse())
            else {
                continue;
            };
            let site = Site {
                cluster: &cluster,
                trust_domain: &domain,
                domain: "cluster.local",
                network: &unnamed,
                ranges: &[],
            };
            let istiod =
                service.spec.ports.iter().find(|port| &*port.name == "tls-istiod" || port.number == 15012);
            for gateway in network_gateways(site, &service, []) {
                let port = if control_plane {
                    match istiod {
                        Some(port) => port.number,
                        None => continue,
                    }
                } else {
                    gateway.port
                };
                let host = if gateway.address.contains(':') {
                    format!("[{}]:{port}", gateway.address)
                } else {
                    format!("{}:{port}", gateway.address)
                };
                found.push(host);
            }
        }
        found.sort();
        found.dedup();
        Ok(found)
    }
}
