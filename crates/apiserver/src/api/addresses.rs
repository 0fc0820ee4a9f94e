//! Addresses and node ports of Services: unique because each is a key in the store, made only if absent.

use std::net::{IpAddr, Ipv4Addr};

use bytes::Bytes;
use isthmus_store::{Expect, Range, Write};
use serde_json::{Value, json};

use super::Api;
use crate::kinds::Kind;
use crate::status::{ApiError, Cause};
use crate::strategy::{needs_address, wanted_addresses};

/// Random tries before the range is searched from its start.
const TRIES: usize = 16;
const NODE_PORTS: std::ops::RangeInclusive<u16> = 30000..=32767;

/// What was taken for a write that may still fail.
#[derive(Debug, Default)]
pub(super) struct Taken(Vec<String>);

impl Api {
    /// Gives a Service what it needs and does not have, and gives back what it no longer needs after the write.
    pub(super) async fn allocate(
        &self,
        kind: &Kind,
        service: &mut Value,
        old: Option<&Value>,
        dry_run: bool,
    ) -> Result<Taken, ApiError> {
        let mut taken = Taken::default();
        let result = self.allocate_into(kind, service, old, dry_run, &mut taken).await;
        if let Err(error) = result {
            self.give_back(taken).await;
            return Err(error);
        }
        Ok(taken)
    }

    async fn allocate_into(
        &self,
        kind: &Kind,
        service: &mut Value,
        old: Option<&Value>,
        dry_run: bool,
        taken: &mut Taken,
    ) -> Result<(), ApiError> {
        let owner = format!(
            "{}/{}",
            service["metadata"]["namespace"].as_str().unwrap_or_default(),
            service["metadata"]["name"].as_str().unwrap_or_default()
        );
        let name = service["metadata"]["name"].as_str().unwrap_or_default().to_string();
        if service["spec"]["type"] == "ExternalName" {
            if let Some(spec) = service["spec"].as_object_mut() {
                for key in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
                    spec.remove(key);
                }
            }
            return Ok(());
        }
        let wanted = wanted_addresses(&service["spec"]);
        if !needs_address(&service["spec"]) {
            service["spec"]["clusterIP"] = "None".into();
            service["spec"]["clusterIPs"] = json!(["None"]);
        } else {
            let had = old.map(|old| wanted_addresses(&old["spec"])).unwrap_or_default();
            let address = match wanted.first() {
                Some(address) if had.contains(address) => address.clone(),
                Some(address) => {
                    self.take_address(address, &owner, dry_run, taken).await?.map_err(|why| {
                        let why = format!("failed to allocate IP {address}: {why}");
                        ApiError::invalid(
                            kind,
                            &name,
                            vec![Cause::invalid("spec.clusterIPs", &json!([address]), &why)],
                        )
                    })?;
                    address.clone()
                }
                None => self.any_address(&owner, dry_run, taken).await?,
            };
            service["spec"]["clusterIP"] = address.clone().into();
            service["spec"]["clusterIPs"] = json!([address]);
        }
        if !service["spec"]["ipFamilies"].is_array() {
            service["spec"]["ipFamilies"] = json!(["IPv4"]);
        }
        if !service["spec"]["ipFamilyPolicy"].is_string() {
            service["spec"]["ipFamilyPolicy"] = "SingleStack".into();
        }
        self.node_ports(kind, service, old, &owner, dry_run, taken).await
    }

    async fn take_address(
        &self,
        address: &str,
        owner: &str,
        dry_run: bool,
        taken: &mut Taken,
    ) -> Result<Result<(), String>, ApiError> {
        let range = self.config.service_cidr;
        let inside = match address.parse::<IpAddr>() {
            Ok(IpAddr::V4(ip)) => range.contains(&ip) && ip != range.network() && ip != range.broadcast(),
            _ => false,
        };
        if !inside {
            return Ok(Err("the provided network does not match the current range".to_string()));
        }
        let free = self.take(&address_key(address), owner, dry_run, taken).await?;
        Ok(if free { Ok(()) } else { Err("provided IP is already allocated".to_string()) })
    }

    async fn any_address(&self, owner: &str, dry_run: bool, taken: &mut Taken) -> Result<String, ApiError> {
        let range = self.config.service_cidr;
        let (first, last) = (u32::from(range.network()), u32::from(range.broadcast()));
        // The first is the API server's own by custom; the last is the broadcast address.
        let (low, high) = (first.saturating_add(2), last.saturating_sub(1));
        if low > high {
            return Err(ApiError::internal(format!("the service range {range} has no addresses to give")));
        }
        let random = (0..TRIES).map(|_| rand::random_range(low..=high));
        for candidate in random.chain(low..=high) {
            let address = Ipv4Addr::from(candidate).to_string();
            if self.take(&address_key(&address), owner, dry_run, taken).await? {
                return Ok(address);
            }
        }
        Err(ApiError::internal(format!("failed to allocate a serviceIP: the range {range} is full")))
    }

    async fn node_ports(
        &self,
        kind: &Kind,
        service: &mut Value,
        old: Option<&Value>,
        owner: &str,
        dry_run: bool,
        taken: &mut Taken,
    ) -> Result<(), ApiError> {
        let spec = &mut service["spec"];
        let wants = spec["type"] == "NodePort"
            || (spec["type"] == "LoadBalancer" && spec["allocateLoadBalancerNodePorts"] != false);
        let had = old.map(|old| ports_of(&old["spec"])).unwrap_or_default();
        let Some(ports) = spec.get_mut("ports").and_then(Value::as_array_mut) else { return Ok(()) };
        for (index, port) in ports.iter_mut().enumerate() {
            if !wants {
                if let Some(port) = port.as_object_mut() {
                    port.remove("nodePort");
                }
                continue;
            }
            match port["nodePort"].as_u64() {
                Some(wanted) if wanted > 0 => {
                    if had.contains(&wanted) || self.take(&port_key(wanted), owner, dry_run, taken).await? {
                        continue;
                    }
                    let cause = Cause::invalid(
                        format!("spec.ports[{index}].nodePort"),
                        &wanted.into(),
                        "provided port is already allocated",
                    );
                    return Err(ApiError::invalid(
                        kind,
                        owner.rsplit('/').next().unwrap_or(owner),
                        vec![cause],
                    ));
                }
                _ => {
                    let mut given = None;
                    let random = (0..TRIES).map(|_| rand::random_range(NODE_PORTS));
                    for candidate in random.chain(NODE_PORTS).map(u64::from) {
                        if self.take(&port_key(candidate), owner, dry_run, taken).await? {
                            given = Some(candidate);
                            break;
                        }
                    }
                    let given = given.ok_or_else(|| ApiError::internal("no node port is free"))?;
                    port["nodePort"] = given.into();
                }
            }
        }
        Ok(())
    }

    async fn take(&self, key: &str, owner: &str, dry_run: bool, taken: &mut Taken) -> Result<bool, ApiError> {
        if dry_run {
            return Ok(self.store.get(key).await?.is_none());
        }
        let owner = Bytes::copy_from_slice(owner.as_bytes());
        match self.store.put(key, owner, Expect::Absent, None).await? {
            Write::Done { .. } => {
                taken.0.push(key.to_string());
                Ok(true)
            }
            Write::Conflict(_) => Ok(false),
        }
    }

    /// Frees what was taken for a write that failed.
    pub(super) async fn give_back(&self, taken: Taken) {
        for key in taken.0 {
            if let Err(error) = self.store.delete(&key, Expect::Any).await {
                tracing::warn!(key, %error, "an unused service address stays reserved until the next start");
            }
        }
    }

    /// Frees what an old Service had and the new one does not.
    pub(super) async fn release(&self, old: &Value, new: Option<&Value>) {
        let keys = |service: &Value| keys_of(&service["spec"]);
        let kept = new.map(keys).unwrap_or_default();
        let gone = keys(old).into_iter().filter(|key| !kept.contains(key)).collect();
        self.give_back(Taken(gone)).await;
    }

    /// Makes reservations and Services agree, after a crash between the two.
    pub(crate) async fn repair_addresses(&self) -> Result<(), ApiError> {
        let services = self.collection(&*self.core("services")?).list("");
        let needed: std::collections::HashSet<String> =
            services.iter().flat_map(|service| keys_of(&service.value["spec"])).collect();
        let range = Range { prefix: RESERVED.to_string(), ..Range::default() };
        let reserved = self.store.range(range).await?.items;
        for kv in &reserved {
            if !needed.contains(&kv.key) {
                self.store.delete(&kv.key, Expect::Revision(kv.mod_revision)).await?;
            }
        }
        for key in needed {
            if !reserved.iter().any(|kv| kv.key == key) {
                self.store.put(&key, Bytes::new(), Expect::Absent, None).await?;
            }
        }
        Ok(())
    }
}

const RESERVED: &str = "internal/service/";

fn address_key(address: &str) -> String {
    format!("{RESERVED}address/{address}")
}

fn port_key(port: u64) -> String {
    format!("{RESERVED}port/{port}")
}

fn ports_of(spec: &Value) -> Vec<u64> {
    spec["ports"].as_array().into_iter().flatten().filter_map(|port| port["nodePort"].as_u64()).collect()
}

fn keys_of(spec: &Value) -> Vec<String> {
    let mut keys: Vec<String> = ports_of(spec).into_iter().map(port_key).collect();
    if needs_address(spec) {
        keys.extend(wanted_addresses(spec).iter().map(|address| address_key(address)));
    }
    keys
}
