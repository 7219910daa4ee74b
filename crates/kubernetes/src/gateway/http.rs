//! HTTPRoutes.

use super::object::{HttpMatch, HttpRoute, HttpRule};
use super::rank::{Rank, Specific};
use super::{Input, Told, Translated, filter, matching, parents, policy};
use crate::known::{RouteId, RouteKind};
use fusewire_model::route::{Filters, MAX_PATTERNS, Match, PathEdit, PathMatch, Rule, is_token};

pub(super) fn translated<'a>(input: &Input<'_>, route: &'a HttpRoute) -> Translated<'a> {
    let mut one = Translated::new(RouteKind::Http, &route.metadata, &route.spec.parent_refs);
    one.told.unknown("spec", &route.spec.rest);
    for (index, rule) in route.spec.rules.iter().enumerate() {
        of_rule(input, &mut one, rule, index);
    }
    one.bound_patterns();
    one
}

fn of_rule(input: &Input<'_>, of: &mut Translated<'_>, rule: &HttpRule, index: usize) {
    let path = format!("spec.rules[{index}]");
    of.told.unknown(&path, &rule.rest);
    let filters = filter::filters(input, of, &rule.filters, &path);
    let backends = if filters.redirect.is_some() {
        for (field, there) in [
            ("backendRefs", !rule.backend_refs.is_empty()),
            ("timeouts", rule.timeouts.is_some()),
            ("retry", rule.retry.is_some()),
        ] {
            if there {
                of.told.unsupported(format_args!("{path}.{field}"), "means nothing beside RequestRedirect");
            }
        }
        Vec::new()
    } else {
        filter::backends(input, of, &rule.backend_refs, &path)
    };
    let name = of.policy_name(index);
    let targeted = (input.rule_policy)(&of.id(), rule.name.as_deref());
    let policy = policy::derived(input, of, rule, (backends.as_slice(), targeted, name.as_str()), &path);
    let any = [HttpMatch::default()];
    let matches = if rule.matches.is_empty() { &any[..] } else { &rule.matches };
    for (nth, wanted) in matches.iter().enumerate() {
        let path = format!("{path}.matches[{nth}]");
        let matches = of_match(&mut of.told, wanted, &path);
        if replaces_prefix(&filters) && !matches.path.has_prefix() {
            of.told
                .unsupported(format_args!("{path}.path.type"), "must be PathPrefix where ReplacePrefixMatch is used");
        }
        if let Some(redirect) = &filters.redirect
            && ports(input, of).iter().any(|port| redirect.changes_nothing(&matches.path, Some(*port)))
        {
            let why =
                "RequestRedirect leads to where the request came from: name another scheme, hostname, port or path";
            of.told.unsupported(format_args!("spec.rules[{index}].filters"), why);
        }
        let rank = Rank::new(Specific::http(&matches), of.metadata, (index, nth));
        let (name, backends, policy) = (of.rule_name(index), backends.clone(), policy.clone());
        of.rules.push((rank, Rule { name, matches, backends, policy, filters: filters.clone().boxed() }));
    }
}

/// All that requests for it may come for.
fn ports(input: &Input<'_>, of: &Translated<'_>) -> Vec<u16> {
    let services = of.parents.iter().filter(|parent| parent.is_service());
    services.filter_map(|parent| parents::ports(input, of, parent).ok()).flat_map(|(_, ports)| ports).collect()
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

impl<'a> Translated<'a> {
    pub(super) fn new(kind: RouteKind, metadata: &'a super::Metadata, parents: &'a [super::ParentRef]) -> Self {
        let (rules, policies, told) = (Vec::new(), Vec::new(), Told::default());
        Self { kind, metadata, parents, rules, policies, told }
    }

    pub(super) fn id(&self) -> RouteId {
        let (namespace, name) = (self.metadata.namespace.clone(), self.metadata.name.clone());
        RouteId { kind: self.kind, namespace, name }
    }

    /// `checkout.shop.httproute`: names of objects of both kinds may be the same.
    fn object(&self) -> String {
        policy::object(&self.id())
    }

    /// `checkout.shop.httproute[0]`, as metrics and logs name it.
    pub(super) fn rule_name(&self, index: usize) -> String {
        format!("{}[{index}]", self.object())
    }

    fn policy_name(&self, index: usize) -> String {
        format!("{}{index}", policy::policy_prefix(&self.id()))
    }

    /// A sidecar takes only so many in one table.
    pub(super) fn bound_patterns(&mut self) {
        let count: usize = self.rules.iter().map(|(_, rule)| rule.matches.patterns()).sum();
        if count > MAX_PATTERNS / 4 {
            self.told.unsupported("spec.rules", format_args!("hold {count} regular expressions: too many"));
        }
    }
}
