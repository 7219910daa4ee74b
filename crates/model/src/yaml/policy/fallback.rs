//! `fallback`: a list of what is tried, in its order.

use super::{HOUR, SECOND, set};
use crate::policy::{Fallback, MAX_BODY, MAX_CHAIN, MAX_FIELDS, StaticAnswer, is_field_value};
use crate::yaml::cursor::{Cursor, Fields};
use crate::yaml::mesh::Draft;

pub(super) fn chain(cursor: &Cursor<'_>, draft: &mut Draft) -> Vec<Fallback> {
    let list = cursor.one_or_list("a list such as [{type: stale, max_age: 5m}]");
    if list.len() > MAX_CHAIN {
        cursor.fault(format!("must be at most {MAX_CHAIN} fallbacks, got {}", list.len()));
    }
    let chain: Vec<Fallback> = list.iter().filter_map(|c| one(c, draft)).collect();
    // what always answers ends the chain
    let last = chain.iter().position(|f| matches!(f, Fallback::Static(_) | Fallback::Empty | Fallback::Fail { .. }));
    if let Some(unreachable) = last.and_then(|last| list.get(last + 1)) {
        unreachable.fault_with("is never tried: what stands before it always answers", "change their order");
    }
    chain
}

#[derive(Clone, Copy)]
enum Kind {
    Static,
    Stale,
    Service,
    Empty,
    Fail,
}

const KINDS: [(&str, Kind); 5] = [
    ("static", Kind::Static),
    ("stale", Kind::Stale),
    ("service", Kind::Service),
    ("empty", Kind::Empty),
    ("fail", Kind::Fail),
];

fn one(cursor: &Cursor<'_>, draft: &mut Draft) -> Option<Fallback> {
    if cursor.as_text() == Some("empty") {
        return Some(Fallback::Empty);
    }
    let mut fields = cursor.map("a fallback such as {type: static, status: 200}")?;
    let kind = fields.required("type", "static, stale, service, empty or fail").and_then(|c| c.choice(&KINDS))?;
    let fallback = match kind {
        Kind::Static => Some(Fallback::Static(static_answer(&mut fields))),
        Kind::Stale => {
            let max_age = fields.required("max_age", "how old an answer may be");
            max_age.and_then(|c| c.duration(SECOND..=24 * HOUR)).map(|max_age| Fallback::Stale { max_age })
        }
        Kind::Service => fields
            .required("service", "the name of a service")
            .and_then(|c| draft.service_ref(&c))
            .map(Fallback::Service),
        Kind::Empty => Some(Fallback::Empty),
        Kind::Fail => {
            let mut status = 503;
            set(&mut status, fields.get("status"), |c| u16::try_from(c.integer(400..=599)?).ok());
            let retry_after = fields.get("retry_after").and_then(|c| c.duration(SECOND..=24 * HOUR));
            Some(Fallback::Fail { status, retry_after })
        }
    };
    fields.finish();
    fallback
}

fn static_answer(fields: &mut Fields<'_>) -> StaticAnswer {
    let mut answer = StaticAnswer { status: 200, headers: Vec::new(), body: String::new(), grpc_status: 0 };
    set(&mut answer.status, fields.get("status"), |c| u16::try_from(c.integer(200..=599)?).ok());
    set(&mut answer.grpc_status, fields.get("grpc_status"), |c| u8::try_from(c.integer(0..=16)?).ok());
    set(&mut answer.body, fields.get("body"), |c| {
        let body = c.text("a text")?;
        if body.len() > MAX_BODY {
            c.fault(format!("must be at most {MAX_BODY} bytes, got {}", body.len()));
        }
        Some(body.to_owned())
    });
    let headers = fields.get("headers");
    let entries = headers.iter().flat_map(|c| c.entries("a mapping of headers"));
    for entry in entries {
        let value = entry.value.parse("visible ASCII characters, no space at an end", |text| {
            is_field_value(text).then(|| text.to_owned())
        });
        let name = entry.name.to_ascii_lowercase();
        if !crate::policy::is_field_name(&name) {
            entry.fault("is not a header that an answer may be given: it is no name, frames the message, or is ours");
        } else if answer.headers.iter().any(|(known, _)| *known == name) {
            entry.fault("is already written: the case of a header's name does not count");
        } else if answer.headers.len() == MAX_FIELDS {
            entry.fault(format!("is one more than the {MAX_FIELDS} headers that an answer may be given"));
        } else {
            answer.headers.extend(value.map(|value| (name, value)));
        }
    }
    answer
}
