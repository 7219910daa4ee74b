//! Headers that end here, headers that are ours, and the two forms of a request's target.
//!
//! Invariant 11: names that begin with `fusewire-` are taken out of whatever an application sends, in both directions.

use fusewire_resilience::hint::{self, Pushback};
use http::header::{self, HeaderName, HeaderValue};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, Method, Request, Uri, Version};
use std::time::Duration;

pub(crate) const PREFIX: &str = "fusewire-";
pub(crate) const FORWARDED_PREFIX: &str = "x-forwarded-";
/// The port that the caller's request was for, at the inbound sidecar.
pub(crate) const PORT: HeaderName = HeaderName::from_static("fusewire-port");
/// What the caller spoke: `h1`, `h2`, `grpc`, `tcp`.
pub(crate) const PROTOCOL: HeaderName = HeaderName::from_static("fusewire-protocol");
/// The protocol of what is bytes.
pub(crate) const TCP: &str = "tcp";
/// On a CONNECT stream that carries a WebSocket: the token of `Upgrade`, and the request's path.
pub(crate) const UPGRADE: HeaderName = HeaderName::from_static("fusewire-upgrade");
pub(crate) const PATH: HeaderName = HeaderName::from_static("fusewire-path");
/// On an answer to such a stream that is no switch: the real status, since a 2xx to CONNECT would open the stream.
pub(crate) const STATUS: HeaderName = HeaderName::from_static("fusewire-status");
/// On an answer with reason `reset`: a kept connection to the application broke, as kept ones do; nobody is to blame.
pub(crate) const REUSED: HeaderName = HeaderName::from_static("fusewire-reused");
/// On an answer: no application saw the request.
pub(crate) const NOT_PROCESSED: HeaderName = HeaderName::from_static("fusewire-not-processed");

/// On a request that is no gRPC: the milliseconds that are left for its answer.
pub(crate) const TIMEOUT: HeaderName = HeaderName::from_static("fusewire-timeout");
/// On an answer that failed: `exhausted` or `overloaded`, where a layer inside has done what retries can do.
pub(crate) const RETRY: HeaderName = HeaderName::from_static("fusewire-retry");
/// On an answer that stands in for the service's own: its type.
pub(crate) const FALLBACK: HeaderName = HeaderName::from_static("fusewire-fallback");
pub(crate) const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
pub(crate) const PUSHBACK: HeaderName = HeaderName::from_static("grpc-retry-pushback-ms");
/// Envoy's word for the milliseconds that are left.
pub(crate) const EXPECTED: HeaderName = HeaderName::from_static("x-envoy-expected-rq-timeout-ms");
/// When the caller stops waiting, in milliseconds of Unix time.
pub(crate) const DEADLINE: HeaderName = HeaderName::from_static("x-request-deadline");
pub(crate) const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// What the fields of a request or an answer may add up to: more than most applications take.
pub(crate) const MAX_FIELDS: usize = 64 << 10;
/// The same as a setting of HTTP/2, with room for our own fields.
pub(crate) const MAX_FIELDS_H2: u32 = (MAX_FIELDS as u32) + (16 << 10);
/// The setting between sidecars, where more ends the connection under everybody: h2 derives from it how many CONTINUATION
/// frames it bears, and Huffman's code makes a byte as long as 28 bits. What a request may have is checked apart from it.
pub(crate) const WIRE_FIELDS_H2: u32 = 4 * MAX_FIELDS_H2;

/// Counted as HTTP/2 counts (RFC 9113, section 6.5.2).
pub(crate) fn too_large(headers: &HeaderMap, path: usize, most: usize) -> bool {
    headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 32).sum::<usize>() + path > most
}

/// RFC 9110, section 7.6.1: fields that are for this connection only, beside those that `Connection` names.
const HOP_BY_HOP: [HeaderName; 9] = [
    header::CONNECTION,
    HeaderName::from_static("proxy-connection"),
    HeaderName::from_static("keep-alive"),
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HeaderName::from_static("http2-settings"),
    // between a client and its proxy, which we are where somebody challenges (RFC 9110, 11.7): credentials go no further
    header::PROXY_AUTHORIZATION,
    header::PROXY_AUTHENTICATE,
    HeaderName::from_static("proxy-authentication-info"),
];

/// What `Connection` may name and does not take out: fields for whoever answers the request, which nobody on the way may
/// lose (RFC 9110, section 7.6.1, forbids to name them). A caller that could take them out would choose what the
/// application believes of others: who asks, from where, for what.
fn is_end_to_end(name: &HeaderName) -> bool {
    matches!(
        *name,
        header::HOST
            | header::CONTENT_LENGTH
            | header::CONTENT_TYPE
            | header::CONTENT_ENCODING
            | header::CONTENT_RANGE
            | header::AUTHORIZATION
            | header::COOKIE
            | header::SET_COOKIE
            | header::CACHE_CONTROL
            | header::EXPECT
            | header::ORIGIN
            | header::FORWARDED
            | header::DATE
            | header::VIA
    ) || name.as_str().starts_with(FORWARDED_PREFIX)
        || name.as_str().starts_with(PREFIX)
        || matches!(name.as_str(), "x-real-ip" | "traceparent" | "tracestate")
}

/// RFC 9110, section 6.5.1: fields that say how a message is framed, routed, authenticated or understood may not come behind
/// it, where the decision was made already.
const NOT_IN_TRAILERS: [HeaderName; 21] = [
    header::TRANSFER_ENCODING,
    header::CONTENT_LENGTH,
    header::CONTENT_TYPE,
    header::CONTENT_ENCODING,
    header::CONTENT_RANGE,
    header::HOST,
    header::CONNECTION,
    HeaderName::from_static("proxy-connection"),
    HeaderName::from_static("keep-alive"),
    header::UPGRADE,
    header::TE,
    header::TRAILER,
    header::EXPECT,
    header::MAX_FORWARDS,
    header::CACHE_CONTROL,
    header::AUTHORIZATION,
    header::PROXY_AUTHORIZATION,
    header::PROXY_AUTHENTICATE,
    header::COOKIE,
    header::SET_COOKIE,
    header::LOCATION,
];

/// Takes out of trailers what may not be there, and every `fusewire-*`.
pub(crate) fn strip_trailers(trailers: &mut HeaderMap) {
    for name in &NOT_IN_TRAILERS {
        trailers.remove(name);
    }
    strip_ours(trailers);
}

/// Takes out what must not be forwarded. `te: trailers` stays: it is the one value that HTTP/2 allows and gRPC needs.
pub(crate) fn strip_hop_by_hop(headers: &mut HeaderMap) {
    if headers.contains_key(header::CONNECTION) {
        let named: Vec<HeaderName> = headers
            .get_all(header::CONNECTION)
            .iter()
            .flat_map(|v| v.as_bytes().split(|b| *b == b','))
            .filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok())
            .collect();
        for name in named.iter().filter(|n| **n != header::TE && !is_end_to_end(n)) {
            headers.remove(name);
        }
    }
    for name in &HOP_BY_HOP {
        headers.remove(name);
    }
    if headers.contains_key(header::TE) {
        let trailers = headers.get_all(header::TE).iter().filter_map(|v| v.to_str().ok()).any(|v| {
            v.split(',').any(|t| t.split(';').next().is_some_and(|t| t.trim().eq_ignore_ascii_case("trailers")))
        });
        headers.remove(header::TE);
        if trailers {
            headers.insert(header::TE, HeaderValue::from_static("trailers"));
        }
    }
}

/// Writes a length without leading zeros, which some would read as octal. Its validity was checked.
pub(crate) fn plain_length(headers: &mut HeaderMap) {
    let Some(value) = headers.get(header::CONTENT_LENGTH) else { return };
    if let [b'0', _, ..] = value.as_bytes()
        && let Some(length) = super::head::length(value.as_bytes())
    {
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    }
}

/// Takes out every `fusewire-*` field.
pub(crate) fn strip_ours(headers: &mut HeaderMap) {
    if headers.keys().any(|name| name.as_str().starts_with(PREFIX)) {
        let ours: Vec<HeaderName> = headers.keys().filter(|n| n.as_str().starts_with(PREFIX)).cloned().collect();
        for name in ours {
            headers.remove(name);
        }
    }
}

pub(crate) fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(header::CONTENT_TYPE).is_some_and(|v| {
        let v = v.as_bytes();
        v.starts_with(b"application/grpc") && matches!(v.get(16), None | Some(b'+' | b';' | b' '))
    })
}

pub(crate) fn grpc_status(headers: &HeaderMap) -> Option<u8> {
    headers.get("grpc-status")?.to_str().ok()?.parse().ok()
}

/// The port that a peer's request is for.
pub(crate) fn port(headers: &HeaderMap) -> Option<u16> {
    headers.get(&PORT)?.to_str().ok()?.parse().ok()
}

/// Longer waits than this are taken for it.
const LONGEST_WAIT: Duration = Duration::from_secs(3600);

/// `Retry-After`, in either of its forms.
pub(crate) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get(header::RETRY_AFTER)?;
    hint::retry_after(value.as_bytes(), crate::clock::wall(), LONGEST_WAIT)
}

/// What a gRPC server says of a retry. Said twice, it forbids one.
pub(crate) fn pushback(headers: &HeaderMap) -> Option<Pushback> {
    let mut all = headers.get_all(&PUSHBACK).iter();
    let first = all.next()?;
    Some(if all.next().is_some() { Pushback::DoNotRetry } else { hint::pushback(first.as_bytes()) })
}

/// The authority that a request names: its target's, or else its Host field (RFC 9112, section 3.2.2: the target's wins).
pub(crate) fn authority<B>(request: &Request<B>) -> Option<&str> {
    match request.uri().authority() {
        Some(authority) => Some(authority.as_str()),
        None => request.headers().get(header::HOST)?.to_str().ok(),
    }
    .map(|authority| authority.strip_suffix(':').unwrap_or(authority)) // an empty port is none (RFC 3986, section 3.2.3)
}

/// The token of a client's wish to speak WebSocket; `None` where there is none.
///
/// Only that one is carried on. A server may ignore `Upgrade` (RFC 9110, section 7.8), so answering as if it had not
/// been asked is always right for the others: `h2c` was taken out of HTTP (RFC 9113, section 3.1), and some clients send
/// `TLS/1.2` with everything. With a body, or another method than GET, it is no WebSocket handshake (RFC 6455, 4.1).
pub(crate) fn upgrade_token<B: http_body::Body>(request: &Request<B>) -> Option<HeaderValue> {
    if request.version() != Version::HTTP_11 || request.method() != Method::GET || !request.body().is_end_stream() {
        return None;
    }
    let asks = request.headers().get_all(header::CONNECTION).iter().filter_map(|v| v.to_str().ok());
    let asks = asks.flat_map(|v| v.split(',')).any(|t| t.trim().eq_ignore_ascii_case("upgrade"));
    let token = request.headers().get(header::UPGRADE)?;
    (asks && token.as_bytes().eq_ignore_ascii_case(b"websocket")).then(|| token.clone())
}

/// Origin form with a Host field, for HTTP/1.1.
pub(crate) fn to_http1(parts: &mut http::request::Parts, authority: &str) {
    parts.version = Version::HTTP_11;
    // the target's authority wins over a Host field; without one the field is what the authority was taken from, and
    // of several the application gets the one that was routed by
    let hosts = parts.headers.get_all(header::HOST).iter().count();
    if (parts.uri.authority().is_some() || hosts != 1)
        && let Ok(host) = HeaderValue::from_str(authority)
    {
        parts.headers.insert(header::HOST, host);
    }
    parts.uri = rooted(&parts.uri).into();
    join_cookies(&mut parts.headers);
}

/// A path is never empty on the wire, though a target such as `http://shop?a` has none.
fn rooted(uri: &Uri) -> PathAndQuery {
    match uri.path_and_query() {
        Some(path) if path.as_str().starts_with(['/', '*']) => path.clone(),
        Some(query) => {
            PathAndQuery::try_from(format!("/{}", query.as_str()).as_str()).unwrap_or(PathAndQuery::from_static("/"))
        }
        None => PathAndQuery::from_static("/"),
    }
}

/// Absolute form without a Host field, for HTTP/2.
pub(crate) fn to_http2(parts: &mut http::request::Parts, authority: Authority) {
    parts.version = Version::HTTP_2;
    parts.headers.remove(header::HOST);
    let mut uri = http::uri::Parts::default();
    uri.authority = Some(authority);
    if parts.method != Method::CONNECT {
        uri.scheme = Some(Scheme::HTTP);
        uri.path_and_query = Some(rooted(&parts.uri));
    }
    if let Ok(uri) = Uri::from_parts(uri) {
        parts.uri = uri;
    }
}

/// HTTP/2 may split cookies over several fields; HTTP/1.1 wants one (RFC 9113, section 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let mut crumbs = headers.get_all(header::COOKIE).iter();
    if crumbs.next().is_none() || crumbs.next().is_none() {
        return;
    }
    let all: Vec<&[u8]> = headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if let Ok(joined) = HeaderValue::from_bytes(&all.join(&b"; "[..])) {
        headers.insert(header::COOKIE, joined);
    }
}
