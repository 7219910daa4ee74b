//! One request, top to bottom: begin, route, admit, send, judge, answer.

use super::again::{Again, Last, Next, Went};
use super::answer::Answer;
use super::attempt::{attempt_one, hedged};
use super::body::ReplyBody;
use super::connect::{self, Near};
use super::exchange::Exchange;
use super::fallback::{self, Instead};
use super::outgoing::Outgoing;
use super::serve::Connection;
use super::unread::{FIRST_WORDS, Message, Unread};
use super::{check, headers, mirror, reply};
use crate::bounds;
use crate::fault::Fault;
use crate::snapshot::Target;
use crate::upstream::service::Wish;
use fusewire_model::policy::Ratio;
use fusewire_resilience::Time;
use fusewire_telemetry::metrics::Direction;
use http::{HeaderValue, Method, Request, Response};
use hyper::body::Incoming;
use std::sync::Arc;

/// Never fails: what goes wrong becomes an answer with its reason.
pub(crate) async fn proxy(connection: &Arc<Connection>, mut request: Request<Incoming>) -> Response<ReplyBody> {
    let said_by = if connection.is_wire() { Direction::Inbound } else { Direction::Outbound };
    if connection.direction != said_by {
        headers::strip_ours(request.headers_mut()); // believed from peers' sidecars alone (invariant 11)
    }
    let near = if connection.is_wire() { connect::take_stream(&mut request) } else { Near::Upgrade };
    let peer = connection.peer.clone();
    let mut exchange = Box::new(Exchange::begin(&connection.worker, connection.direction, peer, &request));
    exchange.ends = connection.ends;
    if let Err(fault) = check::request(&request, said_by, &connection.worker.mesh.settings.limits) {
        exchange.decide(Ratio::DEFAULT, &request);
        return reply::own(exchange, &fault);
    }
    if request.method() == Method::CONNECT && !connect::is_upgrade(connection.direction, &request) {
        return connect::tunnel(exchange, connection, request, near).await;
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
        Err(fault) => {
            exchange.decide(Ratio::DEFAULT, &request);
            return reply::own(exchange, &fault);
        }
    };
    let target = match connection.begin(&mut exchange, &request).await {
        Ok(target) => target,
        Err(fault) => return refuse(exchange, request, &fault).await,
    };
    let entered = bounds::enter(&mut exchange, &target, &request, connection.caller).await;
    if let Err(fault) = &entered
        && target.policy.fallback.is_empty()
    {
        return refuse(exchange, request, fault).await;
    }
    let mut outgoing = match connection.outgoing(request, caller.as_ref(), &target, exchange.protocol) {
        Ok(outgoing) => outgoing,
        Err(fault) => return reply::own(exchange, &fault),
    };
    let began = exchange.started;
    let result = match entered.and_then(|()| exchange.admit(&target, exchange.now)) {
        Ok(()) => {
            if let Some(filters) = &target.filters {
                mirror::begin(&exchange.worker, filters, &outgoing, connection.caller);
                outgoing.edit_for_backend(filters);
            }
            attempts(&mut exchange, &target, &outgoing, began).await
        }
        Err(fault) => Err(fault),
    };
    if let Some((place, why, of, instead)) = fallback::instead(&mut exchange, &target, &outgoing, &result).await {
        if let Ok(answer) = result {
            answer.let_go(&exchange.worker, exchange.worker.mesh.clock.now());
        }
        return match instead {
            Instead::Own(own) => fallback::own(exchange, (place, &why, of), own),
            Instead::Other(other) => {
                exchange.replaced(of, why.cause, place);
                let (answer, other) = *other;
                let mut response = answer.stream(exchange, &other, &outgoing, caller.as_ref());
                response.headers_mut().insert(headers::FALLBACK, HeaderValue::from_static(of));
                response
            }
        };
    }
    match result {
        Ok(answer) if answer.switches(&outgoing) => answer.switch(exchange, connection, &target, caller),
        Ok(answer) => answer.stream(exchange, &target, &outgoing, caller.as_ref()),
        Err(fault) => reply::own(exchange, &fault),
    }
}

/// Our own answer to a request that goes nowhere; what little of its body comes at once is read, for the connection's sake.
async fn refuse(exchange: Box<Exchange>, request: Request<Incoming>, fault: &Fault) -> Response<ReplyBody> {
    let version = request.version();
    Unread::new(request.into_body(), version, Message::Request).throw_away(FIRST_WORDS).await;
    reply::own(exchange, fault)
}

/// Offers the request to one instance after another, for as long as [`Again`] says so.
/// `began`: what the policy's `timeout.request` counts from.
pub(crate) async fn attempts(
    exchange: &mut Exchange,
    target: &Target,
    outgoing: &Outgoing,
    began: Time,
) -> Result<Answer, Fault> {
    let worker = exchange.worker.clone();
    let replayable = outgoing.replayable(target.policy.retry.repeat);
    exchange.limits.route(&target.policy, began);
    let mut again = Again::new(exchange, target, outgoing);
    // what the caller gets if nobody else can be asked
    let mut so_far: Option<Result<Answer, Fault>> = None;
    let mut redials = false;
    let mut now = exchange.now.max(began);
    loop {
        if exchange.limits.is_over(now) {
            return so_far.unwrap_or(Err(Fault::DeadlineExceeded));
        }
        let wish = Wish { random: worker.random(), replayable, tried: &again.tried, key: outgoing.key };
        let attempt = match target.upstream.admit(&wish, now) {
            Ok(attempt) => attempt,
            Err(fault) => {
                exchange.not_admitted(&fault, now);
                return so_far.unwrap_or(Err(fault));
            }
        };
        if let Some(Ok(answer)) = so_far.take() {
            answer.let_go(&worker, now);
        }
        if std::mem::take(&mut redials) {
            exchange.redials(now);
        }
        again.prepare(exchange);
        let mut last = Last { index: attempt.index(), probe: attempt.is_probe() && replayable };
        let first = again.is_first(last.probe); // a second copy counts as a retry
        let result = match again.may_hedge(target, outgoing, &attempt, now) {
            Some(hedge) => {
                let hedged = hedged(exchange, (target, outgoing), &mut again, attempt, hedge);
                let (index, result) = Box::pin(hedged).await; // seldom, and not to make every request's future larger
                last.index = index;
                result
            }
            None => attempt_one(exchange, target, outgoing, attempt).await,
        };
        if result.as_ref().is_ok_and(|answer| answer.is_final(outgoing)) {
            if first {
                told(exchange, &result);
            }
            return result;
        }
        outgoing.come_home().await;
        now = worker.mesh.clock.now();
        let went = match &result {
            Ok(answer) => answer.went(),
            Err(fault) => Went::Broke(fault),
        };
        let next = again.next(exchange, (target, outgoing), (last, &went), now);
        if first && next != Next::Redial {
            told(exchange, &result);
        }
        match next {
            Next::No => return result,
            Next::Redial => redials = true,
            Next::Retry(after) => {
                if !after.is_zero() {
                    tokio::time::sleep(after).await;
                }
            }
        }
        now = worker.mesh.clock.now();
        if last.probe {
            exchange.limits.route(&target.policy, now); // one that hangs must not use up the time of one that does not
        }
        so_far = Some(result);
    }
}

/// How the first attempt went: pays for the retries of others, or does not.
fn told(exchange: &mut Exchange, result: &Result<Answer, Fault>) {
    let now = exchange.first_byte.unwrap_or_else(|| exchange.worker.mesh.clock.now());
    match result {
        Ok(Answer { judged, .. }) if judged.needs_grpc_status => exchange.first_in_trailers(),
        Ok(answer) => exchange.first(answer.judged.outcome.class, now),
        Err(fault) => exchange.first(fault.blame().class, now),
    }
}
