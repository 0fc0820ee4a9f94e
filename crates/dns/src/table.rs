//! Which names a workload can ask for, from the hosts that its control plane told.

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use hickory_proto::rr::Name;

/// One host of the mesh, as a name table carries it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// Fully qualified, without a trailing dot; may start with `*.`.
    pub host: String,
    /// Where it answers.
    pub addresses: Vec<IpAddr>,
    /// What kind of service it is.
    pub origin: Origin,
    /// Further names of it.
    pub aliases: Vec<String>,
}

/// What kind of service a host belongs to: short names exist for Kubernetes services alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// A Service (or one of its pods).
    Kubernetes {
        /// First part of its short names.
        short: String,
        /// Namespace.
        namespace: String,
    },
    /// A ServiceEntry.
    External,
}

/// Who asks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Perspective {
    /// Namespace of the workload.
    pub namespace: String,
    /// Its DNS domain, such as `ns1.svc.cluster.local`.
    pub domain: String,
    /// First search domain of the host.
    pub search: Option<String>,
}

/// Addresses of a name, by family.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Addresses {
    /// IPv4.
    pub v4: Vec<Ipv4Addr>,
    /// IPv6.
    pub v6: Vec<Ipv6Addr>,
}

/// What is known of a name.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found<'a> {
    /// Its addresses.
    Addresses(&'a Addresses),
    /// It stands for this other name.
    Alias(Name, &'a Addresses),
}

#[derive(Debug)]
enum Entry {
    Addresses(Arc<Addresses>),
    Alias(Name, Arc<Addresses>),
}

/// Names that are answered. Immutable; a change makes a new one.
#[derive(Debug, Default)]
pub struct Table {
    entries: HashMap<Name, Entry>,
    hosts: usize,
    refused: Vec<String>,
}

impl Table {
    /// Builds the table by the rules of Istio's agent. A host that is not a DNS name is left out and reported by
    /// [`Table::refused`]; its neighbours stand.
    #[must_use]
    pub fn new(hosts: &[Host], perspective: &Perspective) -> Self {
        let mut table = Self::default();
        let search = perspective.search.as_deref().map(dotted);
        let aliases = hosts.iter().map(|host| table.add(host, perspective)).collect::<Vec<_>>();
        // Aliases give way to real names, whatever the order of the hosts.
        if let Some(search) = search.filter(|search| search != ".") {
            for (names, addresses) in aliases {
                table.add_search_aliases(&names, &search, &addresses);
            }
        }
        table
    }

    fn add(&mut self, host: &Host, perspective: &Perspective) -> (BTreeSet<String>, Arc<Addresses>) {
        let mut addresses = Addresses::default();
        for address in &host.addresses {
            match address {
                IpAddr::V4(v4) => addresses.v4.push(*v4),
                IpAddr::V6(v6) => addresses.v6.push(*v6),
            }
        }
        let addresses = Arc::new(addresses);
        let names = names(host, perspective);
        for text in &names {
            match Name::from_ascii(text) {
                Ok(name) => {
                    self.entries.insert(name, Entry::Addresses(Arc::clone(&addresses)));
                }
                Err(_) => self.refused.push(text.clone()),
            }
        }
        self.hosts += 1;
        (names, addresses)
    }

    fn add_search_aliases(&mut self, names: &BTreeSet<String>, search: &str, addresses: &Arc<Addresses>) {
        for text in names {
            let expanded = format!("{text}{search}");
            if text.ends_with(search) || names.contains(&expanded) {
                continue;
            }
            // What is too long to be asked needs no answer.
            let (Ok(alias), Ok(target)) = (Name::from_ascii(&expanded), Name::from_ascii(text)) else {
                continue;
            };
            self.entries.entry(alias).or_insert_with(|| Entry::Alias(target, Arc::clone(addresses)));
        }
    }

    /// The exact name, else the nearest wildcard above it. `name` is lower case.
    pub(crate) fn find(&self, name: &Name) -> Option<Found<'_>> {
        if let Some(entry) = self.entries.get(name) {
            return Some(match entry {
                Entry::Addresses(addresses) => Found::Addresses(addresses),
                Entry::Alias(target, addresses) => Found::Alias(target.clone(), addresses),
            });
        }
        let mut wildcard = name.clone();
        while !wildcard.is_root() {
            wildcard = if wildcard.is_wildcard() { wildcard.base_name() } else { wildcard };
            wildcard = wildcard.into_wildcard();
            match self.entries.get(&wildcard) {
                Some(Entry::Addresses(addresses)) => return Some(Found::Addresses(addresses)),
                Some(Entry::Alias(target, addresses)) => {
                    return Some(Found::Alias(below(name, &wildcard, target)?, addresses));
                }
                None => {}
            }
        }
        None
    }

    /// How many hosts it holds.
    #[must_use]
    pub fn hosts(&self) -> usize {
        self.hosts
    }

    /// Names that were left out because they are no DNS names.
    #[must_use]
    pub fn refused(&self) -> &[String] {
        &self.refused
    }

    /// Every name with its addresses, sorted, for a person.
    #[must_use]
    pub fn dump(&self) -> Vec<(String, Vec<IpAddr>)> {
        let addresses = |addresses: &Addresses| {
            let v4 = addresses.v4.iter().copied().map(IpAddr::V4);
            v4.chain(addresses.v6.iter().copied().map(IpAddr::V6)).collect()
        };
        let mut all: Vec<(String, Vec<IpAddr>)> = self
            .entries
            .iter()
            .filter_map(|(name, entry)| match entry {
                Entry::Addresses(found) => Some((name.to_ascii(), addresses(found))),
                Entry::Alias(..) => None,
            })
            .collect();
        all.sort();
        all
    }
}

/// `name`, which `wildcard` covers, moved below the wildcard `target`: a client follows `foo.wild.`, while `*.wild.` as
/// the target of a CNAME is no host name to it.
fn below(name: &Name, wildcard: &Name, target: &Name) -> Option<Name> {
    if !target.is_wildcard() {
        return Some(target.clone());
    }
    let kept = usize::from(name.num_labels()).checked_sub(usize::from(wildcard.base_name().num_labels()))?;
    let labels = name.iter().take(kept).chain(target.iter().skip(1));
    let mut moved = Name::from_labels(labels).ok()?;
    moved.set_fqdn(true);
    Some(moved)
}

/// All names of a host: dot-terminated, lower case.
fn names(host: &Host, perspective: &Perspective) -> BTreeSet<String> {
    let full = dotted(&host.host);
    let mut names = BTreeSet::from([full.clone()]);
    let Origin::Kubernetes { short, namespace } = &host.origin else { return names };
    let mesh_domain = mesh_domain(perspective);
    let in_mesh_domain = full.strip_suffix(&mesh_domain).is_some_and(|rest| rest.ends_with('.'));
    if !in_mesh_domain || short.is_empty() || namespace.is_empty() {
        return names;
    }
    names.insert(dotted(&format!("{short}.{namespace}")));
    if *namespace == perspective.namespace {
        names.insert(dotted(short));
    }
    let svc = mesh_domain.split('.').next().unwrap_or_default();
    names.insert(dotted(&format!("{short}.{namespace}.{svc}")));
    names.extend(host.aliases.iter().map(|alias| dotted(alias)));
    names
}

/// `svc.cluster.local.` of `ns1.svc.cluster.local` in namespace `ns1`.
fn mesh_domain(perspective: &Perspective) -> String {
    let domain = dotted(&perspective.domain);
    match domain.split_once('.') {
        Some((first, rest)) if first == perspective.namespace && !rest.is_empty() => rest.to_string(),
        _ => domain,
    }
}

fn dotted(name: &str) -> String {
    let mut name = name.to_ascii_lowercase();
    if !name.ends_with('.') {
        name.push('.');
    }
    name
}
