//! One attempt at one instance, from the permit to what it is told; or two, of which the faster counts.

use super::again::Again;
use super::answer::{Answer, judge};
use super::body::{IdleTimer, SendBody};
use super::exchange::Exchange;
use super::outgoing::Outgoing;
use super::{check, connect, headers};
use crate::bounds::dispatch::dispatch;
use crate::fault::Fault;
use crate::mesh::Worker;
use crate::snapshot::Target;
use crate::upstream::instance::Instance;
use crate::upstream::send::{Held, send};
use fusewire_resilience::retry::Hedge;
use fusewire_resilience::{Attempt, Class, Happening, Time, classify};
use fusewire_telemetry::metrics::Direction;
use http::{Request, Response};
use hyper::body::Incoming;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

/// One attempt, judged and told to the instance's breaker.
pub(super) async fn attempt_one(
    exchange: &mut Exchange,
    target: &Target,
    outgoing: &Outgoing,
    attempt: Attempt<Instance>,
) -> Result<Answer, Fault> {
    let worker = exchange.worker.clone();
    let (request, bounds, waiting) = launch(exchange, &worker, (target, outgoing), attempt)?;
    let sending = dispatch(&worker, &waiting.instance, target, &mut exchange.turn, request);
    let sent = bounds.within(sending, outgoing, target).await;
    land(exchange, (target, outgoing), waiting, sent)
}

/// The request as this instance gets it, and how long it may take.
fn launch<'a>(
    exchange: &mut Exchange,
    worker: &'a Worker,
    (target, outgoing): (&Target, &Outgoing),
    attempt: Attempt<Instance>,
) -> Result<(Request<SendBody>, Bounds, Waiting<'a>), Fault> {
    exchange.attempted(&attempt);
    (exchange.reason, exchange.grpc_status) = (None, None); // of an attempt before this one
    let instance = exchange.member(&attempt);
    let from_sidecar = instance.key.sidecar.is_some();
    if !from_sidecar && !target.allows_plain(exchange.direction) {
        return Err(Fault::PlainDenied);
    }
    let mut request = outgoing.build(&instance, target.upstream.protocol, target.stands_in).ok_or(Fault::CallerGone)?;
    exchange.stamp(request.headers_mut());
    if exchange.direction == Direction::Outbound {
        request.headers_mut().remove(&headers::DEADLINE); // an instant that this side did not believe goes no further
    }
    exchange.limits.stamp(request.headers_mut(), from_sidecar, attempt.started());
    let bounds = Bounds::of(exchange, target, attempt.started());
    let (nth, limit) = (exchange.attempts, target.policy.timeout.request);
    Ok((request, bounds, Waiting { worker, instance, attempt: Some(attempt), nth, limit }))
}

/// What came of it.
fn land(
    exchange: &mut Exchange,
    (target, outgoing): (&Target, &Outgoing),
    mut waiting: Waiting<'_>,
    sent: Result<(Response<Incoming>, Held), Fault>,
) -> Result<Answer, Fault> {
    let (worker, nth) = (waiting.worker, waiting.nth);
    let mut attempt = waiting.attempt.take().ok_or(Fault::CallerGone)?;
    let from_sidecar = waiting.instance.key.sidecar.is_some();
    let judged = sent.and_then(|(mut response, held)| {
        if from_sidecar {
            connect::restore_status(&mut response);
        }
        check::answer(&response, outgoing.upgrade.as_ref())?;
        Ok((judge(exchange, target, &response, from_sidecar)?, response, held))
    });
    match judged {
        Ok((judged, response, held)) => {
            let now = worker.mesh.clock.now();
            exchange.first_byte = Some(now);
            exchange.answered(nth, &attempt, response.status().as_u16(), judged.outcome.class);
            if judged.outcome.class == Class::Ok {
                target.upstream.ledger.answered_in(now.since(attempt.started()));
            }
            attempt.answered(judged.outcome, now);
            Ok(Answer { response, held, attempt, judged })
        }
        Err(fault) => {
            let broke = outgoing.flow.as_ref().and_then(|f| f.broke());
            let fault = match (broke, fault) {
                (Some(why), Fault::Reset { .. } | Fault::CallerGone) => why.clone(),
                (_, fault) => fault.seen_from(exchange.direction),
            };
            let (blame, now) = (fault.blame(), worker.mesh.clock.now());
            exchange.broke(nth, fault.reason(), blame, now);
            attempt.end(blame, now);
            Err(fault)
        }
    }
}

/// One attempt, and a second at another instance where the first takes longer than nearly all do: whichever is answered well
/// first. The index is of the instance whose result it is.
///
/// Only for requests without a body: two cannot read one.
pub(super) async fn hedged(
    exchange: &mut Exchange,
    (target, outgoing): (&Target, &Outgoing),
    again: &mut Again,
    attempt: Attempt<Instance>,
    mut hedge: Hedge,
) -> (usize, Result<Answer, Fault>) {
    let worker = exchange.worker.clone();
    let upstream = &target.upstream;
    let first = attempt.index();
    let (request, bounds, one) = match launch(exchange, &worker, (target, outgoing), attempt) {
        Ok(launched) => launched,
        Err(fault) => return (first, Err(fault)),
    };
    let instance = one.instance.clone();
    let sending = send(&worker, &instance, &target.policy, &upstream.metrics, request);
    let mut sending = pin!(bounds.within(sending, outgoing, target));
    let now = worker.mesh.clock.now();
    let due = hedge.due().map_or(Duration::ZERO, |due| due.since(now));
    tokio::select! {
        biased;
        sent = &mut sending => return (first, land(exchange, (target, outgoing), one, sent)),
        () = tokio::time::sleep(due) => {}
    }
    let now = worker.mesh.clock.now();
    hedge.sent(now);
    let Some((second, other, token)) = again.hedge(exchange, target, first, now) else {
        let sent = sending.await;
        return (first, land(exchange, (target, outgoing), one, sent));
    };
    let (request, bounds, two) = match launch(exchange, &worker, (target, outgoing), other) {
        Ok(launched) => launched,
        Err(_) => {
            let sent = sending.await;
            return (first, land(exchange, (target, outgoing), one, sent));
        }
    };
    let instance = two.instance.clone();
    let other = send(&worker, &instance, &target.policy, &upstream.metrics, request);
    let mut other = pin!(bounds.within(other, outgoing, target));
    let _token = token;
    let (ahead, result, behind) = tokio::select! {
        biased;
        sent = &mut sending => (first, land(exchange, (target, outgoing), one, sent), two),
        sent = &mut other => (second, land(exchange, (target, outgoing), two, sent), one),
    };
    again.tried.extend([first, second]);
    if result.as_ref().is_ok_and(|answer| !answer.went().failed()) {
        behind.lost(exchange);
        return (ahead, result);
    }
    // the one that is left may still do better
    let sent = if ahead == first { other.await } else { sending.await };
    let left = if ahead == first { second } else { first };
    let better = land(exchange, (target, outgoing), behind, sent);
    match (result, better) {
        (Ok(answer), Ok(better)) => {
            answer.let_go(&worker, worker.mesh.clock.now());
            (left, Ok(better))
        }
        (result @ Ok(_), Err(_)) => (ahead, result),
        (Err(_), better) => (left, better),
    }
}

/// An attempt without an answer yet.
///
/// # Drop behavior
/// Dropped with its attempt by a caller that left: how long that one had waited says whether it counts.
struct Waiting<'a> {
    worker: &'a Worker,
    instance: Arc<Instance>,
    attempt: Option<Attempt<Instance>>,
    /// Which of the exchange's attempts it is, from 1.
    nth: u32,
    limit: Option<Duration>,
}

impl Waiting<'_> {
    /// Another attempt was answered first: that says nothing of this one's instance.
    fn lost(mut self, exchange: &mut Exchange) {
        let now = self.worker.mesh.clock.now();
        if let Some(attempt) = self.attempt.take() {
            exchange.lost(self.nth, now);
            attempt.end(classify(Happening::HedgeLost), now);
        }
    }
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

/// How long one attempt may take.
struct Bounds {
    limit: Option<(Duration, Fault)>,
    /// The caller's body can be told to be what is waited for; in a gRPC call both sides may stream.
    is_grpc: bool,
}

impl Bounds {
    fn of(exchange: &Exchange, target: &Target, now: Time) -> Self {
        let whole = exchange.limits.left(now).map(|left| {
            let is_short = exchange.limits.is_short(now, target.upstream.ledger.median());
            (left, if is_short { Fault::DeadlineExceeded } else { Fault::ResponseTimeout })
        });
        let one = target.policy.retry.per_try_timeout.map(|limit| (limit, Fault::TryTimeout));
        let limit = match (whole, one) {
            (Some(whole), Some(one)) => Some(if one.0 < whole.0 { one } else { whole }),
            (whole, one) => whole.or(one),
        };
        Self { limit, is_grpc: exchange.is_grpc }
    }

    /// The attempt, unless its time or `timeout.idle` is over first.
    async fn within<T>(
        self,
        sending: impl Future<Output = Result<T, Fault>>,
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
        let waits = || !self.is_grpc && outgoing.flow.as_ref().is_some_and(|flow| flow.waits_for_caller());
        let late = async {
            match self.limit {
                Some((limit, fault)) => {
                    tokio::time::sleep(limit).await;
                    if waits() {
                        Fault::CallerSlow("the request's body did not end within the time for its answer")
                    } else {
                        fault
                    }
                }
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            sent = sending => sent,
            fault = late => Err(fault),
            () = idle => Err(Fault::IdleTimeout),
        }
    }
}
