//! What a rule changes: fields of requests and answers, host and path; and what it does beside or instead of sending the
//! request on: copies of it, and redirects.
//!
//! It decides what an edited path is and where a redirect leads, by Gateway API's rules. It deliberately lets nobody touch
//! fields that frame a message, that are for one connection only, or that are ours.

use super::matching::{PathMatch, Request};
use super::{Authority, Cors, split_port};
use crate::name::ServiceName;
use crate::policy::{Ratio, is_field_name};

/// Of one kind in one place, such as the fields that a rule sets.
pub const MAX_EDITS: usize = 64;
pub const MAX_MIRRORS: usize = 16;
/// The statuses that a redirect may have; the default is the second.
pub const REDIRECTS: [u16; 5] = [301, 302, 303, 307, 308];

#[derive(Clone, Debug, PartialEq, Default)]
pub struct Filters {
    pub edits: Edits,
    /// The host that the application sees in place of the one that was asked for.
    pub host: Option<Authority>,
    pub path: Option<PathEdit>,
    /// The answer, instead of anything else here.
    pub redirect: Option<Redirect>,
    /// At most [`MAX_MIRRORS`].
    pub mirrors: Vec<Mirror>,
    /// Whose pages may read the answers; `None`: as the service says.
    pub cors: Option<Cors>,
}

/// On the way there and back.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Edits {
    pub request: HeaderEdits,
    /// Of the service's answers; those that the mesh gives itself stay as they are.
    pub response: HeaderEdits,
}

/// In this order. Names in lower case that [`may_edit`] allows; values as [`is_field_value`](crate::policy::is_field_value)
/// allows them; at most [`MAX_EDITS`] of each.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct HeaderEdits {
    /// In place of whatever came.
    pub set: Vec<(String, String)>,
    /// Beside it.
    pub add: Vec<(String, String)>,
    pub remove: Vec<String>,
}

/// The query stays as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathEdit {
    Whole(String),
    /// In place of what the match's prefix matched; empty or `/`: nothing is left of that.
    Prefix(String),
}

/// What is not named stays as it was asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct Redirect {
    pub scheme: Option<Scheme>,
    /// Without a port.
    pub host: Option<Authority>,
    /// Default: the scheme's own where that is named, else the one that was asked for, as far as the authority says it.
    pub port: Option<u16>,
    pub path: Option<PathEdit>,
    /// One of [`REDIRECTS`].
    pub status: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    Http,
    Https,
}

/// A copy of a share of the requests goes to `service`; its answer is thrown away.
#[derive(Clone, Debug, PartialEq)]
pub struct Mirror {
    pub service: ServiceName,
    pub share: Ratio,
}

/// Whether a rule may set, add or take out this field: RFC 9110, 5.1, in lower case, and none that frames a message, is
/// for one connection only (7.6.1), says which host is asked for, or is ours.
pub fn may_edit(name: &str) -> bool {
    const ONE_CONNECTION: [&str; 5] = [
        "http2-settings",
        "proxy-authenticate",
        "proxy-authentication-info",
        "proxy-authorization",
        "proxy-connection",
    ];
    is_field_name(name) && !ONE_CONNECTION.contains(&name)
}

impl Edits {
    pub fn is_empty(&self) -> bool {
        self.request.is_empty() && self.response.is_empty()
    }
    /// `None` where there is nothing to do.
    pub fn boxed(self) -> Option<Box<Self>> {
        (!self.is_empty()).then(|| Box::new(self))
    }
}

impl HeaderEdits {
    pub fn is_empty(&self) -> bool {
        self.set.is_empty() && self.add.is_empty() && self.remove.is_empty()
    }
}

impl Filters {
    /// `None` where there is nothing to do.
    pub fn boxed(self) -> Option<Box<Self>> {
        (self != Self::default()).then(|| Box::new(self))
    }
}

/// Whether it may stand in place of a path or a part of one: as RFC 3986, 3.3, has a path, for it is sent as it is.
pub fn is_replacement(text: &str) -> bool {
    let ok = |b: u8| b.is_ascii_alphanumeric() || b"/-._~%!$&'()*+,;=:@".contains(&b);
    text.starts_with('/') && text.len() <= 2_048 && text.bytes().all(ok)
}

impl PathEdit {
    /// The path in place of `path`, which `matched` has matched. `None`: there is none (`*`, or what matched is no prefix).
    pub fn apply(&self, path: &str, matched: &PathMatch) -> Option<String> {
        if !path.starts_with('/') {
            return None;
        }
        match self {
            Self::Whole(whole) => Some(whole.clone()),
            Self::Prefix(new) => {
                let rest = matched.behind_prefix(path)?;
                Some(match new.trim_end_matches('/') {
                    // `//x` would name a host to whoever reads it as a reference (RFC 3986, 4.2)
                    "" => format!("/{}", rest.trim_start_matches('/')),
                    new => format!("{new}{rest}"),
                })
            }
        }
    }

    /// Whether every path that `matched` matches stays as it is.
    fn changes_nothing(&self, matched: &PathMatch) -> bool {
        match (self, matched) {
            (Self::Whole(whole), PathMatch::Exact(path)) => whole == path,
            (Self::Prefix(new), PathMatch::Prefix(prefix)) => new.trim_end_matches('/') == prefix.trim_end_matches('/'),
            (Self::Prefix(new), PathMatch::Any) => new.trim_end_matches('/').is_empty(),
            _ => false,
        }
    }

    /// As it was written.
    pub fn text(&self) -> &str {
        let (Self::Whole(text) | Self::Prefix(text)) = self;
        text
    }
}

impl Scheme {
    pub const ALL: [(&'static str, Self); 2] = [("http", Self::Http), ("https", Self::Https)];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
    pub(super) fn port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

impl Redirect {
    /// Whether it leads each request that `matched` matches to where it came from, as far as it says itself.
    pub fn changes_nothing(&self, matched: &PathMatch) -> bool {
        let same_host = self.scheme.is_none() && self.host.is_none() && self.port.is_none();
        same_host && self.path.as_ref().is_none_or(|edit| edit.changes_nothing(matched))
    }

    /// Where `request`, which `matched` has matched, is sent: an absolute URL. Requests are in clear where they are read,
    /// so that `http` is what was asked for. A port that the scheme implies is left out.
    pub fn location(&self, request: &impl Request, matched: &PathMatch) -> String {
        let (asked_host, asked_port) = split_port(request.authority()).unwrap_or((request.authority(), None));
        let scheme = self.scheme.unwrap_or(Scheme::Http);
        let asked_port: Option<u16> = asked_port.and_then(|port| port.parse().ok());
        let host = self.host.as_ref().map_or(asked_host, Authority::host);
        let mut url = format!("{}://{host}", scheme.as_str());
        let port = self.port.or(asked_port.filter(|_| self.scheme.is_none())).unwrap_or(scheme.port());
        if port != scheme.port() {
            url.push_str(&format!(":{port}"));
        }
        let edited = self.path.as_ref().and_then(|edit| edit.apply(request.path(), matched));
        let path = edited.as_deref().unwrap_or(request.path());
        if !path.starts_with('/') {
            url.push('/');
        }
        url.push_str(path.trim_start_matches('*'));
        if let Some(query) = request.query() {
            url.push('?');
            url.push_str(query);
        }
        url
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An authority, a path and a query.
    struct Asked(&'static str, &'static str, Option<&'static str>);

    impl Request for Asked {
        fn authority(&self) -> &str {
            self.0
        }
        fn path(&self) -> &str {
            self.1
        }
        fn query(&self) -> Option<&str> {
            self.2
        }
        fn method(&self) -> &str {
            "GET"
        }
        fn any_header(&self, _: &str, _: &mut dyn FnMut(&[u8]) -> bool) -> bool {
            false
        }
    }

    #[test]
    fn a_prefix_is_replaced_as_gateway_api_says() {
        // its own table, and a few more
        for (path, prefix, new, wanted) in [
            ("/foo/bar", "/foo", "/xyz", "/xyz/bar"),
            ("/foo/bar", "/foo", "/xyz/", "/xyz/bar"),
            ("/foo/bar", "/foo/", "/xyz", "/xyz/bar"),
            ("/foo/bar", "/foo/", "/xyz/", "/xyz/bar"),
            ("/foo", "/foo", "/xyz", "/xyz"),
            ("/foo/", "/foo", "/xyz", "/xyz/"),
            ("/foo/bar", "/foo", "", "/bar"),
            ("/foo/", "/foo", "", "/"),
            ("/foo", "/foo", "", "/"),
            ("/foo/", "/foo", "/", "/"),
            ("/foo", "/foo", "/", "/"),
            ("/foo//bar", "/foo", "/", "/bar"),
            ("/foo//bar", "/foo", "", "/bar"),
            ("/foo/bar", "/foo", "//", "/bar"),
            ("/foo//bar", "/foo", "/xyz", "/xyz//bar"),
            ("/foo/bar", "/foo", "/xyz//", "/xyz/bar"),
            ("//bar", "/", "/", "/bar"),
            ("/a/b", "/", "/x", "/x/a/b"),
            ("/", "/", "/x", "/x/"),
        ] {
            let matched = PathMatch::Prefix(prefix.into());
            let edited = PathEdit::Prefix(new.into()).apply(path, &matched);
            assert_eq!(edited.as_deref(), Some(wanted), "{path} {prefix} {new}");
        }
        let edit = PathEdit::Prefix("/x".into());
        assert_eq!(edit.apply("/a", &PathMatch::Any).as_deref(), Some("/x/a"));
        assert_eq!(edit.apply("/a", &PathMatch::Exact("/a".into())), None);
        assert_eq!(edit.apply("*", &PathMatch::Any), None);
        assert_eq!(PathEdit::Whole("/x".into()).apply("*", &PathMatch::Any), None);
    }

    #[test]
    fn a_redirect_keeps_what_it_does_not_name() {
        let host = |text: &str| Authority::parse(text);
        let none = Redirect { scheme: None, host: None, port: None, path: None, status: 302 };
        let to = |redirect: Redirect, asked: &Asked| redirect.location(asked, &PathMatch::Prefix("/a".into()));
        let asked = || Asked("shop:8080", "/a/b", Some("q=1"));
        let https = Some(Scheme::Https);
        for (redirect, wanted) in [
            (Redirect { scheme: https, ..none.clone() }, "https://shop/a/b?q=1"),
            (Redirect { scheme: https, port: Some(443), ..none.clone() }, "https://shop/a/b?q=1"),
            (Redirect { scheme: https, port: Some(8443), ..none.clone() }, "https://shop:8443/a/b?q=1"),
            (Redirect { port: Some(80), ..none.clone() }, "http://shop/a/b?q=1"),
            (Redirect { scheme: Some(Scheme::Http), ..none.clone() }, "http://shop/a/b?q=1"),
            (Redirect { host: host("x.example"), ..none.clone() }, "http://x.example:8080/a/b?q=1"),
            (Redirect { path: Some(PathEdit::Whole("/x".into())), ..none.clone() }, "http://shop:8080/x?q=1"),
            (Redirect { path: Some(PathEdit::Prefix("/x".into())), ..none.clone() }, "http://shop:8080/x/b?q=1"),
        ] {
            assert_eq!(to(redirect.clone(), &asked()), wanted, "{redirect:?}");
        }
        let x = || Redirect { host: host("x"), ..none.clone() };
        assert_eq!(to(Redirect { scheme: https, ..none.clone() }, &Asked("[::1]:80", "*", None)), "https://[::1]/");
        assert_eq!(to(x(), &Asked("shop:443", "/", None)), "http://x:443/");
        assert_eq!(to(x(), &Asked("shop:80", "/", None)), "http://x/");
    }

    #[test]
    fn a_redirect_that_leads_to_where_the_request_came_from_is_known_by_itself() {
        let none = Redirect { scheme: None, host: None, port: None, path: None, status: 302 };
        let whole = |path: &str| Some(PathEdit::Whole(path.into()));
        let prefix = |path: &str| Some(PathEdit::Prefix(path.into()));
        let a = || PathMatch::Prefix("/a".into());
        for (redirect, matched, wanted) in [
            (none.clone(), a(), true),
            (Redirect { port: Some(80), ..none.clone() }, a(), false),
            (Redirect { scheme: Some(Scheme::Http), ..none.clone() }, a(), false),
            (Redirect { host: Authority::parse("x"), ..none.clone() }, a(), false),
            (Redirect { path: prefix("/a/"), ..none.clone() }, a(), true),
            (Redirect { path: prefix("/b"), ..none.clone() }, a(), false),
            (Redirect { path: prefix("/"), ..none.clone() }, PathMatch::Any, true),
            (Redirect { path: whole("/a"), ..none.clone() }, PathMatch::Exact("/a".into()), true),
            (Redirect { path: whole("/a"), ..none }, a(), false),
        ] {
            assert_eq!(redirect.changes_nothing(&matched), wanted, "{redirect:?} {matched:?}");
        }
    }

    #[test]
    fn what_takes_the_place_of_a_path_is_percent_encoded() {
        for text in ["/", "/a/b;c=1,2", "/~x/%C3%A4", "/a:b@c!$&'()*+=", "//x"] {
            assert!(is_replacement(text), "{text}");
        }
        for text in
            ["", "a", "/a b", "/a?b", "/a#b", "/a<b>", "/`a`", "/{a}", "/a|b", "/a\\b", "/a^b", "/\"a", "/\u{e4}"]
        {
            assert!(!is_replacement(text), "{text}");
        }
    }

    #[test]
    fn fields_that_belong_to_others_are_not_edited() {
        for name in ["x-a", "server", "location", "content-type", "traceparent"] {
            assert!(may_edit(name), "{name}");
        }
        for name in [
            "host",
            "Host",
            "X-A",
            "connection",
            "content-length",
            "transfer-encoding",
            "te",
            "upgrade",
            "keep-alive",
            "proxy-connection",
            "fusewire-reason",
            "fusewire-x",
            ":path",
            "a b",
            "",
            "trailer",
            "proxy-authorization",
        ] {
            assert!(!may_edit(name), "{name}");
        }
    }
}
