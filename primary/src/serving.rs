//! The control plane's own certificate: issued by its intermediate, renewed at half life while it serves.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use isthmus_ca::{Authority, Names};
use isthmus_lifecycle::{Clock, Signal};
use isthmus_model::{Namespace, SpiffeId};
use isthmus_tls::{Identity, Material};

use crate::config::Config;

/// Validity of the serving certificate.
const LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// Issues and renews the serving certificate.
#[derive(Debug)]
pub struct Serving {
    authority: Arc<Authority>,
    names: Names,
    identity: Identity,
}

impl Serving {
    /// Issues the first certificate.
    ///
    /// # Errors
    /// When the intermediate may not vouch for our names, or has expired.
    pub fn issue(config: &Config, authority: Arc<Authority>, now: SystemTime) -> anyhow::Result<Self> {
        let names = names(config);
        let material = fresh(&authority, &names, now)?;
        let identity = Identity::from_material(&material).context("the control plane's own certificate")?;
        Ok(Self { authority, names, identity })
    }

    /// The live identity, for servers and clients.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Renews at half life until told to stop. A failure keeps the old certificate and is tried again after a minute.
    pub async fn renew(self: Arc<Self>, clock: Arc<dyn Clock>, stop: Signal) {
        loop {
            let now = clock.now();
            let left = self
                .identity
                .leaf()
                .and_then(|leaf| leaf.not_after().duration_since(now).ok())
                .unwrap_or(Duration::ZERO);
            let wait = left.saturating_sub(LIFETIME / 2).max(Duration::from_secs(60));
            tokio::select! {
                () = stop.stopping() => return,
                () = tokio::time::sleep(wait) => {}
            }
            if left > LIFETIME / 2 + Duration::from_secs(60) {
                continue; // the clock was moved
            }
            match fresh(&self.authority, &self.names, clock.now()).and_then(|material| {
                self.identity.update_material(&material).context("the renewed certificate")
            }) {
                Ok(()) => tracing::info!("serving certificate renewed"),
                Err(error) => {
                    tracing::error!(error = format!("{error:#}"), "serving certificate not renewed")
                }
            }
        }
    }
}

fn names(config: &Config) -> Names {
    let mut dns = vec![config.server_name()];
    dns.extend(config.istio_names().map(String::from));
    let mut ips: Vec<IpAddr> = config.advertise.clone();
    ips.push(IpAddr::from([127, 0, 0, 1]));
    ips.dedup();
    let spiffe = SpiffeId {
        trust_domain: config.trust_domain(),
        namespace: Namespace::new("istio-system").expect("a valid namespace"),
        service_account: "istiod".into(),
    };
    Names::serving(Some(spiffe), dns, ips)
}

fn fresh(authority: &Authority, names: &Names, now: SystemTime) -> anyhow::Result<Material> {
    let (own, _) =
        authority.issue_own(names, LIFETIME, now).context("issuing the control plane's own certificate")?;
    Ok(Material { key: own.key_pem, chain: own.chain_pem, roots: own.roots_pem })
}
