//! Tables of exported names: hashes in shards, so that a change resends one shard and never all.

use std::collections::BTreeMap;
use std::sync::Arc;

use isthmus_proto::discovery::ExportedNames;
use isthmus_proto::resource::Resource;
use prost::Message;

use super::passed::Passed;
use super::plan::{Hosts, Plan};

/// Shards of a table: one for each first byte.
const SHARDS: usize = 256;

/// All shards of all tables that the plan's ports serve, empty ones too: a shard that is absent is unknown, not empty.
pub(super) fn tables(plan: &Plan<'_>, passed: &[Arc<Passed>]) -> Vec<Resource> {
    let served = plan.ports.values().filter_map(|port| port.auto.as_ref());
    let served: BTreeMap<String, &Hosts> = served.map(|hosts| (hosts.table(), hosts)).collect();
    let mut resources = Vec::with_capacity(served.len() * SHARDS);
    for (table, hosts) in served {
        let mut shards = vec![Vec::new(); SHARDS];
        for hash in passed.iter().filter(|one| hosts.allow(one.service())).flat_map(|one| one.hashes()) {
            shards[usize::from(hash.to_be_bytes()[0])].push(hash);
        }
        for (number, mut hashes) in shards.into_iter().enumerate() {
            hashes.sort_unstable();
            hashes.dedup();
            let body = ExportedNames { hashes }.encode_to_vec();
            resources.push(Resource::new(format!("{table}/{number:02x}"), body.into()));
        }
    }
    resources
}
