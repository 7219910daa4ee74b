//! What an instance answered: what that says of the instance, and its way to the caller.

use super::again::Went;
use super::body::{IdleTimer, Parts, ReplyBody};
use super::connect;
use super::exchange::Exchange;
use super::outgoing::Outgoing;
use super::serve::Connection;
use super::unread::{Message, Unread};
use super::{headers, reply};
use crate::fault::Fault;
use crate::mesh::Worker;
use crate::snapshot::Target;
use crate::upstream::instance::Instance;
use crate::upstream::join::join;
use crate::upstream::send::Held;
use fusewire_resilience::retry::Mark;
use fusewire_resilience::{Attempt, Class, Happening, Outcome, Time, classify};
use fusewire_telemetry::Reason;
use fusewire_telemetry::metrics::Direction;
use http::{HeaderValue, Response, StatusCode};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use std::sync::Arc;
use std::time::Duration;

/// What an answer that nobody gets may take to end, for the sake of its connection.
const LET_GO: Duration = Duration::from_secs(1);

/// What an instance answered, with what its body still holds.
pub(crate) struct Answer {
    pub(super) response: Response<Incoming>,
    pub(super) held: Held,
    pub(super) attempt: Attempt<Instance>,
    pub(super) judged: Judged,
}

pub(crate) struct Judged {
    pub(super) happening: Happening,
    pub(super) outcome: Outcome,
    /// What a layer inside has done already.
    pub(super) mark: Mark,
    /// The outcome so far is good, and the trailers have the last word.
    pub(super) needs_grpc_status: bool,
}

/// What an answer says. A peer's sidecar that did not let the request reach its application is a fault, not an answer.
pub(super) fn judge(
    exchange: &mut Exchange,
    target: &Target,
    response: &Response<Incoming>,
    from_sidecar: bool,
) -> Result<Judged, Fault> {
    let fields = response.headers();
    let status = response.status();
    if headers::too_large(fields, 0, headers::MAX_FIELDS) {
        return Err(Fault::AnswerTooLarge);
    }
    let reason = refusal(fields, from_sidecar)?;
    exchange.reason = reason.or(exchange.reason);
    if reason.is_some() && exchange.is_grpc {
        exchange.grpc_status = headers::grpc_status(fields);
    }
    let mut needs_grpc_status = false;
    let happening = match reason {
        Some(Reason::Reset) => Happening::Reset,
        Some(Reason::ResponseTimeout) => Happening::Timeout,
        Some(Reason::DeadlineExceeded) if exchange.limits.is_short(exchange.now, target.upstream.ledger.median()) => {
            Happening::Local
        }
        Some(Reason::DeadlineExceeded) => Happening::DeadlineExceeded,
        Some(Reason::RequestTimeout) => Happening::Local,
        _ if exchange.is_grpc && status == StatusCode::OK => match headers::grpc_status(fields) {
            Some(code) => {
                exchange.grpc_status = Some(code);
                Happening::Grpc(code)
            }
            None => {
                needs_grpc_status = true;
                Happening::Status(200)
            }
        },
        _ => Happening::Status(status.as_u16()),
    };
    let mut outcome = target.policy.classify.classify(happening);
    if outcome.class != Class::Ok
        && let Some(hint) = headers::retry_after(fields)
    {
        outcome = outcome.with_retry_hint(hint);
    }
    let mark = match fields.get(&headers::RETRY).filter(|_| from_sidecar).map(HeaderValue::as_bytes) {
        Some(b"exhausted") => Mark::RetryExhausted,
        Some(b"overloaded") => Mark::OverloadedInside,
        _ => Mark::None,
    };
    Ok(Judged { happening, outcome, mark, needs_grpc_status })
}

/// The reason of an answer that a peer's sidecar originated, and the fault where it says that no application saw the request.
pub(crate) fn refusal(fields: &http::HeaderMap, from_sidecar: bool) -> Result<Option<Reason>, Fault> {
    let reason = fields.get(&reply::REASON).filter(|_| from_sidecar).and_then(|r| Reason::from_word(r.as_bytes()));
    let Some(reason) = reason else { return Ok(None) };
    if fields.contains_key(&headers::NOT_PROCESSED) {
        return Err(match reason {
            Reason::AppUnreachable => Fault::AppUnreachable,
            Reason::ConnectTimeout => Fault::ConnectTimeout,
            Reason::Overloaded => Fault::PeerOverloaded,
            Reason::Denied => Fault::Untold,
            _ => Fault::Unsent,
        });
    }
    if fields.contains_key(&headers::REUSED) {
        return Err(Fault::Reset { reused: true, begun: false });
    }
    Ok(Some(reason))
}

impl Answer {
    /// Nothing about it could make another attempt sensible.
    pub(super) fn is_final(&self, outgoing: &Outgoing) -> bool {
        !self.went().failed() || self.switches(outgoing)
    }

    pub(crate) fn outcome(&self) -> Outcome {
        self.judged.outcome
    }

    pub(crate) fn failed(&self) -> bool {
        self.judged.outcome.is_failure()
    }

    pub(crate) fn status(&self) -> u16 {
        self.response.status().as_u16()
    }

    pub(super) fn went(&self) -> Went<'_> {
        let Judged { happening, outcome, mark, .. } = self.judged;
        Went::Answered { happening, outcome, fields: self.response.headers(), mark }
    }

    /// Nobody gets it: what little is left of it is thrown away, so that its connection can serve another.
    pub(crate) fn let_go(self, worker: &Arc<Worker>, now: Time) {
        let Answer { response, held, attempt, judged } = self;
        let instance = attempt.member().clone();
        attempt.end(judged.outcome, now);
        let version = response.version();
        let mut rest = Unread::new(response.into_body(), version, Message::Response);
        if rest.is_end_stream() {
            return held.release(worker.index, &instance, now);
        }
        let worker = worker.clone();
        tokio::spawn(async move {
            if rest.is_spent_within(LET_GO).await {
                held.release(worker.index, &instance, worker.mesh.clock.now());
            }
        });
    }

    /// Whether the instance agreed to switch protocols.
    pub(super) fn switches(&self, outgoing: &Outgoing) -> bool {
        let status = self.response.status();
        outgoing.upgrade.is_some()
            && (status == StatusCode::SWITCHING_PROTOCOLS
                || (status == StatusCode::OK
                    && self.attempt.member().key.sidecar.is_some()
                    && self.response.headers().contains_key(&headers::UPGRADE)))
    }

    pub(super) fn stream(
        self,
        mut exchange: Box<Exchange>,
        target: &Target,
        outgoing: &Outgoing,
        caller: Option<&connect::Caller>,
    ) -> Response<ReplyBody> {
        let Answer { mut response, held, attempt, judged } = self;
        let from_sidecar = attempt.member().key.sidecar.is_some();
        let fields = response.headers_mut();
        headers::strip_hop_by_hop(fields);
        headers::plain_length(fields);
        let ours = [reply::REASON, reply::DETAIL].map(|name| fields.get(&name).filter(|_| from_sidecar).cloned());
        headers::strip_ours(fields);
        let stale = &exchange.worker.mesh.stale;
        // as the service said it, before the route's rule changes what it says of who may have it
        let copy = match exchange.direction {
            Direction::Outbound => {
                let (status, fields) = (response.status(), response.headers());
                stale.begin(target.upstream.name.as_str(), &target.policy, outgoing, (status, fields))
            }
            Direction::Inbound => None,
        };
        let fields = response.headers_mut();
        if let Some(filters) = &target.filters
            && ours[0].is_none()
        {
            filters.response(fields); // of the service's answers, and none of the mesh's own
        }
        for (name, value) in [reply::REASON, reply::DETAIL].into_iter().zip(ours) {
            if let Some(value) = value {
                fields.insert(name, value);
            }
        }
        if exchange.direction == Direction::Inbound && judged.outcome.is_failure() {
            let word = match exchange.worker.mesh.carried.marked(exchange.trace.id) {
                Mark::None => None,
                Mark::RetryExhausted => Some("exhausted"),
                Mark::OverloadedInside => Some("overloaded"),
            };
            if let Some(word) = word {
                fields.insert(headers::RETRY, HeaderValue::from_static(word));
            }
        }
        exchange.status = Some(response.status().as_u16());
        exchange.heard(&judged);
        let (mut head, inner) = response.into_parts();
        let inner = Unread::new(inner, head.version, Message::Response);
        if let Some(caller) = caller {
            caller.refused(&mut head);
        }
        let flow = outgoing.flow.clone();
        if let Some(flow) = &flow {
            flow.forget();
        }
        let idle = target.policy.timeout.idle.zip(flow.clone()).map(|(limit, flow)| IdleTimer::new(flow, limit));
        let needs_grpc_status = judged.needs_grpc_status;
        reply::stream(
            head,
            Parts {
                inner,
                exchange,
                attempt,
                held,
                flow,
                idle,
                needs_grpc_status,
                copy,
                policy: target.policy.clone(),
            },
        )
    }

    /// The instance agreed to another protocol: bytes both ways from here on, in a task of their own.
    pub(super) fn switch(
        self,
        mut exchange: Box<Exchange>,
        connection: &Arc<Connection>,
        target: &Target,
        caller: Option<connect::Caller>,
    ) -> Response<ReplyBody> {
        let Answer { mut response, held, attempt, judged } = self;
        exchange.heard(&judged);
        let Some(caller) = caller else {
            return reply::own(exchange, &Fault::Reset { reused: false, begun: false });
        };
        let far = hyper::upgrade::on(&mut response);
        let (mut head, _) = response.into_parts();
        headers::strip_hop_by_hop(&mut head.headers);
        if let Some(filters) = &target.filters {
            filters.response(&mut head.headers);
        }
        let answer = caller.answer(head);
        exchange.status = Some(answer.status().as_u16());
        let (guard, idle) = (connection.guard.clone(), target.policy.timeout.idle);
        tokio::spawn(async move {
            let _guard = guard;
            if let Ok((near, far)) = futures_util::future::try_join(caller.on, far).await {
                join(TokioIo::new(near), TokioIo::new(far), &mut exchange, idle, None).await;
            }
            exchange.settle(attempt, classify(Happening::Complete));
            drop(held);
        });
        answer
    }
}
