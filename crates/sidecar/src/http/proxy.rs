//! One request, top to bottom: begin, route, admit, send, judge, answer.

use super::body::{IdleTimer, Parts, ReplyBody};
use super::connect;
use super::exchange::Exchange;
use super::outgoing::Outgoing;
use super::serve::Connection;
use super::{headers, reply};
use crate::fault::Fault;
use crate::mesh::Worker;
use crate::snapshot::Target;
use crate::upstream::instance::Instance;
use crate::upstream::send::{Held, send};
use crate::upstream::service::Wish;
use crate::upstream::tunnel;
use fusewire_resilience::{Attempt, Class, Happening, Outcome, classify};
use fusewire_telemetry::Reason;
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Instances that one unsent request is offered to.
const MAX_OFFERS: u32 = 5;

/// Never fails: what goes wrong becomes an answer with its reason.
pub(crate) async fn proxy(connection: &Arc<Connection>, request: Request<Incoming>) -> Response<ReplyBody> {
    let peer = connection.peer.clone();
    let exchange = Box::new(Exchange::begin(&connection.worker, connection.direction, peer, &request));
    if request.method() == Method::CONNECT && !connect::is_upgrade(connection.direction, &request) {
        return connect::tunnel(exchange, connection, request).await;
    }
    forward(exchange, connection, request).await
}

async fn forward(
    mut exchange: Box<Exchange>,
    connection: &Arc<Connection>,
    mut request: Request<Incoming>,
) -> Response<ReplyBody> {
    let caller = match connect::take_upgrade(connection.direction, &mut request) {
        Ok(caller) => caller,
        Err(fault) => return reply::own(exchange, &fault),
    };
    let begun = async {
        let target = connection.route(&request, exchange.started).await?;
        exchange.routed(&target.upstream);
        let outgoing = connection.outgoing(request, caller.as_ref(), &target, exchange.protocol)?;
        Ok((target, outgoing))
    };
    let (target, outgoing) = match begun.await {
        Ok(begun) => begun,
        Err(fault) => return reply::own(exchange, &fault),
    };
    match attempts(&mut exchange, &target, &outgoing).await {
        Ok(answer) if answer.switches(&outgoing) => answer.switch(exchange, connection, &target, caller),
        Ok(answer) => answer.stream(exchange, &target, &outgoing, caller.as_ref()),
        Err(fault) => reply::own(exchange, &fault),
    }
}

/// What an instance answered, with what its body still holds.
struct Answer {
    response: Response<Incoming>,
    held: Held,
    attempt: Attempt<Instance>,
    judged: Judged,
}

/// Offers the request to one instance after another for as long as it is provably unsent, or the instance was only on
/// probation, or a kept connection broke under a request that may be repeated by its method: an application that stops
/// closes its idle connections at any moment, and the request that is on its way then cannot know (RFC 9110, 9.2.2).
async fn attempts(exchange: &mut Exchange, target: &Target, outgoing: &Outgoing) -> Result<Answer, Fault> {
    let worker = exchange.worker.clone();
    let from_now = || target.policy.timeout.request.map(|limit| Instant::now() + limit);
    let mut deadline = from_now();
    let mut tried: Vec<usize> = Vec::new();
    let mut stale: Option<usize> = None;
    // what the caller gets if nobody else can be asked
    let mut so_far: Option<Result<Answer, Fault>> = None;
    let mut now = exchange.started;
    loop {
        let wish = Wish { random: worker.random(), replayable: outgoing.replayable(), tried: &tried };
        let attempt = match target.upstream.admit(&wish, now) {
            Ok(attempt) => attempt,
            Err(fault) => return so_far.unwrap_or(Err(fault)),
        };
        let (index, probe) = (attempt.index(), attempt.is_probe() && outgoing.replayable());
        let result = attempt_one(exchange, target, outgoing, deadline, attempt).await;
        let elsewhere = match &result {
            Ok(answer) => probe && answer.judged.outcome.is_failure(),
            Err(fault) => probe || fault.unsent() || (fault.stale() && outgoing.replayable()),
        };
        if !elsewhere || exchange.attempts >= MAX_OFFERS || !outgoing.is_whole() {
            return result;
        }
        target.upstream.metrics.redials.inc();
        if probe {
            deadline = from_now(); // an instance that hangs must not use up the time of the one that does not
        }
        // a connection that closed under us says nothing of its instance: that one is dialled anew, once
        if result.as_ref().is_err_and(Fault::stale) && stale != Some(index) {
            stale = Some(index);
            if let Some(instance) = target.upstream.set.members().nth(index) {
                instance.pool(worker.index).drop_idle_h1();
            }
        } else {
            tried.push(index);
        }
        so_far = Some(result);
        now = worker.mesh.clock.now();
    }
}

/// One attempt, judged and told to the instance's breaker.
async fn attempt_one(
    exchange: &mut Exchange,
    target: &Target,
    outgoing: &Outgoing,
    deadline: Option<Instant>,
    attempt: Attempt<Instance>,
) -> Result<Answer, Fault> {
    let worker = exchange.worker.clone();
    exchange.attempted(&attempt);
    (exchange.reason, exchange.grpc_status) = (None, None); // of an attempt before this one
    let instance = attempt.member().clone();
    let from_sidecar = instance.key.sidecar.is_some();
    if !from_sidecar && !target.allows_plain(exchange.direction) {
        return Err(Fault::PlainDenied);
    }
    let request = outgoing.build(&instance, target.upstream.protocol).ok_or(Fault::CallerGone)?;
    let sending = send(&worker, &instance, &target.policy, &target.upstream.metrics, request);
    let mut waiting = Waiting { worker: &worker, attempt: Some(attempt), limit: target.policy.timeout.request };
    let sent = within(sending, deadline, outgoing, target).await;
    let mut attempt = waiting.attempt.take().ok_or(Fault::CallerGone)?;
    let judged = sent.and_then(|(mut response, held)| {
        if from_sidecar {
            connect::restore_status(&mut response);
        }
        Ok((judge(exchange, &response, from_sidecar)?, response, held))
    });
    match judged {
        Ok((judged, response, held)) => {
            let now = worker.mesh.clock.now();
            exchange.first_byte = Some(now);
            attempt.answered(judged.outcome, now);
            Ok(Answer { response, held, attempt, judged })
        }
        Err(fault) => {
            let left = matches!(fault, Fault::Reset { .. }) && outgoing.flow.as_ref().is_some_and(|f| f.broke());
            let fault = if left { Fault::CallerGone } else { fault.seen_from(exchange.direction) };
            attempt.end(fault.blame(), worker.mesh.clock.now());
            Err(fault)
        }
    }
}

/// An attempt without an answer yet.
///
/// # Drop behavior
/// Dropped with its attempt by a caller that left: how long that one had waited says whether it counts.
struct Waiting<'a> {
    worker: &'a Worker,
    attempt: Option<Attempt<Instance>>,
    limit: Option<Duration>,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if let Some(attempt) = self.attempt.take() {
            let now = self.worker.mesh.clock.now();
            let waited = now.since(attempt.started());
            attempt.end(classify(Happening::ClientGone { waited, limit: self.limit }), now);
        }
    }
}

/// The attempt, unless `timeout.request` or `timeout.idle` is over first.
async fn within<T>(
    sending: impl Future<Output = Result<T, Fault>>,
    deadline: Option<Instant>,
    outgoing: &Outgoing,
    target: &Target,
) -> Result<T, Fault> {
    let idle = async {
        match (&outgoing.flow, target.policy.timeout.idle) {
            (Some(flow), Some(limit)) => {
                let mut timer = IdleTimer::new(flow.clone(), limit);
                poll_fn(|cx| timer.poll_expired(cx)).await;
            }
            _ => std::future::pending().await,
        }
    };
    let late = async {
        match deadline {
            Some(deadline) => tokio::time::sleep_until(deadline).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        biased;
        sent = sending => sent,
        () = late => Err(Fault::ResponseTimeout),
        () = idle => Err(Fault::IdleTimeout),
    }
}

struct Judged {
    outcome: Outcome,
    /// The outcome so far is good, and the trailers have the last word.
    needs_grpc_status: bool,
}

/// What an answer says. A peer's sidecar that did not let the request reach its application is a fault, not an answer.
fn judge(exchange: &mut Exchange, response: &Response<Incoming>, from_sidecar: bool) -> Result<Judged, Fault> {
    let fields = response.headers();
    let status = response.status();
    if headers::too_large(fields, 0) {
        return Err(Fault::AnswerTooLarge);
    }
    let reason = fields.get(&reply::REASON).filter(|_| from_sidecar).and_then(|r| Reason::from_word(r.as_bytes()));
    if let Some(reason) = reason {
        if fields.contains_key(&headers::NOT_PROCESSED) {
            return Err(match reason {
                Reason::AppUnreachable => Fault::AppUnreachable,
                Reason::ConnectTimeout => Fault::ConnectTimeout,
                Reason::Overloaded => Fault::PeerOverloaded,
                _ => Fault::Unsent,
            });
        }
        if fields.contains_key(&headers::REUSED) {
            return Err(Fault::Reset { reused: true, begun: false });
        }
        exchange.reason = Some(reason);
    }
    let mut needs_grpc_status = false;
    let mut outcome = classify(match reason {
        Some(Reason::Reset) => Happening::Reset,
        Some(Reason::ResponseTimeout) => Happening::Timeout,
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
    });
    if outcome.class != Class::Ok
        && let Some(hint) = headers::retry_after(fields)
    {
        outcome = outcome.with_retry_hint(hint);
    }
    Ok(Judged { outcome, needs_grpc_status })
}

impl Answer {
    /// Whether the instance agreed to switch protocols.
    fn switches(&self, outgoing: &Outgoing) -> bool {
        let status = self.response.status();
        outgoing.upgrade.is_some()
            && (status == StatusCode::SWITCHING_PROTOCOLS
                || (status == StatusCode::OK
                    && self.attempt.member().key.sidecar.is_some()
                    && self.response.headers().contains_key(&headers::UPGRADE)))
    }

    fn stream(
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
        let ours = [reply::REASON, reply::DETAIL].map(|name| fields.get(&name).filter(|_| from_sidecar).cloned());
        headers::strip_ours(fields);
        for (name, value) in [reply::REASON, reply::DETAIL].into_iter().zip(ours) {
            if let Some(value) = value {
                fields.insert(name, value);
            }
        }
        exchange.status = Some(response.status().as_u16());
        let (mut head, inner) = response.into_parts();
        if let Some(caller) = caller {
            caller.refused(&mut head);
        }
        let flow = outgoing.flow.clone();
        if let Some(flow) = &flow {
            flow.forget();
        }
        let idle = target.policy.timeout.idle.zip(flow.clone()).map(|(limit, flow)| IdleTimer::new(flow, limit));
        let needs_grpc_status = judged.needs_grpc_status;
        reply::stream(head, Parts { inner, exchange, attempt, held, flow, idle, needs_grpc_status })
    }

    /// The instance agreed to another protocol: bytes both ways from here on, in a task of their own.
    fn switch(
        self,
        mut exchange: Box<Exchange>,
        connection: &Arc<Connection>,
        target: &Target,
        caller: Option<connect::Caller>,
    ) -> Response<ReplyBody> {
        let Answer { mut response, held, attempt, .. } = self;
        let Some(caller) = caller else {
            return reply::own(exchange, &Fault::Reset { reused: false, begun: false });
        };
        let far = hyper::upgrade::on(&mut response);
        let (mut head, _) = response.into_parts();
        headers::strip_hop_by_hop(&mut head.headers);
        let answer = caller.answer(head);
        exchange.status = Some(answer.status().as_u16());
        let (guard, idle) = (connection.guard.clone(), target.policy.timeout.idle);
        tokio::spawn(async move {
            let _guard = guard;
            if let Ok((near, far)) = futures_util::future::try_join(caller.on, far).await {
                tunnel::join(TokioIo::new(near), TokioIo::new(far), &mut exchange, idle).await;
            }
            exchange.settle(attempt, classify(Happening::Complete));
            drop(held);
        });
        answer
    }
}
