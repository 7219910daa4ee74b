//! What a request must be, and an answer, whatever version it came in: one host, one length, a target of its form.
//!
//! The bytes of HTTP/1 heads are `head.rs`'s, and h2 looks at its frames; this is where both meet, so that nothing goes on
//! that two readers could understand differently once it is written in another version.

use super::head::length;
use super::headers;
use crate::fault::Fault;
use fusewire_model::node::Limits;
use fusewire_telemetry::metrics::Direction;
use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, Request, Response, StatusCode, Version};

fn bad(why: &'static str) -> Fault {
    Fault::BadRequest(why.into())
}

/// Fields that HTTP/2 may have at least, where a cookie may come in crumbs; and what the outbound sidecar adds, which its
/// peer must not refuse it for.
const FIELDS_H2: usize = 512;
const OURS: usize = 16;

pub(crate) fn request<B>(request: &Request<B>, direction: Direction, limits: &Limits) -> Result<(), Fault> {
    let (uri, fields) = (request.uri(), request.headers());
    host(request)?;
    let target = uri.path_and_query().map_or(0, |p| p.as_str().len());
    if target > limits.target_bytes {
        return Err(Fault::UriTooLong);
    }
    let count = match request.version() {
        Version::HTTP_2 => limits.header_count.max(FIELDS_H2) + OURS,
        _ => limits.header_count,
    };
    let bytes = match direction {
        Direction::Outbound => limits.header_bytes,
        Direction::Inbound => headers::MAX_FIELDS_H2 as usize,
    };
    if fields.len() > count || headers::too_large(fields, target, bytes) {
        return Err(Fault::TooLarge);
    }
    let rooted = uri.path_and_query().is_none_or(|p| p.path().starts_with('/'));
    if !rooted && request.method() != Method::OPTIONS {
        return Err(bad("the target is none that this method may have"));
    }
    if request.version() == Version::HTTP_2 {
        pseudo(request).map_err(bad)?;
        framing(fields).map_err(bad)?;
    }
    expectation(fields)
}

/// RFC 9112, section 3.2: one Host, which is `host[:port]`; a target that names an authority wins over it. The same one
/// twice is taken for one, and goes on as one: there is nothing to mistake, and h2load sends it so.
fn host<B>(request: &Request<B>) -> Result<(), Fault> {
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let first = hosts.next();
    match (first, hosts.all(|host| Some(host) == first)) {
        (Some(_), false) => return Err(bad("more than one Host")),
        (Some(host), true) if host.is_empty() || is_authority(host.as_bytes()) => {}
        (Some(_), true) => return Err(bad("Host is not host[:port]")),
        (None, _) if request.version() == Version::HTTP_11 => return Err(bad("HTTP/1.1 without Host")),
        (None, _) => {}
    }
    match request.uri().authority() {
        Some(authority) if !is_authority(authority.as_str().as_bytes()) => {
            Err(bad("the target's authority is not host[:port]"))
        }
        _ => Ok(()),
    }
}

/// A name of the DNS has at most 253 bytes, and a colon and a port have 6.
const MAX_AUTHORITY: usize = 260;

/// `host[:port]` of the characters that names and addresses have. User information, a path, a list or an escape are read in
/// different ways by different parsers, and none of them is ever part of a name here.
fn is_authority(text: &[u8]) -> bool {
    if text.len() > MAX_AUTHORITY {
        return false;
    }
    let (host, port) = match text.iter().rposition(|b| matches!(b, b':' | b']')) {
        Some(at) if text[at] == b':' => (&text[..at], &text[at + 1..]),
        _ => (text, &b""[..]),
    };
    let port_ok = port.len() <= 5
        && port.iter().all(u8::is_ascii_digit)
        && port.iter().fold(0u32, |n, d| n * 10 + u32::from(d - b'0')) <= u32::from(u16::MAX);
    let host_ok = match host.strip_prefix(b"[") {
        Some(rest) => rest.strip_suffix(b"]").is_some_and(|inner| {
            !inner.is_empty() && inner.iter().all(|b| b.is_ascii_hexdigit() || matches!(b, b':' | b'.'))
        }),
        None => !host.is_empty() && host.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_')),
    };
    port_ok && host_ok
}

/// What is wrong with the target of an HTTP/2 request that the h2 library lets pass (RFC 9113, section 8.3.1).
fn pseudo<B>(request: &Request<B>) -> Result<(), &'static str> {
    let Some(authority) = request.uri().authority().map(|authority| authority.as_str().as_bytes()) else {
        return if request.method() == Method::CONNECT { Err("CONNECT names no authority") } else { Ok(()) };
    };
    let differs = |host: &HeaderValue| {
        let host = host.as_bytes();
        let (long, short) = if host.len() > authority.len() { (host, authority) } else { (authority, host) };
        let default_port = |rest: &[u8]| matches!(rest, b"" | b":80" | b":443");
        !long.get(..short.len()).is_some_and(|start| start.eq_ignore_ascii_case(short))
            || !default_port(&long[short.len()..])
    };
    if request.headers().get_all(header::HOST).iter().any(differs) {
        Err("Host is not what :authority says")
    } else {
        Ok(())
    }
}

/// At most one length, which is one number; and no length beside chunks.
fn framing(fields: &HeaderMap) -> Result<(), &'static str> {
    let mut lengths = fields.get_all(header::CONTENT_LENGTH).iter();
    let first = lengths.next();
    if lengths.next().is_some() {
        return Err("more than one Content-Length");
    }
    if first.is_some_and(|value| length(value.as_bytes()).is_none()) {
        return Err("Content-Length is no length");
    }
    let mut codings = fields.get_all(header::TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (None, _) => Ok(()),
        (Some(one), None) if one.as_bytes().eq_ignore_ascii_case(b"chunked") => match first {
            Some(_) => Err("Content-Length and Transfer-Encoding at once"),
            None => Ok(()),
        },
        _ => Err("Transfer-Encoding is not `chunked` and that alone"),
    }
}

/// RFC 9110, section 10.1.1.
fn expectation(fields: &HeaderMap) -> Result<(), Fault> {
    let mut expected = fields.get_all(header::EXPECT).iter();
    match expected.all(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue")) {
        true => Ok(()),
        false => Err(Fault::Expectation),
    }
}

/// An application's answer. hyper has read past interim ones; a switch of protocols is one only where
/// it was asked for: `upgrade`, the token.
pub(crate) fn answer<B>(response: &Response<B>, upgrade: Option<&HeaderValue>) -> Result<(), Fault> {
    framing(response.headers()).map_err(Fault::BadAnswer)?;
    if response.status().is_informational()
        && !(upgrade.is_some() && response.status() == StatusCode::SWITCHING_PROTOCOLS)
    {
        return Err(Fault::BadAnswer("an interim answer where a final one belongs"));
    }
    Ok(())
}

/// Whether more bytes may come behind an answer that has no body by its status, though RFC 9112, section 6.3, forbids them:
/// whoever sends a body there would answer the next request with it.
pub(crate) fn may_have_more<B>(asked: &Method, answer: &Response<B>) -> bool {
    let announced = || {
        let length = answer.headers().get(header::CONTENT_LENGTH);
        length.is_some_and(|l| l.as_bytes() != b"0") || answer.headers().contains_key(header::TRANSFER_ENCODING)
    };
    match answer.status() {
        StatusCode::SWITCHING_PROTOCOLS => false,
        _ if *asked == Method::HEAD => true,
        StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED => announced(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(uri: &str, host: &str) -> Result<(), Fault> {
        let asked = Request::builder().version(Version::HTTP_2).uri(uri).header(header::HOST, host).body(());
        request(&asked.unwrap(), Direction::Outbound, &Limits::default())
    }

    #[test]
    fn a_host_that_is_not_the_authority_is_malformed_and_a_default_port_is_no_difference() {
        for (authority, host) in [("shop", "shop"), ("shop", "SHOP"), ("shop", "shop:80"), ("shop:443", "shop")] {
            assert!(checked(&format!("http://{authority}/"), host).is_ok(), "{authority} {host}");
        }
        for (authority, host) in [("shop", "web"), ("shop", ""), ("shop", "shop:81"), ("shop", "shopper"), ("a", "b")] {
            assert!(checked(&format!("http://{authority}/"), host).is_err(), "{authority} {host}");
        }
        assert!(checked("http://user@shop/", "shop").is_err());
        assert!(checked("/path", "shop").is_ok(), "translated from HTTP/1.1, without :authority");
    }
}
