//! Servers that follow VirtualServices: TLS by server name, plain TCP by port.

use std::sync::Arc;

use isthmus_model::Namespace;
use isthmus_registry::Snapshot;
use isthmus_resources::Resource;
use isthmus_resources::istio::{RouteDestination, VirtualService};

use super::Builder;
use super::plan::{Place, Routed};
use crate::cluster::{Use, cluster_name};
use crate::destination::full_host;
use crate::encoded::targets;
use crate::listener::Route;
use crate::routes::is_among;

impl<'a> Builder<'a> {
    /// PASSTHROUGH: VirtualServices say which server name goes where; of two with one name the older does.
    pub(super) fn by_server_name(&mut self, place: Place, routed: &Routed<'_>) {
        for (own, object) in self.bound(routed) {
            for route in &object.spec.tls {
                for found in &route.r#match {
                    let here = (found.port == 0 || found.port == routed.server.port.number)
                        && narrows(&found.gateways, own, routed);
                    let names = found.sni_hosts.iter().filter(|sni| routed.allows(sni, own));
                    let names: Vec<String> = names.map(|name| name.to_ascii_lowercase()).collect();
                    if !here || names.is_empty() {
                        continue;
                    }
                    if let Some(route) = self.destination(&route.route, own) {
                        self.chains(place).by_name(&names.join(","), &names, false, &route);
                    }
                }
            }
        }
    }

    /// Plain TCP: the first VirtualService route for the port.
    pub(super) fn plain_tcp(&mut self, place: Place, routed: &Routed<'_>) {
        for (own, object) in self.bound(routed) {
            let route = object.spec.tcp.iter().find(|route| {
                route.r#match.is_empty()
                    || route.r#match.iter().any(|found| {
                        (found.port == 0 || found.port == routed.server.port.number)
                            && narrows(&found.gateways, own, routed)
                    })
            });
            if let Some(route) = route.and_then(|route| self.destination(&route.route, own)) {
                self.chains(place).plain(&format!("tcp-{}", routed.gateway), &route);
                return;
            }
        }
    }

    /// VirtualServices bound to a Gateway object, with their namespaces, oldest first.
    fn bound(&self, routed: &Routed<'_>) -> Vec<(&'a Namespace, &'a Arc<Resource<VirtualService>>)> {
        let snapshot: &'a Snapshot = self.snapshot;
        let mut found = Vec::new();
        for (own, config) in snapshot.config.iter() {
            for object in config.virtual_services.iter() {
                if is_among(&object.spec.gateways, own, routed.namespace, routed.gateway) {
                    found.push((own, object));
                }
            }
        }
        found.sort_by(|(_, a), (_, b)| a.meta.age_key().cmp(&b.meta.age_key()));
        found
    }

    /// The clusters of weighted destinations, which are added with their endpoints. One that is unknown keeps its share, which is
    /// refused until it is known.
    fn destination(&mut self, wanted: &[RouteDestination], namespace: &Namespace) -> Option<Route> {
        let mut weighted = Vec::new();
        let mut any = false;
        for wanted in wanted {
            let host = full_host(&wanted.destination.host, namespace, &self.domain)?;
            let service = self.snapshot.service(&host, namespace).cloned();
            let only = match service.as_ref().map(|service| service.service.ports.as_slice()) {
                Some([only]) => only.number,
                _ => 0,
            };
            let port = wanted.destination.port.as_ref().map_or(only, |port| port.number);
            let name = cluster_name(port, &wanted.destination.subset, host.as_str());
            if let Some(service) = service {
                any = true;
                let inputs = self.inputs(&service);
                let rule = inputs.rule.clone();
                for target in targets(&service, rule.as_deref(), Use::Origin) {
                    if target.name() == name {
                        self.cluster(target, &inputs);
                    }
                }
            }
            weighted.push((name, u32::try_from(wanted.weight).unwrap_or(0)));
        }
        if !any {
            return None;
        }
        if weighted.len() == 1 {
            return Some(Route::Cluster(weighted.remove(0).0));
        }
        weighted.retain(|(_, weight)| *weight > 0);
        (!weighted.is_empty()).then_some(Route::Weighted(weighted))
    }
}

/// Whether a condition's own gateways, where it names some, include the server's.
fn narrows(gateways: &[String], own: &Namespace, routed: &Routed<'_>) -> bool {
    gateways.is_empty() || is_among(gateways, own, routed.namespace, routed.gateway)
}
