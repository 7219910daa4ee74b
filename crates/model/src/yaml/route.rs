//! `routes`: which authority, which requests, and where they then go.

mod change;
mod matching;

use super::cursor::{Cursor, Entry, Fields};
use super::mesh::Draft;
use super::scalar::shown;
use crate::route::{Authority, Backend, Route, Rule, Size, is_token};
use change::{edits, filters, redirect};
use matching::matching;
use std::collections::BTreeSet;

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
            for beside in KEYS {
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
    for authority in &authorities {
        let size = draft.sizes.entry(authority.clone()).or_default();
        rules.iter().for_each(|rule| *size += Size::of(rule));
        if let Some(excess) = size.excess() {
            entry.fault(format!("makes too much of {authority}: {excess}"));
        }
    }
    Some(Route { name: entry.name.into(), authorities, service: None, rules })
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

/// What a rule may say, and a route of one rule.
const KEYS: [&str; 9] =
    ["match", "to", "redirect", "policy", "request_headers", "response_headers", "rewrite", "mirror", "cors"];

fn rule(fields: &mut Fields<'_>, name: &str, draft: &mut Draft) -> Option<Rule> {
    let name = name.into();
    let matches = fields.get("match").map(|c| matching(&c)).unwrap_or_default();
    if let Some(cursor) = fields.get("redirect") {
        for beside in KEYS.into_iter().filter(|key| !["match", "redirect"].contains(key)) {
            if fields.get(beside).is_some() {
                cursor.fault_with(format!("stands beside {beside}"), "what is redirected goes nowhere else: keep one");
            }
        }
        let filters = redirect(&cursor, &matches.path)?;
        return Some(Rule { name, matches, backends: Vec::new(), policy: None, filters: filters.boxed() });
    }
    let backends = fields.required("to", "a service or a list of {service, weight}").map(|c| backends(&c, draft));
    let policy = fields.get("policy").and_then(|c| draft.policy_ref(&c));
    let filters = filters(fields, &matches.path, draft).boxed();
    Some(Rule { name, matches, backends: backends?, policy, filters })
}

fn backends(cursor: &Cursor<'_>, draft: &mut Draft) -> Vec<Backend> {
    let before = cursor.sink().count();
    let mut backends = Vec::new();
    for cursor in cursor.one_or_list("a service or a list of {service, weight}") {
        if !cursor.is_map() {
            backends.extend(draft.service_ref(&cursor).map(|service| Backend::to(service, 1)));
            continue;
        }
        backends.extend(backend(&cursor, draft));
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

/// `{service: shop, weight: 9, request_headers: {...}}`, or `{missing: true}` for a share that is answered with 500.
fn backend(cursor: &Cursor<'_>, draft: &mut Draft) -> Option<Backend> {
    let mut fields = cursor.map("a backend")?;
    let missing = fields.get("missing").and_then(|c| Some((c.clone(), c.boolean()?)));
    let service = match &missing {
        Some((cursor, true)) => {
            if fields.get("service").is_some() {
                cursor.fault_with("stands beside service", "keep one");
            }
            Some(None)
        }
        _ => fields.required("service", "the name of a service").and_then(|c| draft.service_ref(&c)).map(Some),
    };
    let weight = fields.get("weight").and_then(|c| c.integer(0..=1_000_000));
    let edits = edits(&mut fields).boxed();
    fields.finish();
    let weight = weight.and_then(|w| u32::try_from(w).ok()).unwrap_or(1);
    service.map(|service| Backend { service, weight, edits })
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

/// What names of headers and methods are made of.
fn token(text: &str) -> bool {
    text.len() <= 128 && is_token(text)
}
