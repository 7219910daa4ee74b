//! A span as it is kept: validated, trimmed, and encoded as what the page will be shown.
//!
//! It decides what is malformed (an id of the wrong length, an end before the start) and how much of a span is kept: the
//! bounds below. It deliberately turns every attribute into text, so that one search finds them all, and keeps what is asked
//! of every span (its marks, its status) beside the encoded rest.
//!
//! Invariant: nothing that is sent is kept at more than [`MAX_TEXT`] bytes of text a span, a quarter of it of its resource;
//! and what a message says of its resource and scopes is made ready for one batch at a time, never for the whole message.

use fusewire_api::v1;
use fusewire_identity::SpiffeId;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::trace::v1::span::{Event, Link, SpanKind};
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
use prost::Message;
use std::fmt::Write;
use std::sync::Arc;

pub(crate) type TraceId = [u8; 16];
pub(crate) type SpanId = [u8; 8];

/// Of names, values and keys together, in one span.
pub(crate) const MAX_TEXT: usize = 16 << 10;
const MAX_NAME: usize = 256;
const MAX_KEY: usize = 128;
const MAX_VALUE: usize = 2_048;
const MAX_ATTRIBUTES: usize = 64;
const MAX_EVENTS: usize = 64;
const MAX_EVENT_ATTRIBUTES: usize = 16;
const MAX_LINKS: usize = 16;
/// Spans that are read and stored in one go, before others have their turn.
const MAX_BATCH: usize = 500;
/// Of an array within an array.
const MAX_DEPTH: usize = 6;

/// What a span says that the list of traces shows and filters by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Marks(u8);

impl Marks {
    pub(crate) const ERROR: Self = Self(1);
    pub(crate) const REJECTED: Self = Self(2);
    pub(crate) const PROBE: Self = Self(4);
    pub(crate) const REDIAL: Self = Self(8);
    pub(crate) const FALLBACK: Self = Self(16);
    /// Everything that circuits do.
    pub(crate) const CIRCUIT: Self = Self(2 | 4 | 8 | 16);

    pub(crate) fn add(&mut self, other: Self) {
        self.0 |= other.0;
    }

    /// Any of `others`.
    pub(crate) fn any(self, others: Self) -> bool {
        self.0 & others.0 != 0
    }
}

/// Who sent a span, and of what.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Source {
    pub(crate) service: Box<str>,
    /// The proven SPIFFE ID; empty where nothing was proven.
    pub(crate) identity: Box<str>,
    /// The service that the sender said to be, where it proved to be another.
    pub(crate) claimed: Box<str>,
    /// Attributes of the resource and the instrumentation's name, as [`v1::TraceSpan`] with nothing else.
    pub(crate) resource: Box<[u8]>,
}

impl Source {
    pub(crate) fn bytes(&self) -> usize {
        size_of::<Self>() + self.service.len() + self.identity.len() + self.claimed.len() + self.resource.len()
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Kept {
    pub(crate) id: SpanId,
    /// Zero: none.
    pub(crate) parent: SpanId,
    /// Nanoseconds since 1970; `start <= end`.
    pub(crate) start: u64,
    pub(crate) end: u64,
    /// HTTP's; 0: none.
    pub(crate) status: u16,
    pub(crate) marks: Marks,
    /// Of the trace's sources.
    pub(crate) source: u16,
    pub(crate) reason: Option<Box<str>>,
    /// The rest, as [`v1::TraceSpan`].
    pub(crate) body: Box<[u8]>,
    pub(crate) is_trimmed: bool,
}

impl Kept {
    /// Beside the struct itself.
    pub(crate) fn text_bytes(&self) -> usize {
        self.body.len() + self.reason.as_ref().map_or(0, |reason| reason.len())
    }
}

/// Some spans of one source, and how many were malformed.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) source: Arc<Source>,
    pub(crate) spans: Vec<(TraceId, Kept)>,
    pub(crate) malformed: u64,
    /// What was wrong with the first of them.
    pub(crate) fault: Option<&'static str>,
}

/// What was sent by `peer`, or without proof, in batches of at most [`MAX_BATCH`] spans.
pub(crate) fn receive(sent: ResourceSpans, peer: Option<&SpiffeId>) -> Batches {
    let attributes = sent.resource.map(|resource| resource.attributes).unwrap_or_default();
    Batches {
        origin: Origin::of(&attributes, peer),
        scopes: sent.scope_spans.into_iter(),
        spans: Vec::new().into_iter(),
        source: None,
    }
}

/// One batch exists at a time: a scope takes two bytes on the wire, and its source up to a quarter of [`MAX_TEXT`].
#[derive(Debug)]
pub(crate) struct Batches {
    origin: Origin,
    scopes: std::vec::IntoIter<ScopeSpans>,
    /// What is left of the scope that is being read.
    spans: std::vec::IntoIter<Span>,
    /// Of that scope, with the scope's name; shared with the next one if that has the same.
    source: Option<(String, Arc<Source>)>,
}

impl Iterator for Batches {
    type Item = Batch;

    fn next(&mut self) -> Option<Batch> {
        while self.spans.as_slice().is_empty() {
            let scope = self.scopes.next()?;
            let name = scope.scope.map(|scope| scope.name).unwrap_or_default();
            if !scope.spans.is_empty() && self.source.as_ref().is_none_or(|(known, _)| *known != name) {
                let source = Arc::new(self.origin.source(&name));
                self.source = Some((name, source));
            }
            self.spans = scope.spans.into_iter();
        }
        let (_, source) = self.source.as_ref()?;
        let mut batch = Batch { source: source.clone(), spans: Vec::new(), malformed: 0, fault: None };
        for span in self.spans.by_ref().take(MAX_BATCH) {
            match keep(span) {
                Ok(kept) => batch.spans.push(kept),
                Err(fault) => {
                    batch.malformed += 1;
                    batch.fault.get_or_insert(fault);
                }
            }
        }
        Some(batch)
    }
}

/// The service by what was proven; by what was said only where nothing was.
pub(crate) fn service_of(attributes: &[KeyValue], peer: Option<&SpiffeId>) -> (String, String) {
    let mut room = Room { left: MAX_NAME, trimmed: 0 };
    let said = attributes.iter().find(|attribute| attribute.key == "service.name");
    let said = said.and_then(|attribute| attribute.value.as_ref()).map(|value| room.value(value)).unwrap_or_default();
    match peer {
        None if said.is_empty() => ("unknown".to_owned(), String::new()),
        None => (said, String::new()),
        Some(id) if said.is_empty() || said == id.path() || said == id.as_str() => {
            (id.path().to_owned(), String::new())
        }
        Some(id) => (id.path().to_owned(), said),
    }
}

/// What the sources of one resource have in common.
#[derive(Debug)]
struct Origin {
    service: String,
    identity: String,
    claimed: String,
    /// The resource's attributes, as [`v1::TraceSpan`] with nothing else.
    resource: Vec<u8>,
    room: Room,
}

impl Origin {
    fn of(attributes: &[KeyValue], peer: Option<&SpiffeId>) -> Self {
        let (service, claimed) = service_of(attributes, peer);
        let mut room = Room { left: MAX_TEXT / 4, trimmed: 0 };
        let others = attributes.iter().filter(|attribute| attribute.key != "service.name");
        let resource = v1::TraceSpan { resource: room.attributes(others, MAX_ATTRIBUTES), ..Default::default() };
        let identity = peer.map(SpiffeId::as_str).unwrap_or_default().to_owned();
        Self { service, identity, claimed, resource: resource.encode_to_vec(), room }
    }

    fn source(&self, scope: &str) -> Source {
        let mut resource = v1::TraceSpan::default();
        if !scope.is_empty() {
            let value = Room { ..self.room }.text(scope, MAX_NAME);
            resource.resource.push(v1::SpanAttribute { key: "otel.scope.name".into(), value });
        }
        // first what differs, so that sources of one resource are told apart by their first bytes; of a list in
        // protobuf the parts may simply follow each other
        let mut resource = resource.encode_to_vec();
        resource.extend_from_slice(&self.resource);
        Source {
            service: self.service.as_str().into(),
            identity: self.identity.as_str().into(),
            claimed: self.claimed.as_str().into(),
            resource: resource.into(),
        }
    }
}

fn keep(span: Span) -> Result<(TraceId, Kept), &'static str> {
    let trace = TraceId::try_from(&*span.trace_id).map_err(|_| "a trace id is not of 16 bytes")?;
    let id = SpanId::try_from(&*span.span_id).map_err(|_| "a span id is not of 8 bytes")?;
    let parent = match &*span.parent_span_id {
        [] => SpanId::default(),
        parent => SpanId::try_from(parent).map_err(|_| "a parent's id is not of 8 bytes")?,
    };
    if trace == TraceId::default() || id == SpanId::default() {
        return Err("an id is all zeros");
    }
    if span.start_time_unix_nano == 0 {
        return Err("a span has no start");
    }
    if span.end_time_unix_nano < span.start_time_unix_nano {
        return Err("a span ends before it starts");
    }
    let (marks, status, reason) = marks(&span);
    let (start, end) = (span.start_time_unix_nano, span.end_time_unix_nano);
    let body = body(span);
    let is_trimmed = body.trimmed > 0;
    let body = body.encode_to_vec().into();
    Ok((trace, Kept { id, parent, start, end, status, marks, source: 0, reason, body, is_trimmed }))
}

fn marks(span: &Span) -> (Marks, u16, Option<Box<str>>) {
    let (mut marks, mut status, mut reason) = (Marks::default(), 0, None);
    if span.status.as_ref().is_some_and(|status| status.code == i32::from(StatusCode::Error)) {
        marks.add(Marks::ERROR);
    }
    for attribute in &span.attributes {
        let value = attribute.value.as_ref().and_then(|value| value.value.as_ref());
        match (attribute.key.as_str(), value) {
            ("fusewire.reason", Some(Value::StringValue(word))) if !word.is_empty() => {
                if word == "circuit-open" {
                    marks.add(Marks::REJECTED);
                }
                reason = Some(cut(word, 64).into());
            }
            ("fusewire.probe", Some(Value::BoolValue(true))) => marks.add(Marks::PROBE),
            // the second is what it was called before OpenTelemetry's conventions were stable
            ("http.response.status_code" | "http.status_code", Some(Value::IntValue(code))) => {
                status = u16::try_from(*code).unwrap_or(0);
            }
            _ => {}
        }
    }
    for event in &span.events {
        match event.name.as_str() {
            "fusewire.circuit_rejected" => marks.add(Marks::REJECTED),
            "fusewire.probe" => marks.add(Marks::PROBE),
            "fusewire.redial" => marks.add(Marks::REDIAL),
            "fusewire.fallback" => marks.add(Marks::FALLBACK),
            _ => {}
        }
    }
    (marks, status, reason)
}

/// What is shown of a span, but for what [`Kept`] and [`Source`] hold.
fn body(span: Span) -> v1::TraceSpan {
    let mut room = Room { left: MAX_TEXT, trimmed: 0 };
    let kind = match SpanKind::try_from(span.kind) {
        Ok(SpanKind::Internal) => "internal",
        Ok(SpanKind::Server) => "server",
        Ok(SpanKind::Client) => "client",
        Ok(SpanKind::Producer) => "producer",
        Ok(SpanKind::Consumer) => "consumer",
        Ok(SpanKind::Unspecified) | Err(_) => "",
    };
    let name = room.text(&span.name, MAX_NAME);
    let message = room.text(&span.status.unwrap_or_default().message, MAX_NAME);
    // events before attributes: an event is why somebody looks
    let events: Vec<_> = span.events.iter().take(MAX_EVENTS).map(|event| room.event(event)).collect();
    let attributes = room.attributes(span.attributes.iter(), MAX_ATTRIBUTES);
    let links: Vec<_> = span.links.iter().take(MAX_LINKS).map(link).collect();
    let beyond = (span.events.len() - events.len()) + (span.links.len() - links.len());
    let at_sender = [span.dropped_attributes_count, span.dropped_events_count, span.dropped_links_count];
    let trimmed = room.trimmed.saturating_add(u32::try_from(beyond).unwrap_or(u32::MAX));
    let trimmed = at_sender.into_iter().fold(trimmed, u32::saturating_add);
    v1::TraceSpan { name, kind: kind.into(), message, attributes, events, links, trimmed, ..Default::default() }
}

fn link(link: &Link) -> v1::SpanLink {
    v1::SpanLink { trace_id: hex(cut_bytes(&link.trace_id, 16)), span_id: hex(cut_bytes(&link.span_id, 8)) }
}

/// How much text a span may still have.
#[derive(Debug)]
struct Room {
    left: usize,
    trimmed: u32,
}

impl Room {
    fn text(&mut self, text: &str, max: usize) -> String {
        let kept = cut(text, max.min(self.left));
        if kept.len() < text.len() {
            self.trimmed = self.trimmed.saturating_add(1);
        }
        self.left -= kept.len();
        kept.to_owned()
    }

    fn attributes<'a>(
        &mut self,
        sent: impl Iterator<Item = &'a KeyValue> + Clone,
        max: usize,
    ) -> Vec<v1::SpanAttribute> {
        let mut kept = Vec::new();
        for attribute in sent {
            if kept.len() == max || self.left < attribute.key.len().min(MAX_KEY) + 1 {
                self.trimmed = self.trimmed.saturating_add(1);
                continue;
            }
            let key = self.text(&attribute.key, MAX_KEY);
            let value = attribute.value.as_ref().map(|value| self.value(value)).unwrap_or_default();
            kept.push(v1::SpanAttribute { key, value });
        }
        kept
    }

    fn value(&mut self, value: &AnyValue) -> String {
        let max = MAX_VALUE.min(self.left);
        if let Some(Value::StringValue(text)) = &value.value {
            return self.text(text, max);
        }
        let mut text = String::new();
        write_value(&mut text, value, max, 0);
        self.text(&text, max)
    }

    fn event(&mut self, event: &Event) -> v1::SpanEvent {
        let name = self.text(&event.name, MAX_NAME);
        let attributes = self.attributes(event.attributes.iter(), MAX_EVENT_ATTRIBUTES);
        v1::SpanEvent { name, time_ns: event.time_unix_nano, attributes }
    }
}

/// Stops soon after `max` bytes, whatever there is.
fn write_value(out: &mut String, value: &AnyValue, max: usize, depth: usize) {
    if out.len() > max || depth > MAX_DEPTH {
        return out.push('…');
    }
    // writing to a string does not fail
    let _ = match &value.value {
        Some(Value::StringValue(text)) if depth == 0 => write!(out, "{}", cut(text, max)),
        Some(Value::StringValue(text)) => write!(out, "{:?}", cut(text, max)),
        Some(Value::BoolValue(is)) => write!(out, "{is}"),
        Some(Value::IntValue(number)) => write!(out, "{number}"),
        Some(Value::DoubleValue(number)) => write!(out, "{number}"),
        Some(Value::BytesValue(bytes)) => write!(out, "0x{}", hex(cut_bytes(bytes, max / 2))),
        Some(Value::ArrayValue(array)) => return write_all(out, ('[', ']'), max, array.values.iter(), depth, |_| ""),
        Some(Value::KvlistValue(list)) => {
            let empty = AnyValue::default();
            let pairs = list.values.iter().map(|pair| (cut(&pair.key, MAX_KEY), pair.value.as_ref().unwrap_or(&empty)));
            let (keys, values): (Vec<_>, Vec<_>) = pairs.take(MAX_VALUE).unzip();
            return write_all(out, ('{', '}'), max, values.into_iter(), depth, |at| keys[at]);
        }
        // a reference into a table that only the profiles signal has
        Some(Value::StringValueStrindex(_)) | None => Ok(()),
    };
}

fn write_all<'a>(
    out: &mut String,
    (open, close): (char, char),
    max: usize,
    values: impl Iterator<Item = &'a AnyValue>,
    depth: usize,
    key: impl Fn(usize) -> &'a str,
) {
    out.push(open);
    for (at, value) in values.enumerate() {
        if at > 0 {
            out.push_str(", ");
        }
        if out.len() > max {
            break;
        }
        if !key(at).is_empty() {
            out.push_str(key(at));
            out.push_str(": ");
        }
        write_value(out, value, max, depth + 1);
    }
    out.push(close);
}

/// At most `max` bytes of it, whole characters.
fn cut(text: &str, max: usize) -> &str {
    &text[..text.floor_char_boundary(max)]
}

fn cut_bytes(bytes: &[u8], max: usize) -> &[u8] {
    &bytes[..bytes.len().min(max)]
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// `None` unless it is 32 hex digits.
pub(crate) fn trace_id(text: &str) -> Option<TraceId> {
    if text.len() != 32 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    u128::from_str_radix(text, 16).ok().map(u128::to_be_bytes)
}
