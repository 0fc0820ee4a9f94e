//! Servers that follow VirtualServices: TLS by server name, plain TCP by port.

use std::sync::Arc;

use isthmus_model::{Hostname, Namespace};
use isthmus_resources::istio::{RouteDestination, Server, VirtualService};

use super::Builder;
use crate::cluster::{Use, cluster_name};
use crate::destination::full_host;
use crate::encoded::targets;
use crate::listener::Route;
use crate::routes::{is_bound, server_host};

impl Builder<'_> {
    /// PASSTHROUGH: VirtualServices say which server name goes where.
    pub(super) fn by_server_name(&mut self, port: u16, namespace: &Namespace, name: &str, server: &Server) {
        for (own, object) in self.bound(namespace, name) {
            for route in &object.tls {
                for found in &route.r#match {
                    let this_port = found.port == 0 || found.port == server.port.number;
                    let names: Vec<String> =
                        found.sni_hosts.iter().filter(|sni| server_allows(server, sni)).cloned().collect();
                    if !this_port || names.is_empty() {
                        continue;
                    }
                    if let Some(route) = self.destination(&route.route, &own) {
                        self.add(port, &names.join(","), &names, &[], &route);
                    }
                }
            }
        }
    }

    /// Plain TCP: the first VirtualService route for the port.
    pub(super) fn plain_tcp(&mut self, port: u16, namespace: &Namespace, name: &str, server: &Server) {
        for (own, object) in self.bound(namespace, name) {
            let route = object.tcp.iter().find(|route| {
                route.r#match.is_empty()
                    || route.r#match.iter().any(|found| found.port == 0 || found.port == server.port.number)
            });
            if let Some(route) = route.and_then(|route| self.destination(&route.route, &own)) {
                self.add(port, &format!("tcp-{name}"), &[], &[], &route);
                return;
            }
        }
    }

    /// VirtualServices bound to a Gateway object, with their namespaces, oldest first within each.
    fn bound(&self, namespace: &Namespace, name: &str) -> Vec<(Namespace, VirtualService)> {
        let mut found = Vec::new();
        for (own, config) in self.snapshot.config.iter() {
            for object in config.virtual_services.iter() {
                if is_bound(&object.spec, own, namespace, name) {
                    found.push((own.clone(), object.spec.clone()));
                }
            }
        }
        found
    }

    /// The clusters of weighted destinations, which are added with their endpoints.
    fn destination(&mut self, wanted: &[RouteDestination], namespace: &Namespace) -> Option<Route> {
        let mut weighted = Vec::new();
        for wanted in wanted {
            let host = full_host(&wanted.destination.host, namespace, &self.domain)?;
            let service = Arc::clone(self.snapshot.service(&host, namespace)?);
            let only = match service.service.ports.as_slice() {
                [only] => only.number,
                _ => 0,
            };
            let port = wanted.destination.port.as_ref().map_or(only, |port| port.number);
            let name = cluster_name(port, &wanted.destination.subset, host.as_str());
            let inputs = self.inputs(&service);
            let rule = inputs.rule.clone();
            for target in targets(&service, rule.as_deref(), Use::Client) {
                if target.name() == name {
                    self.cluster(target, &inputs);
                }
            }
            weighted.push((name, u32::try_from(wanted.weight).unwrap_or(0)));
        }
        match weighted.len() {
            0 => None,
            1 => Some(Route::Cluster(weighted.remove(0).0)),
            _ => {
                weighted.retain(|(_, weight)| *weight > 0);
                (!weighted.is_empty()).then_some(Route::Weighted(weighted))
            }
        }
    }
}

/// Whether a server lets a server name in.
fn server_allows(server: &Server, sni: &str) -> bool {
    server.hosts.iter().any(|text| {
        let (_, host) = server_host(text);
        host.is_some_and(|host| host.covers(sni) || covers_pattern(&host, sni))
    })
}

fn covers_pattern(host: &Hostname, sni: &str) -> bool {
    host.as_str() == sni || host.as_str() == "*"
}
