//! Versions as the server writes them.

use std::fmt;

use crate::payload::version_text;

/// A resource's version, as small as it can be kept: our own servers write sixteen hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version(Form);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Form {
    Hash(u64),
    // Boxed twice, so that the other form pays nothing for it.
    Text(Box<Box<str>>),
}

impl From<u64> for Version {
    /// A version of our own servers.
    fn from(hash: u64) -> Self {
        Self(Form::Hash(hash))
    }
}

impl From<&str> for Version {
    fn from(text: &str) -> Self {
        let lower = text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        let hash = (text.len() == 16 && lower).then(|| u64::from_str_radix(text, 16).ok()).flatten();
        Self(hash.map_or_else(|| Form::Text(Box::new(text.into())), Form::Hash))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Form::Hash(hash) => f.write_str(&version_text(*hash)),
            Form::Text(text) => f.write_str(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_written_as_it_was_read_and_is_small() {
        for text in ["00000000000000ff", "00000000000000FF", "2026-11-01T00:00:00Z/4", "", "ff"] {
            assert_eq!(Version::from(text).to_string(), text);
        }
        assert_eq!(Version::from("00000000000000ff"), Version::from(255));
        assert!(size_of::<Version>() <= 16);
    }
}
