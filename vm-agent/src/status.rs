//! `status`: a few lines for a person, or JSON.

use anyhow::Context as _;
use serde_json::Value;

use crate::args::StatusArgs;
use crate::ask;

pub(crate) async fn run(args: &StatusArgs) -> anyhow::Result<()> {
    let path = args.data.data_dir.join(isthmus_agent::state::FILE);
    match ask::status().await {
        Ok(status) if args.output.is_some() => println!("{}", serde_json::to_string_pretty(&status)?),
        Ok(status) => lines(&status).iter().for_each(|line| println!("{line}")),
        Err(error) => {
            let text = std::fs::read_to_string(&path).with_context(|| {
                format!(
                    "no agent runs here ({error:#}) and {} names no membership: not joined",
                    path.display()
                )
            })?;
            let member: Value = serde_json::from_str(&text).with_context(|| path.display().to_string())?;
            let word = |key: &str| member[key].as_str().unwrap_or_default();
            println!(
                "member of cluster {}, network {:?}, as {}/{}",
                word("cluster"),
                word("network"),
                word("namespace"),
                word("serviceAccount")
            );
            println!("no agent runs here ({error:#}); start one with `isthmus-vm-agent run`");
        }
    }
    Ok(())
}

/// What matters, a line each.
fn lines(status: &Value) -> Vec<String> {
    let word = |pointer: &str| match status.pointer(pointer) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Null) | None => "none".to_string(),
        Some(other) => other.to_string(),
    };
    let awaited: Vec<&str> =
        status["awaited"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let connection = match status.pointer("/controlPlane/connection/error").and_then(Value::as_str) {
        Some(error) => format!("{}: {error}", word("/controlPlane/connection/state")),
        None => word("/controlPlane/connection/state"),
    };
    let health = match status.pointer("/health/Unhealthy").and_then(Value::as_str) {
        Some(reason) => format!("Unhealthy: {reason}"),
        None => word("/health"),
    };
    let left = status.pointer("/certificates/0/secondsLeft").and_then(Value::as_i64).unwrap_or_default();
    let mut lines = vec![
        format!("{} in group {}", word("/name"), word("/group")),
        format!("identity      {}", word("/identity")),
        format!("cluster       {}, network {:?}, mesh {}", word("/cluster"), word("/network"), word("/mesh")),
        format!("control plane {connection}"),
        format!("health        {health}"),
        format!("certificate   serial {}, {} left", word("/certificates/0/serial"), span(left)),
        if awaited.is_empty() {
            "ready         yes".into()
        } else {
            format!("ready         no, awaiting {}", awaited.join(", "))
        },
    ];
    lines.extend(envoy(&status["proxy"]));
    lines
}

/// How the Envoy is, where there is one, and what it refuses.
fn envoy(proxy: &Value) -> Vec<String> {
    if proxy["kind"] != "envoy" {
        return Vec::new();
    }
    let state = match (&proxy["state"], proxy["state"]["Down"].as_str()) {
        (_, Some(reason)) => format!("Down: {reason}"),
        (state, None) => state.as_str().unwrap_or("unknown").to_string(),
    };
    let mut lines = vec![format!("Envoy {:<7} {state}", proxy["version"].as_str().unwrap_or_default())];
    let refused = proxy["refused"].as_object().into_iter().flatten();
    lines.extend(refused.map(|(kind, refusal)| {
        format!("refuses {kind:<5} {}", refusal["error"].as_str().unwrap_or_default())
    }));
    lines
}

fn span(seconds: i64) -> String {
    match seconds {
        ..0 => "nothing".to_string(),
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        _ => format!("{} h", seconds / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_control_plane_and_a_failing_probe_say_why() {
        let status = serde_json::json!({
            "name": "mysql-1.vm", "group": "vm/mysqldb-vm", "identity": "spiffe://cluster.local/ns/vm/sa/mysql",
            "cluster": "west", "network": "site", "mesh": "mesh1",
            "controlPlane": {"connection": {"state": "Lost", "error": "refused"}},
            "health": {"Unhealthy": "connect to 10.3.0.10:3306: refused"},
            "awaited": ["names"],
            "certificates": [{"serial": "ab", "secondsLeft": 7300}],
            "proxy": {"kind": "envoy", "version": "1.40.0", "state": "Live", "refused": {"CDS": {"error": "a: no"}}},
        });
        assert_eq!(
            lines(&status),
            [
                "mysql-1.vm in group vm/mysqldb-vm",
                "identity      spiffe://cluster.local/ns/vm/sa/mysql",
                "cluster       west, network \"site\", mesh mesh1",
                "control plane Lost: refused",
                "health        Unhealthy: connect to 10.3.0.10:3306: refused",
                "certificate   serial ab, 2 h left",
                "ready         no, awaiting names",
                "Envoy 1.40.0  Live",
                "refuses CDS   a: no",
            ]
        );
        assert_eq!(span(59), "59 s");
    }
}
