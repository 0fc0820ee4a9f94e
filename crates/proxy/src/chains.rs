//! Finds the filter chain of a connection, by Envoy's rules: destination port, then destination address, server name,
//! transport and application protocol. Each step takes the most specific match and never goes back.

mod builder;
mod named;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use ipnet::IpNet;
use isthmus_sni::ClientHello;

pub(crate) use builder::Builder;
use named::Named;

use crate::resource::chain::Chain;

/// What a chain asks of a connection. Empty lists ask nothing.
#[derive(Debug, Clone, Default)]
pub(crate) struct Criteria {
    pub(crate) port: Option<u16>,
    pub(crate) networks: Vec<IpNet>,
    /// In lower case; `*.` stands for any labels before the rest.
    pub(crate) server_names: Vec<String>,
    pub(crate) transport: Transport,
    pub(crate) protocols: Vec<String>,
}

/// Transport that a chain asks for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Transport {
    #[default]
    Any,
    Tls,
    Plain,
}

/// What the first bytes of a connection were.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Seen<'a> {
    Plain,
    Tls(&'a ClientHello),
}

/// What must be seen of a connection before its chain is known.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Need<'a> {
    /// Nothing: the chain is this, or there is none.
    Nothing(Option<&'a Arc<Chain>>),
    /// Its first bytes.
    FirstBytes,
}

/// Chains of one listener.
#[derive(Debug, Default)]
pub(crate) struct Chains {
    ports: HashMap<u16, ByAddress>,
    any_port: ByAddress,
    default: Option<Arc<Chain>>,
    count: usize,
}

#[derive(Debug, Default)]
struct ByAddress {
    /// Longest prefix first.
    networks: Vec<(IpNet, ByName)>,
    any: ByName,
}

#[derive(Debug, Default)]
struct ByName {
    exact: HashMap<Box<str>, ByTransport>,
    /// Others of exact names, which are compiled as they are used.
    named: Option<Box<Named>>,
    /// By the part behind `*`, its dot included.
    suffix: HashMap<Box<str>, ByTransport>,
    any: ByTransport,
}

#[derive(Debug, Default)]
struct ByTransport {
    tls: ByProtocol,
    plain: ByProtocol,
    any: ByProtocol,
}

#[derive(Debug, Default)]
struct ByProtocol {
    /// The lists are shared by the many chains that have equal ones.
    listed: Vec<(Arc<[String]>, Arc<Chain>)>,
    any: Option<Arc<Chain>>,
}

impl Chains {
    /// What must be seen of a connection to this destination.
    pub(crate) fn need(&self, destination: SocketAddr) -> Need<'_> {
        let names = self.names(destination);
        if !names.exact.is_empty() || names.named.is_some() || !names.suffix.is_empty() {
            return Need::FirstBytes;
        }
        let ByTransport { tls, plain, any } = &names.any;
        if !tls.listed.is_empty() || !plain.listed.is_empty() || !any.listed.is_empty() {
            return Need::FirstBytes;
        }
        match (&tls.any, &plain.any, &any.any) {
            (None, None, only) => Need::Nothing(only.as_ref().or(self.default.as_ref())),
            // STRICT: whatever is no TLS fails in the handshake, and nothing else could take it.
            (Some(chain), None, None) if chain.tls.is_some() && self.default.is_none() => {
                Need::Nothing(Some(chain))
            }
            _ => Need::FirstBytes,
        }
    }

    /// The chain of a connection whose first bytes were seen.
    pub(crate) fn find(&self, destination: SocketAddr, seen: Seen<'_>) -> Option<&Arc<Chain>> {
        let names = self.names(destination);
        let server_name = match seen {
            Seen::Tls(hello) => hello.server_name(),
            Seen::Plain => None,
        };
        let transport = server_name.map_or(&names.any, |name| names.of(name));
        transport.find(seen).or(self.default.as_ref())
    }

    /// Up to so many chains, in no order. What is not compiled is compiled for the caller alone.
    pub(crate) fn some(&self, most: usize) -> Vec<(String, Arc<Chain>)> {
        let ports = self.ports.iter().map(|(port, chains)| (format!("port {port}"), chains));
        let all = ports.chain(std::iter::once((String::new(), &self.any_port)));
        let found = all.flat_map(|(port, addresses)| {
            let networks = addresses.networks.iter().map(|(network, names)| (format!("{network}"), names));
            let all = networks.chain(std::iter::once((String::new(), &addresses.any)));
            all.flat_map(move |(network, names)| {
                let head: Vec<String> =
                    [port.clone(), network].into_iter().filter(|part| !part.is_empty()).collect();
                names.describe(&head.join(" "), most)
            })
        });
        let default = self.default.iter().map(|chain| ("default".to_string(), Arc::clone(chain)));
        found.chain(default).take(most).collect()
    }

    /// How many chains there are, the default included.
    pub(crate) fn len(&self) -> usize {
        self.count
    }

    fn names(&self, destination: SocketAddr) -> &ByName {
        let addresses = self.ports.get(&destination.port()).unwrap_or(&self.any_port);
        let address = destination.ip().to_canonical();
        addresses
            .networks
            .iter()
            .find(|(network, _)| network.contains(&address))
            .map_or(&addresses.any, |(_, names)| names)
    }
}

impl ByName {
    fn of(&self, name: &str) -> &ByTransport {
        let exact = self.exact.get(name).or_else(|| self.named.as_ref()?.find(name));
        if let Some(found) = exact {
            return found;
        }
        if !self.suffix.is_empty() {
            let dots = name.char_indices().filter(|(_, c)| *c == '.');
            if let Some(found) = dots.filter_map(|(at, _)| self.suffix.get(&name[at..])).next() {
                return found;
            }
        }
        &self.any
    }

    fn describe(&self, head: &str, most: usize) -> Vec<(String, Arc<Chain>)> {
        let exact = self.exact.iter().map(|(name, found)| (format!("sni {name}"), found));
        let suffix = self.suffix.iter().map(|(name, found)| (format!("sni *{name}"), found));
        let all = exact.chain(suffix).chain(std::iter::once((String::new(), &self.any)));
        let here = all.flat_map(|(name, found)| found.describe(head, &name));
        let named = self.named.iter().flat_map(|named| named.iter());
        let stored = named.flat_map(|found| found.transports.describe(head, &format!("sni {}", found.name)));
        here.chain(stored).take(most).collect()
    }
}

impl ByTransport {
    fn find(&self, seen: Seen<'_>) -> Option<&Arc<Chain>> {
        match seen {
            Seen::Tls(hello) if !self.tls.is_empty() => self.tls.find(Some(hello)),
            Seen::Tls(hello) => self.any.find(Some(hello)),
            Seen::Plain if !self.plain.is_empty() => self.plain.find(None),
            Seen::Plain => self.any.find(None),
        }
    }

    fn describe(&self, head: &str, name: &str) -> Vec<(String, Arc<Chain>)> {
        let transports = [("tls", &self.tls), ("raw_buffer", &self.plain), ("", &self.any)];
        let all = transports.into_iter().flat_map(|(transport, protocols)| {
            let text = move |alpn: String| {
                let parts = [head, name, transport, &alpn];
                parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ")
            };
            let listed = protocols.listed.iter();
            let listed = listed.map(move |(list, chain)| (text(format!("alpn {}", list.join(","))), chain));
            listed.chain(protocols.any.iter().map(move |chain| (text(String::new()), chain)))
        });
        all.map(|(text, chain)| (text, Arc::clone(chain))).collect()
    }
}

impl ByProtocol {
    fn is_empty(&self) -> bool {
        self.listed.is_empty() && self.any.is_none()
    }

    fn find(&self, hello: Option<&ClientHello>) -> Option<&Arc<Chain>> {
        let offered = hello.into_iter().flat_map(ClientHello::alpn);
        let mut lists = offered.filter_map(|protocol| {
            let has = |list: &[String]| list.iter().any(|known| known.as_bytes() == protocol);
            self.listed.iter().find(|(list, _)| has(list)).map(|(_, chain)| chain)
        });
        lists.next().or(self.any.as_ref())
    }
}

/// Adds a chain for connections that have come so far.
fn put(
    transports: &mut ByTransport,
    criteria: &Criteria,
    list: Option<&Arc<[String]>>,
    chain: &Arc<Chain>,
) -> Result<(), Arc<Chain>> {
    let protocols = match criteria.transport {
        Transport::Any => &mut transports.any,
        Transport::Tls => &mut transports.tls,
        Transport::Plain => &mut transports.plain,
    };
    match list {
        None => match &protocols.any {
            Some(other) => return Err(Arc::clone(other)),
            None => protocols.any = Some(Arc::clone(chain)),
        },
        Some(list) => {
            let clash = |known: &Arc<[String]>| known.iter().any(|protocol| list.contains(protocol));
            if let Some((_, other)) = protocols.listed.iter().find(|(known, _)| clash(known)) {
                return Err(Arc::clone(other));
            }
            protocols.listed.push((Arc::clone(list), Arc::clone(chain)));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
