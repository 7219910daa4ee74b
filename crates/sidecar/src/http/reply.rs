//! The only file that writes responses that we originate, each with exactly one reason (invariant 7).

use super::body::{Parts, ReplyBody, Tracked};
use super::exchange::Exchange;
use super::fallback::Why;
use super::headers;
use crate::fault::Fault;
use crate::upstream::stream::Written;
use bytes::Bytes;
use fusewire_telemetry::Reason;
use fusewire_telemetry::metrics::Direction;
use http::header::{self, HeaderName, HeaderValue};
use http::{HeaderMap, Response, StatusCode, Version};
use http_body_util::Full;
use std::time::Duration;

pub(crate) const REASON: HeaderName = HeaderName::from_static("fusewire-reason");
pub(crate) const DETAIL: HeaderName = HeaderName::from_static("fusewire-detail");

/// The instance's answer, on its way to the caller.
pub(crate) fn stream(head: http::response::Parts, parts: Parts) -> Response<ReplyBody> {
    let mut response = Response::from_parts(head, ());
    *response.version_mut() = Version::default(); // hyper writes the caller's own
    if let Some(sharing) = &parts.exchange.sharing {
        sharing.write(response.headers_mut());
    }
    response.map(|()| ReplyBody::Stream(Box::new(Tracked::new(parts))))
}

/// Our own answer to a fault.
pub(crate) fn own(mut exchange: Box<Exchange>, fault: &Fault) -> Response<ReplyBody> {
    let reason = fault.reason();
    let detail = fault.detail();
    exchange.reason = Some(reason);
    exchange.refused(fault);
    exchange.turn = None; // whoever waits at the application need not wait for the reader of this
    if let Some(detail) = &detail {
        exchange.detail(detail);
    }
    let mut response =
        if exchange.is_grpc { grpc(reason, detail.as_deref()) } else { plain(reason, detail.as_deref()) };
    if let Fault::Redirected(to) = fault
        && !exchange.is_grpc
    {
        *response.status_mut() = to.status;
        response.headers_mut().insert(header::LOCATION, to.location.clone());
    }
    if let Fault::Preflight(asked) = fault
        && !exchange.is_grpc
    {
        *response.body_mut() = Full::default();
        *response.headers_mut() = asked.fields.clone().unwrap_or_default();
        response.headers_mut().insert(header::VARY, HeaderValue::from_static("origin"));
    }
    exchange.status = Some(response.status().as_u16());
    exchange.first_byte = Some(exchange.worker.mesh.clock.now());
    if exchange.is_grpc {
        exchange.grpc_status = Some(reason.grpc_status());
    }
    let fields = response.headers_mut();
    fields.insert(REASON, HeaderValue::from_static(reason.word()));
    if let Some(detail) = detail.and_then(|d| HeaderValue::from_str(&d).ok()) {
        fields.insert(DETAIL, detail);
    }
    if let Fault::RateLimited(over) = fault {
        for (name, value) in ["ratelimit-policy", "ratelimit"].into_iter().zip(&over.fields) {
            if let Ok(value) = HeaderValue::from_str(value) {
                fields.insert(name, value);
            }
        }
    }
    if let Some(retry_after) = fault.retry_after() {
        // rounded up: a caller that comes back in time finds a probe's chance
        let seconds = retry_after.as_secs() + u64::from(retry_after.subsec_nanos() > 0);
        fields.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        if exchange.is_grpc {
            let millis = u64::try_from(retry_after.as_millis()).unwrap_or(u64::MAX);
            fields.insert(headers::PUSHBACK, HeaderValue::from(millis));
        }
    }
    if exchange.direction == Direction::Inbound && fault.unsent() {
        fields.insert(headers::NOT_PROCESSED, HeaderValue::from_static("1"));
    }
    if exchange.direction == Direction::Inbound && fault.stale() {
        fields.insert(headers::REUSED, HeaderValue::from_static("1"));
    }
    answered(exchange, response, None)
}

/// HEAD gets the fields of what GET would get, and no body: hyper's HTTP/2 would send it.
fn answered(
    exchange: Box<Exchange>,
    mut response: Response<Full<Bytes>>,
    trailers: Option<HeaderMap>,
) -> Response<ReplyBody> {
    if let Some(sharing) = &exchange.sharing {
        sharing.write(response.headers_mut());
    }
    if exchange.is_head {
        let length = http_body::Body::size_hint(response.body()).exact().unwrap_or(0);
        response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(length));
        *response.body_mut() = Full::default();
    }
    response.map(|text| ReplyBody::Own { text, trailers, _exchange: Some(exchange) })
}

/// An answer in place of the service's, with the reason why there is none.
pub(crate) fn instead(mut exchange: Box<Exchange>, why: &Why, of: &'static str, own: Own) -> Response<ReplyBody> {
    let grpc = exchange.is_grpc;
    let (mut response, trailers) = match own {
        Own::Text { status, fields, body, .. } if !grpc => {
            let mut response = Response::new(Full::new(body));
            *response.status_mut() = status;
            *response.headers_mut() = fields;
            (response, None)
        }
        Own::Text { fields, body, grpc_status, .. } => {
            exchange.grpc_status = Some(grpc_status);
            message(fields, &body, grpc_status)
        }
        Own::Failed { status, retry_after } => {
            let make = if grpc { self::grpc } else { plain };
            let mut response = make(why.reason, why.detail.as_deref());
            if grpc {
                let code = grpc_of(status);
                exchange.grpc_status = Some(code);
                response.headers_mut().insert("grpc-status", HeaderValue::from(u16::from(code)));
            } else {
                *response.status_mut() = status;
            }
            if let Some(span) = retry_after {
                response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(span.as_secs()));
                if grpc {
                    let millis = HeaderValue::from(u64::try_from(span.as_millis()).unwrap_or(u64::MAX));
                    response.headers_mut().insert(headers::PUSHBACK, millis);
                }
            }
            (response, None)
        }
    };
    exchange.reason = Some(why.reason);
    if let Some(detail) = &why.detail {
        exchange.detail(detail);
    }
    exchange.status = Some(response.status().as_u16());
    exchange.first_byte = Some(exchange.worker.mesh.clock.now());
    let fields = response.headers_mut();
    fields.insert(REASON, HeaderValue::from_static(why.reason.word()));
    fields.insert(headers::FALLBACK, HeaderValue::from_static(of));
    if let Some(detail) = why.detail.as_ref().and_then(|d| HeaderValue::from_str(d).ok()) {
        fields.insert(DETAIL, detail);
    }
    answered(exchange, response, trailers)
}

/// What we say in place of a service.
pub(crate) enum Own {
    /// To gRPC callers: the body as one message, with this status behind it.
    Text {
        status: StatusCode,
        fields: HeaderMap,
        body: Bytes,
        grpc_status: u8,
    },
    Failed {
        status: StatusCode,
        retry_after: Option<Duration>,
    },
}

/// One gRPC message and its status; a status that is an error stands alone, in trailers only.
fn message(fields: HeaderMap, body: &[u8], status: u8) -> (Response<Full<Bytes>>, Option<HeaderMap>) {
    let mut response = Response::new(Full::default());
    *response.headers_mut() = fields;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    let status = HeaderValue::from(u16::from(status));
    if status != "0" {
        response.headers_mut().insert("grpc-status", status);
        return (response, None);
    }
    let mut framed = Vec::with_capacity(5 + body.len());
    framed.push(0);
    framed.extend_from_slice(&u32::try_from(body.len()).unwrap_or(0).to_be_bytes());
    framed.extend_from_slice(body);
    *response.body_mut() = Full::new(framed.into());
    (response, Some(HeaderMap::from_iter([(HeaderName::from_static("grpc-status"), status)])))
}

/// The gRPC status that stands for an HTTP status (gRPC's own table for answers that are no gRPC).
fn grpc_of(status: StatusCode) -> u8 {
    match status.as_u16() {
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502 | 503 | 504 => 14,
        _ => 2,
    }
}

fn plain(reason: Reason, detail: Option<&str>) -> Response<Full<Bytes>> {
    let text = match detail {
        Some(detail) => format!("fusewire: {reason}: {detail}\n"),
        None => format!("fusewire: {reason}\n"),
    };
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = reason.status();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

/// Trailers-only, as the gRPC protocol wants errors before the first message.
fn grpc(reason: Reason, detail: Option<&str>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    let fields = response.headers_mut();
    fields.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    fields.insert("grpc-status", HeaderValue::from(u16::from(reason.grpc_status())));
    let message = percent_encoded(&format!(
        "fusewire: {reason}{}{}",
        if detail.is_some() { ": " } else { "" },
        detail.unwrap_or("")
    ));
    if let Ok(message) = HeaderValue::from_str(&message) {
        fields.insert("grpc-message", message);
    }
    response
}

/// gRPC over HTTP/2, Status-Message: bytes outside of printable ASCII, and `%`, are percent-encoded.
fn percent_encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for b in text.bytes() {
        if (0x20..=0x7e).contains(&b) && b != b'%' {
            out.push(char::from(b));
        } else {
            out.push_str(&format!("%{b:02X}"));
        }
    }
    out
}

/// The protocol is switched: what follows are bytes, which the tunnel's own task accounts for.
pub(crate) fn switched(head: http::response::Parts) -> Response<ReplyBody> {
    Response::from_parts(head, ReplyBody::Own { text: Full::default(), trailers: None, _exchange: None })
}

/// The tunnel to the instance is open. `written`: what it says, where that is the answer's body.
pub(crate) fn connected(written: Option<Written>) -> Response<ReplyBody> {
    let nothing = || ReplyBody::Own { text: Full::default(), trailers: None, _exchange: None };
    Response::new(written.map_or_else(nothing, ReplyBody::Written))
}

/// What a caller gets for whom there is no place; written as bytes, since nothing is read.
pub(crate) const FULL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: text/plain\r\nfusewire-reason: overloaded\r\n\
fusewire-detail: as many connections as limits.connections allows\r\nretry-after: 1\r\ncontent-length: 71\r\nconnection: close\r\n\r\n\
fusewire: overloaded: as many connections as limits.connections allows\n";

/// What a connection gets that speaks HTTP in clear to the port for mTLS; written as bytes, since nothing more is read.
pub(crate) const NOT_TLS: &[u8] = b"HTTP/1.1 403 Forbidden\r\ncontent-type: text/plain\r\nfusewire-reason: denied\r\n\
fusewire-detail: this port takes mTLS between sidecars only\r\ncontent-length: 61\r\nconnection: close\r\n\r\n\
fusewire: denied: this port takes mTLS between sidecars only\n";
