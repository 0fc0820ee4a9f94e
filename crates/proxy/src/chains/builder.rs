//! Collects chains into their table.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use bytes::Bytes;
use ipnet::IpNet;

use super::named::{self, Named, Place};
use super::{ByName, Chains, Criteria, put};
use crate::resource::chain::Chain;

/// Collects chains into [`Chains`].
#[derive(Debug, Default)]
pub(crate) struct Builder {
    chains: Chains,
    lists: HashMap<Vec<String>, Arc<[String]>>,
    message: Bytes,
    /// Chains that stay in the message, by the hash of a name.
    stored: HashMap<u64, Place>,
    hasher: RandomState,
}

impl Builder {
    /// For the chains of this message.
    pub(crate) fn new(message: &Bytes) -> Self {
        Self { message: message.clone(), ..Self::default() }
    }

    /// Adds a chain that stands at this place of the message.
    ///
    /// # Errors
    /// The chain that already has these criteria.
    pub(crate) fn add_at(
        &mut self,
        criteria: &Criteria,
        chain: &Arc<Chain>,
        at: usize,
        length: usize,
    ) -> Result<(), Arc<Chain>> {
        let (Ok(at), Ok(length)) = (u32::try_from(at), u32::try_from(length)) else {
            return self.add(criteria, chain);
        };
        if !named::by_name_alone(criteria, chain) {
            return self.add(criteria, chain);
        }
        self.chains.count += 1;
        for name in &criteria.server_names {
            let hash = self.hasher.hash_one(name.as_str());
            let exact = &self.chains.any_port.any.exact;
            if self.stored.contains_key(&hash) || exact.contains_key(name.as_str()) {
                let one = Criteria { server_names: vec![name.clone()], ..criteria.clone() };
                self.place(&one, chain)?;
            } else {
                self.stored.insert(hash, Place { at, length });
            }
        }
        Ok(())
    }

    /// Adds a chain.
    ///
    /// # Errors
    /// The chain that already has these criteria.
    pub(crate) fn add(&mut self, criteria: &Criteria, chain: &Arc<Chain>) -> Result<(), Arc<Chain>> {
        self.chains.count += 1;
        self.place(criteria, chain)
    }

    fn place(&mut self, criteria: &Criteria, chain: &Arc<Chain>) -> Result<(), Arc<Chain>> {
        let list = (!criteria.protocols.is_empty()).then(|| {
            let shared = self.lists.entry(criteria.protocols.clone());
            Arc::clone(shared.or_insert_with(|| criteria.protocols.clone().into()))
        });
        if criteria.port.is_none() && criteria.networks.is_empty() {
            criteria.server_names.iter().for_each(|name| self.wake(name));
        }
        let addresses = match criteria.port {
            None => &mut self.chains.any_port,
            Some(port) => self.chains.ports.entry(port).or_default(),
        };
        let place = |names: &mut ByName| place(names, criteria, list.as_ref(), chain);
        if criteria.networks.is_empty() {
            return place(&mut addresses.any);
        }
        for network in &criteria.networks {
            let at = match addresses.networks.iter().position(|(known, _)| known == network) {
                Some(at) => at,
                None => {
                    let longer = |known: &IpNet| known.prefix_len() >= network.prefix_len();
                    let at = addresses.networks.partition_point(|(known, _)| longer(known));
                    addresses.networks.insert(at, (*network, ByName::default()));
                    at
                }
            };
            place(&mut addresses.networks[at].1)?;
        }
        Ok(())
    }

    /// Another chain asks for this name too: they are told apart by more, for which both must be here.
    fn wake(&mut self, name: &str) {
        let hash = self.hasher.hash_one(name);
        if let Some(place) = self.stored.remove(&hash)
            && let Some(found) = named::compile(&self.message, place, hash, &self.hasher)
        {
            self.chains.any_port.any.exact.insert(found.name, found.transports);
        }
    }

    /// The chain of connections that match no other.
    pub(crate) fn set_default(&mut self, chain: Arc<Chain>) {
        self.chains.count += 1;
        self.chains.default = Some(chain);
    }

    /// The finished table.
    pub(crate) fn build(mut self) -> Chains {
        if !self.stored.is_empty() {
            let named = Named::new(self.message, self.hasher, self.stored.into_iter());
            self.chains.any_port.any.named = Some(Box::new(named));
        }
        self.chains
    }
}

fn place(
    names: &mut ByName,
    criteria: &Criteria,
    list: Option<&Arc<[String]>>,
    chain: &Arc<Chain>,
) -> Result<(), Arc<Chain>> {
    if criteria.server_names.is_empty() {
        return put(&mut names.any, criteria, list, chain);
    }
    for name in &criteria.server_names {
        let transports = match name.strip_prefix('*') {
            Some(suffix) => names.suffix.entry(suffix.into()).or_default(),
            None => names.exact.entry(name.as_str().into()).or_default(),
        };
        put(transports, criteria, list, chain)?;
    }
    Ok(())
}
