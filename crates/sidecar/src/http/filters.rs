//! What a route's rule changes on the way to one of its backends, ready to be done: fields, host and path.
//!
//! Made when configuration is folded, so that a request only copies; a rule that changes nothing has none of it. It
//! deliberately checks no names: the model lets nothing in that frames a message or is ours.

use super::cors::Sharing;
use crate::fault::Fault;
use crate::upstream::service::Upstream;
use fusewire_model::route::{Cors, Edits, HeaderEdits, PathEdit, PathMatch, Rule};
use http::header::{self, HeaderName, HeaderValue};
use http::uri::{Authority, PathAndQuery};
use http::{HeaderMap, Uri, request};
use std::sync::Arc;

/// What `http` can hold of path and query.
const MAX_TARGET: usize = u16::MAX as usize - 1;

/// For one backend: the rule's and then its own.
pub(crate) struct Filters {
    request: Vec<Edit>,
    /// Of the request, for this backend and nobody else.
    backend: Vec<Edit>,
    response: Vec<Edit>,
    host: Option<(Authority, HeaderValue)>,
    path: Option<(PathMatch, PathEdit)>,
    pub(crate) mirrors: Arc<[Mirror]>,
    cors: Option<Arc<Cors>>,
}

/// Where a copy of some requests goes.
pub(crate) struct Mirror {
    pub(crate) upstream: Arc<Upstream>,
    /// In millionths.
    pub(crate) share: u32,
}

enum Edit {
    Set(HeaderName, HeaderValue),
    Add(HeaderName, HeaderValue),
    Remove(HeaderName),
}

impl Filters {
    /// Of each of the rule's backends, in their order; `None` where no backend has any.
    pub(crate) fn of(rule: &Rule, mirrors: Arc<[Mirror]>) -> Option<Box<[Option<Arc<Self>>]>> {
        let cors = rule.cors().cloned().map(Arc::new);
        let each = rule.backends.iter().map(|backend| {
            let ours = rule.filters.as_deref();
            let filters = Self {
                request: edits(ours.map(|f| &f.edits), None, |edits| &edits.request),
                backend: edits(None, backend.edits.as_deref(), |edits| &edits.request),
                response: edits(ours.map(|f| &f.edits), backend.edits.as_deref(), |edits| &edits.response),
                host: ours
                    .and_then(|f| f.host.as_ref())
                    .and_then(|host| Some((host.as_str().parse().ok()?, HeaderValue::from_str(host.as_str()).ok()?))),
                path: ours.and_then(|f| Some((rule.matches.path.clone(), f.path.clone()?))),
                mirrors: mirrors.clone(),
                cors: cors.clone(),
            };
            (!filters.is_empty()).then(|| Arc::new(filters))
        });
        let each: Box<[_]> = each.collect();
        each.iter().any(Option::is_some).then_some(each)
    }

    fn is_empty(&self) -> bool {
        let Self { request, backend, response, host, path, mirrors, cors } = self;
        request.is_empty()
            && backend.is_empty()
            && response.is_empty()
            && host.is_none()
            && path.is_none()
            && mirrors.is_empty()
            && cors.is_none()
    }

    /// Once what is for one connection only has been taken out. Never half: where it cannot be done, the request goes nowhere.
    pub(super) fn request(&self, head: &mut request::Parts, authority: &mut Authority) -> Result<(), Fault> {
        apply(&self.request, &mut head.headers);
        if let Some((host, value)) = &self.host {
            authority.clone_from(host);
            head.headers.insert(header::HOST, value.clone());
        }
        // `*` is the server, and no path of it
        if let Some((matched, edit)) = self.path.as_ref().filter(|_| head.uri.path() != "*") {
            let uri = edit.apply(head.uri.path(), matched).and_then(|path| with_path(&head.uri, path));
            head.uri = uri.ok_or(Fault::BadRoute("what the route's rewrite makes of the path is no valid path"))?;
        }
        Ok(())
    }

    /// What the answer says of who may read it; `None`: what the service says.
    pub(super) fn sharing(&self, request: &HeaderMap) -> Option<Box<Sharing>> {
        self.cors.as_ref().map(|cors| Box::new(Sharing::of(cors, request)))
    }

    /// Whether one backend has what the others have not.
    pub(super) fn edits_for_backend(&self) -> bool {
        !self.backend.is_empty()
    }

    /// The same, once mirrors have their copies.
    pub(super) fn backend(&self, head: &mut request::Parts) {
        apply(&self.backend, &mut head.headers);
    }

    /// The same.
    pub(super) fn response(&self, fields: &mut HeaderMap) {
        apply(&self.response, fields);
    }
}

fn edits(rule: Option<&Edits>, backend: Option<&Edits>, side: fn(&Edits) -> &HeaderEdits) -> Vec<Edit> {
    rule.into_iter().chain(backend).map(side).flat_map(steps).collect()
}

fn steps(edits: &HeaderEdits) -> impl Iterator<Item = Edit> + '_ {
    let field = |(name, value): &(String, String)| {
        Some((HeaderName::try_from(name.as_str()).ok()?, HeaderValue::try_from(value.as_str()).ok()?))
    };
    let set = edits.set.iter().filter_map(field).map(|(name, value)| Edit::Set(name, value));
    let add = edits.add.iter().filter_map(field).map(|(name, value)| Edit::Add(name, value));
    let remove = edits.remove.iter().filter_map(|name| HeaderName::try_from(name.as_str()).ok()).map(Edit::Remove);
    set.chain(add).chain(remove)
}

fn apply(edits: &[Edit], fields: &mut HeaderMap) {
    for edit in edits {
        match edit {
            Edit::Set(name, value) => {
                fields.insert(name, value.clone());
            }
            Edit::Add(name, value) => {
                fields.append(name, value.clone());
            }
            Edit::Remove(name) => {
                fields.remove(name);
            }
        }
    }
}

/// The query stays.
fn with_path(uri: &Uri, mut path: String) -> Option<Uri> {
    if path.len() + uri.query().map_or(0, str::len) >= MAX_TARGET {
        return None;
    }
    if let Some(query) = uri.query() {
        path.push('?');
        path.push_str(query);
    }
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(PathAndQuery::try_from(path).ok()?);
    Uri::from_parts(parts).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use fusewire_model::ServiceName;
    use fusewire_model::route::{self, Backend, Match};
    use http::Request;

    fn fields(of: &[(&str, &str)]) -> Vec<(String, String)> {
        of.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect()
    }

    fn rule(filters: route::Filters, backends: Vec<Backend>) -> Rule {
        let path = PathMatch::Prefix("/api".into());
        let matches = Match { path, ..Match::default() };
        Rule { name: "r[0]".into(), matches, backends, policy: None, filters: filters.boxed() }
    }

    fn shop() -> Backend {
        Backend::to(ServiceName::parse("shop").unwrap(), 1)
    }

    #[test]
    fn a_rule_that_changes_nothing_has_nothing() {
        assert!(Filters::of(&rule(route::Filters::default(), vec![shop(), shop()]), Arc::default()).is_none());
    }

    #[test]
    fn the_rules_edits_come_first_and_one_backend_may_have_more() {
        let ours =
            HeaderEdits { set: fields(&[("x-a", "rule")]), add: fields(&[("x-b", "2")]), remove: vec!["x-c".into()] };
        let edits = Edits { request: ours, response: HeaderEdits::default() };
        let own = HeaderEdits { set: fields(&[("x-a", "own")]), ..HeaderEdits::default() };
        let canary = Backend { edits: Edits { request: own, ..Edits::default() }.boxed(), ..shop() };
        let filters = route::Filters { edits, ..route::Filters::default() };
        let each = Filters::of(&rule(filters, vec![shop(), canary]), Arc::default()).unwrap();
        let edited = |filters: &Filters| {
            let request = Request::get("http://shop/").header("x-a", "0").header("x-b", "1").header("x-c", "3");
            let mut head = request.body(()).unwrap().into_parts().0;
            filters.request(&mut head, &mut "shop".parse().unwrap()).unwrap();
            filters.backend(&mut head);
            let all = |name: &str| {
                head.headers.get_all(name).iter().map(|v| v.to_str().unwrap()).collect::<Vec<_>>().join(",")
            };
            [all("x-a"), all("x-b"), all("x-c")].join(" ")
        };
        let said: Vec<String> = each.iter().flatten().map(|filters| edited(filters)).collect();
        assert_eq!(said, ["rule 1,2 ", "own 1,2 "]);
    }

    #[test]
    fn host_and_path_are_rewritten_in_every_form_and_the_query_stays() {
        let host = route::Authority::parse("v2.example:81");
        let filters = route::Filters { host, path: Some(PathEdit::Prefix("/v2".into())), ..route::Filters::default() };
        let each = Filters::of(&rule(filters, vec![shop()]), Arc::default()).unwrap();
        for uri in ["/api/x?q=1", "http://shop/api/x?q=1"] {
            let mut head = Request::get(uri).header("host", "shop").body(()).unwrap().into_parts().0;
            let mut authority = "shop".parse().unwrap();
            each[0].as_ref().unwrap().request(&mut head, &mut authority).unwrap();
            assert_eq!(
                (authority.as_str(), head.headers["host"].to_str().unwrap()),
                ("v2.example:81", "v2.example:81")
            );
            assert_eq!(head.uri.path_and_query().unwrap(), "/v2/x?q=1");
        }
    }

    #[test]
    fn a_rewrite_that_makes_no_path_is_a_fault_and_never_left_out() {
        let said = |edit: PathEdit, path: &str| {
            let filters = route::Filters { path: Some(edit), ..route::Filters::default() };
            let each = Filters::of(&rule(filters, vec![shop()]), Arc::default()).unwrap();
            let mut head = Request::builder().uri(path).body(()).unwrap().into_parts().0;
            let done = each[0].as_ref().unwrap().request(&mut head, &mut "shop".parse().unwrap());
            done.map(|()| head.uri.to_string()).map_err(|fault| (fault.reason(), fault.detail()))
        };
        let bad = || {
            let detail = "what the route's rewrite makes of the path is no valid path";
            Err((fusewire_telemetry::Reason::BadRoute, Some(detail.into())))
        };
        assert_eq!(said(PathEdit::Whole("/a<b>".into()), "/api/x?q"), bad());
        assert_eq!(said(PathEdit::Prefix("/a`b`".into()), "/api/x"), bad());
        assert_eq!(said(PathEdit::Prefix("/new".into()), "/other"), bad(), "what was matched is another path");
        assert_eq!(
            said(PathEdit::Prefix(format!("/{}", "x".repeat(8_000))), &format!("/api/{}", "y".repeat(60_000))),
            bad()
        );
        assert_eq!(said(PathEdit::Prefix("/".into()), "/api//x?q"), Ok("/x?q".into()));
        assert_eq!(said(PathEdit::Whole("/a".into()), "*"), Ok("*".into()), "the server is no path of it");
    }
}
