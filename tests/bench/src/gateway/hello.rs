//! The first bytes of a mesh client.

use std::io::Cursor;
use std::sync::Arc;

use anyhow::Context as _;
use rustls::{ClientConfig, ClientConnection, RootCertStore};

/// A ClientHello as our sidecars send it (post-quantum key share, Istio's ALPN), for a server name.
pub(super) fn client_hello(server_name: &str) -> anyhow::Result<Arc<[u8]>> {
    let mut config =
        ClientConfig::builder().with_root_certificates(RootCertStore::empty()).with_no_client_auth();
    config.alpn_protocols = vec![b"istio-peer-exchange".to_vec(), b"istio".to_vec()];
    let name = server_name.to_string().try_into().context("a server name")?;
    let mut client = ClientConnection::new(Arc::new(config), name)?;
    let mut bytes = Cursor::new(Vec::new());
    client.write_tls(&mut bytes)?;
    Ok(bytes.into_inner().into())
}
