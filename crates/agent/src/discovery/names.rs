//! A name table from the wire.

use bytes::Bytes;
use isthmus_dns::{Host, Origin};
use isthmus_proto::nds::NameTable;
use prost::Message;

/// Hosts of an encoded table. An address that cannot be read is left out; its neighbours stand.
///
/// # Errors
/// When the message cannot be decoded.
pub(super) fn hosts(body: &Bytes) -> Result<Vec<Host>, String> {
    let table = NameTable::decode(body.clone()).map_err(|error| format!("not a name table: {error}"))?;
    let host = |(host, info): (String, isthmus_proto::nds::name_table::NameInfo)| {
        let addresses = info.ips.iter().filter_map(|ip| match ip.parse() {
            Ok(address) => Some(address),
            Err(_) => {
                tracing::warn!(%host, address = ip, "address in the name table is none");
                None
            }
        });
        let addresses = addresses.collect();
        let origin = match info.registry.as_str() {
            "Kubernetes" => Origin::Kubernetes { short: info.shortname, namespace: info.namespace },
            _ => Origin::External,
        };
        Host { host, addresses, origin, aliases: info.alt_hosts }
    };
    Ok(table.table.into_iter().map(host).collect())
}
