//! Routes: match (authority, path, method, headers, query), what is changed on the way, and where the request then goes.
//!
//! All routes that name an authority form one [`RouteTable`]; its rules are tried in the order they were written and the
//! first that matches wins. A service's own name is an authority too: without a route it means "everything to that service".

mod change;
mod cors;
mod matching;
mod pattern;
mod size;

use crate::name::{PolicyName, ServiceName};
pub use change::{
    Edits, Filters, HeaderEdits, MAX_EDITS, MAX_MIRRORS, Mirror, PathEdit, REDIRECTS, Redirect, Scheme, is_replacement,
    may_edit,
};
pub use cors::{CORS_FIELDS, Cors, CorsWords, List, MAX_CORS, MAX_CORS_AGE, Preflight, is_token};
pub use matching::{HeaderMatch, Match, PathMatch, QueryMatch, Request, ValueMatch};
pub use pattern::Pattern;
pub use size::{MAX_PATTERNS, MAX_RULES, SOURCES, Size};

/// `host` or `host:port`, lower-case, IPv6 in brackets. A table for `host:port` wins over one for `host`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Authority(Box<str>);

/// A route object as it was written: its rules go into the table of each of its authorities.
#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    pub name: String,
    /// At least one, none twice.
    pub authorities: Vec<Authority>,
    /// It is about the requests to this service and nothing else: what comes for it and is no HTTP has no part in the rules.
    /// `None`: about whatever comes for the authorities.
    pub service: Option<ServiceName>,
    pub rules: Vec<Rule>,
}

/// One authority's rules, in order.
#[derive(Clone, Debug, PartialEq)]
pub struct RouteTable {
    pub authority: Authority,
    /// Where what is no HTTP goes, which need not exist. `None`: where the only rule leads whatever is asked, if it does.
    pub service: Option<ServiceName>,
    pub rules: Vec<Rule>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// The route object it came from and its place there, such as `checkout[0]`: for logs and `why`.
    pub name: String,
    pub matches: Match,
    /// At least one, weights 0..=1_000_000, not all 0; none where `filters` redirect.
    pub backends: Vec<Backend>,
    /// Overrides the policy of the backend's service for requests that take this rule.
    pub policy: Option<PolicyName>,
    /// `None`: the request goes as it came.
    pub filters: Option<Box<Filters>>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Backend {
    /// `None`: what was named does not exist or may not be used, and its share is answered with 500 (Gateway API).
    pub service: Option<ServiceName>,
    pub weight: u32,
    /// After those of the rule.
    pub edits: Option<Box<Edits>>,
}

impl Backend {
    /// To `service`, unchanged.
    pub fn to(service: ServiceName, weight: u32) -> Self {
        Self { service: Some(service), weight, edits: None }
    }
}

impl Authority {
    /// Normalises what a client or an operator wrote: lower-case, no trailing dot, ports and IPv6 addresses in their
    /// shortest form; user information refused.
    pub fn parse(text: &str) -> Option<Self> {
        let ok = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b':' | b'[' | b']');
        if text.is_empty() || text.len() > 260 || !text.bytes().all(ok) {
            return None;
        }
        let (host, port) = split_port(text)?;
        let mut out = match host.strip_prefix('[').map(|rest| rest.strip_suffix(']')) {
            // one address has many spellings
            Some(inner) => format!("[{}]", inner?.parse::<std::net::Ipv6Addr>().ok()?),
            None if host.contains(['[', ']']) => return None,
            None => host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase(),
        };
        if out.is_empty() || out.ends_with('.') {
            return None;
        }
        if let Some(port) = port {
            out.push(':');
            out.push_str(&port.parse::<u16>().ok()?.to_string());
        }
        Some(Self(out.into()))
    }
    /// The authority that a service's own name is.
    pub fn of_service(name: &ServiceName) -> Self {
        Self(name.as_str().into())
    }
    pub fn as_str(&self) -> &str {
        &self.0
    }
    pub fn host(&self) -> &str {
        split_port(&self.0).map_or(&self.0, |(host, _)| host)
    }
    pub fn port(&self) -> Option<u16> {
        split_port(&self.0)?.1?.parse().ok()
    }
    /// The same authority without its port.
    pub fn without_port(&self) -> Authority {
        Self(self.host().into())
    }
}

impl std::fmt::Display for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// `None` when the port is not a number of 0..=65535 or a bare IPv6 address has no brackets.
fn split_port(text: &str) -> Option<(&str, Option<&str>)> {
    if let Some(rest) = text.strip_prefix('[') {
        let end = rest.find(']')? + 2;
        let after = &text[end..];
        return match after.strip_prefix(':') {
            Some(port) => port.parse::<u16>().ok().map(|_| (&text[..end], Some(port))),
            None => after.is_empty().then_some((text, None)),
        };
    }
    match text.split_once(':') {
        None => Some((text, None)),
        Some((host, port)) => port.parse::<u16>().ok().map(|_| (host, Some(port))),
    }
}

impl RouteTable {
    /// What a service's name means as an authority while no route names it: everything goes to that service.
    pub fn implicit(service: &ServiceName) -> Self {
        let rule = Rule {
            name: service.to_string(),
            matches: Match::default(),
            backends: vec![Backend::to(service.clone(), 1)],
            policy: None,
            filters: None,
        };
        Self { authority: Authority::of_service(service), service: None, rules: vec![rule] }
    }

    /// Where it leads whatever is asked.
    pub fn only(&self) -> Option<&ServiceName> {
        let [Rule { matches, backends, .. }] = self.rules.as_slice() else { return None };
        let [Backend { service, .. }] = backends.as_slice() else { return None };
        service.as_ref().filter(|_| *matches == Match::default())
    }

    /// The first rule that matches.
    pub fn find(&self, request: &impl Request) -> Option<&Rule> {
        self.rules.iter().find(|rule| rule.matches.matches(request))
    }
}

impl Rule {
    pub fn redirect(&self) -> Option<&Redirect> {
        self.filters.as_ref()?.redirect.as_ref()
    }
    pub fn cors(&self) -> Option<&Cors> {
        self.filters.as_ref()?.cors.as_ref()
    }
    /// Whether it is for `request`. What a browser asks beforehand is for the rule that the request itself will be for, as far
    /// as path, query and method say so, where that rule has an answer.
    pub fn is_for(&self, request: &impl Request, asked: Option<&Preflight>) -> bool {
        let itself = |asked: &Preflight| {
            self.cors().is_some() && self.matches.matches(&Announced { request, method: &asked.method })
        };
        self.matches.matches(request) || asked.is_some_and(itself)
    }
    pub fn mirrors(&self) -> &[Mirror] {
        self.filters.as_ref().map_or(&[], |filters| &filters.mirrors)
    }

    /// The index of the backend that `random` (uniform over u64) falls on, in proportion to the weights.
    pub fn backend(&self, random: u64) -> Option<usize> {
        if self.backends.len() == 1 {
            return Some(0);
        }
        let total: u64 = self.backends.iter().map(|b| u64::from(b.weight)).sum();
        let mut left = random.checked_rem(total)?;
        self.backends.iter().position(|b| {
            let weight = u64::from(b.weight);
            let hit = left < weight;
            left = left.saturating_sub(weight);
            hit
        })
    }
}

/// The same request with another method.
struct Announced<'a, R> {
    request: &'a R,
    method: &'a str,
}

impl<R: Request> Request for Announced<'_, R> {
    fn authority(&self) -> &str {
        self.request.authority()
    }
    fn path(&self) -> &str {
        self.request.path()
    }
    fn query(&self) -> Option<&str> {
        self.request.query()
    }
    fn method(&self) -> &str {
        self.method
    }
    fn any_header(&self, name: &str, wanted: &mut dyn FnMut(&[u8]) -> bool) -> bool {
        self.request.any_header(name, wanted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    struct Get<'a>(&'a str);

    impl Request for Get<'_> {
        fn authority(&self) -> &str {
            "shop"
        }
        fn path(&self) -> &str {
            self.0
        }
        fn query(&self) -> Option<&str> {
            None
        }
        fn method(&self) -> &str {
            "GET"
        }
        fn any_header(&self, _: &str, _: &mut dyn FnMut(&[u8]) -> bool) -> bool {
            false
        }
    }

    fn rule(name: &str, matches: Match, weights: &[(&str, u32)]) -> Rule {
        let backend = |(name, weight): &(&str, u32)| Backend::to(ServiceName::parse(name).expect("a name"), *weight);
        Rule {
            name: name.into(),
            matches,
            backends: weights.iter().map(backend).collect(),
            policy: None,
            filters: None,
        }
    }

    #[test]
    fn the_first_rule_that_matches_wins() {
        let under = |prefix: &str| Match { path: PathMatch::Prefix(prefix.into()), ..Match::default() };
        let rules = vec![rule("a", under("/a/b"), &[]), rule("b", under("/a"), &[]), rule("c", under("/a/b/c"), &[])];
        let table = RouteTable { authority: Authority::parse("x").expect("an authority"), service: None, rules };
        let found = |path| table.find(&Get(path)).map(|rule| rule.name.as_str());
        assert_eq!((found("/a/b/c"), found("/a/c"), found("/c")), (Some("a"), Some("b"), None));
    }

    #[test]
    fn backends_are_chosen_in_proportion_to_their_weights() {
        let rule = rule("r", Match::default(), &[("a", 0), ("b", 90), ("c", 0), ("d", 10), ("e", 0)]);
        let chosen = |random| rule.backend(random).and_then(|b| rule.backends[b].service.clone());
        let count = |name: &str| {
            (0..1_000).filter(|random| chosen(*random).is_some_and(|chosen| chosen.as_str() == name)).count()
        };
        assert_eq!([count("a"), count("b"), count("c"), count("d"), count("e")], [0, 900, 0, 100, 0]);
        assert!(chosen(u64::MAX).is_some());
    }

    #[test]
    fn weights_that_choose_nothing_choose_nothing() {
        assert!(rule("r", Match::default(), &[("a", 0), ("b", 0)]).backend(7).is_none());
        assert!(rule("r", Match::default(), &[]).backend(7).is_none());
    }

    #[test]
    fn an_authority_has_one_spelling() {
        for (text, wanted, host, port) in [
            ("shop.example", "shop.example", "shop.example", None),
            ("Shop.Example.:8443", "shop.example:8443", "shop.example", Some(8443)),
            ("shop:080", "shop:80", "shop", Some(80)),
            ("10.0.0.1:80", "10.0.0.1:80", "10.0.0.1", Some(80)),
            ("[::1]", "[::1]", "[::1]", None),
            ("[2001:DB8:0::1]:443", "[2001:db8::1]:443", "[2001:db8::1]", Some(443)),
            ("my_service", "my_service", "my_service", None),
        ] {
            let authority = Authority::parse(text).expect(text);
            assert_eq!((authority.as_str(), authority.host(), authority.port()), (wanted, host, port));
            assert_eq!(authority.without_port().as_str(), host);
        }
    }

    #[test]
    fn what_is_no_authority_is_refused() {
        let long = "a".repeat(261);
        for text in [
            "", ".", ":80", "a:", "a:b", "a:65536", "a:-1", "a:+1", "u@a", "a/b", "a b", "ü", "::1", "[::1", "[::1]x",
            "[]", "[a]", "a[b]", "a]", "[::1]:", "a:1:2", &long,
        ] {
            assert_eq!(Authority::parse(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn an_authority_parses_to_itself(text in "[a-zA-Z0-9.:\\[\\]_@-]{0,20}") {
            if let Some(authority) = Authority::parse(&text) {
                prop_assert_eq!(Authority::parse(authority.as_str()), Some(authority.clone()));
                prop_assert!(authority.as_str().starts_with(authority.host()));
                prop_assert_eq!(authority.port(), authority.as_str()[authority.host().len()..].strip_prefix(':').and_then(|p| p.parse().ok()));
            }
        }
    }
}
