//! `isthmus proxy-config`.

use anyhow::Context;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use comfy_table::Cell;
use isthmus_describe::to_json;
use serde_json::Value;

use crate::api::Api;
use crate::args::{Format, ProxyConfigArgs, ProxyName, ProxyPart, ServerArgs};
use crate::output::{self, Verdict, cell, heading, judged, table};

/// Asks the control plane what it sent to a proxy: short forms for people, the resources themselves for scripts.
pub(crate) async fn run(server: &ServerArgs, args: &ProxyConfigArgs) -> anyhow::Result<()> {
    let api = match &args.pages.control_plane {
        Some(url) => Api::at(server, url)?,
        None => Api::connect(server).await?,
    };
    let parts: &[&str] = match args.what {
        ProxyPart::Listeners => &["listeners"],
        ProxyPart::Clusters => &["clusters"],
        ProxyPart::Endpoints => &["endpoints"],
        ProxyPart::Names => &["names"],
        ProxyPart::All => &["listeners", "clusters", "endpoints", "names"],
    };
    let form = match args.output.output {
        Format::Text => "",
        Format::Json | Format::Yaml => "&form=resources",
    };
    let mut found = serde_json::Map::new();
    for part in parts {
        let ProxyName { namespace, name } = &args.proxy;
        let path = format!("/debug/isthmus/proxy/{namespace}/{name}?type={part}{form}");
        let body = api
            .page(&path)
            .await
            .with_context(|| format!("{part} of {name}.{namespace}; `isthmus status` lists the proxies"))?;
        let value: Value = serde_json::from_str(&body).with_context(|| format!("the answer of {path}"))?;
        found.insert((*part).to_string(), value);
    }
    if args.output.output == Format::Text {
        let sections: Vec<String> = found.iter().map(|(part, value)| section(part, value)).collect();
        return output::print(&sections.join("\n"));
    }
    for (part, value) in &mut found {
        *value = resources(part, value)?;
    }
    // One part is the answer itself.
    match found.iter().collect::<Vec<_>>().as_slice() {
        [(_, only)] => output::structured(only, args.output.output),
        _ => output::structured(&found, args.output.output),
    }
}

/// The control plane's encoded resources in Envoy's JSON, as `isthmus preview` shows them.
fn resources(part: &str, answer: &Value) -> anyhow::Result<Value> {
    let items = answer.as_array().or_else(|| answer.get(part).and_then(Value::as_array));
    let each = items.into_iter().flatten().map(|item| {
        let text = |member: &str| item[member].as_str().unwrap_or_default();
        let (name, url) = (text("name"), text("typeUrl"));
        anyhow::ensure!(
            !url.is_empty(),
            "{part}: the control plane sends no resources; it is older than this command, which shows them with -o text"
        );
        let body = STANDARD.decode(text("body")).with_context(|| format!("{name}: its body is not base64"))?;
        to_json(url, &body).with_context(|| name.to_string())
    });
    each.collect::<Result<_, _>>().map(Value::Array)
}

/// One part as a table.
fn section(part: &str, value: &Value) -> String {
    // The control plane answers with a list, or with an object that holds it.
    let items = value.as_array().or_else(|| value.get(part).and_then(Value::as_array));
    let Some(items) = items else { return format!("{}{value:#}\n", heading(part)) };
    if items.is_empty() {
        return format!("no {part}\n");
    }
    match part {
        "listeners" => listeners(items),
        "clusters" => {
            rows(items, &["name", "type", "connectTimeout", "transportSockets", "outlierDetection"])
        }
        "endpoints" => rows(
            items,
            &["cluster", "address", "priority", "locality", "weight", "health", "tls", "workload"],
        ),
        _ => rows(items, &["host", "addresses", "registry"]),
    }
}

/// A row for each filter chain.
fn listeners(items: &[Value]) -> String {
    let mut all = Vec::new();
    for listener in items {
        let chains = listener["chains"].as_array().map(Vec::as_slice).unwrap_or_default();
        for chain in chains {
            all.push(vec![
                written(&listener["name"]),
                written(&listener["address"]),
                cell(matches(&chain["match"])),
                cell(if chain["tls"] == true { "mutual" } else { "" }),
                written(&chain["filters"]),
                written(&chain["clusters"]),
            ]);
        }
        if chains.is_empty() {
            let problem = listener["error"].as_str().map(|error| format!("unreadable: {error}"));
            let problem = cell(problem.unwrap_or_else(|| "no filter chain".to_string()));
            all.push(vec![written(&listener["name"]), written(&listener["address"]), problem]);
        }
    }
    table(&["LISTENER", "ADDRESS", "WHEN", "TLS", "FILTERS", "TO"], all)
}

/// `port 9080, tls, alpn istio`; `any` for the chain that takes what no other does.
fn matches(condition: &Value) -> String {
    let mut parts = Vec::new();
    let list = |name: &str| match &condition[name] {
        Value::Array(items) => items.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(","),
        _ => String::new(),
    };
    if let Some(port) = condition["port"].as_u64() {
        parts.push(format!("port {port}"));
    }
    if let Some(transport) = condition["transport"].as_str().filter(|text| !text.is_empty()) {
        parts.push(transport.to_string());
    }
    for (name, word) in [("serverNames", "sni"), ("alpn", "alpn")] {
        let listed = list(name);
        if !listed.is_empty() {
            parts.push(format!("{word} {listed}"));
        }
    }
    if parts.is_empty() { "any".to_string() } else { parts.join(", ") }
}

/// These members as columns; `error` beside them where a resource could not be read.
fn rows(items: &[Value], members: &[&str]) -> String {
    let mut members = members.to_vec();
    if items.iter().any(|item| item["error"].is_string()) {
        members.push("error");
    }
    let headers: Vec<String> = members.iter().map(|name| spaced(name)).collect();
    let headers: Vec<&str> = headers.iter().map(String::as_str).collect();
    let row = |item: &Value| members.iter().map(|name| written(&item[*name])).collect();
    table(&headers, items.iter().map(row).collect())
}

/// `connectTimeout` as `CONNECT TIMEOUT`.
fn spaced(name: &str) -> String {
    let mut text = String::new();
    for letter in name.chars() {
        if letter.is_uppercase() {
            text.push(' ');
        }
        text.extend(letter.to_uppercase());
    }
    text
}

fn written(value: &Value) -> Cell {
    let plain = |item: &Value| match item {
        // A cluster with its share.
        Value::Object(members) if members.contains_key("weight") => {
            format!(
                "{} ({})",
                members.get("cluster").and_then(Value::as_str).unwrap_or("?"),
                members["weight"]
            )
        }
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    match value {
        Value::Null => cell(""),
        Value::Bool(true) => cell("yes"),
        Value::Bool(false) => cell("no"),
        Value::String(text) if text == "HEALTHY" => judged(text, Verdict::Good),
        Value::String(text) if text == "UNHEALTHY" => judged(text, Verdict::Bad),
        Value::Array(items) => cell(items.iter().map(plain).collect::<Vec<_>>().join(",")),
        other => cell(plain(other)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn shown(part: &str, value: &Value) -> String {
        anstream::adapter::strip_str(&section(part, value)).to_string()
    }

    #[test]
    fn every_filter_chain_is_a_row_that_says_when_it_applies() {
        let value = json!([{
            "name": "virtualInbound", "address": "0.0.0.0:15006",
            "chains": [
                { "filters": ["rbac", "tcp_proxy"], "clusters": ["inbound|9080||"], "tls": true,
                  "match": { "port": 9080, "transport": "tls", "serverNames": [], "alpn": ["istio"] } },
                { "filters": ["tcp_proxy"], "clusters": [{ "cluster": "a", "weight": 80 }], "tls": false },
            ],
        }]);
        let expected = "\
LISTENER        ADDRESS        WHEN                        TLS     FILTERS         TO
virtualInbound  0.0.0.0:15006  port 9080, tls, alpn istio  mutual  rbac,tcp_proxy  inbound|9080||
virtualInbound  0.0.0.0:15006  any                         -       tcp_proxy       a (80)
";
        assert_eq!(shown("listeners", &value), expected);
    }

    #[test]
    fn scripts_get_the_resources_themselves() {
        let url = "type.googleapis.com/envoy.config.cluster.v3.Cluster";
        // field 1, `name`, is "a"
        let answer = json!({"clusters": [{"name": "a", "typeUrl": url, "body": "CgFh"}]});
        assert_eq!(resources("clusters", &answer).unwrap(), json!([{"name": "a"}]));
        let old = json!([{"name": "a", "type": "EDS"}]);
        assert!(resources("clusters", &old).unwrap_err().to_string().contains("older than this command"));
        let broken = json!([{"name": "a", "typeUrl": url, "body": "/w=="}]);
        assert!(resources("clusters", &broken).unwrap_err().to_string().starts_with('a'));
    }

    #[test]
    fn what_could_not_be_read_is_shown_beside_the_rest() {
        let value = json!([{ "name": "ok", "type": "EDS", "outlierDetection": true }, { "name": "broken", "error": "no" }]);
        let text = shown("clusters", &value);
        assert!(text.lines().next().unwrap().ends_with("OUTLIER DETECTION  ERROR"), "{text}");
        assert_eq!(shown("names", &json!([])), "no names\n");
    }
}
