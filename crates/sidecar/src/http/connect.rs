//! Requests that turn into bytes: CONNECT, and the switch to another protocol (WebSocket), from HTTP/1.1 and HTTP/2.
//!
//! Between sidecars bytes travel as the two bodies of an exchange ([`crate::upstream::stream`]), and an upgrade as a CONNECT
//! stream, which carries its token, path and fields beside it, so that the inbound sidecar can ask its application for the same
//! upgrade over HTTP/1.1 (RFC 9110, 7.8; RFC 8441 from HTTP/2).

use super::body::ReplyBody;
use super::exchange::Exchange;
use super::headers;
use super::reply;
use super::serve::Connection;
use super::unread::Message;
use crate::bounds;
use crate::fault::Fault;
use crate::upstream::join::join;
use crate::upstream::stream::{self, Stream};
use crate::upstream::tunnel;
use fusewire_resilience::Happening;
use fusewire_telemetry::metrics::Direction;
use http::header::{self, HeaderValue};
use http::{Method, Request, Response, StatusCode, Uri, Version};
use hyper::body::Incoming;
use hyper::ext::Protocol;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use std::sync::Arc;

/// The caller's side of an upgrade.
pub(crate) struct Caller {
    pub(crate) on: OnUpgrade,
    pub(crate) token: HeaderValue,
    form: Form,
}

enum Form {
    /// `Upgrade` on HTTP/1.1: answered with 101.
    Http1,
    /// Extended CONNECT on HTTP/2: answered with 200.
    Http2,
    /// Our own wire: 200 and the token.
    Wire,
}

/// Whether a CONNECT is an upgrade in disguise.
pub(crate) fn is_upgrade<B>(direction: Direction, request: &Request<B>) -> bool {
    request.extensions().get::<Protocol>().is_some()
        || (direction == Direction::Inbound && request.headers().contains_key(&headers::UPGRADE))
}

/// Takes the upgrade out of `request` and leaves the plain GET that it stands for. `None` where there is none.
pub(crate) fn take_upgrade<B: http_body::Body>(
    direction: Direction,
    request: &mut Request<B>,
) -> Result<Option<Caller>, Fault> {
    let (form, token) = if is_upgrade(direction, request) {
        let understood = extended(request).ok_or(Fault::BadRequest("the upgrade cannot be understood".into()))?;
        *request.method_mut() = Method::GET;
        understood
    } else if let Some(token) = headers::upgrade_token(request) {
        (Form::Http1, token)
    } else {
        return Ok(None);
    };
    Ok(Some(Caller { on: hyper::upgrade::on(request), token, form }))
}

/// The one protocol that is carried on, as [`headers::upgrade_token`] says of HTTP/1.
fn websocket(token: &[u8]) -> Option<HeaderValue> {
    token.eq_ignore_ascii_case(b"websocket").then_some(HeaderValue::from_static("websocket"))
}

/// The two forms that come as CONNECT.
fn extended<B>(request: &mut Request<B>) -> Option<(Form, HeaderValue)> {
    if let Some(protocol) = request.extensions_mut().remove::<Protocol>() {
        return Some((Form::Http2, websocket(protocol.as_str().as_bytes())?));
    }
    let token = websocket(request.headers().get(&headers::UPGRADE)?.as_bytes())?;
    let path = request.headers().get(&headers::PATH)?.to_str().ok()?;
    if !path.starts_with(['/', '?']) {
        return None; // `*` is for OPTIONS alone (RFC 9112, section 3.2.4)
    }
    let uri = Uri::builder().scheme("http").authority(request.uri().authority()?.as_str()).path_and_query(path);
    *request.uri_mut() = uri.build().ok()?;
    Some((Form::Wire, token))
}

/// Gives an answer that was no switch its own status back.
pub(crate) fn restore_status<B>(response: &mut Response<B>) {
    let status = response.headers_mut().remove(&headers::STATUS);
    if let Some(status) = status.and_then(|s| StatusCode::from_bytes(s.as_bytes()).ok()) {
        *response.status_mut() = status;
    }
}

impl Caller {
    /// An answer that is no switch, in a form that a CONNECT's answer may have: hyper would drop the body of a 2xx.
    pub(crate) fn refused(&self, head: &mut http::response::Parts) {
        if !head.status.is_success() {
            return;
        }
        match self.form {
            Form::Http1 => {}
            Form::Http2 => head.status = StatusCode::BAD_GATEWAY,
            Form::Wire => {
                head.headers.insert(headers::STATUS, HeaderValue::from(head.status.as_u16()));
                head.status = StatusCode::BAD_REQUEST;
            }
        }
    }

    /// The instance's answer as this caller knows it.
    pub(crate) fn answer(&self, mut head: http::response::Parts) -> Response<ReplyBody> {
        headers::strip_ours(&mut head.headers);
        head.headers.remove(header::CONTENT_LENGTH);
        head.version = Version::default();
        head.status = StatusCode::OK;
        match self.form {
            Form::Http1 => {
                head.status = StatusCode::SWITCHING_PROTOCOLS;
                head.headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
                head.headers.insert(header::UPGRADE, self.token.clone());
            }
            Form::Http2 => {
                head.headers.remove(header::SEC_WEBSOCKET_ACCEPT);
            }
            Form::Wire => {
                head.headers.insert(headers::UPGRADE, self.token.clone());
            }
        }
        reply::switched(head)
    }
}

/// What a caller's bytes come and go by.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Near {
    /// The connection, or the stream, that its CONNECT turns into bytes.
    Upgrade,
    /// The bodies of request and answer.
    Bodies,
}

/// Makes a stream of a peer's sidecar the CONNECT that it stands for, so that everything else takes it for one.
pub(crate) fn take_stream<B>(request: &mut Request<B>) -> Near {
    let is_stream = request.method() == Method::POST
        && request.headers().get(&headers::PROTOCOL).is_some_and(|protocol| protocol == headers::TCP);
    if !is_stream {
        return Near::Upgrade;
    }
    *request.method_mut() = Method::CONNECT;
    if let Some(authority) = request.uri().authority().cloned() {
        *request.uri_mut() = authority.into();
    }
    Near::Bodies
}

/// CONNECT: bytes to the service that its target names.
pub(crate) async fn tunnel(
    mut exchange: Box<Exchange>,
    connection: &Arc<Connection>,
    mut request: Request<Incoming>,
    near: Near,
) -> Response<ReplyBody> {
    let upgraded = (near == Near::Upgrade).then(|| hyper::upgrade::on(&mut request));
    let opened = async {
        let target = connection.begin(&mut exchange, &request).await?;
        bounds::enter(&mut exchange, &target, &request, connection.caller).await?;
        let opened = tunnel::open(&mut exchange, &target).await?;
        Ok((opened, target.policy.timeout.idle))
    };
    let (opened, idle) = match opened.await {
        Ok(opened) => opened,
        Err(fault) => return reply::own(exchange, &fault),
    };
    exchange.status = Some(StatusCode::OK.as_u16());
    exchange.first_byte = Some(exchange.worker.mesh.clock.now());
    let guard = connection.guard.clone();
    let (writes, written) = stream::pipe();
    let joined = async move {
        let _guard = guard;
        let tunnel::Open { io, served, _kept } = opened;
        match upgraded {
            None => {
                let near = Stream::new(request.into_body(), Message::Request, writes);
                join(near, io, &mut exchange, idle, Some(served)).await;
            }
            Some(upgraded) => match upgraded.await {
                Ok(near) => join(TokioIo::new(near), io, &mut exchange, idle, Some(served)).await,
                Err(_) => served.end(&mut exchange, Happening::Complete),
            },
        }
    };
    tokio::spawn(joined);
    reply::connected((near == Near::Bodies).then_some(written))
}
