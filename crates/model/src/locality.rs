//! Where something runs: region, zone, subzone.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::shared::shared;

/// `REGION/ZONE/SUBZONE`; missing parts are empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub struct Locality {
    /// Region.
    pub region: Arc<str>,
    /// Zone.
    pub zone: Arc<str>,
    /// Subzone.
    pub subzone: Arc<str>,
}

impl Locality {
    /// Reads `REGION/ZONE/SUBZONE`; parts may be missing, more than three are ignored.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut parts = text.split('/').map(shared);
        let mut next = || parts.next().unwrap_or_default();
        Self { region: next(), zone: next(), subzone: next() }
    }

    /// Whether nothing is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.region.is_empty() && self.zone.is_empty() && self.subzone.is_empty()
    }

    /// Istio's distance: 0 all equal, 1 region and zone, 2 region, 3 elsewhere.
    #[must_use]
    pub fn distance(&self, other: &Self) -> u32 {
        if self.region != other.region {
            3
        } else if self.zone != other.zone {
            2
        } else if self.subzone != other.subzone {
            1
        } else {
            0
        }
    }
}

impl fmt::Display for Locality {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return Ok(());
        }
        write!(f, "{}/{}/{}", self.region, self.zone, self.subzone)
    }
}

impl From<String> for Locality {
    fn from(text: String) -> Self {
        Self::parse(&text)
    }
}

impl From<Locality> for String {
    fn from(locality: Locality) -> Self {
        locality.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distance_counts_from_the_region_down() {
        let here = Locality::parse("r1/z1/s1");
        for (other, distance) in [("r1/z1/s1", 0), ("r1/z1/s2", 1), ("r1/z2/s1", 2), ("r2/z1/s1", 3), ("", 3)]
        {
            assert_eq!(here.distance(&Locality::parse(other)), distance, "{other}");
        }
        assert_eq!(Locality::parse("r1").to_string(), "r1//");
        assert_eq!(Locality::parse("").to_string(), "");
    }
}
