//! Names: service, policy, trust domain, SPIFFE ID. Each is checked once, where it enters.

use std::fmt;
use std::sync::Arc;

/// Why a text is not the name it should be; says what is allowed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a {kind}: {remedy}")]
pub struct NameError {
    pub text: String,
    pub kind: &'static str,
    pub remedy: &'static str,
}

fn err(text: &str, kind: &'static str, remedy: &'static str) -> NameError {
    // what came over the network is shown, but never at length
    NameError { text: text.chars().take(80).collect(), kind, remedy }
}

/// Lower-case letters, digits, `-` and `.`, beginning and ending with a letter or digit; at most `max` bytes.
fn is_dns_like(s: &str, max: usize) -> bool {
    let alnum = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    !s.is_empty()
        && s.len() <= max
        && s.bytes().all(|b| alnum(b) || b == b'-' || b == b'.')
        && s.bytes().next().is_some_and(alnum)
        && s.bytes().last().is_some_and(alnum)
        && !s.contains("..")
}

macro_rules! name {
    ($(#[$doc:meta])* $ty:ident, $kind:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
        pub struct $ty(Arc<str>);

        impl $ty {
            pub fn parse(text: &str) -> Result<Self, NameError> {
                if is_dns_like(text, 253) {
                    Ok(Self(text.into()))
                } else {
                    Err(err(text, $kind, "use lower-case letters, digits, '-' and '.', at most 253 bytes, beginning and ending with a letter or digit"))
                }
            }
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl fmt::Display for $ty {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl serde::Serialize for $ty {
            fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.serialize_str(&self.0)
            }
        }
    };
}

name!(
    /// A service: a named set of instances. Also an authority that callers may use.
    ServiceName, "service name"
);
name!(
    /// A policy: one object of resilience settings.
    PolicyName, "policy name"
);
name!(
    /// A SPIFFE trust domain (SPIFFE-ID specification, section 2.1).
    TrustDomain, "trust domain"
);

impl ServiceName {
    /// Goes before every name; where a range of names begins.
    pub(crate) fn least() -> Self {
        Self("".into())
    }
}

impl From<&ServiceName> for PolicyName {
    /// The name of a service's built-in policy: both kinds of names obey the same rule.
    fn from(service: &ServiceName) -> Self {
        Self(service.0.clone())
    }
}

/// `spiffe://<trust domain>/<path>`: who a workload is (SPIFFE-ID specification, section 2). At most 2048 bytes.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct SpiffeId {
    text: Arc<str>,
    domain_len: usize,
}

impl SpiffeId {
    const SCHEME: &'static str = "spiffe://";

    pub fn parse(text: &str) -> Result<Self, NameError> {
        let bad = |why| Err(err(text, "SPIFFE ID", why));
        let Some(rest) = text.strip_prefix(Self::SCHEME) else {
            return bad("write spiffe://<trust domain>/<path>");
        };
        let (domain, path) = rest.split_once('/').unwrap_or((rest, ""));
        if text.len() > 2048 {
            return bad("at most 2048 bytes");
        }
        if TrustDomain::parse(domain).is_err() {
            return bad("the trust domain uses lower-case letters, digits, '-' and '.'");
        }
        let segment = |s: &str| {
            !s.is_empty()
                && s != "."
                && s != ".."
                && s.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'))
        };
        if path.is_empty() || !path.split('/').all(segment) {
            return bad("the path has one or more segments of letters, digits, '-', '.' and '_'");
        }
        Ok(Self { domain_len: domain.len(), text: text.into() })
    }

    /// The identity of the workload `path` (such as `shop/catalog`) in `domain`.
    pub fn of(domain: &TrustDomain, path: &str) -> Result<Self, NameError> {
        Self::parse(&format!("{}{}/{}", Self::SCHEME, domain, path))
    }

    pub fn as_str(&self) -> &str {
        &self.text
    }
    pub fn trust_domain(&self) -> &str {
        &self.text[Self::SCHEME.len()..Self::SCHEME.len() + self.domain_len]
    }
    /// What follows the trust domain, without the leading slash.
    pub fn path(&self) -> &str {
        &self.text[Self::SCHEME.len() + self.domain_len + 1..]
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl serde::Serialize for SpiffeId {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&self.text)
    }
}

/// `fusewire.local`, where nobody wrote one.
impl Default for TrustDomain {
    fn default() -> Self {
        Self("fusewire.local".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_lower_case_and_bounded() {
        let long = "a".repeat(254);
        for text in ["a", "a-b.c", "0", "x9"] {
            assert_eq!(ServiceName::parse(text).expect(text).as_str(), text);
        }
        for text in ["", "A", "-a", "a-", ".a", "a.", "a..b", "a_b", "a b", "ü", &long] {
            assert!(ServiceName::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_spiffe_id_has_a_trust_domain_and_a_path() {
        let id = SpiffeId::parse("spiffe://shop.local/ns/Web_1").expect("an identity");
        assert_eq!((id.trust_domain(), id.path()), ("shop.local", "ns/Web_1"));
        let of = SpiffeId::of(&TrustDomain::parse("shop.local").expect("a domain"), "ns/Web_1");
        assert_eq!(of, Ok(id));
        for text in [
            "",
            "shop.local/a",
            "http://a/b",
            "spiffe://",
            "spiffe://a",
            "spiffe://a/",
            "spiffe:///a",
            "spiffe://A/b",
            "spiffe://a/b/",
            "spiffe://a//b",
            "spiffe://a/./b",
            "spiffe://a/..",
            "spiffe://a:80/b",
            "spiffe://u@a/b",
            "spiffe://a/b?c",
            "spiffe://a/b%20",
            "spiffe://a/ü",
        ] {
            assert!(SpiffeId::parse(text).is_err(), "{text}");
        }
        assert!(SpiffeId::parse(&format!("spiffe://a/{}", "b".repeat(2048))).is_err());
    }

    #[test]
    fn what_is_wrong_is_shown_but_not_at_length() {
        let error = ServiceName::parse(&"Ü".repeat(10_000)).expect_err("no name");
        assert!(error.to_string().len() < 400);
    }

    #[test]
    fn the_default_trust_domain_is_one() {
        assert_eq!(TrustDomain::parse(TrustDomain::default().as_str()), Ok(TrustDomain::default()));
    }
}
