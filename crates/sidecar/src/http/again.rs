//! Whether a failed attempt is made again: what is free, and what the policy's `retry` and the service's budget allow.
//!
//! One flow for both. *Free* is what costs nobody anything: what provably no application saw goes to another instance, a
//! request that only tested a circuit likewise, and a kept connection that broke, as kept ones do, is dialled anew.
//! Everything else is `resilience::retry`'s to judge, from facts that are gathered here. It deliberately knows nothing of
//! how an attempt is made.
//!
//! Invariant 10: what an application may have seen is repeated only if the request says that doing it twice is doing it once.

use super::exchange::Exchange;
use super::headers;
use super::outgoing::Outgoing;
use crate::fault::Fault;
use crate::snapshot::Target;
use crate::upstream::instance::Instance;
use crate::upstream::service::Wish;
use fusewire_resilience::retry::{
    Allowance, Backoff, Broke, Case, Cause, Chain, Decision, Denied, Hedge, MAX_ATTEMPTS, Mark, On, Repeat, RetryToken,
    Scope, Untried, cause, judge,
};
use fusewire_resilience::{Attempt, Class, Happening, Outcome, Time};
use fusewire_telemetry::metrics::{Direction, HEDGE};
use http::HeaderMap;
use std::time::Duration;

/// Instances that one request is offered to for free.
const MAX_OFFERS: u32 = 5;

/// How an attempt went.
pub(crate) enum Went<'a> {
    /// Answered, with these fields.
    Answered {
        happening: Happening,
        outcome: Outcome,
        fields: &'a HeaderMap,
        mark: Mark,
    },
    Broke(&'a Fault),
}

impl Went<'_> {
    fn happening(&self) -> Happening {
        match self {
            Went::Answered { happening, .. } => *happening,
            Went::Broke(fault) => fault.happening(),
        }
    }

    /// Whether there is anything to make good. RESOURCE_EXHAUSTED says nothing against an instance, and still is no answer.
    pub(crate) fn failed(&self) -> bool {
        match self {
            Went::Answered { outcome, happening, .. } => outcome.is_failure() || *happening == Happening::Grpc(8),
            Went::Broke(_) => true,
        }
    }
}

/// Where the last attempt went, and as what.
#[derive(Clone, Copy)]
pub(crate) struct Last {
    pub(crate) index: usize,
    /// Its instance was on probation, and the request can be sent elsewhere.
    pub(crate) probe: bool,
}

/// What to do next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Next {
    /// The caller gets what there is.
    No,
    /// At once, for free.
    Redial,
    /// After this long, paid for.
    Retry(Duration),
}

/// One exchange's attempts so far.
pub(crate) struct Again {
    repeat: Repeat,
    /// `None`: only what is free. Who calls decides, not the sidecar that takes in.
    allowance: Option<Allowance>,
    /// Of what no application saw, this hop alone can know; so it is this hop's to repeat, whoever else may.
    own: Allowance,
    /// Not to be asked again.
    pub(crate) tried: Vec<usize>,
    /// Whose kept connection broke: it is dialled anew, once.
    stale: Option<usize>,
    /// Attempts that count, from 1.
    counted: u8,
    resent: bool,
    backoff: Backoff,
    paid: Option<RetryToken>,
}

impl Again {
    pub(crate) fn new(exchange: &Exchange, target: &Target, outgoing: &Outgoing) -> Self {
        let repeat = outgoing.repeat(target.policy.retry.repeat);
        let most = target.policy.retry.policy.attempts.min(MAX_ATTEMPTS);
        let retries = most.saturating_sub(1);
        let allowance = (exchange.direction == Direction::Outbound && target.retries).then(|| {
            // who names `unavailable` says that gRPC servers mean "not done" by it
            let named = exchange.is_grpc && target.policy.retry.policy.on.has(On::UNAVAILABLE);
            let own = if repeat == Repeat::Idempotent || named { retries } else { 0 };
            Allowance::of(exchange.trace.chain(), own)
        });
        let own = Allowance::of(Chain::Broken, retries);
        Self {
            repeat,
            allowance,
            own,
            tried: Vec::new(),
            stale: None,
            counted: 1,
            resent: false,
            backoff: Backoff::default(),
            paid: None,
        }
    }

    /// Tells what the next attempt carries on.
    pub(crate) fn prepare(&self, exchange: &mut Exchange) {
        exchange.onward = self.allowance.map(|allowance| allowance.onward(self.counted - 1));
    }

    /// The first attempt, and none that only tested a circuit: what pays for others' retries, or does not.
    pub(crate) fn is_first(&self, probe: bool) -> bool {
        self.counted == 1 && !probe && self.allowance.is_some()
    }

    /// When a second copy of an attempt at an instance that takes traffic is due; `None`: never.
    pub(crate) fn may_hedge(
        &self,
        target: &Target,
        outgoing: &Outgoing,
        attempt: &Attempt<Instance>,
        now: Time,
    ) -> Option<Hedge> {
        let retry = &target.policy.retry;
        let allowed = retry.hedge.extra > 0
            && !attempt.is_probe()
            && self.allowance.is_some_and(|allowance| allowance.permits(self.counted - 1, Mark::None));
        if !allowed || !outgoing.replayable(retry.repeat) {
            return None;
        }
        Hedge::new(&retry.hedge, self.repeat, target.upstream.ledger.p95(), now)
    }

    /// Another instance for the second copy, and what pays for it.
    pub(crate) fn hedge(
        &mut self,
        exchange: &mut Exchange,
        target: &Target,
        first: usize,
        now: Time,
    ) -> Option<(usize, Attempt<Instance>, RetryToken)> {
        let mut tried = self.tried.clone();
        tried.push(first);
        if target.upstream.untried(&tried) != Untried::Some {
            return None;
        }
        let token = match target.upstream.token(now) {
            Ok(token) => token,
            Err(broke) => {
                target.upstream.metrics.retry_denied(broke.as_str());
                return None;
            }
        };
        let wish = Wish { random: exchange.worker.random(), replayable: false, tried: &tried, key: None };
        let attempt = target.upstream.admit(&wish, now).ok()?;
        self.counted += 1;
        self.prepare(exchange);
        target.upstream.metrics.hedged();
        exchange.retries(HEDGE, Duration::ZERO, now);
        Some((attempt.index(), attempt, token))
    }

    /// After an attempt at `last`.
    pub(crate) fn next(
        &mut self,
        exchange: &mut Exchange,
        (target, outgoing): (&Target, &Outgoing),
        (last, went): (Last, &Went<'_>),
        now: Time,
    ) -> Next {
        self.paid = None;
        if !went.failed() {
            return Next::No;
        }
        if self.is_free(last, went) && exchange.attempts < MAX_OFFERS && outgoing.is_whole() {
            let same = self.redials_same(last, went, target, exchange.worker.index);
            if !same {
                self.tried.push(last.index);
            }
            if same || self.tried.len() < target.upstream.choices() {
                self.resent |= went.happening() == Happening::Unsent;
                target.upstream.metrics.redials.inc();
                return Next::Redial;
            }
        }
        let Some(allowance) = self.allowance.filter(|_| target.policy.retry.policy.attempts > 1) else {
            return Next::No;
        };
        match self.judged(exchange, (target, outgoing), (last, went), allowance, now) {
            Ok(next) => next,
            Err(word) => {
                if word != Denied::NotNamed.as_str() {
                    target.upstream.metrics.retry_denied(word);
                    exchange.retry_denied(word, now);
                }
                self.tell_the_way_back(exchange, went, word);
                Next::No
            }
        }
    }

    fn is_free(&self, last: Last, went: &Went<'_>) -> bool {
        match went {
            Went::Answered { outcome, .. } => last.probe && outcome.is_failure(),
            // what a peer's sidecar shed is told to wait, like every other answer
            Went::Broke(Fault::PeerOverloaded) => last.probe,
            Went::Broke(fault) => last.probe || fault.unsent() || (fault.stale() && self.repeat == Repeat::Idempotent),
        }
    }

    /// A connection that closed under us says nothing of its instance: that one is dialled anew, once.
    fn redials_same(&mut self, last: Last, went: &Went<'_>, target: &Target, worker: usize) -> bool {
        let same = matches!(went, Went::Broke(fault) if fault.stale()) && self.stale != Some(last.index);
        if same {
            self.stale = Some(last.index);
            if let Some(instance) = target.upstream.set.members().nth(last.index) {
                instance.drop_idle_h1(worker);
            }
        }
        same
    }

    fn judged(
        &mut self,
        exchange: &mut Exchange,
        (target, outgoing): (&Target, &Outgoing),
        (last, went): (Last, &Went<'_>),
        allowance: Allowance,
        now: Time,
    ) -> Result<Next, &'static str> {
        let (upstream, policy) = (&target.upstream, &target.policy.retry.policy);
        let happening = went.happening();
        let why = match went {
            // a policy that calls it no failure says that nothing is to be made good
            Went::Answered { outcome, happening: Happening::Status(_), .. } if outcome.class == Class::Ok => None,
            _ => cause(happening),
        };
        let unseen = matches!(why, Some(Cause::Unsent | Cause::Connect | Cause::NotProcessed));
        if !self.tried.contains(&last.index) {
            self.tried.push(last.index);
        }
        let (pushback, retry_after, mark) = match went {
            Went::Answered { fields, mark, happening, .. } => {
                let pushback = headers::pushback(fields).filter(|_| exchange.is_grpc);
                let counts = matches!(happening, Happening::Status(429 | 503));
                (pushback, headers::retry_after(fields).filter(|_| counts), *mark)
            }
            Went::Broke(_) => (None, None, Mark::None),
        };
        let untried = upstream.untried(&self.tried);
        let case = Case {
            happening,
            repeat: self.repeat,
            committed: false,
            whole: outgoing.is_whole(),
            attempts: self.counted,
            resent: self.resent,
            allowance: if unseen { self.own } else { allowance },
            mark,
            scope: if target.allows_retry(now) { Scope::Calm } else { Scope::Strained },
            untried,
            left: exchange.limits.left(now),
            median: upstream.ledger.median(),
            pushback,
            retry_after,
        };
        let why = why.ok_or(Denied::NotNamed.as_str())?;
        let after = match judge(policy, &case, &mut self.backoff, exchange.worker.random()) {
            Decision::No(denied) => return Err(denied.as_str()),
            Decision::Resend => {
                self.resent = true;
                upstream.metrics.redials.inc();
                self.again_where(untried);
                return Ok(Next::Redial);
            }
            Decision::Retry { after } => after,
        };
        self.paid = Some(upstream.token(now).map_err(|broke| broke.as_str())?);
        self.again_where(untried);
        self.counted += 1;
        upstream.metrics.retried(why);
        exchange.retries(why.as_str(), after, now);
        Ok(Next::Retry(after))
    }

    /// Where there is one instance, it is asked again.
    fn again_where(&mut self, untried: Untried) {
        if untried != Untried::Some {
            self.tried.clear();
        }
    }

    /// What the layers outside are not to try in their turn.
    fn tell_the_way_back(&self, exchange: &Exchange, went: &Went<'_>, denied: &'static str) {
        let worker = exchange.worker.clone();
        if went.happening() == Happening::Overloaded {
            exchange.trace.mark(&worker, Mark::OverloadedInside);
        } else if (self.counted > 1 && denied != Denied::NotNamed.as_str())
            || Broke::ALL.iter().any(|broke| broke.as_str() == denied)
        {
            exchange.trace.mark(&worker, Mark::RetryExhausted);
        }
    }
}
