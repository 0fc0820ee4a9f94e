//! Pieces that several kinds share.

use std::fmt;
use std::str::FromStr;

use isthmus_model::Labels;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A length of time as Istio writes it: `1.5s`, `100ms`, `1h30m`. Never negative.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Duration(pub std::time::Duration);

impl FromStr for Duration {
    type Err = String;

    /// Go's syntax: numbers with units `ns us µs ms s m h`, the largest first.
    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("{text:?} is not a duration such as 10s, 100ms or 1h30m");
        let mut total = 0f64;
        let mut rest = text.strip_prefix('+').unwrap_or(text);
        if rest.is_empty() {
            return Err(bad());
        }
        if rest == "0" {
            return Ok(Self::default());
        }
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(bad)?;
            let number: f64 = rest[..digits].parse().map_err(|_| bad())?;
            rest = &rest[digits..];
            let letters = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
            let unit = match &rest[..letters] {
                "ns" => 1e-9,
                "us" | "µs" | "μs" => 1e-6,
                "ms" => 1e-3,
                "s" => 1.0,
                "m" => 60.0,
                "h" => 3600.0,
                _ => return Err(bad()),
            };
            total += number * unit;
            rest = &rest[letters..];
        }
        std::time::Duration::try_from_secs_f64(total).map(Self).map_err(|_| bad())
    }
}

impl fmt::Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}s", self.0.as_secs_f64())
    }
}

impl<'de> Deserialize<'de> for Duration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl Serialize for Duration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// `workloadSelector` of the networking kinds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct WorkloadSelector {
    /// All must be among the workload's labels.
    #[serde(alias = "matchLabels")]
    pub labels: Labels,
}

/// A service port by number.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct PortSelector {
    /// Number.
    pub number: u16,
}

/// One status condition.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Condition {
    /// Type.
    pub r#type: String,
    /// `True`, `False` or `Unknown`.
    pub status: String,
    /// When it was last looked at, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_probe_time: Option<String>,
    /// When it last changed, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_transition_time: Option<String>,
    /// One word.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// For people.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_go_reads_them() {
        let read = |text: &str| text.parse::<Duration>().map(|d| d.0.as_secs_f64());
        assert_eq!(read("1.5s"), Ok(1.5));
        assert_eq!(read("1h30m"), Ok(5400.0));
        assert_eq!(read("100ms"), Ok(0.1));
        assert_eq!(read("0"), Ok(0.0));
        for bad in ["", "5", "s", "-1s", "1x", "1..2s", "99999999999999999999999999h"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
