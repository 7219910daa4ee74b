//! Which requests a rule is for.
//!
//! It decides what equals what: paths by whole segments, headers by any of their values, query parameters by the first of
//! their name, percent-decoded. It deliberately normalises no path: what the application would take for another, we do too.

use super::pattern::Pattern;

/// All parts must match; an empty part matches everything.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Match {
    pub path: PathMatch,
    /// Upper-case methods; empty: any.
    pub methods: Vec<String>,
    pub headers: Vec<HeaderMatch>,
    pub query: Vec<QueryMatch>,
}

#[derive(Clone, Debug, PartialEq, Default)]
pub enum PathMatch {
    #[default]
    Any,
    Exact(String),
    /// By whole segments, as Gateway API: `/api` matches `/api` and `/api/x`, not `/apix`.
    Prefix(String),
    Regex(Pattern),
}

#[derive(Clone, Debug, PartialEq)]
pub struct HeaderMatch {
    /// Lower-case.
    pub name: String,
    pub value: ValueMatch,
}

/// A parameter of the query. Of several with one name the first counts.
#[derive(Clone, Debug, PartialEq)]
pub struct QueryMatch {
    /// Decoded.
    pub name: String,
    /// Of the decoded value. A parameter without `=` has an empty one.
    pub value: ValueMatch,
}

#[derive(Clone, Debug, PartialEq)]
pub enum ValueMatch {
    Exact(String),
    Present,
    Absent,
    Regex(Pattern),
}

/// What a rule may look at, without naming an HTTP library.
pub trait Request {
    /// As the caller named it, `host` or `host:port`: where a redirect leads that names no other.
    fn authority(&self) -> &str;
    fn path(&self) -> &str;
    /// Behind the `?`, as it came.
    fn query(&self) -> Option<&str>;
    fn method(&self) -> &str;
    /// Whether some value of header `name` satisfies `wanted`.
    fn any_header(&self, name: &str, wanted: &mut dyn FnMut(&[u8]) -> bool) -> bool;
}

impl Match {
    pub fn matches(&self, request: &impl Request) -> bool {
        self.path.matches(request.path())
            && (self.methods.is_empty() || self.methods.iter().any(|m| m == request.method()))
            && self.headers.iter().all(|h| h.matches(request))
            && self.query.iter().all(|q| q.matches(request.query()))
    }

    /// How many patterns it holds.
    pub fn patterns(&self) -> usize {
        let values = self.headers.iter().map(|h| &h.value).chain(self.query.iter().map(|q| &q.value));
        let path = usize::from(matches!(self.path, PathMatch::Regex(_)));
        path + values.filter(|value| matches!(value, ValueMatch::Regex(_))).count()
    }
}

impl PathMatch {
    fn matches(&self, path: &str) -> bool {
        match self {
            PathMatch::Any => true,
            PathMatch::Exact(wanted) => path == wanted,
            PathMatch::Prefix(_) => self.behind_prefix(path).is_some(),
            PathMatch::Regex(pattern) => pattern.matches(path.as_bytes()),
        }
    }

    /// What stands behind the part of `path` that the prefix matched: nothing, or what begins with `/`. A prefix without
    /// its last `/` means the same. `None`: it does not match, or it is no prefix.
    pub(super) fn behind_prefix<'a>(&self, path: &'a str) -> Option<&'a str> {
        let prefix = match self {
            PathMatch::Any => "",
            PathMatch::Prefix(prefix) => prefix.strip_suffix('/').unwrap_or(prefix),
            PathMatch::Exact(_) | PathMatch::Regex(_) => return None,
        };
        path.strip_prefix(prefix).filter(|rest| rest.is_empty() || rest.starts_with('/'))
    }

    /// Whether a part of the path can be replaced by [`PathEdit::Prefix`](super::PathEdit::Prefix).
    pub fn has_prefix(&self) -> bool {
        matches!(self, PathMatch::Any | PathMatch::Prefix(_))
    }
}

impl HeaderMatch {
    fn matches(&self, request: &impl Request) -> bool {
        match &self.value {
            ValueMatch::Exact(wanted) => request.any_header(&self.name, &mut |v| v == wanted.as_bytes()),
            ValueMatch::Present => request.any_header(&self.name, &mut |_| true),
            ValueMatch::Absent => !request.any_header(&self.name, &mut |_| true),
            ValueMatch::Regex(pattern) => request.any_header(&self.name, &mut |v| pattern.matches(v)),
        }
    }
}

impl QueryMatch {
    fn matches(&self, query: Option<&str>) -> bool {
        let first = query.and_then(|query| self.first(query));
        match (&self.value, first) {
            (ValueMatch::Present, first) => first.is_some(),
            (ValueMatch::Absent, first) => first.is_none(),
            (ValueMatch::Exact(wanted), Some(value)) => decoded(value).eq(wanted.bytes()),
            (ValueMatch::Regex(pattern), Some(value)) => pattern.matches(&decoded(value).collect::<Vec<u8>>()),
            (ValueMatch::Exact(_) | ValueMatch::Regex(_), None) => false,
        }
    }

    /// The value of the first parameter of the name, as it came.
    fn first<'a>(&self, query: &'a str) -> Option<&'a str> {
        query.split('&').filter(|pair| !pair.is_empty()).find_map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            decoded(name).eq(self.name.bytes()).then_some(value)
        })
    }
}

/// RFC 3986, section 2.1. A `%` that no two digits follow stands for itself, and so does `+`.
fn decoded(text: &str) -> impl Iterator<Item = u8> + '_ {
    let mut rest = text.as_bytes();
    std::iter::from_fn(move || {
        let (first, after) = rest.split_first()?;
        rest = after;
        if let (b'%', [high, low, after @ ..]) = (first, after)
            && let (Some(high), Some(low)) = (hex(*high), hex(*low))
        {
            rest = after;
            return Some((high << 4) | low);
        }
        Some(*first)
    })
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A method, a target and fields.
    struct Get<'a>(&'a str, &'a str, &'a [(&'a str, &'a str)]);

    impl Request for Get<'_> {
        fn authority(&self) -> &str {
            "shop"
        }
        fn path(&self) -> &str {
            self.1.split('?').next().unwrap_or_default()
        }
        fn query(&self) -> Option<&str> {
            self.1.split_once('?').map(|(_, query)| query)
        }
        fn method(&self) -> &str {
            self.0
        }
        fn any_header(&self, name: &str, wanted: &mut dyn FnMut(&[u8]) -> bool) -> bool {
            self.2.iter().any(|(n, value)| *n == name && wanted(value.as_bytes()))
        }
    }

    fn matched(path: PathMatch, request: &str) -> bool {
        Match { path, ..Match::default() }.matches(&Get("GET", request, &[]))
    }

    fn pattern(text: &str) -> Pattern {
        Pattern::parse(text).expect("a pattern")
    }

    #[test]
    fn an_empty_match_matches_everything() {
        for path in ["/", "/x", "*", ""] {
            assert!(matched(PathMatch::Any, path), "{path}");
        }
    }

    #[test]
    fn an_exact_path_is_the_whole_path() {
        let exact = || PathMatch::Exact("/api".into());
        assert!(matched(exact(), "/api"));
        for path in ["/api/", "/API", "/ap", "/api/x"] {
            assert!(!matched(exact(), path), "{path}");
        }
    }

    #[test]
    fn a_prefix_is_matched_by_whole_segments() {
        for prefix in ["/api", "/api/"] {
            for (path, wanted) in
                [("/api", true), ("/api/", true), ("/api/x", true), ("/apix", false), ("/", false), ("/x/api", false)]
            {
                assert_eq!(matched(PathMatch::Prefix(prefix.into()), path), wanted, "{prefix} {path}");
            }
        }
        assert!(matched(PathMatch::Prefix("/".into()), "/") && matched(PathMatch::Prefix("/".into()), "/x"));
    }

    #[test]
    fn methods_are_alternatives_and_keep_their_case() {
        let matches = Match { methods: vec!["GET".into(), "HEAD".into()], ..Match::default() };
        for (method, wanted) in [("GET", true), ("HEAD", true), ("POST", false), ("get", false)] {
            assert_eq!(matches.matches(&Get(method, "/", &[])), wanted, "{method}");
        }
    }

    #[test]
    fn every_header_must_match_and_any_of_its_values_may() {
        let header = |name: &str, value| HeaderMatch { name: name.into(), value };
        let headers = vec![
            header("x-canary", ValueMatch::Exact("1".into())),
            header("x-debug", ValueMatch::Present),
            header("x-old", ValueMatch::Absent),
        ];
        let matches = Match { headers, ..Match::default() };
        let cases: [(&[(&str, &str)], bool); 5] = [
            (&[("x-canary", "1"), ("x-debug", "")], true),
            (&[("x-canary", "0"), ("x-canary", "1"), ("x-debug", "y")], true),
            (&[("x-canary", "1")], false),
            (&[("x-canary", "10"), ("x-debug", "")], false),
            (&[("x-canary", "1"), ("x-debug", ""), ("x-old", "")], false),
        ];
        for (headers, wanted) in cases {
            assert_eq!(matches.matches(&Get("GET", "/", headers)), wanted, "{headers:?}");
        }
    }

    #[test]
    fn a_query_parameter_is_the_first_of_its_name_decoded() {
        let query = |name: &str, value| {
            let query = vec![QueryMatch { name: name.into(), value }];
            Match { query, ..Match::default() }
        };
        let exact = |value: &str| ValueMatch::Exact(value.into());
        for (matches, target, wanted) in [
            (query("a", exact("1")), "/?a=1", true),
            (query("a", exact("1")), "/?b=2&a=1&a=2", true),
            (query("a", exact("2")), "/?a=1&a=2", false),
            (query("a", exact("1")), "/", false),
            (query("a", exact("1")), "/?A=1", false),
            (query("a", exact("b c")), "/?a=b%20c", true),
            (query("a", exact("b c")), "/?a=b+c", false),
            (query("a", exact("b+c")), "/?a=b+c", true),
            (query("a/b", exact("ü")), "/?a%2fb=%C3%bc", true),
            (query("a", exact("100%")), "/?a=100%", true),
            (query("a", exact("%zz")), "/?a=%zz", true),
            (query("a", exact("b=c")), "/?a=b=c", true),
            (query("a", exact("")), "/?a", true),
            (query("a", exact("")), "/?&&a=&", true),
            (query("a", ValueMatch::Present), "/?a", true),
            (query("a", ValueMatch::Present), "/?b", false),
            (query("a", ValueMatch::Absent), "/?b", true),
            (query("a", ValueMatch::Absent), "/", true),
            (query("a", ValueMatch::Absent), "/?a=", false),
            (query("a", ValueMatch::Regex(pattern("v[0-9]"))), "/?a=%761", true),
            (query("a", ValueMatch::Regex(pattern("v[0-9]"))), "/?a=v12", false),
            (query("a", ValueMatch::Regex(pattern(".*"))), "/?b", false),
        ] {
            assert_eq!(matches.matches(&Get("GET", target, &[])), wanted, "{matches:?} {target}");
        }
    }

    #[test]
    fn patterns_match_whole_paths_and_whole_values() {
        let path = || PathMatch::Regex(pattern("/v[12]/.+"));
        assert!(matched(path(), "/v1/x") && !matched(path(), "/v3/x") && !matched(path(), "/v1/"));
        let headers = vec![HeaderMatch { name: "x-v".into(), value: ValueMatch::Regex(pattern("1|2")) }];
        let matches = Match { headers, path: path(), ..Match::default() };
        assert_eq!(matches.patterns(), 2);
        assert!(matches.matches(&Get("GET", "/v1/x", &[("x-v", "3"), ("x-v", "2")])));
        assert!(!matches.matches(&Get("GET", "/v1/x", &[("x-v", "12")])));
    }
}
