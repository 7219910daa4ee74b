//! What callers say of a trace: whatever it is, what goes on is within the limits, and leads to the same trace.

use fusewire_telemetry::trace::context::{Context, extract};
use fusewire_telemetry::trace::state::{self, MAX_LENGTH, MAX_MEMBERS};
use http::{HeaderMap, HeaderName, HeaderValue};

const OURS: &str = "a:1;r:0";

/// Lines of `name: value`.
pub(super) fn check(data: &[u8]) {
    let mut fields = HeaderMap::new();
    for line in data.split(|b| *b == b'\n').take(64) {
        let mut parts = line.splitn(2, |b| *b == b':');
        let (Some(name), Some(value)) = (parts.next(), parts.next()) else { continue };
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value.trim_ascii())) {
            fields.append(name, value);
        }
    }
    let states = || fields.get_all("tracestate").iter().map(HeaderValue::as_bytes);
    let written = state::with_ours(states(), OURS);
    let members = state::members([written.as_bytes()]).expect("what we write can be read");
    assert!(written.len() <= MAX_LENGTH && members.len() <= MAX_MEMBERS, "{written}");
    assert_eq!(members[0], ("fusewire", OURS));
    let came = extract(&fields);
    if let Some((trace, span)) = came.ids {
        let context = Context { trace, span, parent: None, sampled: came.sampled == Some(true), forms: came.forms };
        let mut out = HeaderMap::new();
        context.inject(&mut out);
        assert_eq!(extract(&out).ids, came.ids);
    }
}
