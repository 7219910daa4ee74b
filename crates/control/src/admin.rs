//! The admin API: JSON over HTTP/1 on a Unix socket that only its owner may open. What may open it may do everything.
//!
//! `GET /live`, `GET /status`, `GET /tokens`, `POST /tokens`, `DELETE /tokens/<id>`. It deliberately has no TCP port and no
//! authentication of its own: the file's mode is it. Invariant: a token's text leaves once, in the answer to its making.

use crate::shared::{Shared, lock};
use crate::socket::Socket;
use crate::status::Status;
use bytes::Bytes;
use fusewire_identity::{CONTROL_PATH, JoinToken, SpiffeId, TokenError, UnixTime};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::sync::Semaphore;

const MAX_CONNECTIONS: usize = 64;
const MAX_BODY: usize = 64 << 10;
const HEADERS: Duration = Duration::from_secs(10);
const DEFAULT_TTL: u64 = 3_600;
const MAX_TTL: u64 = 30 * 24 * 3_600;

/// Serves until dropped.
pub(crate) async fn serve(shared: &Arc<Shared>, socket: &Socket) {
    let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(permit) = connections.clone().acquire_owned().await else { return };
        match socket.listener.accept().await {
            Ok((stream, _)) => {
                let shared = shared.clone();
                tokio::spawn(async move {
                    tokio::select! {
                        () = connection(stream, &shared) => {}
                        () = shared.stopping() => {}
                    }
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "an admin connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn connection(stream: UnixStream, shared: &Arc<Shared>) {
    let service = service_fn(|request| async { Ok::<_, Infallible>(answer(shared, request).await) });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADERS)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "admin connection ended");
    }
}

struct Failure(StatusCode, String);

type Answer = Result<Response<Full<Bytes>>, Failure>;

async fn answer(shared: &Arc<Shared>, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let answered = match (method, path.as_str()) {
        (Method::GET, "/live") => json(StatusCode::OK, &serde_json::json!({ "live": true })),
        (Method::GET, "/status") => json(StatusCode::OK, &Status::now(shared)),
        (Method::GET, "/tokens") => json(StatusCode::OK, &list(shared)),
        (Method::POST, "/tokens") => make(shared, request).await,
        (Method::DELETE, path) if path.starts_with("/tokens/") => revoke(shared, &path["/tokens/".len()..]).await,
        _ => {
            let known = "GET /live, GET /status, GET /tokens, POST /tokens, DELETE /tokens/<id>";
            Err(Failure(StatusCode::NOT_FOUND, format!("there is no such page; there are {known}")))
        }
    };
    answered.or_else(|Failure(code, error)| json(code, &serde_json::json!({ "error": error }))).unwrap_or_else(
        |Failure(code, error)| {
            let mut response = Response::new(Full::from(error));
            *response.status_mut() = code;
            response
        },
    )
}

fn json(code: StatusCode, value: &impl Serialize) -> Answer {
    let bytes = serde_json::to_vec(value).map_err(internal)?;
    let response = Response::builder().status(code).header("content-type", "application/json").body(bytes.into());
    response.map_err(internal)
}

fn internal(error: impl std::fmt::Display) -> Failure {
    Failure(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
}

fn bad(message: impl Into<String>) -> Failure {
    Failure(StatusCode::BAD_REQUEST, message.into())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewToken {
    /// A SPIFFE ID, or a path within the trust domain.
    workload: String,
    /// Default 1.
    uses: Option<u32>,
    /// Default 1 h; at most 30 days.
    ttl_seconds: Option<u64>,
}

#[derive(Serialize)]
struct MadeToken {
    token: String,
    id: String,
    workload: String,
    uses: u32,
    expires: String,
}

#[derive(Serialize)]
struct TokenView {
    id: String,
    workload: String,
    uses_left: u32,
    expires: String,
}

fn list(shared: &Shared) -> Vec<TokenView> {
    let view = |entry: fusewire_identity::TokenEntry| TokenView {
        id: entry.handle,
        workload: entry.id,
        uses_left: entry.uses_left,
        expires: calendar(entry.expires),
    };
    lock(&shared.tokens).list().into_iter().map(view).collect()
}

async fn make(shared: &Arc<Shared>, request: Request<Incoming>) -> Answer {
    let body = Limited::new(request.into_body(), MAX_BODY).collect().await.map_err(|e| bad(e.to_string()))?;
    let asked: NewToken = serde_json::from_slice(&body.to_bytes())
        .map_err(|e| bad(format!("expected {{\"workload\", \"uses\", \"ttl_seconds\"}}: {e}")))?;
    let workload = workload(shared, &asked.workload)?;
    let (uses, ttl) = (asked.uses.unwrap_or(1), asked.ttl_seconds.unwrap_or(DEFAULT_TTL));
    if !(1..=MAX_TTL).contains(&ttl) {
        return Err(bad(format!("ttl_seconds must be 1..={MAX_TTL}, got {ttl}")));
    }
    let (ttl, now, book, id) = (Duration::from_secs(ttl), UnixTime::now(), shared.clone(), workload.clone());
    let made = tokio::task::spawn_blocking(move || lock(&book.tokens).create(&id, uses, ttl, now)).await;
    let token: JoinToken = made.map_err(internal)?.map_err(token_failure)?;
    tracing::info!(id = token.handle(), %workload, uses, "join token made");
    let expires = calendar(now.as_secs().saturating_add(ttl.as_secs()));
    let (text, id) = (token.to_string(), token.handle());
    json(StatusCode::CREATED, &MadeToken { token: text, id, workload: workload.to_string(), uses, expires })
}

fn workload(shared: &Shared, text: &str) -> Result<SpiffeId, Failure> {
    let domain = shared.authority.trust_domain();
    let id = if text.contains("://") { SpiffeId::parse(text) } else { SpiffeId::of(domain, text) };
    let id = id.map_err(|e| bad(e.to_string()))?;
    if id.trust_domain() != domain.as_str() {
        return Err(bad(format!(
            "{id} is not of trust domain {domain}, which is all that this control plane signs for"
        )));
    }
    if id.path() == CONTROL_PATH {
        return Err(bad("the control plane's own identity is not given away"));
    }
    Ok(id)
}

async fn revoke(shared: &Arc<Shared>, id: &str) -> Answer {
    let (book, handle) = (shared.clone(), id.to_owned());
    let revoked = tokio::task::spawn_blocking(move || lock(&book.tokens).revoke(&handle)).await;
    revoked.map_err(internal)?.map_err(token_failure)?;
    tracing::info!(id, "join token revoked");
    json(StatusCode::OK, &serde_json::json!({ "revoked": id }))
}

fn token_failure(error: TokenError) -> Failure {
    let code = match error {
        TokenError::Unknown => StatusCode::NOT_FOUND,
        TokenError::Storage(_) => StatusCode::INTERNAL_SERVER_ERROR,
        TokenError::Full => StatusCode::CONFLICT,
        TokenError::Expired
        | TokenError::Spent
        | TokenError::WrongIdentity
        | TokenError::Malformed
        | TokenError::Useless => StatusCode::BAD_REQUEST,
    };
    Failure(code, error.to_string())
}

/// RFC 3339.
fn calendar(seconds: u64) -> String {
    let timestamp = i64::try_from(seconds).ok().and_then(|s| Timestamp::from_second(s).ok());
    timestamp.unwrap_or(Timestamp::MAX).to_string()
}
