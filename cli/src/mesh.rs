//! What a cluster's control plane says of itself.

use anyhow::{Context, anyhow, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use isthmus_kube::mesh::{MESH_CONFIG_MAP, SYSTEM_NAMESPACE};
use isthmus_model::{ClusterId, NetworkId};
use sha2::{Digest, Sha256};

use crate::api::Api;

/// The control plane's description, checked.
#[derive(Debug, Clone)]
pub(crate) struct Mesh {
    pub(crate) mesh_id: String,
    pub(crate) cluster: ClusterId,
    pub(crate) network: NetworkId,
    pub(crate) revision: String,
    pub(crate) server_name: String,
    pub(crate) addresses: Vec<String>,
    pub(crate) roots_pem: String,
}

impl Mesh {
    /// Reads it from the API server.
    pub(crate) async fn read(api: &Api) -> anyhow::Result<Self> {
        let context = api.context();
        let found = api.within(api.cluster.read_mesh()).await?.ok_or_else(|| {
            anyhow!(
                "context {context:?} has no ConfigMap {SYSTEM_NAMESPACE}/{MESH_CONFIG_MAP}: a control plane writes it when \
                 it starts; is isthmus-primary running for this cluster?"
            )
        })?;
        let whose = || format!("ConfigMap {SYSTEM_NAMESPACE}/{MESH_CONFIG_MAP} in context {context:?}");
        let mesh = Self {
            mesh_id: found.mesh_id,
            cluster: found.cluster.parse().with_context(whose)?,
            network: found.network.parse().with_context(whose)?,
            revision: found.revision,
            server_name: found.server_name,
            addresses: found.addresses,
            roots_pem: found.roots,
        };
        for (key, text) in
            [("meshId", &mesh.mesh_id), ("serverName", &mesh.server_name), ("roots.pem", &mesh.roots_pem)]
        {
            if text.is_empty() {
                bail!("{}: key {key} is missing", whose());
            }
        }
        Ok(mesh)
    }

    /// `HOST:PORT` at which gateways of the cluster's own network pass on to its control plane.
    pub(crate) async fn gateways(&self, api: &Api) -> anyhow::Result<Vec<String>> {
        api.within(api.cluster.gateways(Some(self.network.as_str()), true)).await
    }

    /// How a gateway is registered, for advice.
    pub(crate) fn gateway_advice(&self) -> String {
        format!(
            "a Service in {SYSTEM_NAMESPACE} with label topology.istio.io/network={}, an external IP and port tls-istiod 15012",
            self.network
        )
    }

    /// SHA-256 of each root's DER, lower-case hex.
    pub(crate) fn root_fingerprints(&self) -> anyhow::Result<Vec<String>> {
        fingerprints(&self.roots_pem)
    }
}

fn fingerprints(pem: &str) -> anyhow::Result<Vec<String>> {
    let mut found = Vec::new();
    let mut body: Option<String> = None;
    for line in pem.lines().map(str::trim) {
        match line {
            "-----BEGIN CERTIFICATE-----" => body = Some(String::new()),
            "-----END CERTIFICATE-----" => {
                let der = STANDARD.decode(body.take().unwrap_or_default()).context("roots.pem is damaged")?;
                found.push(hex(&Sha256::digest(der)));
            }
            _ => {
                if let Some(body) = &mut body {
                    body.push_str(line);
                }
            }
        }
    }
    if found.is_empty() {
        bail!("roots.pem holds no certificate");
    }
    Ok(found)
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_is_of_the_der_and_a_text_without_certificates_has_none() {
        // SHA-256 of the three bytes 01 02 03.
        let pem = "-----BEGIN CERTIFICATE-----\nAQID\n-----END CERTIFICATE-----\n";
        let expected = "039058c6f2c0cb492c533b0a4d14ef77cc0f78abccced5287d84a1a2011cfb81";
        assert_eq!(fingerprints(pem).unwrap(), [expected]);
        assert!(fingerprints("").is_err());
    }
}
