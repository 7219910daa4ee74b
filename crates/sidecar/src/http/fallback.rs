//! What the caller gets where the service gives nothing: the policy's `fallback`, the first of the chain that has something.
//!
//! It decides when: a refusal of ours (an open circuit, a limit, no instance), or a last attempt that failed; never for what
//! the caller did wrong, and never once an answer has begun. It deliberately does not make the request a success: the reason
//! stays in the log and in the metrics.
//!
//! Invariants: at most a hundred callers of a service at once are given something else, the others get the failure; a
//! fallback's own request has no fallback and no retries; a fallback that fails leaves the failure as it was.

use super::answer::Answer;
use super::exchange::Exchange;
use super::outgoing::Outgoing;
use super::proxy::attempts;
use super::reply::{self, Own};
use super::stale::Stored;
use crate::fault::Fault;
use crate::snapshot::Target;
use bytes::Bytes;
use fusewire_model::policy::{Fallback, StaticAnswer};
use fusewire_resilience::Time;
use fusewire_resilience::retry::Repeat;
use fusewire_telemetry::Reason;
use fusewire_telemetry::metrics::BY_STATUS;
use http::StatusCode;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use std::borrow::Cow;
use std::time::Duration;
use tokio::sync::OwnedSemaphorePermit;

/// Why the caller does not get the service's own answer.
pub(crate) struct Why {
    pub(crate) reason: Reason,
    pub(crate) detail: Option<Cow<'static, str>>,
    /// The label of the metric.
    pub(crate) cause: &'static str,
}

/// What stands in.
pub(crate) enum Instead {
    Own(Own),
    /// Another service's answer.
    Other(Box<(Answer, Target)>),
}

/// The result's failure, where it is one that a fallback is for.
fn why(exchange: &Exchange, result: &Result<Answer, Fault>) -> Option<Why> {
    match result {
        Err(fault) => {
            let reason = fault.reason();
            stands_for(reason).then(|| Why { reason, detail: fault.detail(), cause: reason.word() })
        }
        Ok(answer) if answer.failed() && (exchange.is_grpc || answer.status() >= 500) => {
            Some(match exchange.reason.filter(|reason| stands_for(*reason)) {
                Some(reason) => Why { reason, detail: None, cause: reason.word() },
                None => {
                    let code = match exchange.grpc_status {
                        Some(code) => format!("the service answered gRPC status {code}"),
                        None => format!("the service answered {}", answer.status()),
                    };
                    Why { reason: Reason::Fallback, detail: Some(code.into()), cause: BY_STATUS }
                }
            })
        }
        Ok(_) => None,
    }
}

fn stands_for(reason: Reason) -> bool {
    match reason {
        Reason::NoInstance
        | Reason::CircuitOpen
        | Reason::Overloaded
        | Reason::RateLimited
        | Reason::ConnectFailed
        | Reason::ConnectTimeout
        | Reason::AppUnreachable
        | Reason::TlsFailed
        | Reason::WrongIdentity
        | Reason::Reset
        | Reason::ResponseTimeout
        | Reason::Draining => true,
        // the caller's own doing, or it has stopped waiting
        Reason::NoRoute
        | Reason::Redirected
        | Reason::Preflight
        | Reason::NoBackend
        | Reason::BadRoute
        | Reason::Denied
        | Reason::BadRequest
        | Reason::HeaderTooLarge
        | Reason::UriTooLong
        | Reason::RequestTimeout
        | Reason::ExpectationFailed
        | Reason::DeadlineExceeded
        | Reason::Fallback
        | Reason::ClientGone => false,
    }
}

/// A place, the failure, the fallback's word and what it has to say; `None`: the result stands.
pub(crate) async fn instead(
    exchange: &mut Exchange,
    target: &Target,
    outgoing: &Outgoing,
    result: &Result<Answer, Fault>,
) -> Option<(OwnedSemaphorePermit, Why, &'static str, Instead)> {
    if target.policy.fallback.is_empty() || outgoing.upgrade.is_some() {
        return None;
    }
    let why = why(exchange, result)?;
    let place = target.upstream.ledger.replace()?;
    exchange.conclude_with(result.as_ref().map_or_else(Fault::blame, Answer::outcome));
    let before = (exchange.reason, exchange.grpc_status, exchange.first_byte);
    for fallback in &target.policy.fallback {
        let found = match fallback {
            Fallback::Static(answer) => Some(Instead::Own(said(answer))),
            Fallback::Empty => {
                let (status, fields, body) = (StatusCode::NO_CONTENT, HeaderMap::new(), Bytes::new());
                Some(Instead::Own(Own::Text { status, fields, body, grpc_status: 0 }))
            }
            Fallback::Fail { status, retry_after } => {
                let status = StatusCode::from_u16(*status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
                Some(Instead::Own(Own::Failed { status, retry_after: *retry_after }))
            }
            Fallback::Stale { max_age } => stale(exchange, target, outgoing, *max_age).map(Instead::Own),
            Fallback::Service(name) => match target.other(name) {
                // seldom, and not to make every request's future larger
                Some(other) if may_go_elsewhere(result, target, outgoing) => {
                    Box::pin(elsewhere(exchange, other, outgoing)).await
                }
                _ => None,
            },
        };
        if let Some(found) = found {
            return Some((place, why, fallback.as_str(), found));
        }
        (exchange.reason, exchange.grpc_status, exchange.first_byte) = before;
    }
    None
}

fn said(answer: &StaticAnswer) -> Own {
    let fields = answer.headers.iter().filter_map(|(name, value)| {
        Some((HeaderName::try_from(name.as_str()).ok()?, HeaderValue::try_from(value.as_str()).ok()?))
    });
    Own::Text {
        status: StatusCode::from_u16(answer.status).unwrap_or(StatusCode::OK),
        fields: fields.collect(),
        body: Bytes::copy_from_slice(answer.body.as_bytes()),
        grpc_status: answer.grpc_status,
    }
}

fn stale(exchange: &Exchange, target: &Target, outgoing: &Outgoing, max_age: Duration) -> Option<Own> {
    let mesh = &exchange.worker.mesh;
    let now = mesh.clock.now();
    let found = mesh.stale.find(target.upstream.name.as_str(), outgoing, max_age, now)?;
    Some(Own::Text { status: found.status, fields: aged(&found, now), body: found.body.clone(), grpc_status: 0 })
}

/// RFC 9111, sections 5.1 and 5.5.
fn aged(found: &Stored, now: Time) -> HeaderMap {
    let mut fields = found.fields.clone();
    fields.insert(header::AGE, HeaderValue::from(found.age(now).as_secs()));
    fields.insert(header::WARNING, HeaderValue::from_static("110 - \"Response is Stale\""));
    fields
}

/// The same request to another service, in what is left of the time.
async fn elsewhere(exchange: &mut Exchange, other: Target, outgoing: &Outgoing) -> Option<Instead> {
    if !outgoing.is_whole() {
        return None;
    }
    exchange.limits.keep();
    let began = exchange.worker.mesh.clock.now();
    exchange.admit(&other, began).ok()?;
    match attempts(exchange, &other, outgoing, began).await {
        Ok(answer) if !answer.failed() => Some(Instead::Other(Box::new((answer, other)))),
        Ok(answer) => {
            exchange.conclude_with(answer.outcome());
            answer.let_go(&exchange.worker, exchange.worker.mesh.clock.now());
            None
        }
        Err(fault) => {
            exchange.conclude_with(fault.blame());
            None
        }
    }
}

/// What an application may have seen goes to another service only if doing it twice is doing it once (invariant 10).
fn may_go_elsewhere(result: &Result<Answer, Fault>, target: &Target, outgoing: &Outgoing) -> bool {
    let unseen = |fault: &Fault| {
        let refused_here = matches!(
            fault,
            Fault::CircuitOpen { .. }
                | Fault::Throttled { .. }
                | Fault::Full(_)
                | Fault::RateLimited(_)
                | Fault::NoInstance
                | Fault::AllTried
                | Fault::OwnIdentity(_)
        );
        refused_here || fault.unsent()
    };
    result.as_ref().is_err_and(unseen) || outgoing.repeat(target.policy.retry.repeat) == Repeat::Idempotent
}

/// What the caller gets of it.
pub(crate) fn own(
    mut exchange: Box<Exchange>,
    (place, why, of): (OwnedSemaphorePermit, &Why, &'static str),
    own: Own,
) -> http::Response<super::body::ReplyBody> {
    exchange.replaced(of, why.cause, place);
    reply::instead(exchange, why, of, own)
}
