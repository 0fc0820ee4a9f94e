//! Where the routes of a VirtualService lead, one by one, whatever their protocol.

use isthmus_resources::Resource;
use isthmus_resources::istio::{Destination, RouteDestination, VirtualService};
use serde_json::{Value, json};

use crate::objects::Item;

/// One destination and the path of its field.
pub(super) struct Leads {
    pub(super) field: String,
    pub(super) to: Destination,
}

/// One rule: what it matches and where it stands.
pub(super) struct Rule {
    pub(super) field: String,
    pub(super) matches: Vec<Value>,
    /// Whether another VirtualService says where it leads.
    pub(super) delegates: bool,
}

/// All destinations: of routes and of mirrors.
pub(super) fn destinations(item: &Item, service: &Resource<VirtualService>) -> Vec<Leads> {
    let mut found = Vec::new();
    let mut add = |field: String, routes: &[RouteDestination]| {
        for (at, route) in routes.iter().enumerate() {
            found.push(Leads {
                field: format!("{field}.route[{at}].destination"),
                to: route.destination.clone(),
            });
        }
    };
    let spec = &service.spec;
    spec.http.iter().enumerate().for_each(|(at, rule)| add(format!("spec.http[{at}]"), &rule.route));
    spec.tls.iter().enumerate().for_each(|(at, rule)| add(format!("spec.tls[{at}]"), &rule.route));
    spec.tcp.iter().enumerate().for_each(|(at, rule)| add(format!("spec.tcp[{at}]"), &rule.route));
    for (at, rule) in list(&item.raw["spec"]["http"]).enumerate() {
        let mirrors = list(&rule["mirrors"]).enumerate();
        let mirrors =
            mirrors.map(|(which, one)| (format!("mirrors[{which}].destination"), &one["destination"]));
        for (field, one) in mirrors.chain([("mirror".to_string(), &rule["mirror"])]) {
            if let Ok(to) = serde_json::from_value::<Destination>(one.clone())
                && !to.host.is_empty()
            {
                found.push(Leads { field: format!("spec.http[{at}].{field}"), to });
            }
        }
    }
    found
}

/// The rules of each protocol, in the order in which they are tried.
pub(super) fn rules(item: &Item) -> Vec<Vec<Rule>> {
    let of = |protocol: &str| {
        let rules = list(&item.raw["spec"][protocol]).enumerate();
        let rules = rules.map(|(at, rule)| Rule {
            field: format!("spec.{protocol}[{at}]"),
            matches: list(&rule["match"]).map(named_nothing).collect(),
            delegates: rule["delegate"].is_object(),
        });
        rules.collect()
    };
    ["http", "tls", "tcp"].map(of).into()
}

/// A match without the name that only its readers see.
fn named_nothing(one: &Value) -> Value {
    let mut one = one.clone();
    if let Some(members) = one.as_object_mut() {
        members.remove("name");
    }
    one
}

/// Whether a match is one of everything.
pub(super) fn is_anything(one: &Value) -> bool {
    let every = [json!({}), json!({"uri": {"prefix": "/"}}), Value::Null];
    every.contains(one)
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}
