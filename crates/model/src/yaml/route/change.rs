//! What a rule changes: `request_headers`, `response_headers`, `rewrite`, `mirror`, `cors`; and `redirect`.

use super::path_text;
use crate::policy::{Ratio, is_field_value};
use crate::route::{
    Authority, Cors, CorsWords, Edits, Filters, HeaderEdits, List, MAX_CORS_AGE, MAX_EDITS, MAX_MIRRORS, Mirror,
    PathEdit, PathMatch, REDIRECTS, Redirect, Scheme, is_replacement, may_edit,
};
use crate::yaml::cursor::{Cursor, Entry, Fields};
use crate::yaml::mesh::Draft;
use crate::yaml::scalar::{parse_millionths, shown};
use std::collections::BTreeMap;
use std::time::Duration;

/// All that stands beside `to`.
pub(super) fn filters(fields: &mut Fields<'_>, matched: &PathMatch, draft: &mut Draft) -> Filters {
    let mut filters = Filters { edits: edits(fields), ..Filters::default() };
    if let Some(cursor) = fields.get("rewrite")
        && let Some(mut fields) = cursor.map("a mapping of host and path")
    {
        let host = fields.get("host");
        filters.host = host.and_then(|c| c.parse("host or host:port, such as shop.example", Authority::parse));
        filters.path = fields.get("path").and_then(|c| path(&c, matched));
        fields.finish();
    }
    if let Some(cursor) = fields.get("mirror") {
        let list = cursor.one_or_list("a service, {to, share} or a list of them");
        if list.len() > MAX_MIRRORS {
            cursor.fault(format!("must be at most {MAX_MIRRORS} services, got {}", list.len()));
        }
        filters.mirrors = list.iter().filter_map(|cursor| mirror(cursor, draft)).collect();
    }
    filters.cors = fields.get("cors").and_then(|c| cors(&c));
    filters
}

/// `request_headers` and `response_headers`.
pub(super) fn edits(fields: &mut Fields<'_>) -> Edits {
    let request = fields.get("request_headers").map(|c| header_edits(&c)).unwrap_or_default();
    let response = fields.get("response_headers").map(|c| header_edits(&c)).unwrap_or_default();
    Edits { request, response }
}

/// `{set: {x-a: "1"}, add: {x-b: "2"}, remove: [x-c]}`.
fn header_edits(cursor: &Cursor<'_>) -> HeaderEdits {
    let mut edits = HeaderEdits::default();
    let Some(mut fields) = cursor.map("a mapping of set, add and remove") else { return edits };
    edits.set = fields.get("set").map(|c| named(&c)).unwrap_or_default();
    edits.add = fields.get("add").map(|c| named(&c)).unwrap_or_default();
    for cursor in fields.get("remove").iter().flat_map(|c| c.one_or_list("a header's name or a list of them")) {
        let name = cursor.text("a header's name").map(str::to_ascii_lowercase);
        edits.remove.extend(name.filter(|name| {
            let may = may_edit(name);
            if !may {
                cursor.fault(refusal(name));
            }
            may
        }));
    }
    fields.finish();
    edits.remove.sort();
    edits.remove.dedup();
    if [edits.set.len(), edits.add.len(), edits.remove.len()].into_iter().any(|count| count > MAX_EDITS) {
        cursor.fault(format!("must be at most {MAX_EDITS} of each of set, add and remove"));
    }
    edits
}

fn refusal(name: &str) -> String {
    let ours =
        "the mesh decides about those that frame a message, are for one connection, name the host, or are its own";
    format!("{} is not a header that a route may change: {ours}", shown(name))
}

fn named(cursor: &Cursor<'_>) -> Vec<(String, String)> {
    let mut all = BTreeMap::new();
    for entry in cursor.entries("a mapping of headers") {
        let Some((name, value)) = field(&entry) else { continue };
        if all.insert(name, value).is_some() {
            entry.fault("is already written: the case of a header's name does not count");
        }
    }
    all.into_iter().collect()
}

fn field(entry: &Entry<'_>) -> Option<(String, String)> {
    let name = entry.name.to_ascii_lowercase();
    if !may_edit(&name) {
        entry.fault(refusal(entry.name));
        return None;
    }
    let wanted = "visible ASCII characters, none of them a space at an end, at most 4096";
    Some((name, entry.value.parse(wanted, |text| is_field_value(text).then(|| text.into()))?))
}

/// `/whole` or `{prefix: /new}`.
fn path(cursor: &Cursor<'_>, matched: &PathMatch) -> Option<PathEdit> {
    if !cursor.is_map() {
        return replacement(cursor).map(PathEdit::Whole);
    }
    let mut fields = cursor.map("a path")?;
    let prefix =
        fields.required("prefix", "what stands in place of the prefix that matched").and_then(|c| replacement(&c));
    fields.finish();
    if !matched.has_prefix() {
        cursor.fault_with("replaces a prefix, and the rule matches none", "write `match: {path: {prefix: ...}}`");
        return None;
    }
    prefix.map(PathEdit::Prefix)
}

/// It is sent as it is, so that it must be more than what a match may say.
fn replacement(cursor: &Cursor<'_>) -> Option<String> {
    let text = path_text(cursor)?;
    let fits = is_replacement(&text);
    if !fits {
        cursor.fault(format!("must be percent-encoded as a path is (RFC 3986, 3.3), got {}", shown(&text)));
    }
    fits.then_some(text)
}

/// `shadow`, or `{to: shadow, share: 10%}`.
fn mirror(cursor: &Cursor<'_>, draft: &mut Draft) -> Option<Mirror> {
    let whole = Ratio::from_millionths(Ratio::WHOLE)?;
    if !cursor.is_map() {
        return draft.service_ref(cursor).map(|service| Mirror { service, share: whole });
    }
    let mut fields = cursor.map("a mapping of to and share")?;
    let service = fields.required("to", "the name of a service").and_then(|c| draft.service_ref(&c));
    let share = fields.get("share").and_then(|c| {
        c.parse("a share 0..1 or 0%..100%", |text| parse_millionths(text).and_then(Ratio::from_millionths))
    });
    fields.finish();
    Some(Mirror { service: service?, share: share.unwrap_or(whole) })
}

/// `{origins: ["https://*.example"], methods: [GET, PUT], headers: [x-a], credentials: true, expose: [x-b], max_age: 1h}`.
fn cors(cursor: &Cursor<'_>) -> Option<Cors> {
    let mut fields = cursor.map("a mapping of origins, methods, headers, credentials, expose and max_age")?;
    let mut words = |name, what: &str| {
        let list = fields.get(name).map(|c| c.one_or_list(what)).unwrap_or_default();
        let read = list.iter().filter_map(|c| Some((c.clone(), c.text(what)?.to_owned())));
        read.unzip::<_, _, Vec<Cursor<'_>>, Vec<String>>()
    };
    let (at_origins, origins) = words("origins", "an origin, such as https://shop.example, or a list of them");
    let (at_methods, methods) = words("methods", "a method or a list of them");
    let (at_headers, headers) = words("headers", "a header's name or a list of them");
    let (at_expose, expose) = words("expose", "a header's name or a list of them");
    let credentials = fields.get("credentials").and_then(|c| c.boolean()).unwrap_or(false);
    let longest = Duration::from_secs(MAX_CORS_AGE.into());
    let age = fields.get("max_age").and_then(|c| c.duration(Duration::from_secs(1)..=longest));
    let age = age.and_then(|age| u32::try_from(age.as_secs()).ok()).unwrap_or(Cors::DEFAULT_AGE);
    fields.finish();
    if origins.is_empty() {
        cursor.fault_with(
            "names no origin, so that no page may read anything",
            "write `origins: [\"https://shop.example\"]`",
        );
    }
    let faults = match Cors::new(CorsWords { origins, methods, headers, expose }, credentials, age) {
        Ok(cors) => return Some(cors),
        Err(faults) => faults,
    };
    for (list, at, why) in faults {
        let places = match list {
            List::Origins => &at_origins,
            List::Methods => &at_methods,
            List::Headers => &at_headers,
            List::Expose => &at_expose,
        };
        places.get(at).unwrap_or(cursor).fault(why);
    }
    None
}

/// `{scheme: https, host: shop.example, port: 8443, path: /x, status: 301}`: each may be left out, but not all.
pub(super) fn redirect(cursor: &Cursor<'_>, matched: &PathMatch) -> Option<Filters> {
    let mut fields = cursor.map("a mapping of scheme, host, port, path and status")?;
    let scheme = fields.get("scheme").and_then(|c| c.choice(&Scheme::ALL));
    let host = fields.get("host").and_then(|c| {
        c.parse("a host without a port, such as shop.example", |text| {
            Authority::parse(text).filter(|host| host.port().is_none())
        })
    });
    let port = fields.get("port").and_then(|c| u16::try_from(c.integer(1..=65_535)?).ok());
    let path = fields.get("path").and_then(|c| path(&c, matched));
    let statuses = REDIRECTS.map(|status| (status.to_string(), status));
    let statuses: Vec<(&str, u16)> = statuses.iter().map(|(word, status)| (word.as_str(), *status)).collect();
    let status = fields.get("status").and_then(|c| c.choice(&statuses)).unwrap_or(302);
    fields.finish();
    let redirect = Redirect { scheme, host, port, path, status };
    if redirect.changes_nothing(matched) {
        cursor.fault_with("leads to where it came from", "name a scheme, host, port or path");
    }
    Some(Filters { redirect: Some(redirect), ..Filters::default() })
}
