//! HTTP/1 towards the caller: requests that come one after the other, each with its number. HTTP/2's, which come at once,
//! are only counted.
//!
//! [`super::strict`] reads below hyper and is told here, above it, what became of each request; that is what idle means.

use super::body::{BoxError, ReplyBody};
use super::exchange::Exchange;
use super::proxy::proxy;
use super::reply;
use super::serve::Connection;
use super::strict::{Line, Strict};
use crate::upstream::connect::H1_BUFFER;
use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use std::convert::Infallible;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite};

/// Fields of one head that hyper reads by default.
const HYPERS_FIELDS: usize = 100;

/// Serves until the connection ends, its caller takes too long, it makes room for another, or the drain begins.
pub(crate) async fn serve<T>(io: T, connection: Arc<Connection>)
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mesh = connection.worker.mesh.clone();
    let (drain, limits) = (mesh.drain(connection.direction), mesh.settings.limits);
    let line = Arc::new(Line::default());
    connection.doors.know(&line);
    let io = Strict::new(io, line.clone(), limits);
    let of = line.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        let (connection, line) = (connection.clone(), of.clone());
        async move { Ok::<_, Infallible>(in_its_turn(&connection, line, request).await) }
    });
    // not `pipeline_flush`: it holds an answer back while anything lies unread, such as half a request, or what a
    // caller sent right behind its CONNECT
    let mut builder = http1::Builder::new();
    builder.max_buf_size(H1_BUFFER);
    if limits.header_count > HYPERS_FIELDS {
        builder.max_headers(limits.header_count); // kept off the stack from here on, at a cost
    }
    let mut served = pin!(builder.serve_connection(TokioIo::new(io), service).with_upgrades());
    let leaving = async {
        drain.hurried().await;
        line.between_heads().await;
    };
    tokio::select! {
        _ = &mut served => return,
        () = leaving => served.as_mut().graceful_shutdown(),
        () = line.evicted() => served.as_mut().graceful_shutdown(),
    }
    let _ = served.await;
}

/// One request of a connection that carries one after the other.
async fn in_its_turn(connection: &Arc<Connection>, line: Arc<Line>, request: Request<Incoming>) -> Response<InTurn> {
    let number = line.begin();
    let turn = Turn { line, number: Some(number) };
    let is_connect = request.method() == Method::CONNECT;
    let mut response = match turn.line.refused(number) {
        Some(fault) => {
            let peer = connection.peer.clone();
            let exchange = Exchange::begin(&connection.worker, connection.direction, peer, &request);
            reply::own(Box::new(exchange), fault)
        }
        None => proxy(connection, request).await,
    };
    if response.status() == StatusCode::SWITCHING_PROTOCOLS || (is_connect && response.status().is_success()) {
        turn.line.switched();
    } else if connection.worker.mesh.drain(connection.direction).has_begun() {
        // whoever comes next comes by a new connection; where there is no hurry, this is how an idle one learns of the end
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    turn.line.answered(number);
    response.map(|body| InTurn { body, _turn: turn })
}

/// One request of a connection that carries many at once. It counts from the call on.
pub(super) fn at_once(
    connection: Arc<Connection>,
    line: Arc<Line>,
    request: Request<Incoming>,
) -> impl Future<Output = Result<Response<InTurn>, Infallible>> {
    line.asked();
    let turn = Turn { line, number: None };
    async move { Ok(proxy(&connection, request).await.map(|body| InTurn { body, _turn: turn })) }
}

/// # Drop behavior
/// The answer is over.
struct Turn {
    line: Arc<Line>,
    /// `None`: one of many at once.
    number: Option<u64>,
}

impl Drop for Turn {
    fn drop(&mut self) {
        match self.number {
            Some(number) => self.line.ended(number),
            None => self.line.over(),
        }
    }
}

pub(super) struct InTurn {
    body: ReplyBody,
    _turn: Turn,
}

impl Body for InTurn {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }
    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
