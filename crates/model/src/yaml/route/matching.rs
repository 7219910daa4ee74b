//! `match`: which requests a rule is for.

use super::{path_text, token};
use crate::route::{HeaderMatch, Match, PathMatch, Pattern, QueryMatch, ValueMatch};
use crate::yaml::cursor::{Cursor, Entry};
use crate::yaml::scalar::shown;
use std::collections::BTreeMap;

pub(super) fn matching(cursor: &Cursor<'_>) -> Match {
    let mut matches = Match::default();
    let Some(mut fields) = cursor.map("a mapping of path, method, headers and query") else { return matches };
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
    for entry in fields.get("query").iter().flat_map(|c| c.entries("a mapping of parameters")) {
        matches.query.extend(parameter(&entry));
    }
    matches.query.sort_by(|a, b| a.name.cmp(&b.name));
    fields.finish();
    matches
}

/// `/x`, `{exact: /x}`, `{prefix: /x}` or `{regex: "/v[12]/.+"}`.
fn path(cursor: &Cursor<'_>) -> Option<PathMatch> {
    if !cursor.is_map() {
        return path_text(cursor).map(PathMatch::Exact);
    }
    let mut fields = cursor.map("a path")?;
    let exact = fields.get("exact");
    let prefix = fields.get("prefix");
    let regex = fields.get("regex");
    fields.finish();
    match (exact, prefix, regex) {
        (Some(exact), None, None) => path_text(&exact).map(PathMatch::Exact),
        (None, Some(prefix), None) => path_text(&prefix).map(PathMatch::Prefix),
        (None, None, Some(regex)) => pattern(&regex).map(PathMatch::Regex),
        _ => {
            cursor.fault("must have one of exact, prefix and regex");
            None
        }
    }
}

/// `x-canary: "1"`, or a mapping as [`value`] reads it.
fn header(entry: &Entry<'_>) -> Option<HeaderMatch> {
    if !token(entry.name) {
        entry.fault(format!("{} is not a header's name", shown(entry.name)));
        return None;
    }
    let name = entry.name.to_ascii_lowercase();
    let value = value(&entry.value, "a header", |c| {
        let visible = |text: &str| text.bytes().all(|b| b == b' ' || b.is_ascii_graphic()) && text.trim() == text;
        c.parse("visible ASCII characters, none of them a space at an end", |text| visible(text).then(|| text.into()))
    })?;
    Some(HeaderMatch { name, value })
}

/// The same of the query. Name and value as they are once they are decoded.
fn parameter(entry: &Entry<'_>) -> Option<QueryMatch> {
    let fits = |text: &str| text.len() <= 1_024 && !text.chars().any(char::is_control);
    if entry.name.is_empty() || !fits(entry.name) {
        entry.fault(format!("{} is not a parameter's name", shown(entry.name)));
        return None;
    }
    let value = value(&entry.value, "a parameter", |c| {
        c.parse("at most 1024 bytes without control characters", |text| fits(text).then(|| text.into()))
    })?;
    Some(QueryMatch { name: entry.name.into(), value })
}

/// A text, which `exact` reads, `{exact: "1"}`, `{present: true}` or `{regex: "1|2"}`.
fn value(cursor: &Cursor<'_>, what: &str, exact: impl Fn(&Cursor<'_>) -> Option<String>) -> Option<ValueMatch> {
    if !cursor.is_map() {
        return exact(cursor).map(ValueMatch::Exact);
    }
    let mut fields = cursor.map(what)?;
    let wanted = fields.get("exact");
    let present = fields.get("present");
    let regex = fields.get("regex");
    fields.finish();
    match (wanted, present, regex) {
        (Some(wanted), None, None) => exact(&wanted).map(ValueMatch::Exact),
        (None, Some(present), None) if present.boolean()? => Some(ValueMatch::Present),
        (None, Some(_), None) => Some(ValueMatch::Absent),
        (None, None, Some(regex)) => pattern(&regex).map(ValueMatch::Regex),
        _ => {
            cursor.fault("must have one of exact, present and regex");
            None
        }
    }
}

fn pattern(cursor: &Cursor<'_>) -> Option<Pattern> {
    match Pattern::parse(cursor.text("a regular expression")?) {
        Ok(pattern) => Some(pattern),
        Err(why) => {
            cursor.fault_with(why, "all of the value must match; the syntax is that of Rust's regex, much as RE2's");
            None
        }
    }
}
