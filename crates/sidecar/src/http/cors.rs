//! Which pages may read an answer, where a route's rule says so: fields of every answer that the caller gets once a backend was
//! chosen, the mesh's own among them, so that a page learns of a failure.
//!
//! It deliberately leaves nothing of what the service itself says of it: two answers to one question would be none.

use fusewire_model::route::{CORS_FIELDS, Cors};
use http::HeaderMap;
use http::header::{self, HeaderName, HeaderValue};
use std::sync::Arc;

/// What one request is told.
pub(crate) struct Sharing {
    cors: Arc<Cors>,
    origin: Option<HeaderValue>,
}

impl Sharing {
    pub(crate) fn of(cors: &Arc<Cors>, request: &HeaderMap) -> Self {
        Self { cors: cors.clone(), origin: request.get(header::ORIGIN).cloned() }
    }

    /// Once all else has been said.
    pub(crate) fn write(&self, answer: &mut HeaderMap) {
        for name in CORS_FIELDS {
            answer.remove(name);
        }
        if self.cors.varies() && !varies_by_origin(answer) {
            answer.append(header::VARY, HeaderValue::from_static("origin"));
        }
        let Some(origin) = self.origin.as_ref().and_then(|origin| origin.to_str().ok()) else { return };
        if let Some(told) = self.cors.answer(origin, answer.keys().map(HeaderName::as_str)) {
            answer.extend(fields(told));
        }
    }
}

pub(crate) fn fields(told: Vec<(&'static str, String)>) -> HeaderMap {
    let field = |(name, value): (&'static str, String)| {
        Some((HeaderName::from_static(name), HeaderValue::try_from(value).ok()?))
    };
    told.into_iter().filter_map(field).collect()
}

fn varies_by_origin(answer: &HeaderMap) -> bool {
    let lists = answer.get_all(header::VARY).iter().filter_map(|value| value.to_str().ok());
    lists
        .flat_map(|list| list.split(','))
        .any(|name| matches!(name.trim(), "*") || name.trim().eq_ignore_ascii_case("origin"))
}
