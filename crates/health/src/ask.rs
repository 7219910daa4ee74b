//! One question over a connection of its own, in clear, and its answer in words.
//!
//! A new connection for every question: an application that no longer accepts must not look well because an old connection
//! still serves. It deliberately keeps nothing and retries nothing.
//!
//! Invariant: it is over within the check's timeout, whatever the other side does, and leaves no task behind.

use crate::question::{judge, question};
use bytes::Bytes;
use fusewire_model::health::{CheckKind, HealthCheck};
use http::Request;
use http_body_util::Full;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::io;
use std::net::SocketAddr;
use tokio::net::TcpStream;

/// What a good or a bad answer was, in words: `GET /ready: 200`, `connection refused`.
pub type Answer = Result<String, String>;

/// An application's answer has no business with larger headers.
const MAX_HEAD: usize = 32 << 10;

/// Asks once. `address` is the application's; the check's own port, if it has one, takes the place of its port.
///
/// # Errors
/// A bad answer or none within the check's timeout.
pub async fn ask(check: &HealthCheck, address: SocketAddr) -> Answer {
    let address = SocketAddr::new(address.ip(), check.port.unwrap_or(address.port()));
    let asked = tokio::time::timeout(check.timeout, exchange(&check.kind, address)).await;
    asked.unwrap_or_else(|_| Err(format!("no answer within {:?}", check.timeout)))
}

async fn exchange(kind: &CheckKind, address: SocketAddr) -> Answer {
    let stream = fusewire_net::connect(address).await.map_err(|e| connect_words(&e))?;
    let Some(request) = question(kind, &address.to_string()) else {
        return Ok("accepts connections".into());
    };
    let request = request.map(Full::new);
    match kind {
        CheckKind::Grpc { .. } => over_http2(kind, stream, request).await,
        _ => over_http1(kind, stream, request).await,
    }
}

async fn over_http1(kind: &CheckKind, stream: TcpStream, request: Request<Full<Bytes>>) -> Answer {
    let lost = |_| "the connection broke before an answer".to_owned();
    let shake = http1::Builder::new().max_buf_size(MAX_HEAD).handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = shake.map_err(lost)?;
    let answered = async {
        let response = sender.send_request(request).await.map_err(lost)?;
        judge(kind, response).await
    };
    beside(connection, answered).await
}

async fn over_http2(kind: &CheckKind, stream: TcpStream, request: Request<Full<Bytes>>) -> Answer {
    let lost = |_| "no HTTP/2 answer, or the connection broke before it".to_owned();
    let mut builder = http2::Builder::new(TokioExecutor::new());
    let shake = builder.max_header_list_size(MAX_HEAD as u32).handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = shake.map_err(lost)?;
    let answered = async {
        let response = sender.send_request(request).await.map_err(lost)?;
        judge(kind, response).await
    };
    beside(connection, answered).await
}

/// Drives the connection for as long as the answer takes, and no longer: no task survives a question.
async fn beside<C>(connection: C, answered: impl Future<Output = Answer>) -> Answer
where
    C: Future,
{
    let mut answered = std::pin::pin!(answered);
    tokio::select! {
        answer = &mut answered => answer,
        // over before the answer was read: what it has of it is still to be had
        _ = connection => answered.await,
    }
}

fn connect_words(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused: nothing listens there".into(),
        kind => format!("cannot connect: {kind}"),
    }
}
