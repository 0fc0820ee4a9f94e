//! The part of JSONPath that printer columns use: `.a.b`, `['a.b']`, `[0]`, `[*]`, `[?(@.type=="Ready")]`.

use serde_json::Value;

/// What a path finds; several finds are joined by commas, as kubectl shows them.
pub(super) fn find(object: &Value, path: &str) -> Value {
    let Some(steps) = parse(path) else { return Value::Null };
    let mut found = vec![object];
    for step in &steps {
        found = found.into_iter().flat_map(|value| apply(value, step)).collect();
    }
    match found.as_slice() {
        [] => Value::Null,
        [one] => (*one).clone(),
        several => {
            let texts: Vec<String> = several
                .iter()
                .map(|value| value.as_str().map_or_else(|| value.to_string(), str::to_string))
                .collect();
            texts.join(",").into()
        }
    }
}

enum Step {
    Field(String),
    Index(usize),
    All,
    /// Items whose field, at this path, is this text.
    Where(Vec<String>, String),
}

fn parse(path: &str) -> Option<Vec<Step>> {
    let mut steps = Vec::new();
    let mut rest = path.trim().trim_start_matches('{').trim_end_matches('}').trim_start_matches('$');
    while !rest.is_empty() {
        if let Some(after) = rest.strip_prefix('[') {
            let end = after.find(']')?;
            let (inside, next) = (&after[..end], &after[end + 1..]);
            steps.push(bracket(inside)?);
            rest = next;
            continue;
        }
        let after = rest.strip_prefix('.').unwrap_or(rest);
        let end = field_end(after);
        let name = after[..end].replace("\\.", ".");
        if name == "*" {
            steps.push(Step::All);
        } else if !name.is_empty() {
            steps.push(Step::Field(name));
        } else if end == 0 && after.len() == rest.len() {
            return None;
        }
        rest = &after[end..];
    }
    Some(steps)
}

fn field_end(text: &str) -> usize {
    let mut escaped = false;
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'\\' => escaped = true,
            b'.' | b'[' if !escaped => return at,
            _ => escaped = false,
        }
    }
    text.len()
}

fn bracket(inside: &str) -> Option<Step> {
    let unquoted = |text: &str| text.trim().trim_matches(|c| c == '\'' || c == '"').to_string();
    if inside == "*" {
        return Some(Step::All);
    }
    if let Ok(index) = inside.parse() {
        return Some(Step::Index(index));
    }
    if let Some(test) = inside.strip_prefix("?(") {
        let test = test.strip_suffix(')')?.trim().strip_prefix("@.")?;
        let (path, wanted) = test.split_once("==")?;
        return Some(Step::Where(path.trim().split('.').map(str::to_string).collect(), unquoted(wanted)));
    }
    Some(Step::Field(unquoted(inside)))
}

fn apply<'a>(value: &'a Value, step: &Step) -> Vec<&'a Value> {
    match step {
        Step::Field(name) => value.get(name).into_iter().collect(),
        Step::Index(index) => value.get(index).into_iter().collect(),
        Step::All => match value {
            Value::Array(items) => items.iter().collect(),
            Value::Object(fields) => fields.values().collect(),
            _ => Vec::new(),
        },
        Step::Where(path, wanted) => {
            let matches = |item: &&Value| {
                let mut at = *item;
                for key in path {
                    at = &at[key.as_str()];
                }
                at.as_str().map_or_else(|| at.to_string(), str::to_string) == *wanted
            };
            value.as_array().into_iter().flatten().filter(matches).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn paths_of_printer_columns_are_understood() {
        let object = json!({"spec": {"hosts": ["a", "b"], "a.b": 1},
            "status": {"conditions": [{"type": "Ready", "status": "True"}]}});
        for (path, value) in [
            (".spec.hosts", json!(["a", "b"])),
            (".spec.hosts[*]", json!("a,b")),
            (".spec.hosts[1]", json!("b")),
            (".spec.a\\.b", json!(1)),
            (".spec['a.b']", json!(1)),
            (".status.conditions[?(@.type==\"Ready\")].status", json!("True")),
            (".nothing.here", Value::Null),
            ("[", Value::Null),
        ] {
            assert_eq!(find(&object, path), value, "{path}");
        }
    }
}
