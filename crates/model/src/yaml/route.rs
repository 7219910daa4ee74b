//! `routes`: which authority, which requests, and where they then go.

use super::cursor::{Cursor, Entry, Fields};
use super::mesh::Draft;
use super::scalar::shown;
use crate::route::{Authority, Backend, HeaderMatch, HeaderValueMatch, Match, PathMatch, Route, Rule};
use std::collections::{BTreeMap, BTreeSet};

/// `None` has its fault.
pub(super) fn route(entry: &Entry<'_>, draft: &mut Draft) -> Option<Route> {
    let own = Authority::parse(entry.name);
    if own.is_none() {
        entry.fault(format!("{} is not a route's name: use letters, digits, '-', '.' and ':port'", shown(entry.name)));
    }
    let mut fields = entry.value.map("a mapping")?;
    let authorities = match fields.get("authority") {
        Some(cursor) => authorities(&cursor),
        None => Vec::from_iter(own),
    };
    let rules = match fields.get("rules") {
        Some(cursor) => {
            for beside in ["match", "to", "policy"] {
                if fields.get(beside).is_some() {
                    cursor.fault_with(format!("stands beside {beside}"), format!("move {beside} into a rule"));
                }
            }
            rules(&cursor, entry.name, draft)
        }
        // one rule without a list
        None => Vec::from_iter(rule(&mut fields, &rule_name(entry.name, 0), draft)),
    };
    fields.finish();
    Some(Route { name: entry.name.into(), authorities, rules })
}

fn rule_name(route: &str, index: usize) -> String {
    format!("{route}[{index}]")
}

pub(super) fn authorities(cursor: &Cursor<'_>) -> Vec<Authority> {
    let before = cursor.sink().count();
    let mut authorities = Vec::new();
    let mut seen = BTreeSet::new();
    for cursor in cursor.one_or_list("host, host:port or a list of them") {
        let Some(authority) = cursor.parse("host or host:port, such as shop.example:8443", Authority::parse) else {
            continue;
        };
        if seen.insert(authority.clone()) {
            authorities.push(authority);
        } else {
            cursor.fault(format!("{authority} is listed twice"));
        }
    }
    if authorities.is_empty() && cursor.sink().count() == before {
        cursor.fault_with("must name at least one authority", "leave it out to mean the name alone");
    }
    authorities
}

fn rules(cursor: &Cursor<'_>, route: &str, draft: &mut Draft) -> Vec<Rule> {
    let before = cursor.sink().count();
    let list = cursor.list("a list of rules");
    if list.is_empty() && cursor.sink().count() == before {
        cursor.fault_with("must hold at least one rule", "for one rule without a match write `to: service`");
    }
    let mut rules = Vec::new();
    for (index, cursor) in list.iter().enumerate() {
        let Some(mut fields) = cursor.map("a rule, such as {to: catalog}") else { continue };
        rules.extend(rule(&mut fields, &rule_name(route, index), draft));
        fields.finish();
    }
    rules
}

fn rule(fields: &mut Fields<'_>, name: &str, draft: &mut Draft) -> Option<Rule> {
    let matches = fields.get("match").map(|c| matching(&c)).unwrap_or_default();
    let backends = fields.required("to", "a service or a list of {service, weight}").map(|c| backends(&c, draft));
    let policy = fields.get("policy").and_then(|c| draft.policy_ref(&c));
    Some(Rule { name: name.into(), matches, backends: backends?, policy })
}

fn backends(cursor: &Cursor<'_>, draft: &mut Draft) -> Vec<Backend> {
    let before = cursor.sink().count();
    let mut backends = Vec::new();
    for cursor in cursor.one_or_list("a service or a list of {service, weight}") {
        if !cursor.is_map() {
            backends.extend(draft.service_ref(&cursor).map(|service| Backend { service, weight: 1 }));
            continue;
        }
        let Some(mut fields) = cursor.map("a backend") else { continue };
        let service = fields.required("service", "the name of a service").and_then(|c| draft.service_ref(&c));
        let weight = fields.get("weight").and_then(|c| c.integer(0..=1_000_000));
        fields.finish();
        let weight = weight.and_then(|w| u32::try_from(w).ok()).unwrap_or(1);
        backends.extend(service.map(|service| Backend { service, weight }));
    }
    if cursor.sink().count() == before {
        if backends.is_empty() {
            cursor.fault("must name at least one service");
        } else if backends.iter().all(|b| b.weight == 0) {
            cursor.fault_with("has no weight above 0, so nothing could be chosen", "give one backend a weight");
        }
    }
    backends
}

fn matching(cursor: &Cursor<'_>) -> Match {
    let mut matches = Match::default();
    let Some(mut fields) = cursor.map("a mapping of path, method and headers") else { return matches };
    if let Some(cursor) = fields.get("path") {
        matches.path = path(&cursor).unwrap_or_default();
    }
    for cursor in fields.get("method").iter().flat_map(|c| c.one_or_list("a method or a list of methods")) {
        let method = cursor.parse("a method, such as GET", |text| token(text).then(|| text.to_ascii_uppercase()));
        matches.methods.extend(method);
    }
    // a set: neither its order nor a repetition means anything
    matches.methods.sort();
    matches.methods.dedup();
    let mut headers = BTreeMap::new();
    for entry in fields.get("headers").iter().flat_map(|c| c.entries("a mapping of headers")) {
        let Some(header) = header(&entry) else { continue };
        if headers.insert(header.name.clone(), header).is_some() {
            entry.fault("is already written: the case of a header's name does not count");
        }
    }
    matches.headers = headers.into_values().collect();
    fields.finish();
    matches
}

/// `/x`, `{exact: /x}` or `{prefix: /x}`.
fn path(cursor: &Cursor<'_>) -> Option<PathMatch> {
    if !cursor.is_map() {
        return path_text(cursor).map(PathMatch::Exact);
    }
    let mut fields = cursor.map("a path")?;
    let exact = fields.get("exact");
    let prefix = fields.get("prefix");
    fields.finish();
    match (exact, prefix) {
        (Some(exact), None) => path_text(&exact).map(PathMatch::Exact),
        (None, Some(prefix)) => path_text(&prefix).map(PathMatch::Prefix),
        _ => {
            cursor.fault("must have one of exact and prefix");
            None
        }
    }
}

/// As it stands in a request line, without the query.
pub(super) fn path_text(cursor: &Cursor<'_>) -> Option<String> {
    let text = cursor.text("a path that begins with '/'")?;
    if !text.starts_with('/') {
        cursor.fault_with(format!("must begin with '/', got {}", shown(text)), "a path without its host");
    } else if text.contains(['?', '#']) {
        cursor.fault(format!("must be without '?' and '#', since the query is not matched, got {}", shown(text)));
    } else if text.len() > 2048 || !text.bytes().all(|b| b.is_ascii_graphic()) {
        cursor.fault(format!("must be percent-encoded, at most 2048 bytes, got {}", shown(text)));
    } else {
        return Some(text.into());
    }
    None
}

/// `x-canary: "1"`, `{exact: "1"}` or `{present: true}`.
fn header(entry: &Entry<'_>) -> Option<HeaderMatch> {
    if !token(entry.name) {
        entry.fault(format!("{} is not a header's name", shown(entry.name)));
        return None;
    }
    let name = entry.name.to_ascii_lowercase();
    let exact = |c: &Cursor<'_>| {
        let visible = |text: &str| text.bytes().all(|b| b == b' ' || b.is_ascii_graphic()) && text.trim() == text;
        c.parse("visible ASCII characters, none of them a space at an end", |text| visible(text).then(|| text.into()))
            .map(HeaderValueMatch::Exact)
    };
    if !entry.value.is_map() {
        return exact(&entry.value).map(|value| HeaderMatch { name, value });
    }
    let mut fields = entry.value.map("a header")?;
    let wanted = fields.get("exact");
    let present = fields.get("present");
    fields.finish();
    let value = match (wanted, present) {
        (Some(cursor), None) => exact(&cursor)?,
        (None, Some(cursor)) if cursor.boolean()? => HeaderValueMatch::Present,
        (None, Some(_)) => HeaderValueMatch::Absent,
        _ => {
            entry.value.fault("must have one of exact and present");
            return None;
        }
    };
    Some(HeaderMatch { name, value })
}

/// RFC 9110, 5.6.2: what names of headers and methods are made of.
fn token(text: &str) -> bool {
    let ok = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    (1..=128).contains(&text.len()) && text.bytes().all(ok)
}
