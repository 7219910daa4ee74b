//! Cross-origin requests (Fetch, 3.2; Gateway API's filter `CORS`): which pages may read a service's answers.
//!
//! It decides what a browser is told, before a request that is not simple and with each answer, by Gateway API's rules. It
//! deliberately refuses no request: whoever is not told that he may is stopped by his browser, and only by that.
//!
//! Invariant: `*` is never said where credentials are allowed.

use super::{Request, Scheme, split_port};
use crate::policy::is_field_value;

/// Entries of each list.
pub const MAX_CORS: usize = 64;
/// Of seconds; browsers cut it to far less.
pub const MAX_CORS_AGE: u32 = i32::MAX as u32;
const ANY: &str = "*";
const ALLOW_ORIGIN: &str = "access-control-allow-origin";
const ALLOW_CREDENTIALS: &str = "access-control-allow-credentials";
const EXPOSE: &str = "access-control-expose-headers";
const ALLOW_METHODS: &str = "access-control-allow-methods";
const ALLOW_HEADERS: &str = "access-control-allow-headers";
const MAX_AGE: &str = "access-control-max-age";
/// What the rule says for the service: none of it is left of what that says itself.
pub const CORS_FIELDS: [&str; 6] = [ALLOW_ORIGIN, ALLOW_CREDENTIALS, EXPOSE, ALLOW_METHODS, ALLOW_HEADERS, MAX_AGE];
/// What scripts see without being told (Fetch, 2.2.2), and what they never do.
const UNTOLD: [&str; 9] = [
    "cache-control",
    "content-language",
    "content-length",
    "content-type",
    "expires",
    "last-modified",
    "pragma",
    "set-cookie",
    "set-cookie2",
];

/// Of each list `*` stands alone, but of `expose`. [`Cors::new`] sees to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cors {
    origins: Vec<Origin>,
    methods: Vec<String>,
    headers: Vec<String>,
    expose: Vec<String>,
    pub credentials: bool,
    /// How long a browser may keep what it was told, in seconds.
    pub max_age: u32,
}

/// `*`, or scheme, host and port, of which the host may be `*` or begin with `*.`: any labels to its left.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Origin {
    text: String,
    /// `None`: any.
    parts: Option<(Scheme, String, u16)>,
}

/// What a browser asks before the request itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Preflight {
    pub origin: String,
    pub method: String,
    headers: Option<String>,
}

/// The words of a filter, as they are written.
#[derive(Clone, Debug, Default)]
pub struct CorsWords {
    pub origins: Vec<String>,
    pub methods: Vec<String>,
    pub headers: Vec<String>,
    pub expose: Vec<String>,
}

impl Cors {
    /// What a browser keeps for so long where nothing is said.
    pub const DEFAULT_AGE: u32 = 5;

    /// # Errors
    /// For each word that cannot stand where it does: the list, its place there, and why.
    pub fn new(words: CorsWords, credentials: bool, max_age: u32) -> Result<Self, Vec<(List, usize, &'static str)>> {
        let CorsWords { origins, methods, headers, expose } = words;
        let mut faults = Vec::new();
        for (list, all) in [(List::Origins, &origins), (List::Methods, &methods), (List::Headers, &headers)] {
            let any = all.iter().position(|word| word == ANY).filter(|_| all.len() > 1);
            faults.extend(any.map(|at| (list, at, "* means any, and stands alone")));
        }
        for (list, all) in List::ALL.into_iter().zip([&origins, &methods, &headers, &expose]) {
            if all.len() > MAX_CORS {
                faults.push((list, MAX_CORS, "is one too many: 64 are the most"));
            }
        }
        let mut names = |list, all: Vec<String>, name: &dyn Fn(String) -> Option<String>, why| {
            let named = all.into_iter().enumerate().filter_map(|(at, word)| {
                let name = name(word);
                if name.is_none() {
                    faults.push((list, at, why));
                }
                name
            });
            named.collect::<Vec<String>>()
        };
        let field = |word: String| Some(word.to_ascii_lowercase()).filter(|word| is_token(word));
        let methods = names(List::Methods, methods, &|word| Some(word).filter(|word| is_token(word)), "is no method");
        let headers = names(List::Headers, headers, &field, "is no header's name");
        let expose = names(List::Expose, expose, &field, "is no header's name");
        let origins = origins.into_iter().enumerate().filter_map(|(at, word)| {
            let origin = Origin::parse(&word);
            if origin.is_none() {
                faults.push((
                    List::Origins,
                    at,
                    "is no origin: write *, https://shop.example or https://*.example:8443",
                ));
            }
            origin
        });
        let origins = origins.collect();
        if faults.is_empty() {
            Ok(Self { origins, methods, headers, expose, credentials, max_age })
        } else {
            Err(faults)
        }
    }

    /// As they were written, but for the case of what has none.
    pub fn words(&self) -> CorsWords {
        let Self { origins, methods, headers, expose, .. } = self.clone();
        let origins = origins.into_iter().map(|origin| origin.text).collect();
        CorsWords { origins, methods, headers, expose }
    }

    /// Whether what is said depends on who asks.
    pub fn varies(&self) -> bool {
        self.credentials || !self.origins.iter().any(|origin| origin.parts.is_none())
    }

    /// What the answer to a question says; `None`: that origin may not.
    pub fn preflight(&self, asked: &Preflight) -> Option<Vec<(&'static str, String)>> {
        let mut fields = self.answer(&asked.origin, [])?;
        let is_any = |list: &[String]| list.iter().any(|word| word == ANY);
        if is_any(&self.methods) {
            fields.push((ALLOW_METHODS, asked.method.clone()));
        } else if !self.methods.is_empty() {
            fields.push((ALLOW_METHODS, self.methods.join(", ")));
        }
        if is_any(&self.headers) {
            fields.extend(asked.headers.clone().map(|headers| (ALLOW_HEADERS, headers)));
        } else if !self.headers.is_empty() {
            fields.push((ALLOW_HEADERS, self.headers.join(", ")));
        }
        fields.push((MAX_AGE, self.max_age.to_string()));
        Some(fields)
    }

    /// What every answer to `origin` says, which has the fields `has`; `None`: that origin may not read it.
    pub fn answer<'a>(
        &self,
        origin: &str,
        has: impl IntoIterator<Item = &'a str>,
    ) -> Option<Vec<(&'static str, String)>> {
        if !self.origins.iter().any(|allowed| allowed.is(origin, self.credentials)) {
            return None;
        }
        let told = if self.varies() { origin } else { ANY };
        let mut fields = vec![(ALLOW_ORIGIN, told.to_owned())];
        if self.credentials {
            fields.push((ALLOW_CREDENTIALS, "true".to_owned()));
        }
        let exposed = self.exposed(has);
        if !exposed.is_empty() {
            fields.push((EXPOSE, exposed));
        }
        Some(fields)
    }

    /// Of all that an answer has, each name is said: `*` would be a name where there are credentials.
    fn exposed<'a>(&self, has: impl IntoIterator<Item = &'a str>) -> String {
        let any = self.expose.iter().any(|name| name == ANY);
        if any && !self.credentials {
            return ANY.to_owned();
        }
        let mut names: Vec<&str> = self.expose.iter().map(String::as_str).filter(|name| *name != ANY).collect();
        if any {
            let told = |name: &&str| !UNTOLD.contains(name) && !CORS_FIELDS.contains(name) && !names.contains(name);
            let mut all: Vec<&str> = has.into_iter().filter(told).collect();
            all.sort_unstable();
            all.dedup();
            names.extend(all);
        }
        names.join(", ")
    }
}

/// Of a filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum List {
    Origins,
    Methods,
    Headers,
    Expose,
}

impl List {
    pub const ALL: [Self; 4] = [Self::Origins, Self::Methods, Self::Headers, Self::Expose];
}

impl Origin {
    fn parse(text: &str) -> Option<Self> {
        let text = text.to_ascii_lowercase();
        if text == ANY {
            return Some(Self { text, parts: None });
        }
        let (scheme, host, port) = parts(&text)?;
        let name = host.strip_prefix("*.").unwrap_or(host);
        let fits = host == ANY || super::Authority::parse(name).is_some_and(|name| name.port().is_none());
        let parts = Some((scheme, host.to_owned(), port));
        (fits && text.len() <= 253).then_some(Self { text, parts })
    }

    /// A page without an origin of its own says `null`, and anybody can make one: with credentials it may not.
    fn is(&self, origin: &str, credentials: bool) -> bool {
        let Some((scheme, host, port)) = &self.parts else { return !credentials || parts(origin).is_some() };
        let Some((its_scheme, its_host, its_port)) = parts(origin) else { return false };
        let its_host = its_host.to_ascii_lowercase();
        let same_host = match host.strip_prefix('*') {
            Some(end) => its_host.len() > end.len() && its_host.ends_with(end),
            None => its_host == *host,
        };
        (its_scheme, its_port) == (*scheme, *port) && same_host
    }
}

/// `https://host:port`; the port that the scheme implies may be left out.
fn parts(origin: &str) -> Option<(Scheme, &str, u16)> {
    let (scheme, rest) = origin.split_once("://")?;
    let (_, scheme) = Scheme::ALL.into_iter().find(|(word, _)| *word == scheme)?;
    let (host, port) = split_port(rest)?;
    let port = port.map_or(Some(scheme.port()), |port| port.parse().ok())?;
    let ok = |b: u8| b.is_ascii_alphanumeric() || b"-._[]:*".contains(&b);
    (!host.is_empty() && host.bytes().all(ok)).then_some((scheme, host, port))
}

/// A method's or a field's name (RFC 9110, 5.6.2), of at most 256 bytes.
pub fn is_token(text: &str) -> bool {
    let ok = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    (1..=256).contains(&text.len()) && text.bytes().all(ok)
}

impl Preflight {
    /// `None`: the request is none (Fetch, 4.8).
    pub fn of(request: &impl Request) -> Option<Self> {
        if request.method() != "OPTIONS" {
            return None;
        }
        let first = |name: &str| {
            let mut found = None;
            request.any_header(name, &mut |value| {
                found = std::str::from_utf8(value).ok().map(str::to_owned);
                true
            });
            found
        };
        let (origin, method) = (first("origin")?, first("access-control-request-method")?);
        let headers = first("access-control-request-headers").filter(|text| is_field_value(text) && !text.is_empty());
        is_token(&method).then_some(Self { origin, method, headers })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cors(origins: &[&str], any: &str, credentials: bool) -> Cors {
        let all = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        let (methods, headers, expose) = (all(&[any]), all(&[any]), all(&[any]));
        let words = CorsWords { origins: all(origins), methods, headers, expose };
        Cors::new(words, credentials, 7).expect("a filter")
    }

    fn asked(origin: &str) -> Preflight {
        Preflight { origin: origin.into(), method: "PUT".into(), headers: Some("x-a,x-b".into()) }
    }

    #[test]
    fn an_origin_is_scheme_host_and_port() {
        for (allowed, origin, wanted) in [
            ("https://www.foo.com", "https://www.foo.com", true),
            ("https://www.foo.com", "https://WWW.foo.com:443", true),
            ("HTTPS://WWW.Foo.com:443", "https://www.foo.com", true),
            ("https://www.foo.com", "http://www.foo.com", false),
            ("https://www.foo.com", "https://www.foo.com:8443", false),
            ("https://www.foo.com", "https://www.foo.com.evil", false),
            ("https://www.foo.com", "https://evil/https://www.foo.com", false),
            ("http://foo:8080", "http://foo:8080", true),
            ("https://*.bar.com", "https://www.bar.com", true),
            ("https://*.bar.com", "https://a.b.bar.com", true),
            ("https://*.bar.com", "https://bar.com", false),
            ("https://*.bar.com", "https://.bar.com", false),
            ("https://*.bar.com", "https://evilbar.com", false),
            ("https://*.bar.com", "https://www.bar.com:444", false),
            ("https://*", "https://any.thing", true),
            ("https://*", "http://any.thing", false),
            ("http://*:81", "http://a:81", true),
            ("http://[::1]:80", "http://[::1]", true),
            ("https://www.foo.com", "null", false),
            ("*", "null", true),
            ("*", "ftp://x", true),
        ] {
            let told = cors(&[allowed], "x-a", false).answer(origin, []);
            assert_eq!(told.is_some(), wanted, "{allowed} {origin}");
        }
        assert!(cors(&["*"], "x-a", true).answer("null", []).is_none(), "anybody can be that");
        assert!(cors(&[], "x-a", false).answer("https://a", []).is_none());
    }

    #[test]
    fn any_is_never_said_with_credentials() {
        let said = |credentials| {
            let cors = cors(&["*"], "*", credentials);
            let answer = cors.answer("https://a:1", ["x-b", "content-type", "set-cookie", "vary", ALLOW_ORIGIN, "x-b"]);
            let all = [cors.preflight(&asked("https://a:1")), answer].map(|fields| {
                let line = |(name, value): (&str, String)| format!("{}: {value}", &name["access-control-".len()..]);
                fields.unwrap_or_default().into_iter().map(line).collect::<Vec<_>>().join("; ")
            });
            (cors.varies(), all)
        };
        let pre = "allow-origin: *; expose-headers: *; allow-methods: PUT; allow-headers: x-a,x-b; max-age: 7";
        assert_eq!(said(false), (false, [pre.into(), "allow-origin: *; expose-headers: *".into()]));
        let pre = "allow-origin: https://a:1; allow-credentials: true; allow-methods: PUT; allow-headers: x-a,x-b; max-age: 7";
        let own = "allow-origin: https://a:1; allow-credentials: true; expose-headers: vary, x-b";
        assert_eq!(said(true), (true, [pre.into(), own.into()]));
        let none = Preflight { headers: None, ..asked("https://a") };
        let fields = cors(&["*"], "*", true).preflight(&none).expect("an answer");
        assert!(fields.iter().all(|(name, _)| *name != ALLOW_HEADERS), "{fields:?}");
    }

    #[test]
    fn lists_are_said_as_they_are() {
        let all = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        let words = CorsWords {
            origins: all(&["https://a"]),
            methods: all(&["GET", "PUT"]),
            headers: all(&["X-A", "x-b"]),
            expose: all(&["X-C"]),
        };
        let fields = Cors::new(words, false, 5).expect("a filter").preflight(&asked("https://a")).expect("an answer");
        let wanted = [
            (ALLOW_ORIGIN, "https://a"),
            (EXPOSE, "x-c"),
            (ALLOW_METHODS, "GET, PUT"),
            (ALLOW_HEADERS, "x-a, x-b"),
            (MAX_AGE, "5"),
        ];
        assert!(fields.iter().map(|(name, value)| (*name, value.as_str())).eq(wanted), "{fields:?}");
        let none = Cors::new(CorsWords { origins: all(&["*"]), ..CorsWords::default() }, false, 5).expect("a filter");
        let fields = none.preflight(&asked("https://a")).expect("an answer");
        assert_eq!(fields, [(ALLOW_ORIGIN, "*".to_owned()), (MAX_AGE, "5".to_owned())]);
    }

    #[test]
    fn what_cannot_stand_where_it_does_is_told_with_its_place() {
        let all = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        let bad = CorsWords {
            origins: all(&[
                "*",
                "shop.example",
                "ftp://x",
                "https://a/b",
                "https://a*b",
                "https://u@a",
                "https://*.",
                "null",
            ]),
            methods: all(&["GET", "*", "A B"]),
            headers: all(&["x a"]),
            expose: all(&["*", "x-a", ""]),
        };
        let faults = Cors::new(bad, false, 5).expect_err("faults");
        let mut places: Vec<(usize, usize)> = faults
            .iter()
            .map(|(list, at, _)| (List::ALL.iter().position(|other| other == list).expect("a list"), *at))
            .collect();
        places.sort_unstable();
        let mut wanted: Vec<(usize, usize)> = (0..8).map(|at| (0, at)).collect();
        wanted.extend([(1, 1), (1, 2), (2, 0), (3, 2)]);
        assert_eq!(places, wanted);
        let many = CorsWords { methods: vec!["GET".into(); 65], ..CorsWords::default() };
        assert_eq!(Cors::new(many, false, 5).map_err(|faults| faults.len()), Err(1));
    }
}
