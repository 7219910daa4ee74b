//! A regular expression in a match.
//!
//! It decides what may be written: at most [`Pattern::MAX_BYTES`] that compile to at most 64 KiB, and what each takes, so that
//! no configuration makes a sidecar large (`size`). Matching is linear in what is matched, whatever the expression (no backreferences, no
//! look-around); the whole value must match, and letters are bytes: `.` is any byte but a newline.

use regex::bytes::{Regex, RegexBuilder};
use std::fmt;
use std::sync::Arc;

/// What a compiled pattern may take, in bytes: it is given the least of them.
const SIZES: [usize; 4] = [8 << 10, 16 << 10, 32 << 10, 64 << 10];
/// What matching remembers, for each thread, is at most twice that, and at least this.
const LEAST_CACHE: usize = 32 << 10;

/// Clones share what was compiled; two are equal if they were written alike.
#[derive(Clone)]
pub struct Pattern {
    text: Arc<str>,
    compiled: Arc<Regex>,
    size: usize,
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
        compile(text)?; // by itself first: in brackets, `a)|(b` would be one too
        let (compiled, size) = compile(&format!("\\A(?:{text})\\z"))?;
        Ok(Self { text: text.into(), compiled: Arc::new(compiled), size })
    }
    pub fn as_str(&self) -> &str {
        &self.text
    }
    /// What it takes compiled, at most.
    pub fn size(&self) -> usize {
        self.size
    }
    /// Whether all of `value` is what the pattern describes.
    pub fn matches(&self, value: &[u8]) -> bool {
        self.compiled.is_match(value)
    }
}

/// With the size that it fits into.
fn compile(text: &str) -> Result<(Regex, usize), String> {
    for size in SIZES {
        let mut builder = RegexBuilder::new(text);
        builder.unicode(false).size_limit(size).dfa_size_limit(LEAST_CACHE.max(2 * size));
        match builder.build() {
            Ok(compiled) => return Ok((compiled, size)),
            Err(regex::Error::CompiledTooBig(_)) => {}
            Err(error) => return Err(why(&error)),
        }
    }
    Err(format!("compiles to more than {} KiB", SIZES[SIZES.len() - 1] >> 10))
}

/// The parser draws where the fault is, over several lines; the last one says what it is.
fn why(error: &regex::Error) -> String {
    let text = error.to_string();
    let last = text.lines().last().unwrap_or_default();
    format!("is no regular expression: {}", last.strip_prefix("error: ").unwrap_or(last))
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
    fn what_a_pattern_takes_is_known() {
        let size = |text: &str| Pattern::parse(text).expect(text).size() >> 10;
        assert_eq!([size("/v[0-9]+/.*"), size("(?i)de|en|fr"), size(&"[a-z]{9}".repeat(40))], [8, 8, 32]);
        assert_eq!(size("[a-z]{700}"), 64);
    }

    #[test]
    fn equal_text_is_an_equal_pattern_and_shows_as_itself() {
        let (one, same) = (Pattern::parse("a+").expect("a pattern"), Pattern::parse("a+").expect("a pattern"));
        assert_eq!((&one, format!("{one:?} {one}").as_str()), (&same, "Pattern(\"a+\") a+"));
        assert_ne!(one, Pattern::parse("a*").expect("a pattern"));
    }
}
