//! Tables, as kubectl shows them.

mod builtin;
mod path;

use std::sync::Arc;

use serde_json::{Value, json};

use crate::api::Api;
use crate::cache::Object;
use crate::kinds::Kind;
use crate::meta;

/// A `meta.k8s.io/v1` Table of objects.
pub(crate) fn table(
    api: &Api,
    kind: &Kind,
    objects: &[Arc<Object>],
    columns: bool,
    metadata: Value,
) -> Value {
    let now = meta::unix_seconds(api.clock());
    let definitions = if columns { definitions(kind) } else { Vec::new() };
    let rows: Vec<Value> = objects
        .iter()
        .map(|object| {
            let partial = json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1",
                "metadata": object.value["metadata"]});
            json!({"cells": cells(kind, &object.value, now), "object": partial})
        })
        .collect();
    json!({"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": metadata, "columnDefinitions": definitions,
        "rows": rows})
}

fn definitions(kind: &Kind) -> Vec<Value> {
    let column = |name: &str, kind: &str, format: &str, description: &str, priority: i64| json!({"name": name, "type": kind, "format": format, "description": description, "priority": priority});
    let mut columns = vec![column(
        "Name",
        "string",
        "name",
        "Name must be unique within a namespace. Is required when creating resources, although some resources may allow \
         a client to request the generation of an appropriate name automatically. Name is primarily intended for \
         creation idempotence and configuration definition. Cannot be updated. More info: \
         https://kubernetes.io/docs/concepts/overview/working-with-objects/names#names",
        0,
    )];
    match kind.builtin {
        Some(builtin) => {
            for (name, kind, priority) in builtin::columns(builtin) {
                columns.push(column(name, kind, "", "", *priority));
            }
        }
        None => {
            for one in &kind.columns {
                columns.push(column(&one.name, &one.kind, &one.format, &one.description, one.priority));
            }
        }
    }
    columns
}

fn cells(kind: &Kind, object: &Value, now: i64) -> Vec<Value> {
    let mut cells = vec![object["metadata"]["name"].clone()];
    match kind.builtin {
        Some(builtin) => cells.extend(builtin::cells(builtin, object, now)),
        None => {
            for column in &kind.columns {
                let found = path::find(object, &column.path);
                cells.push(match (column.kind.as_str(), found) {
                    (_, Value::Null) => Value::Null,
                    ("date", Value::String(text)) => match text.parse::<jiff::Timestamp>() {
                        Ok(at) => duration(now - at.as_second()).into(),
                        Err(_) => "<invalid>".into(),
                    },
                    ("string", Value::String(text)) => text.into(),
                    ("string", other) => other.to_string().into(),
                    (_, other) => other,
                });
            }
        }
    }
    cells
}

/// How long ago an object was created.
fn age(object: &Value, now: i64) -> String {
    let created = object["metadata"]["creationTimestamp"].as_str().unwrap_or_default();
    created
        .parse::<jiff::Timestamp>()
        .map_or_else(|_| "<unknown>".to_string(), |at| duration(now - at.as_second()))
}

/// Seconds in kubectl's words: `5s`, `3m20s`, `4h5m`, `6d`.
fn duration(seconds: i64) -> String {
    if seconds < -1 {
        return "<invalid>".to_string();
    }
    let seconds = seconds.max(0);
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    let with = |whole: i64, unit: char, rest: i64, small: char| {
        if rest == 0 { format!("{whole}{unit}") } else { format!("{whole}{unit}{rest}{small}") }
    };
    if seconds < 120 {
        format!("{seconds}s")
    } else if minutes < 10 {
        with(minutes, 'm', seconds % 60, 's')
    } else if minutes < 180 {
        format!("{minutes}m")
    } else if hours < 8 {
        with(hours, 'h', minutes % 60, 'm')
    } else if hours < 48 {
        format!("{hours}h")
    } else if hours < 192 {
        with(days, 'd', hours % 24, 'h')
    } else if days < 730 {
        format!("{days}d")
    } else if days < 2920 {
        with(days / 365, 'y', days % 365, 'd')
    } else {
        format!("{}y", days / 365)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_read_as_kubectl_writes_them() {
        for (seconds, text) in [
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (200, "3m20s"),
            (3000, "50m"),
            (4 * 3600 + 300, "4h5m"),
            (30 * 3600, "30h"),
            (3 * 86400 + 3600, "3d1h"),
            (20 * 86400, "20d"),
            (800 * 86400, "2y70d"),
        ] {
            assert_eq!(duration(seconds), text);
        }
    }
}
