//! HTTPRoutes.

use super::object::{HttpMatch, HttpRoute, HttpRule};
use super::rank::{Rank, Specific};
use super::{Input, Told, Translated, filter, matching, policy};
use crate::known::RouteKind;
use fusewire_model::route::{Filters, Match, PathEdit, PathMatch, Rule, is_token};

pub(super) fn translated<'a>(input: &Input<'_>, route: &'a HttpRoute) -> Translated<'a> {
    let mut one = Translated::new(RouteKind::Http, &route.metadata, (&route.spec.parent_refs, route.spec.rules.len()));
    one.told.unknown("spec", &route.spec.rest);
    for (index, rule) in route.spec.rules.iter().enumerate() {
        let before = one.read();
        of_rule(input, &mut one, rule, index);
        one.judge(index, before);
    }
    one.bound_patterns();
    one
}

fn of_rule(input: &Input<'_>, of: &mut Translated<'_>, rule: &HttpRule, index: usize) {
    let path = format!("spec.rules[{index}]");
    of.told.unknown(&path, &rule.rest);
    let filters = filter::filters(input, of, &rule.filters, &path);
    let (backends, filters) = match filters {
        Some(filters) if filters.redirect.is_some() => {
            if !rule.backend_refs.is_empty() {
                of.told.unsupported(format_args!("{path}.backendRefs"), "means nothing beside RequestRedirect");
            }
            (Vec::new(), filters)
        }
        Some(filters) => (filter::backends(input, of, &rule.backend_refs, &path), filters),
        None => (vec![filter::nowhere()], Filters::default()),
    };
    let name = of.policy_name(index);
    let targeted = (input.rule_policy)(&of.id(), rule.name.as_deref());
    let policy = policy::derived(input, of, rule, (backends.as_slice(), targeted, name.as_str()), &path);
    let any = [HttpMatch::default()];
    let matches = if rule.matches.is_empty() { &any[..] } else { &rule.matches };
    for (nth, wanted) in matches.iter().enumerate() {
        let path = format!("{path}.matches[{nth}]");
        let faults = of.told.unsupported.len();
        let matches = of_match(&mut of.told, wanted, &path);
        if of.told.unsupported.len() > faults {
            continue; // which requests it is for cannot be told
        }
        if replaces_prefix(&filters) && !matches.path.has_prefix() {
            of.told
                .unsupported(format_args!("{path}.path.type"), "must be PathPrefix where ReplacePrefixMatch is used");
        }
        let rank = Rank::new(Specific::http(&matches), of.metadata, (index, nth));
        let (name, backends, policy) = (of.rule_name(index), backends.clone(), policy.clone());
        of.rules.push((rank, Rule { name, matches, backends, policy, filters: filters.clone().boxed() }));
    }
}

fn replaces_prefix(filters: &Filters) -> bool {
    let of_redirect = filters.redirect.as_ref().and_then(|redirect| redirect.path.as_ref());
    [of_redirect, filters.path.as_ref()].into_iter().flatten().any(|edit| matches!(edit, PathEdit::Prefix(_)))
}

fn of_match(told: &mut Told, wanted: &HttpMatch, path: &str) -> Match {
    told.unknown(path, &wanted.rest);
    let methods = wanted.method.iter().filter(|method| {
        let known = is_token(method) && !method.bytes().any(|b| b.is_ascii_lowercase());
        if !known {
            told.unsupported(format_args!("{path}.method"), "is no method");
        }
        known
    });
    let methods = methods.cloned().collect();
    Match {
        path: of_path(told, wanted, path),
        methods,
        headers: matching::headers(told, &wanted.headers, path),
        query: matching::query(told, &wanted.query_params, path),
    }
}

fn of_path(told: &mut Told, wanted: &HttpMatch, path: &str) -> PathMatch {
    let Some(wanted) = &wanted.path else { return PathMatch::Any };
    told.unknown(&format!("{path}.path"), &wanted.rest);
    let (value, at) = (wanted.value.as_deref().unwrap_or("/"), format!("{path}.path.value"));
    let found = match wanted.kind.as_deref().unwrap_or("PathPrefix") {
        "PathPrefix" if value == "/" => Some(PathMatch::Any),
        "PathPrefix" => matching::path(told, value, &at).map(PathMatch::Prefix),
        "Exact" => matching::path(told, value, &at).map(PathMatch::Exact),
        "RegularExpression" => matching::pattern(told, value, &at).map(PathMatch::Regex),
        other => {
            told.unsupported(format_args!("{path}.path.type"), format_args!("{other} is not supported"));
            None
        }
    };
    found.unwrap_or_default()
}
