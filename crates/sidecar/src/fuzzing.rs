//! What must hold for any header and any metadata between sidecars, where the parsers are private: called by the fuzz
//! targets of the same names and by the replay of their corpus, and by nothing else.
//!
//! An input is a head as text: a line `method target version`, then a line `name: value` for each field; what cannot be
//! such a thing is left out, as hyper would not have let it in.

use crate::http::{answer, connect, headers};
use bytes::Bytes;
use fusewire_telemetry::metrics::Direction;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::uri::Authority;
use http::{Method, Request, Response, StatusCode, Uri, Version};
use http_body_util::Empty;
use std::time::Duration;

/// More than hyper lets through.
const MAX_FIELDS: usize = 100;

type Head = Request<Empty<Bytes>>;

fn head(data: &[u8]) -> Option<Head> {
    let mut lines = data.split(|b| *b == b'\n');
    let mut first = lines.next()?.split(|b| *b == b' ');
    let mut request = Head::default();
    *request.method_mut() = Method::from_bytes(first.next()?).ok()?;
    *request.uri_mut() = Uri::try_from(first.next()?).ok()?;
    *request.version_mut() = match first.next() {
        Some(b"HTTP/2") => Version::HTTP_2,
        Some(b"HTTP/1.0") => Version::HTTP_10,
        _ => Version::HTTP_11,
    };
    for line in lines.take(MAX_FIELDS) {
        let colon = line.iter().position(|b| *b == b':').unwrap_or(line.len());
        let (name, value) = line.split_at(colon);
        let value = value.strip_prefix(b":").unwrap_or_default().trim_ascii();
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value)) {
            request.headers_mut().append(name, value);
        }
    }
    Some(request)
}

/// Reading fields gives values in their bounds; what is stripped is gone; both forms of a request are whole.
pub fn headers(data: &[u8]) {
    let Some(request) = head(data) else { return };
    let fields = request.headers();
    assert!(headers::retry_after(fields).is_none_or(|hint| hint <= Duration::from_secs(3600)));
    let _ = (headers::is_grpc(fields), headers::grpc_status(fields));
    if let Some(token) = headers::upgrade_token(&request) {
        assert!(token.as_bytes().eq_ignore_ascii_case(b"websocket"));
    }
    let named = hops_named(fields);
    let mut stripped = fields.clone();
    headers::strip_hop_by_hop(&mut stripped);
    headers::strip_ours(&mut stripped);
    for name in named.iter().chain([&header::CONNECTION, &header::TRANSFER_ENCODING, &header::UPGRADE]) {
        assert!(!stripped.contains_key(name), "{name} was left");
    }
    assert!(!stripped.keys().any(|name| name.as_str().starts_with(headers::PREFIX)));
    assert!(stripped.get_all(header::TE).iter().all(|te| te.as_bytes().eq_ignore_ascii_case(b"trailers")));
    let mut twice = stripped.clone();
    headers::strip_hop_by_hop(&mut twice);
    assert_eq!(twice, stripped);
    let authority = headers::authority(&request).and_then(|a| Authority::try_from(a).ok());
    if let Some(authority) = authority {
        both_forms(request, stripped, &authority);
    }
}

/// What `Connection` names that nobody but the next hop could want.
fn hops_named(fields: &HeaderMap) -> Vec<HeaderName> {
    let values = fields.get_all(header::CONNECTION).iter().filter_map(|v| v.to_str().ok());
    let names =
        values.flat_map(|v| v.split(',')).filter_map(|name| HeaderName::from_bytes(name.trim().as_bytes()).ok());
    names.filter(|name| name.as_str().starts_with("x-hop")).collect()
}

fn both_forms(request: Head, stripped: HeaderMap, authority: &Authority) {
    let (mut parts, _) = request.into_parts();
    parts.headers = stripped;
    let mut one = parts.clone();
    headers::to_http1(&mut one, authority.as_str());
    assert_eq!(one.version, Version::HTTP_11);
    assert_eq!(one.headers.get_all(header::HOST).iter().count(), 1);
    assert!(one.uri.authority().is_none() && one.headers.get_all(header::COOKIE).iter().count() <= 1);
    let mut two = parts;
    headers::to_http2(&mut two, authority.clone());
    assert!(two.version == Version::HTTP_2 && !two.headers.contains_key(header::HOST));
    assert_eq!(two.uri.authority(), Some(authority));
    assert!(two.method == Method::CONNECT || two.uri.path_and_query().is_some());
}

/// What a peer's sidecar says beside a request is understood or refused, and means what it says.
pub fn metadata(data: &[u8]) {
    let Some(mut request) = head(data) else { return };
    let said = |name: &HeaderName| request.headers().get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
    let (path, port) = (said(&headers::PATH), said(&headers::PORT));
    if let Some(named) = headers::port(request.headers()) {
        assert_eq!(port.and_then(|p| p.parse().ok()), Some(named));
    }
    answered(request.headers());
    let wire = connect::is_upgrade(Direction::Inbound, &request);
    let authority = request.uri().authority().cloned();
    if let Ok(Some(_)) = connect::take_upgrade(Direction::Inbound, &mut request)
        && wire
    {
        assert_eq!(request.method(), Method::GET);
        assert_eq!(request.uri().authority(), authority.as_ref());
        let left = request.uri().path_and_query().map(|p| p.as_str());
        assert!(left.is_some_and(|left| left.starts_with(['/', '?'])), "{left:?} of {path:?}");
    }
}

/// The same fields, on an answer.
fn answered(fields: &HeaderMap) {
    let mut response: Response<()> = Response::default();
    *response.headers_mut() = fields.clone();
    connect::restore_status(&mut response);
    assert!(response.status() >= StatusCode::CONTINUE);
    assert_eq!(answer::refusal(fields, false).ok(), Some(None), "only a sidecar's word counts");
    let _ = answer::refusal(fields, true);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_two_hosts_the_application_saw_both_and_not_the_one_that_was_routed_by() {
        headers(b"GET / HTTP/1.1\nhost: shop\nhost: admin\n");
    }

    #[test]
    fn an_upgrade_from_a_sidecar_asked_its_application_for_an_asterisk() {
        metadata(b"CONNECT shop HTTP/2\nfusewire-upgrade: websocket\nfusewire-path: *\n");
    }
}
