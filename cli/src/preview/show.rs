//! Resources of a view as JSON.

use std::collections::BTreeSet;

use anyhow::{Context, bail};
use isthmus_describe::to_json;
use isthmus_proto::resource::View;
use isthmus_proto::type_url;
use serde_json::{Map, Value, json};

use crate::args::Part;

/// One part as a list, or all parts as an object of lists.
pub(super) fn select(view: &View, part: Option<Part>, name: Option<&str>) -> anyhow::Result<Value> {
    let parts: &[Part] = match &part {
        Some(part) => std::slice::from_ref(part),
        None => &Part::ALL,
    };
    let mut found = Map::new();
    let mut known = BTreeSet::new();
    for part in parts {
        let mut all = resources(view, *part)?;
        if let Some(name) = name {
            known.extend(all.iter().map(|(name, _)| name.clone()));
            all.retain(|(candidate, _)| candidate == name);
        }
        let list: Vec<Value> = all.into_iter().map(|(_, value)| value).collect();
        found.insert(part.word().to_string(), Value::Array(list));
    }
    if let Some(name) = name
        && found.values().all(|list| list.as_array().is_some_and(Vec::is_empty))
    {
        bail!("{}", missing(name, part, &known));
    }
    match part {
        Some(part) => Ok(found.remove(part.word()).unwrap_or(Value::Null)),
        None => Ok(Value::Object(found)),
    }
}

/// Names and values of a part's resources.
fn resources(view: &View, part: Part) -> anyhow::Result<Vec<(String, Value)>> {
    let url = match part {
        Part::Listeners => type_url::LISTENER,
        Part::Clusters => type_url::CLUSTER,
        Part::Endpoints => type_url::ENDPOINTS,
        Part::Routes => type_url::ROUTE,
        Part::Names => type_url::NAME_TABLE,
        Part::Secrets => return secrets(view),
    };
    let Some(set) = view.set(url) else { return Ok(Vec::new()) };
    let each = set.iter().map(|resource| {
        let value = to_json(url, &resource.body).with_context(|| resource.name.to_string())?;
        Ok((resource.name.to_string(), value))
    });
    each.collect()
}

/// Secrets are the agent's to give: what is known here is which ones the proxy asks for.
fn secrets(view: &View) -> anyhow::Result<Vec<(String, Value)>> {
    let mut names = BTreeSet::new();
    for part in [Part::Clusters, Part::Listeners] {
        for (_, value) in resources(view, part)? {
            gather(&value, &mut names);
        }
    }
    Ok(names.into_iter().map(|name| (name.clone(), json!({"name": name}))).collect())
}

/// Names beside which an `sds_config` stands.
fn gather(value: &Value, names: &mut BTreeSet<String>) {
    match value {
        Value::Object(members) => {
            if members.contains_key("sds_config")
                && let Some(name) = members.get("name").and_then(Value::as_str)
            {
                names.insert(name.to_string());
            }
            members.values().for_each(|member| gather(member, names));
        }
        Value::Array(items) => items.iter().for_each(|item| gather(item, names)),
        _ => {}
    }
}

/// What could have been meant.
fn missing(name: &str, part: Option<Part>, known: &BTreeSet<String>) -> String {
    let among = part.map_or("resources", Part::word);
    let end = name.rsplit('|').next().unwrap_or(name);
    let near: Vec<&str> = known.iter().map(String::as_str).filter(|one| one.contains(end)).take(5).collect();
    let there = match (near.is_empty(), known.len()) {
        (false, _) => format!("near it are {}", near.join(", ")),
        (true, 0) => "there are none".to_string(),
        (true, count) => format!("there are {count} others"),
    };
    format!("no {name:?} among the {among}: {there}")
}
