//! What is told of an exchange that is recorded: its attempts, its events, and the spans that become of them at its end.
//!
//! The names of attributes are a contract with whoever reads spans: those of the semantic conventions for HTTP and RPC
//! where there is one, `fusewire.*` for the rest. It deliberately records no query string and no header: they carry
//! secrets.

use super::exchange::Facts;
use crate::upstream::instance::Instance;
use fusewire_resilience::{Class, Time};
use fusewire_telemetry::metrics::Direction;
use fusewire_telemetry::trace::span::{From, Kind, Nanos, Parent, Span, grpc_failed, grpc_word, number, text};
use fusewire_telemetry::{Reason, SpanId, TraceId};
use http::uri::Authority;
use std::sync::Arc;
use std::time::Duration;

pub(crate) struct Recording {
    attempts: Vec<AttemptRecord>,
    /// The attempt whose end is the exchange's.
    current: usize,
    events: Vec<Event>,
    /// The configuration that it was routed by.
    pub(crate) snapshot: String,
}

struct AttemptRecord {
    span: SpanId,
    instance: Arc<Instance>,
    probe: bool,
    started: Time,
    /// `None`: with the exchange.
    ended: Option<Time>,
    outcome: Option<Class>,
    status: Option<u16>,
    grpc_status: Option<u8>,
    reason: Option<Reason>,
}

enum Event {
    Redial { at: Time, instance: String, reason: Option<Reason> },
    Rejected { at: Time, retry_after: Duration },
    Probe { at: Time, instance: String },
    Retry { at: Time, instance: String, cause: &'static str, after: Duration },
    RetryDenied { at: Time, reason: &'static str },
    Fallback { at: Time, of: &'static str, cause: &'static str },
}

/// The end of an exchange.
pub(crate) struct End<'a> {
    pub(crate) direction: Direction,
    pub(crate) trace: TraceId,
    pub(crate) span: SpanId,
    pub(crate) parent: Option<SpanId>,
    pub(crate) protocol: &'static str,
    pub(crate) service: Option<&'a str>,
    pub(crate) peer: Option<&'a str>,
    pub(crate) facts: &'a Facts,
    pub(crate) status: Option<u16>,
    pub(crate) grpc_status: Option<u8>,
    pub(crate) reason: Option<Reason>,
    pub(crate) started: Time,
    pub(crate) ended: Time,
    /// Unix time at `ended`.
    pub(crate) now: Nanos,
}

impl Recording {
    pub(crate) fn new(snapshot: String) -> Self {
        Self { attempts: Vec::with_capacity(1), current: 0, events: Vec::new(), snapshot }
    }

    pub(crate) fn last_attempt(&self) -> Option<SpanId> {
        self.attempts.last().map(|a| a.span)
    }

    pub(crate) fn attempt(&mut self, span: SpanId, instance: &Arc<Instance>, probe: bool, at: Time) {
        if let Some(before) = self.attempts.last_mut() {
            before.ended.get_or_insert(at);
        }
        if probe {
            self.events.push(Event::Probe { at, instance: instance.key.id.clone() });
        }
        self.attempts.push(AttemptRecord {
            span,
            instance: instance.clone(),
            probe,
            started: at,
            ended: None,
            outcome: None,
            status: None,
            grpc_status: None,
            reason: None,
        });
        self.current = self.attempts.len() - 1;
    }

    /// An attempt was answered, well or badly: the caller's answer, unless another follows.
    pub(crate) fn answered(
        &mut self,
        nth: u32,
        status: u16,
        grpc_status: Option<u8>,
        reason: Option<Reason>,
        class: Class,
    ) {
        let nth = nth.saturating_sub(1) as usize;
        if let Some(one) = self.attempts.get_mut(nth) {
            (one.status, one.grpc_status, one.reason, one.outcome) = (Some(status), grpc_status, reason, Some(class));
            one.ended = None;
            self.current = nth;
        }
    }

    /// An attempt ended without an answer.
    pub(crate) fn broke(&mut self, nth: u32, reason: Reason, class: Class, at: Time) {
        if let Some(one) = self.attempts.get_mut(nth.saturating_sub(1) as usize) {
            (one.reason, one.outcome, one.ended) = (Some(reason), Some(class), Some(at));
        }
    }

    /// An attempt was given up for another.
    pub(crate) fn lost(&mut self, nth: u32, at: Time) {
        if let Some(one) = self.attempts.get_mut(nth.saturating_sub(1) as usize) {
            (one.outcome, one.ended) = (Some(Class::Ignored), Some(at));
        }
    }

    /// The last attempt's end has the last word, unless its beginning was bad already.
    pub(crate) fn settled(&mut self, class: Class) {
        if let Some(last) = self.attempts.get_mut(self.current)
            && !matches!(last.outcome, Some(Class::Hard | Class::Soft))
        {
            last.outcome = Some(class);
        }
    }

    /// The request is offered to another instance, or to the same one over a new connection.
    pub(crate) fn redial(&mut self, at: Time) {
        let Some(last) = self.attempts.last_mut() else { return };
        last.ended.get_or_insert(at);
        let (instance, reason) = (last.instance.key.id.clone(), last.reason);
        self.events.push(Event::Redial { at, instance, reason });
    }

    /// The last attempt failed, and another is made after a while.
    pub(crate) fn retry(&mut self, cause: &'static str, after: Duration, at: Time) {
        let Some(last) = self.attempts.last_mut() else { return };
        last.ended.get_or_insert(at);
        let instance = last.instance.key.id.clone();
        self.events.push(Event::Retry { at, instance, cause, after });
    }

    pub(crate) fn retry_denied(&mut self, reason: &'static str, at: Time) {
        self.events.push(Event::RetryDenied { at, reason });
    }

    pub(crate) fn fallback(&mut self, of: &'static str, cause: &'static str, at: Time) {
        self.events.push(Event::Fallback { at, of, cause });
    }

    pub(crate) fn rejected(&mut self, retry_after: Duration, at: Time) {
        self.events.push(Event::Rejected { at, retry_after });
    }

    /// The exchange's span and those of its attempts.
    pub(crate) fn into_spans(mut self, end: &End<'_>) -> Vec<Span> {
        let clock = |t: Time| end.now.saturating_sub(u64::try_from(end.ended.since(t).as_nanos()).unwrap_or(u64::MAX));
        if let Some(last) = self.attempts.get_mut(self.current)
            && last.status.is_some()
        {
            last.grpc_status = end.grpc_status;
            last.reason = end.reason.filter(|r| *r != Reason::ClientGone).or(last.reason);
        }
        let mut spans = Vec::with_capacity(1 + self.attempts.len());
        spans.push(self.exchange(end, clock));
        let attempts = (1_i64..).zip(&self.attempts);
        spans.extend(attempts.map(|(count, attempt)| attempt.span(count, end, clock)));
        spans
    }

    fn exchange(&self, end: &End<'_>, clock: impl Fn(Time) -> Nanos) -> Span {
        let kind = match end.direction {
            Direction::Inbound => Kind::Server,
            Direction::Outbound => Kind::Internal,
        };
        let parent = end.parent.map(|span| Parent { span, from: From::Elsewhere });
        let mut span =
            Span::new(end.name(), kind, end.trace, end.span).under(parent).at(clock(end.started), clock(end.ended));
        end.request(&mut span);
        span.text("fusewire.direction", end.direction.as_str());
        span.maybe("fusewire.service", end.service);
        let last = self.attempts.last().and_then(|a| a.instance.key.sidecar.as_ref());
        span.maybe("fusewire.peer", end.peer.or_else(|| last.map(|s| s.identity.as_str())));
        span.number("fusewire.attempts", i64::try_from(self.attempts.len()).unwrap_or(i64::MAX));
        span.maybe("fusewire.snapshot", Some(&self.snapshot).filter(|s| !s.is_empty()));
        span.maybe("fusewire.reason", end.reason.map(Reason::word));
        span.maybe("fusewire.detail", end.facts.detail.as_ref());
        end.answer(&mut span, kind, end.status, end.grpc_status, end.reason, end.facts.detail.as_deref());
        for event in &self.events {
            event.tell(&mut span, end, &clock);
        }
        span
    }
}

impl AttemptRecord {
    fn span(&self, count: i64, end: &End<'_>, clock: impl Fn(Time) -> Nanos) -> Span {
        let parent = Some(Parent { span: end.span, from: From::Here });
        let ended = self.ended.unwrap_or(end.ended);
        let mut span = Span::new(end.name(), Kind::Client, end.trace, self.span)
            .under(parent)
            .at(clock(self.started), clock(ended));
        end.request(&mut span);
        let at = self.instance.dial_address();
        span.text("network.peer.address", at.ip().to_string());
        span.number("network.peer.port", at.port());
        if count > 1 {
            span.number("http.request.resend_count", count - 1);
        }
        span.maybe("fusewire.service", end.service);
        span.text("fusewire.instance", &self.instance.key.id);
        span.maybe("fusewire.peer", self.instance.key.sidecar.as_ref().map(|s| s.identity.as_str()));
        if self.probe {
            span.flag("fusewire.probe");
        }
        let word = match self.outcome {
            Some(Class::Ok) => "ok",
            Some(Class::Hard) => "hard",
            Some(Class::Soft) => "soft",
            Some(Class::Ignored) | None => "ignored", // the caller left before anything was known
        };
        span.text("fusewire.outcome", word);
        end.answer(&mut span, Kind::Client, self.status, self.grpc_status, self.reason, None);
        span
    }
}

impl Event {
    fn tell(&self, span: &mut Span, end: &End<'_>, clock: impl Fn(Time) -> Nanos) {
        match self {
            Event::Redial { at, instance, reason } => {
                let mut attributes = vec![text("fusewire.instance", instance)];
                attributes.extend(reason.map(|r| text("fusewire.reason", r.word())));
                span.event("fusewire.redial", clock(*at), attributes);
            }
            Event::Rejected { at, retry_after } => {
                let millis = i64::try_from(retry_after.as_millis()).unwrap_or(i64::MAX);
                let service = text("fusewire.service", end.service.unwrap_or_default());
                let attributes = vec![service, number("fusewire.retry_after_ms", millis)];
                span.event("fusewire.circuit_rejected", clock(*at), attributes);
            }
            Event::Retry { at, instance, cause, after } => {
                let millis = i64::try_from(after.as_millis()).unwrap_or(i64::MAX);
                let instance = text("fusewire.instance", instance);
                let attributes = vec![instance, text("fusewire.cause", *cause), number("fusewire.after_ms", millis)];
                span.event("fusewire.retry", clock(*at), attributes);
            }
            Event::RetryDenied { at, reason } => {
                span.event("fusewire.retry_denied", clock(*at), vec![text("fusewire.reason", *reason)]);
            }
            Event::Fallback { at, of, cause } => {
                let attributes = vec![text("fusewire.type", *of), text("fusewire.cause", *cause)];
                span.event("fusewire.fallback", clock(*at), attributes);
            }
            Event::Probe { at, instance } => {
                span.event("fusewire.probe", clock(*at), vec![text("fusewire.instance", instance)]);
            }
        }
    }
}

impl End<'_> {
    /// `GET shop`: never a path, of which there are too many.
    fn name(&self) -> String {
        let method = match self.protocol {
            "tcp" => "TCP",
            _ => known(&self.facts.method).unwrap_or("HTTP"),
        };
        match self.service {
            Some(service) => format!("{method} {service}"),
            None => method.into(),
        }
    }

    /// What was asked, on the exchange and on each attempt.
    fn request(&self, span: &mut Span) {
        if self.protocol == "tcp" {
            return span.text("network.transport", "tcp");
        }
        match known(&self.facts.method) {
            Some(method) => span.text("http.request.method", method),
            None => {
                span.text("http.request.method", "_OTHER");
                span.text("http.request.method_original", &self.facts.method);
            }
        }
        span.text("url.scheme", "http");
        span.maybe("url.path", Some(&self.facts.path).filter(|path| !path.is_empty()));
        if let Ok(authority) = Authority::try_from(self.facts.authority.as_str()) {
            span.text("server.address", authority.host());
            if let Some(port) = authority.port_u16() {
                span.number("server.port", port);
            }
        }
        span.text("network.protocol.name", "http");
        span.text("network.protocol.version", if self.protocol == "h1" { "1.1" } else { "2" });
        if self.protocol == "grpc" {
            span.text("rpc.system.name", "grpc");
            span.text("rpc.method", self.facts.path.trim_start_matches('/'));
        }
    }

    /// What came of it; whether that is a failure depends on the side that it is seen from.
    fn answer(
        &self,
        span: &mut Span,
        kind: Kind,
        status: Option<u16>,
        grpc_status: Option<u8>,
        reason: Option<Reason>,
        message: Option<&str>,
    ) {
        if self.protocol != "tcp"
            && let Some(status) = status
        {
            span.number("http.response.status_code", status);
        }
        let grpc = grpc_status.filter(|_| self.protocol == "grpc");
        let number = grpc.map(|code| code.to_string());
        span.maybe(
            "rpc.response.status_code",
            grpc.map(|code| grpc_word(code).unwrap_or(number.as_deref().unwrap_or(""))),
        );
        let bad_from = if kind == Kind::Server { 500 } else { 400 };
        let error = match (reason, grpc, status) {
            (Some(Reason::ClientGone), ..) => return, // the caller's own doing
            (Some(reason), ..) if !reason.is_failure() => return,
            (Some(reason), ..) if kind != Kind::Server || reason.status_code() >= 500 => reason.word().to_owned(),
            (_, Some(code), _) if grpc_failed(code, kind) => grpc_word(code).unwrap_or("UNKNOWN").to_owned(),
            (_, _, Some(status)) if status >= bad_from => status.to_string(),
            _ => return,
        };
        span.text("error.type", error);
        span.failed(message);
    }
}

/// Methods that the conventions know (RFC 9110, RFC 5789, and QUERY).
fn known(method: &str) -> Option<&'static str> {
    const METHODS: [&str; 10] =
        ["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "CONNECT", "TRACE", "QUERY"];
    METHODS.into_iter().find(|known| *known == method)
}
