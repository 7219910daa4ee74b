//! `RateLimit` and `RateLimit-Policy` (IETF draft "RateLimit header fields for HTTP"), written without an allocation.

use std::fmt;
use std::time::Duration;

use super::gcra::{Rate, Standing};

/// `"name";q=quota;w=seconds`: the value of `RateLimit-Policy`.
#[derive(Clone, Copy, Debug)]
pub struct RateLimitPolicy<'a> {
    name: &'a str,
    rate: Rate,
}

/// `"name";r=remaining;t=seconds`: the value of `RateLimit`.
#[derive(Clone, Copy, Debug)]
pub struct RateLimit<'a> {
    name: &'a str,
    standing: Standing,
}

impl<'a> RateLimitPolicy<'a> {
    /// The quota is the burst, and the window the time that it takes to come back.
    pub fn new(name: &'a str, rate: Rate) -> Self {
        RateLimitPolicy { name, rate }
    }
}

impl<'a> RateLimit<'a> {
    pub fn new(name: &'a str, standing: Standing) -> Self {
        RateLimit { name, standing }
    }

    /// The seconds of `Retry-After`, at least 1; `None` for a request that passes.
    pub fn retry_after(&self) -> Option<u64> {
        match self.standing {
            Standing::Within { .. } => None,
            Standing::Over { retry_after, .. } => Some(ceil_seconds(retry_after).max(1)),
        }
    }
}

impl fmt::Display for RateLimitPolicy<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{};q={};w={}", Quoted(self.name), self.rate.burst(), ceil_seconds(self.rate.window()).max(1))
    }
}

impl fmt::Display for RateLimit<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (left, full_in) = match self.standing {
            Standing::Within { left, full_in } => (left, full_in),
            Standing::Over { full_in, .. } => (0, full_in),
        };
        write!(f, "{};r={left};t={}", Quoted(self.name), ceil_seconds(full_in))
    }
}

fn ceil_seconds(span: Duration) -> u64 {
    span.as_secs().saturating_add(u64::from(span.subsec_nanos() > 0))
}

/// A string of structured fields (RFC 9651): printable ASCII, with `"` and `\` escaped; anything else is left out.
struct Quoted<'a>(&'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use fmt::Write;
        f.write_char('"')?;
        for letter in self.0.chars().filter(|letter| (' '..='~').contains(letter)) {
            if matches!(letter, '"' | '\\') {
                f.write_char('\\')?;
            }
            f.write_char(letter)?;
        }
        f.write_char('"')
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::gcra::RateConfig;
    use super::*;

    #[test]
    fn the_values_read_as_the_draft_writes_them() {
        let rate = Rate::of(&RateConfig { requests: 100, per: Duration::from_secs(60), burst: 100 });
        assert_eq!(RateLimitPolicy::new("default", rate).to_string(), r#""default";q=100;w=60"#);
        let within = RateLimit::new("default", Standing::Within { left: 50, full_in: Duration::from_millis(29_001) });
        assert_eq!((within.to_string().as_str(), within.retry_after()), (r#""default";r=50;t=30"#, None));
        let (retry_after, full_in) = (Duration::from_millis(5), Duration::from_secs(60));
        let over = RateLimit::new("default", Standing::Over { retry_after, full_in });
        assert_eq!((over.to_string().as_str(), over.retry_after()), (r#""default";r=0;t=60"#, Some(1)));
    }

    proptest! {
        #[test]
        fn a_name_cannot_break_out_of_its_quotes(name: String) {
            let text = Quoted(&name).to_string();
            let inner = text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap();
            prop_assert!(text.is_ascii() && text.bytes().all(|byte| (b' '..=b'~').contains(&byte)));
            prop_assert!(!inner.replace("\\\\", "").replace("\\\"", "").contains('"'));
        }
    }
}
