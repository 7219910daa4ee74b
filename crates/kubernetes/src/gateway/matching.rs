//! What both kinds of routes match by: values of headers and of query parameters, and paths.

use super::Told;
use super::object::Named;
use fusewire_model::route::{HeaderMatch, Pattern, QueryMatch, ValueMatch, is_token};
use std::collections::BTreeSet;

/// Of a header's or a parameter's value.
const MAX_VALUE: usize = 4_096;

/// Of several entries for one name, whose case does not count, the first counts (Gateway API).
pub(super) fn headers(told: &mut Told, headers: &[Named], path: &str) -> Vec<HeaderMatch> {
    let mut seen = BTreeSet::new();
    let mut all = Vec::new();
    for (index, header) in headers.iter().enumerate() {
        let path = format!("{path}.headers[{index}]");
        let name = header.name.to_ascii_lowercase();
        if !is_token(&name) {
            told.unsupported(format_args!("{path}.name"), "is no header's name");
        } else if let Some(value) = value(told, header, &path)
            && seen.insert(name.clone())
        {
            all.push(HeaderMatch { name, value });
        }
    }
    all
}

/// The same of the query, where the case counts.
pub(super) fn query(told: &mut Told, parameters: &[Named], path: &str) -> Vec<QueryMatch> {
    let mut seen = BTreeSet::new();
    let mut all = Vec::new();
    for (index, parameter) in parameters.iter().enumerate() {
        let path = format!("{path}.queryParams[{index}]");
        let name = parameter.name.clone();
        if name.is_empty() || !fits(&name) {
            told.unsupported(format_args!("{path}.name"), "is no parameter's name");
        } else if let Some(value) = value(told, parameter, &path)
            && seen.insert(name.clone())
        {
            all.push(QueryMatch { name, value });
        }
    }
    all
}

fn value(told: &mut Told, named: &Named, path: &str) -> Option<ValueMatch> {
    told.unknown(path, &named.rest);
    match named.kind.as_deref().unwrap_or("Exact") {
        "Exact" if fits(&named.value) => Some(ValueMatch::Exact(named.value.clone())),
        "Exact" => {
            told.unsupported(format_args!("{path}.value"), "is too long, or holds control characters");
            None
        }
        "RegularExpression" => pattern(told, &named.value, &format!("{path}.value")).map(ValueMatch::Regex),
        other => {
            told.unsupported(format_args!("{path}.type"), format_args!("{other} is not supported"));
            None
        }
    }
}

fn fits(text: &str) -> bool {
    text.len() <= MAX_VALUE && !text.chars().any(char::is_control)
}

/// All of the value must match.
pub(super) fn pattern(told: &mut Told, text: &str, path: &str) -> Option<Pattern> {
    Pattern::parse(text).map_err(|why| told.unsupported(path, why)).ok()
}

/// As it stands in a request line, without the query.
pub(super) fn path(told: &mut Told, text: &str, path: &str) -> Option<String> {
    let fits = text.starts_with('/')
        && text.len() <= 2_048
        && !text.contains(['?', '#'])
        && text.bytes().all(|b| b.is_ascii_graphic());
    if !fits {
        told.unsupported(path, "must begin with '/', be percent-encoded, and be without '?' and '#'");
    }
    fits.then(|| text.to_owned())
}
