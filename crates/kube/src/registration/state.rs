//! The record of a stream in annotations, and Istio's rules for changing it. Pure.

use std::net::IpAddr;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};

pub(super) const CONTROLLER: &str = "istio.io/workloadController";
pub(super) const CONNECTED: &str = "istio.io/connectedAt";
pub(super) const DISCONNECTED: &str = "istio.io/disconnectedAt";
pub(super) const GROUP: &str = "istio.io/autoRegistrationGroup";

/// Longest object name.
const NAME: usize = 253;

/// What the record says.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Connection {
    pub(super) controller: Option<String>,
    pub(super) connected: Option<Timestamp>,
    pub(super) disconnected: Option<Timestamp>,
}

impl Connection {
    /// Reads the annotations of an object.
    pub(super) fn read(object: &Value) -> Self {
        let text = |key: &str| object["metadata"]["annotations"][key].as_str();
        let time = |key: &str| text(key).and_then(|text| text.parse().ok());
        Self {
            controller: text(CONTROLLER).map(String::from),
            connected: time(CONNECTED),
            disconnected: time(DISCONNECTED),
        }
    }

    /// Whether a stream that began at `at` is news.
    pub(super) fn should_connect(&self, holder: &str, at: Timestamp) -> bool {
        if self.disconnected.is_some_and(|gone| at < gone) {
            return false;
        }
        let Some(connected) = self.connected else { return true };
        let same = self.controller.as_deref() == Some(holder);
        if same { at > connected } else { at >= connected }
    }

    /// Whether the end, at `at`, of a stream that began at `stream` is news.
    pub(super) fn should_disconnect(&self, holder: &str, stream: Option<Timestamp>, at: Timestamp) -> bool {
        if self.controller.as_deref() != Some(holder) {
            return false;
        }
        let Some(connected) = self.connected else { return self.disconnected.is_none() };
        stream.is_none_or(|began| connected <= began) && at >= connected
    }

    /// Whether it has been gone for the grace.
    pub(super) fn is_expired(&self, now: Timestamp, grace: Duration) -> bool {
        let Some(gone) = self.disconnected.filter(|_| self.connected.is_none()) else { return false };
        now.duration_since(gone).as_secs_f64() >= grace.as_secs_f64()
    }
}

/// Annotations of a stream that began.
pub(super) fn connect_annotations(holder: &str, at: Timestamp) -> Value {
    json!({CONTROLLER: holder, CONNECTED: at.to_string(), DISCONNECTED: null})
}

/// Merge patch that writes a stream's end, if nobody changed the record meanwhile.
pub(super) fn disconnect_patch(record: &Value, at: Timestamp) -> Value {
    json!({"metadata": {
        "resourceVersion": record["metadata"]["resourceVersion"],
        "annotations": {CONNECTED: null, DISCONNECTED: at.to_string()},
    }})
}

/// Istio's name of an auto-registered entry: `GROUP-IP[-NETWORK]`, its last 253 characters.
pub(super) fn entry_name(group: &str, ip: Option<IpAddr>, network: &str) -> String {
    let ip = ip.map(|ip| ip.to_string().replace(':', "-")).unwrap_or_default();
    let mut name = format!("{group}-{ip}");
    if !network.is_empty() {
        name.push('-');
        name.push_str(network);
    }
    let start = name.len().saturating_sub(NAME);
    name.chars().skip(start).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + second).unwrap()
    }

    fn record(controller: &str, connected: Option<i64>, disconnected: Option<i64>) -> Connection {
        Connection {
            controller: Some(controller.to_string()),
            connected: connected.map(at),
            disconnected: disconnected.map(at),
        }
    }

    #[test]
    fn entries_are_named_by_group_address_and_network() {
        let v4 = "192.0.2.7".parse().ok();
        assert_eq!(entry_name("mysql", v4, "site"), "mysql-192.0.2.7-site");
        assert_eq!(entry_name("mysql", v4, ""), "mysql-192.0.2.7");
        assert_eq!(entry_name("g", "2001:db8::1".parse().ok(), ""), "g-2001-db8--1");
        let long = entry_name(&"g".repeat(300), v4, "site");
        assert_eq!(long.len(), 253);
        assert!(long.ends_with("-192.0.2.7-site"));
    }

    #[test]
    fn an_older_stream_never_overwrites_a_newer_one() {
        let mine = record("me", Some(10), None);
        assert!(!mine.should_connect("me", at(10)));
        assert!(!mine.should_connect("me", at(9)));
        assert!(mine.should_connect("me", at(11)));
        assert!(mine.should_connect("other", at(10)));
        assert!(!mine.should_connect("other", at(9)));
        assert!(!record("me", None, Some(10)).should_connect("me", at(9)));
        assert!(record("me", None, Some(10)).should_connect("me", at(10)));
        assert!(Connection::default().should_connect("me", at(0)));
    }

    #[test]
    fn the_end_of_an_old_stream_is_not_the_end_of_its_successor() {
        let record = record("me", Some(10), None);
        assert!(record.should_disconnect("me", Some(at(10)), at(12)));
        assert!(!record.should_disconnect("me", Some(at(5)), at(12)), "a newer stream is open");
        assert!(!record.should_disconnect("other", Some(at(10)), at(12)), "another control plane serves it");
        assert!(record.should_disconnect("me", None, at(12)));
    }

    #[test]
    fn the_grace_counts_from_the_end_and_only_without_a_stream() {
        let grace = Duration::from_secs(10);
        assert!(!record("me", None, Some(0)).is_expired(at(9), grace));
        assert!(record("me", None, Some(0)).is_expired(at(10), grace));
        assert!(!record("me", Some(1), Some(0)).is_expired(at(100), grace));
        assert!(!record("me", None, None).is_expired(at(100), grace));
    }
}
