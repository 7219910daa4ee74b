//! The admin API: JSON over HTTP/1 on a Unix socket that only its owner may open. What may open it may do everything.
//!
//! `GET /live`, `GET /status`, `GET /metrics`, `GET /tokens`, `POST /tokens`, `DELETE /tokens/<id>`, `GET /trust`, `POST /trust/rotate`,
//! `POST /trust/deny`: the messages of the Admin service, as JSON. It deliberately has no TCP port and no
//! authentication of its own: the file's mode is it. Invariant: a token's text leaves once, in the answer to its making.

use crate::shared::Shared;
use crate::trust::admin as trust;
use crate::{metrics, replicas};
use fusewire_api::v1;
use fusewire_telemetry::admin::{self, Asked};
use hyper::{Method, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::sync::Arc;
use tonic::Code;

/// Who asks, where the socket's file is all that is known of it.
const LOCAL: &str = "local";

struct Failure(StatusCode, String);

type Answer = Result<admin::Answer, Failure>;

pub(crate) async fn answer(shared: Arc<Shared>, asked: Asked) -> admin::Answer {
    let answered = match (asked.method.clone(), asked.path.as_str()) {
        (Method::GET, "/live") => Ok(shown(StatusCode::OK, &json!({ "live": true }))),
        (Method::GET, "/status") => Ok(shown(StatusCode::OK, &replicas::status(&shared).await)),
        (Method::GET, "/metrics") => Ok(admin::metrics(&asked, metrics::text(&shared))),
        (Method::GET, "/tokens") => list(&shared).await,
        (Method::POST, "/tokens") => make(&shared, &asked.body).await,
        (Method::DELETE, path) if path.starts_with("/tokens/") => revoke(&shared, &path["/tokens/".len()..]).await,
        (Method::GET, "/trust") => show(&shared).await,
        (Method::POST, "/trust/rotate") => rotate(&shared, &asked.body).await,
        (Method::POST, "/trust/deny") => deny(&shared, &asked.body).await,
        _ => {
            let known = "GET /live, GET /status, GET /metrics, GET /tokens, POST /tokens, DELETE /tokens/<id>, GET /trust, \
                         POST /trust/rotate, POST /trust/deny";
            Err(Failure(StatusCode::NOT_FOUND, format!("there is no such page; there are {known}")))
        }
    };
    answered.unwrap_or_else(|Failure(code, error)| shown(code, &json!({ "error": error })))
}

fn shown(code: StatusCode, answer: &impl Serialize) -> admin::Answer {
    admin::json(code, answer)
}

fn failed(status: tonic::Status) -> Failure {
    let code = match status.code() {
        Code::InvalidArgument => StatusCode::BAD_REQUEST,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::ResourceExhausted | Code::FailedPrecondition | Code::Aborted => StatusCode::CONFLICT,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    Failure(code, status.message().to_owned())
}

fn read<'a, T: Deserialize<'a>>(body: &'a [u8], expected: &str) -> Result<T, Failure> {
    let bad = |e| Failure(StatusCode::BAD_REQUEST, format!("expected {expected}: {e}"));
    serde_json::from_slice(body).map_err(bad)
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

async fn list(shared: &Shared) -> Answer {
    let listed = trust::list_tokens(shared, LOCAL, v1::ListTokensRequest {}).await.map_err(failed)?;
    let tokens: Vec<Value> = listed.tokens.into_iter().map(token).collect();
    Ok(shown(StatusCode::OK, &tokens))
}

fn token(info: v1::TokenInfo) -> Value {
    let v1::TokenInfo { id, workload, uses_left, expires, state, root_hash } = info;
    json!({ "id": id, "workload": workload, "uses_left": uses_left, "expires": expires, "state": state,
            "root_hash": root_hash })
}

async fn make(shared: &Shared, body: &[u8]) -> Answer {
    let NewToken { workload, uses, ttl_seconds } = read(body, "{\"workload\", \"uses\", \"ttl_seconds\"}")?;
    // on the wire, nothing is 0
    for (what, zero) in
        [("uses must be at least one use", uses == Some(0)), ("ttl_seconds must be 1 or more", ttl_seconds == Some(0))]
    {
        if zero {
            return Err(Failure(StatusCode::BAD_REQUEST, what.into()));
        }
    }
    let asked = v1::CreateTokenRequest {
        workload,
        uses: uses.unwrap_or_default(),
        ttl_seconds: ttl_seconds.unwrap_or_default(),
    };
    let made = trust::create_token(shared, LOCAL, asked).await.map_err(failed)?;
    let v1::TokenInfo { id, workload, uses_left, expires, .. } = made.info.unwrap_or_default();
    let answer = json!({ "token": made.token, "id": id, "workload": workload, "uses": uses_left, "expires": expires });
    Ok(shown(StatusCode::CREATED, &answer))
}

async fn revoke(shared: &Shared, id: &str) -> Answer {
    trust::revoke_token(shared, LOCAL, v1::RevokeTokenRequest { id: id.into() }).await.map_err(failed)?;
    Ok(shown(StatusCode::OK, &json!({ "revoked": id })))
}

async fn show(shared: &Shared) -> Answer {
    let v1::TrustResponse { trust_domain, stage, roots, denied, next } =
        trust::trust(shared, LOCAL, v1::TrustRequest {}).await.map_err(failed)?;
    let root = |root: v1::RootInfo| {
        json!({ "hash": root.hash, "signs": root.signs, "not_after": root.not_after,
                "remaining_seconds": root.remaining_seconds })
    };
    let denied =
        denied.into_iter().map(|d| json!({ "identity": d.identity, "reason": d.reason, "by": d.by, "at": d.at }));
    let answer = json!({ "trust_domain": trust_domain, "stage": stage, "next": next,
                        "roots": roots.into_iter().map(root).collect::<Vec<_>>(), "denied": denied.collect::<Vec<_>>() });
    Ok(shown(StatusCode::OK, &answer))
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Rotate {
    step: String,
    dry_run: bool,
    force: bool,
}

async fn rotate(shared: &Shared, body: &[u8]) -> Answer {
    let Rotate { step, dry_run, force } = read(body, "{\"step\", \"dry_run\", \"force\"}")?;
    let asked = v1::RotateRequest { step, dry_run, force };
    let v1::RotateResponse { stage, did, waiting_for, done } =
        trust::rotate(shared, LOCAL, asked).await.map_err(failed)?;
    Ok(shown(StatusCode::OK, &json!({ "stage": stage, "did": did, "waiting_for": waiting_for, "done": done })))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Deny {
    identity: String,
    #[serde(default)]
    reason: String,
    #[serde(default)]
    lift: bool,
}

async fn deny(shared: &Shared, body: &[u8]) -> Answer {
    let Deny { identity, reason, lift } = read(body, "{\"identity\", \"reason\", \"lift\"}")?;
    trust::deny(shared, LOCAL, v1::DenyRequest { identity, reason, lift }).await.map_err(failed)?;
    Ok(shown(StatusCode::OK, &json!({})))
}
