//! The admin API: JSON over HTTP/1 on a Unix socket that only its owner may open. What may open it may do everything.
//!
//! `GET /live`, `GET /status`, `GET /tokens`, `POST /tokens`, `DELETE /tokens/<id>`. It deliberately has no TCP port and no
//! authentication of its own: the file's mode is it. Invariant: a token's text leaves once, in the answer to its making.

use crate::shared::{Shared, lock};
use crate::status::Status;
use fusewire_identity::{CONTROL_PATH, JoinToken, SpiffeId, TokenError, UnixTime};
use fusewire_telemetry::admin::{self, Asked, json};
use hyper::{Method, StatusCode};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;

const DEFAULT_TTL: u64 = 3_600;
const MAX_TTL: u64 = 30 * 24 * 3_600;

struct Failure(StatusCode, String);

type Answer = Result<admin::Answer, Failure>;

pub(crate) async fn answer(shared: Arc<Shared>, asked: Asked) -> admin::Answer {
    let answered = match (asked.method.clone(), asked.path.as_str()) {
        (Method::GET, "/live") => Ok(json(StatusCode::OK, &serde_json::json!({ "live": true }))),
        (Method::GET, "/status") => Ok(json(StatusCode::OK, &Status::now(&shared))),
        (Method::GET, "/tokens") => Ok(json(StatusCode::OK, &list(&shared))),
        (Method::POST, "/tokens") => make(&shared, &asked.body).await,
        (Method::DELETE, path) if path.starts_with("/tokens/") => revoke(&shared, &path["/tokens/".len()..]).await,
        _ => {
            let known = "GET /live, GET /status, GET /tokens, POST /tokens, DELETE /tokens/<id>";
            Err(Failure(StatusCode::NOT_FOUND, format!("there is no such page; there are {known}")))
        }
    };
    answered.unwrap_or_else(|Failure(code, error)| json(code, &serde_json::json!({ "error": error })))
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

async fn make(shared: &Arc<Shared>, body: &[u8]) -> Answer {
    let asked: NewToken = serde_json::from_slice(body)
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
    Ok(json(StatusCode::CREATED, &MadeToken { token: text, id, workload: workload.to_string(), uses, expires }))
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
    Ok(json(StatusCode::OK, &serde_json::json!({ "revoked": id })))
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
