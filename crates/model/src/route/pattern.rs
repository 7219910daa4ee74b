//! A regular expression in a match.
//!
//! It decides what may be written: at most [`Pattern::MAX_BYTES`] that compile to at most 64 KiB, so that no configuration
//! makes a sidecar large. Matching is linear in what is matched, whatever the expression (no backreferences, no
//! look-around); the whole value must match, and letters are bytes: `.` is any byte but a newline.

use regex::bytes::{Regex, RegexBuilder};
use std::fmt;
use std::sync::Arc;

/// Patterns in the rules of one authority together.
pub const MAX_PATTERNS: usize = 1_000;
/// Of a compiled pattern.
const MAX_COMPILED: usize = 64 << 10;
/// Of what matching with it remembers, for each thread.
const MAX_CACHE: usize = 128 << 10;

/// Clones share what was compiled; two are equal if they were written alike.
#[derive(Clone)]
pub struct Pattern {
    text: Arc<str>,
    compiled: Arc<Regex>,
}

impl Pattern {
    pub const MAX_BYTES: usize = 1_024;

    /// In the syntax of the `regex` crate, which is RE2's but for a few words.
    ///
    /// # Errors
    /// Why it is none, in one line.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() || text.len() > Self::MAX_BYTES || text.chars().any(char::is_control) {
            return Err(format!("must be 1..{} bytes without control characters", Self::MAX_BYTES));
        }
        let compile = |text: &str| {
            RegexBuilder::new(text)
                .unicode(false)
                .size_limit(MAX_COMPILED)
                .dfa_size_limit(MAX_CACHE)
                .build()
                .map_err(|error| why(&error))
        };
        compile(text)?; // by itself first: in brackets, `a)|(b` would be one too
        Ok(Self { text: text.into(), compiled: Arc::new(compile(&format!("\\A(?:{text})\\z"))?) })
    }
    pub fn as_str(&self) -> &str {
        &self.text
    }
    /// Whether all of `value` is what the pattern describes.
    pub fn matches(&self, value: &[u8]) -> bool {
        self.compiled.is_match(value)
    }
}

/// The parser draws where the fault is, over several lines; the last one says what it is.
fn why(error: &regex::Error) -> String {
    match error {
        regex::Error::CompiledTooBig(_) => format!("compiles to more than {} KiB", MAX_COMPILED >> 10),
        error => {
            let text = error.to_string();
            let last = text.lines().last().unwrap_or_default();
            format!("is no regular expression: {}", last.strip_prefix("error: ").unwrap_or(last))
        }
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Pattern").field(&self.text).finish()
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_of_a_value_must_match() {
        for (pattern, value, wanted) in [
            ("a|bc", "bc", true),
            ("a|bc", "abc", false),
            ("v[0-9]+", "v12", true),
            ("v[0-9]+", "v12 ", false),
            ("(?i)shop", "SHOP", true),
            (".*", "", true),
            (".+", "\u{fc}", true),
        ] {
            assert_eq!(Pattern::parse(pattern).expect(pattern).matches(value.as_bytes()), wanted, "{pattern} {value}");
        }
    }

    #[test]
    fn what_is_too_large_or_no_expression_is_refused_in_one_line() {
        let long = "a".repeat(1_025);
        let huge = "(?:[a-z]{1000}){1000}";
        for text in ["", "a)|(b", "(", "a{2,1}", "\\pL", "(?=a)", "\\1", "a\nb", &long, huge] {
            let error = Pattern::parse(text).expect_err(text);
            assert!(!error.is_empty() && !error.contains('\n'), "{text}: {error}");
        }
    }

    #[test]
    fn equal_text_is_an_equal_pattern_and_shows_as_itself() {
        let (one, same) = (Pattern::parse("a+").expect("a pattern"), Pattern::parse("a+").expect("a pattern"));
        assert_eq!((&one, format!("{one:?} {one}").as_str()), (&same, "Pattern(\"a+\") a+"));
        assert_ne!(one, Pattern::parse("a*").expect("a pattern"));
    }
}
