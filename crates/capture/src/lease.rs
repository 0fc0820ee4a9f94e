//! Holding the lease: install, renew, follow the ports under STRICT, remove.

use isthmus_lifecycle::Signal;
use thiserror::Error;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use crate::config::{Config, Strict};
use crate::nft::{self, NftError};
use crate::rules;

/// Why capture is not in force.
#[derive(Debug, Error)]
#[error("traffic capture is not in force: {0}")]
pub struct CaptureError(#[from] NftError);

/// Rules that are in force while this is renewed.
#[derive(Debug)]
pub struct Capture {
    config: Config,
    strict: Strict,
}

impl Capture {
    /// Puts the rules in force, replacing older ones in one transaction. Listeners must be bound before.
    ///
    /// # Errors
    /// When `nft` is missing or refuses.
    pub async fn install(config: Config, strict: Strict) -> Result<Self, CaptureError> {
        nft::apply(&rules::install(&config, &strict)).await?;
        Ok(Self { config, strict })
    }

    /// Renews the lease and follows the configuration (resolvers come and go) and the ports under STRICT until told to stop, then
    /// removes every rule, so that new connections of a draining agent's host go direct.
    ///
    /// # Errors
    /// When the rules cannot be removed. A failed renewal is logged and tried again.
    pub async fn hold(
        mut self,
        mut config: watch::Receiver<Config>,
        mut strict: watch::Receiver<Strict>,
        stop: Signal,
    ) -> Result<(), CaptureError> {
        let mut tick = tokio::time::interval(self.config.renew);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut followed, mut configured) = (true, true);
        loop {
            tokio::select! {
                biased; // stopping beats renewing
                () = stop.stopping() => break,
                changed = strict.changed(), if followed => match changed {
                    Ok(()) => {
                        let now = strict.borrow_and_update().clone();
                        self.follow(now).await;
                    }
                    Err(_) => followed = false,
                },
                changed = config.changed(), if configured => match changed {
                    Ok(()) => {
                        let now = config.borrow_and_update().clone();
                        if now != self.config {
                            self.config = now;
                            self.reinstall().await;
                        }
                    }
                    Err(_) => configured = false,
                },
                _ = tick.tick() => self.renew().await,
            }
        }
        remove().await
    }

    async fn follow(&mut self, strict: Strict) {
        if strict == self.strict {
            return;
        }
        // Remembered first: should the table be gone, renewal installs it anew with these.
        self.strict = strict;
        match nft::apply(&rules::set_strict(&self.strict)).await {
            Ok(()) => tracing::info!(
                ports = ?self.strict.ports,
                all_others = self.strict.others,
                "inbound ports under strict mutual TLS: refused while no agent guards them"
            ),
            Err(error) => {
                tracing::warn!(%error, "strict ports not updated, installing all rules anew");
                self.reinstall().await;
            }
        }
    }

    async fn renew(&mut self) {
        if let Err(error) = nft::apply(&rules::renew(&self.config)).await {
            // Someone flushed the ruleset, or the machine is starved.
            tracing::warn!(%error, "capture lease not renewed, installing all rules anew");
            self.reinstall().await;
        }
    }

    async fn reinstall(&self) {
        if let Err(error) = nft::apply(&rules::install(&self.config, &self.strict)).await {
            tracing::error!(%error, "traffic capture is not in force");
        }
    }
}

/// Removes every rule; nothing to remove is fine.
///
/// # Errors
/// When `nft` is missing or refuses.
pub async fn remove() -> Result<(), CaptureError> {
    Ok(nft::apply(&rules::remove()).await?)
}

/// Ends the lease at once; ports under STRICT stay refused.
///
/// # Errors
/// When `nft` is missing or refuses, also because there are no rules.
pub async fn release() -> Result<(), CaptureError> {
    Ok(nft::apply(&rules::release()).await?)
}
