//! Headers that end here, headers that are ours, and the two forms of a request's target.
//!
//! Invariant 11: names that begin with `fusewire-` are taken out of whatever an application sends, in both directions.

use http::header::{self, HeaderName, HeaderValue};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, Method, Request, Uri, Version};

pub(crate) const PREFIX: &str = "fusewire-";
/// The port that the caller's request was for, at the inbound sidecar.
pub(crate) const PORT: HeaderName = HeaderName::from_static("fusewire-port");
/// What the caller spoke: `h1`, `h2`, `grpc`, `tcp`.
pub(crate) const PROTOCOL: HeaderName = HeaderName::from_static("fusewire-protocol");
/// On a CONNECT stream that carries a WebSocket: the token of `Upgrade`, and the request's path.
pub(crate) const UPGRADE: HeaderName = HeaderName::from_static("fusewire-upgrade");
pub(crate) const PATH: HeaderName = HeaderName::from_static("fusewire-path");
/// On an answer to such a stream that is no switch: the real status, since a 2xx to CONNECT would open the stream.
pub(crate) const STATUS: HeaderName = HeaderName::from_static("fusewire-status");
/// On an answer with reason `reset`: a kept connection to the application broke, as kept ones do; nobody is to blame.
pub(crate) const REUSED: HeaderName = HeaderName::from_static("fusewire-reused");
/// On an answer: no application saw the request.
pub(crate) const NOT_PROCESSED: HeaderName = HeaderName::from_static("fusewire-not-processed");

/// What the fields of a request or an answer may add up to. More than most applications take, and less than what would
/// end the connection between sidecars, with everybody else's streams, for too many CONTINUATION frames.
const MAX_FIELDS: usize = 64 << 10;
/// The same as a setting of HTTP/2, with room for our own fields.
pub(crate) const MAX_FIELDS_H2: u32 = (MAX_FIELDS as u32) + (16 << 10);

/// Counted as HTTP/2 counts (RFC 9113, section 6.5.2).
pub(crate) fn too_large(headers: &HeaderMap, path: usize) -> bool {
    headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 32).sum::<usize>() + path > MAX_FIELDS
}

/// RFC 9110, section 7.6.1: fields that are for this connection only, beside those that `Connection` names.
const HOP_BY_HOP: [HeaderName; 7] = [
    header::CONNECTION,
    HeaderName::from_static("proxy-connection"),
    HeaderName::from_static("keep-alive"),
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HeaderName::from_static("http2-settings"),
    header::PROXY_AUTHORIZATION,
];

/// Takes out what must not be forwarded. `te: trailers` stays: it is the one value that HTTP/2 allows and gRPC needs.
pub(crate) fn strip_hop_by_hop(headers: &mut HeaderMap) {
    if headers.contains_key(header::CONNECTION) {
        let named: Vec<HeaderName> = headers
            .get_all(header::CONNECTION)
            .iter()
            .filter_map(|v| v.to_str().ok())
            .flat_map(|v| v.split(','))
            .filter_map(|name| HeaderName::from_bytes(name.trim().as_bytes()).ok())
            .collect();
        for name in named.iter().filter(|n| **n != header::TE) {
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

/// Seconds of `Retry-After`; its date form is left to the caller.
pub(crate) fn retry_after(headers: &HeaderMap) -> Option<std::time::Duration> {
    let seconds: u64 = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(std::time::Duration::from_secs(seconds.min(3600)))
}

/// The authority that a request names: its target's, or else its Host field (RFC 9112, section 3.2.2: the target's wins).
pub(crate) fn authority<B>(request: &Request<B>) -> Option<&str> {
    match request.uri().authority() {
        Some(authority) => Some(authority.as_str()),
        None => request.headers().get(header::HOST)?.to_str().ok(),
    }
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
    // the target's authority wins over a Host field; without one the field is what the authority was taken from
    if (parts.uri.authority().is_some() || !parts.headers.contains_key(header::HOST))
        && let Ok(host) = HeaderValue::from_str(authority)
    {
        parts.headers.insert(header::HOST, host);
    }
    let path = parts.uri.path_and_query().cloned();
    parts.uri = path.unwrap_or_else(|| PathAndQuery::from_static("/")).into();
    join_cookies(&mut parts.headers);
}

/// Absolute form without a Host field, for HTTP/2.
pub(crate) fn to_http2(parts: &mut http::request::Parts, authority: Authority) {
    parts.version = Version::HTTP_2;
    parts.headers.remove(header::HOST);
    let path = if parts.method == Method::CONNECT { None } else { parts.uri.path_and_query().cloned() };
    let mut uri = http::uri::Parts::default();
    uri.authority = Some(authority);
    if parts.method != Method::CONNECT {
        uri.scheme = Some(Scheme::HTTP);
        uri.path_and_query = Some(path.unwrap_or_else(|| PathAndQuery::from_static("/")));
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
