//! String matchers.

use envoy_types::pb::envoy::r#type::matcher::v3 as proto;
use regex::Regex;

use super::{Checked, Invalid};

/// A compiled string matcher.
#[derive(Debug, Clone)]
pub(crate) struct StringMatcher {
    pattern: Pattern,
    /// The pattern is in lower case and so is what it is compared with.
    ignore_case: bool,
}

#[derive(Debug, Clone)]
enum Pattern {
    Exact(Box<str>),
    Prefix(Box<str>),
    Suffix(Box<str>),
    Contains(Box<str>),
    /// Matches whole texts, as RE2's full match does.
    Regex(Box<Regex>),
}

/// Patterns that compile to more are refused, so that a policy cannot make the proxy spend memory without bound.
const REGEX_SIZE: usize = 1 << 20;

impl StringMatcher {
    pub(crate) fn compile(matcher: &proto::StringMatcher) -> Checked<Self> {
        use proto::string_matcher::MatchPattern as P;
        let text = |text: &String| -> Box<str> {
            if matcher.ignore_case { text.to_lowercase().into() } else { text.as_str().into() }
        };
        let pattern = match &matcher.match_pattern {
            Some(P::Exact(exact)) => Pattern::Exact(text(exact)),
            Some(P::Prefix(prefix)) => Pattern::Prefix(text(prefix)),
            Some(P::Suffix(suffix)) => Pattern::Suffix(text(suffix)),
            Some(P::Contains(part)) => Pattern::Contains(text(part)),
            Some(P::SafeRegex(regex)) => Pattern::Regex(Box::new(full_match(&regex.regex)?)),
            Some(P::Custom(_)) => return Err(Invalid::unsupported("custom")),
            None => return Err(Invalid::new("match_pattern", "is missing")),
        };
        Ok(Self { pattern, ignore_case: matcher.ignore_case })
    }

    pub(crate) fn matches(&self, text: &str) -> bool {
        let lower;
        let text = if self.ignore_case && !matches!(self.pattern, Pattern::Regex(_)) {
            lower = text.to_lowercase();
            &lower
        } else {
            text
        };
        match &self.pattern {
            Pattern::Exact(exact) => text == &**exact,
            Pattern::Prefix(prefix) => text.starts_with(&**prefix),
            Pattern::Suffix(suffix) => text.ends_with(&**suffix),
            Pattern::Contains(part) => text.contains(&**part),
            Pattern::Regex(regex) => regex.is_match(text),
        }
    }

    /// The text that it asks for, when it asks for exactly one.
    pub(crate) fn exact(&self) -> Option<&str> {
        match &self.pattern {
            Pattern::Exact(exact) if !self.ignore_case => Some(exact),
            _ => None,
        }
    }
}

fn full_match(pattern: &str) -> Checked<Regex> {
    regex::RegexBuilder::new(&format!("^(?:{pattern})$"))
        .size_limit(REGEX_SIZE)
        .dfa_size_limit(REGEX_SIZE)
        .build()
        .map_err(|error| Invalid::new("safe_regex", format!("{pattern:?}: {error}")))
}

#[cfg(test)]
mod tests {
    use proto::string_matcher::MatchPattern as P;

    use super::*;

    fn matches(pattern: P, ignore_case: bool, text: &str) -> bool {
        let matcher = proto::StringMatcher { ignore_case, match_pattern: Some(pattern) };
        StringMatcher::compile(&matcher).unwrap().matches(text)
    }

    #[test]
    fn each_pattern_matches_as_envoy_does() {
        assert!(matches(P::Exact("a".into()), false, "a") && !matches(P::Exact("a".into()), false, "A"));
        assert!(matches(P::Exact("Ab".into()), true, "aB"));
        assert!(matches(P::Prefix("spiffe://a/".into()), false, "spiffe://a/ns/b/sa/c"));
        assert!(matches(P::Suffix("/sa/c".into()), false, "spiffe://a/ns/b/sa/c"));
        assert!(matches(P::Contains("/ns/b/".into()), false, "spiffe://a/ns/b/sa/c"));
        let regex =
            |regex: &str| P::SafeRegex(proto::RegexMatcher { regex: regex.into(), engine_type: None });
        assert!(matches(regex(".*/ns/b/.*"), false, "spiffe://a/ns/b/sa/c"));
        assert!(!matches(regex("/ns/b/"), false, "spiffe://a/ns/b/sa/c"), "a regex matches the whole text");
        let error = StringMatcher::compile(&proto::StringMatcher {
            match_pattern: Some(regex("(")),
            ..Default::default()
        });
        assert!(error.unwrap_err().to_string().starts_with("safe_regex: \"(\""));
    }
}
