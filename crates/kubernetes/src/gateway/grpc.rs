//! GRPCRoutes: a method is a path, and every call a POST (gRPC over HTTP/2).

use super::object::{GrpcMatch, GrpcRoute, GrpcRule};
use super::rank::{Rank, Specific};
use super::{Input, Told, Translated, filter, matching};
use crate::known::RouteKind;
use fusewire_model::route::{Match, PathMatch, Rule};

pub(super) fn translated<'a>(input: &Input<'_>, route: &'a GrpcRoute) -> Translated<'a> {
    let mut one = Translated::new(RouteKind::Grpc, &route.metadata, (&route.spec.parent_refs, route.spec.rules.len()));
    one.told.unknown("spec", &route.spec.rest);
    for (index, rule) in route.spec.rules.iter().enumerate() {
        let before = one.read();
        of_rule(input, &mut one, rule, index);
        one.judge(index, before);
    }
    one.bound_patterns();
    one
}

fn of_rule(input: &Input<'_>, of: &mut Translated<'_>, rule: &GrpcRule, index: usize) {
    let path = format!("spec.rules[{index}]");
    of.told.unknown(&path, &rule.rest);
    for (nth, filter) in rule.filters.iter().enumerate() {
        if matches!(filter.kind.as_str(), "RequestRedirect" | "URLRewrite" | "CORS") {
            of.told.unsupported(format_args!("{path}.filters[{nth}].type"), "is none that a GRPCRoute has");
        }
    }
    let (backends, filters) = match filter::filters(input, of, &rule.filters, &path) {
        Some(filters) => (filter::backends(input, of, &rule.backend_refs, &path), filters.boxed()),
        None => (vec![filter::nowhere()], None),
    };
    let policy = (input.rule_policy)(&of.id(), rule.name.as_deref()).map(|policy| policy.name);
    let any = [GrpcMatch::default()];
    let matches = if rule.matches.is_empty() { &any[..] } else { &rule.matches };
    for (nth, wanted) in matches.iter().enumerate() {
        let path = format!("{path}.matches[{nth}]");
        let faults = of.told.unsupported.len();
        of.told.unknown(&path, &wanted.rest);
        let headers = matching::headers(&mut of.told, &wanted.headers, &path);
        let method = wanted.method.as_ref();
        let text = |text: Option<&Option<String>>| text.cloned().flatten().unwrap_or_default();
        let (service, name) = (text(method.map(|m| &m.service)), text(method.map(|m| &m.method)));
        let rank = Rank::new(Specific::grpc(&service, &name, headers.len()), of.metadata, (index, nth));
        let path = of_method(&mut of.told, wanted, (service.as_str(), name.as_str()), &path);
        if of.told.unsupported.len() > faults {
            continue; // which calls it is for cannot be told
        }
        let matches = Match { path, methods: vec!["POST".into()], headers, query: Vec::new() };
        let (name, backends, filters) = (of.rule_name(index), backends.clone(), filters.clone());
        of.rules.push((rank, Rule { name, matches, backends, policy: policy.clone(), filters }));
    }
}

/// `/package.Service/Method`; either part may be left open.
fn of_method(told: &mut Told, wanted: &GrpcMatch, (service, method): (&str, &str), path: &str) -> PathMatch {
    let Some(wanted) = &wanted.method else { return PathMatch::Any };
    let path = format!("{path}.method");
    told.unknown(&path, &wanted.rest);
    let any = |part: &str| if part.is_empty() { "[^/]+".to_owned() } else { format!("(?:{part})") };
    let found = match (wanted.kind.as_deref().unwrap_or("Exact"), service, method) {
        ("Exact" | "RegularExpression", "", "") => Some(PathMatch::Any),
        ("Exact", service, "") => matching::path(told, &format!("/{service}"), &path).map(PathMatch::Prefix),
        ("Exact", "", method) if !is_name(method) => {
            told.unsupported(format_args!("{path}.method"), "is no method's name");
            None
        }
        ("Exact", "", method) => matching::pattern(told, &format!("/[^/]+/{method}"), &path).map(PathMatch::Regex),
        ("Exact", service, method) => {
            matching::path(told, &format!("/{service}/{method}"), &path).map(PathMatch::Exact)
        }
        ("RegularExpression", service, method) => {
            // each by itself: `a)|(b` is an expression only between brackets
            let parts = [(service, "service"), (method, "method")].into_iter().filter(|(part, _)| !part.is_empty());
            let whole = parts.map(|(part, name)| matching::pattern(told, part, &format!("{path}.{name}")));
            let whole = whole.collect::<Option<Vec<_>>>();
            whole.and_then(|_| {
                let text = format!("/{}/{}", any(service), any(method));
                matching::pattern(told, &text, &path).map(PathMatch::Regex)
            })
        }
        (other, ..) => {
            told.unsupported(format_args!("{path}.type"), format_args!("{other} is not supported"));
            None
        }
    };
    found.unwrap_or_default()
}

/// As protocol buffers have them.
fn is_name(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}
