//! A finished span, in OTLP's own message: made once, sent as it is.
//!
//! It decides how attributes are written and cut. Names of attributes are those of OpenTelemetry's semantic conventions
//! ([`SCHEMA`]); what is ours begins with `fusewire.`.

use super::context::{SpanId, TraceId};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::trace::v1::span::{Event, SpanKind};
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use opentelemetry_proto::tonic::trace::v1::{Span as Wire, SpanFlags, Status};

/// The semantic conventions that attributes follow.
pub const SCHEMA: &str = "https://opentelemetry.io/schemas/1.43.0";
/// Of a text, in bytes; what is longer is cut. Paths and details come from outside.
pub const MAX_TEXT: usize = 1024;
/// Events of one span; further ones are counted.
const MAX_EVENTS: usize = 32;

pub use opentelemetry_proto::tonic::trace::v1::span::SpanKind as Kind;

/// A span, being put together or finished.
#[derive(Clone, Debug)]
pub struct Span(Wire);

/// Unix time in nanoseconds.
pub type Nanos = u64;

impl Span {
    pub fn new(name: String, kind: SpanKind, trace: TraceId, span: SpanId) -> Self {
        Self(Wire {
            trace_id: trace.bytes().to_vec(),
            span_id: span.bytes().to_vec(),
            name,
            kind: kind.into(),
            flags: 1, // sampled: nothing else is recorded
            attributes: Vec::with_capacity(16),
            ..Wire::default()
        })
    }

    /// Whose child it is.
    #[must_use]
    pub fn under(mut self, parent: Option<Parent>) -> Self {
        if let Some(parent) = parent {
            self.0.parent_span_id = parent.span.bytes().to_vec();
            self.0.flags |= SpanFlags::ContextHasIsRemoteMask as u32;
            if parent.from == From::Elsewhere {
                self.0.flags |= SpanFlags::ContextIsRemoteMask as u32;
            }
        }
        self
    }

    #[must_use]
    pub fn at(mut self, start: Nanos, end: Nanos) -> Self {
        (self.0.start_time_unix_nano, self.0.end_time_unix_nano) = (start, end.max(start));
        self
    }

    pub fn text(&mut self, key: &'static str, value: impl AsRef<str>) {
        self.0.attributes.push(text(key, value));
    }
    /// Left out where there is none.
    pub fn maybe(&mut self, key: &'static str, value: Option<impl AsRef<str>>) {
        if let Some(value) = value {
            self.text(key, value);
        }
    }
    pub fn number(&mut self, key: &'static str, value: impl Into<i64>) {
        self.0.attributes.push(number(key, value));
    }
    pub fn flag(&mut self, key: &'static str) {
        self.0.attributes.push(attribute(key, Value::BoolValue(true)));
    }

    pub fn event(&mut self, name: &'static str, time: Nanos, attributes: Vec<KeyValue>) {
        if self.0.events.len() == MAX_EVENTS {
            self.0.dropped_events_count += 1;
            return;
        }
        let dropped_attributes_count = 0;
        self.0.events.push(Event { time_unix_nano: time, name: name.into(), attributes, dropped_attributes_count });
    }

    /// It failed; `message` says more than `error.type`.
    pub fn failed(&mut self, message: Option<&str>) {
        let message = cut(message.unwrap_or_default()).into();
        self.0.status = Some(Status { message, code: StatusCode::Error.into() });
    }

    pub fn into_wire(self) -> Wire {
        self.0
    }
}

/// A span's parent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parent {
    pub span: SpanId,
    pub from: From,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    /// Of this process.
    Here,
    /// It came with a request.
    Elsewhere,
}

pub fn text(key: &'static str, value: impl AsRef<str>) -> KeyValue {
    attribute(key, Value::StringValue(cut(value.as_ref()).into()))
}

pub fn number(key: &'static str, value: impl Into<i64>) -> KeyValue {
    attribute(key, Value::IntValue(value.into()))
}

fn attribute(key: &'static str, value: Value) -> KeyValue {
    KeyValue { key: key.into(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}

/// At most [`MAX_TEXT`] bytes, whole characters.
fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(MAX_TEXT)]
}

/// The word of a gRPC status code (google.rpc.Code).
pub fn grpc_word(code: u8) -> Option<&'static str> {
    fusewire_model::policy::GRPC_CODES.get(usize::from(code)).copied()
}

/// Whether a status code is a failure of the side that it is seen from: on a server's span only what the server did wrong.
pub fn grpc_failed(code: u8, kind: SpanKind) -> bool {
    match kind {
        SpanKind::Server => matches!(code, 2 | 4 | 12 | 13 | 14 | 15) || code > 16,
        _ => code != 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_texts_are_cut_at_a_whole_character_and_events_are_bounded() {
        let mut span = Span::new("GET a".into(), Kind::Server, TraceId::from_bits(1), SpanId::from_bits(1));
        span.text("url.path", format!("{}é", "x".repeat(MAX_TEXT - 1)));
        for _ in 0..MAX_EVENTS + 3 {
            span.event("fusewire.redial", 1, vec![]);
        }
        let wire = span.at(10, 5).into_wire();
        let Some(Value::StringValue(text)) = wire.attributes[0].value.clone().unwrap().value else { panic!("a text") };
        assert_eq!(text.len(), MAX_TEXT - 1);
        assert_eq!((wire.events.len(), wire.dropped_events_count), (MAX_EVENTS, 3));
        assert_eq!((wire.start_time_unix_nano, wire.end_time_unix_nano), (10, 10));
    }

    #[test]
    fn a_server_is_not_to_blame_for_what_its_caller_asked() {
        assert!(grpc_failed(5, Kind::Client) && !grpc_failed(5, Kind::Server));
        assert!(grpc_failed(14, Kind::Client) && grpc_failed(14, Kind::Server));
        assert!(!grpc_failed(0, Kind::Client) && !grpc_failed(0, Kind::Server));
        assert_eq!((grpc_word(14), grpc_word(17)), (Some("UNAVAILABLE"), None));
    }
}
