//! A sidecar's side: the attempts of one logical request, and what comes of them.

use std::sync::Arc;
use std::time::Duration;

use fusewire_resilience::retry::{
    Allowance, Backoff, Budget, Carried, Case, Chain, Decision, Mark, Origin, Repeat, Scope, Settled, Untried, judge,
};
use fusewire_resilience::throttle::Priority;
use fusewire_resilience::{Ask, Attempt, Class, Happening, Outcome, classify};

use super::{Engine, Event, FINE, Frame, INNER_FAILED, INNER_OVERLOADED, INSTANCES, Mesh, Passes, QUICK};
use crate::case::Failed;

impl Mesh<'_> {
    pub(super) fn frame(
        &mut self,
        client: usize,
        caller: usize,
        layer: usize,
        parent: Option<(usize, u32)>,
        deadline: Option<u64>,
    ) -> usize {
        let chain = match parent {
            Some((outer, _)) if self.plan.chain == Passes::On => {
                let outer = &self.frames[outer];
                Chain::Known(outer.allowance.onward(outer.counted.saturating_sub(1)))
            }
            _ => Chain::Broken,
        };
        let naive = self.plan.engine == Engine::Naive;
        let chain = if naive { Chain::Known(Carried { origin: Origin::First, left: 0 }) } else { chain };
        self.frames.push(Frame {
            client,
            caller,
            layer,
            parent,
            inner: None,
            serial: 0,
            counted: 0,
            live: None,
            attempt: None,
            pass: None,
            token: None,
            tried: Vec::new(),
            backoff: Backoff::default(),
            allowance: Allowance::of(chain, self.policy.attempts - 1),
            deadline,
            first_over: false,
            over: false,
        });
        self.frames.len() - 1
    }

    pub(super) fn is_last(&self, frame: usize) -> bool {
        self.frames[frame].layer + 1 == self.plan.layers
    }

    pub(super) fn begin(&mut self, frame: usize) {
        let now = self.time();
        let random = self.random.bits();
        let last = self.is_last(frame);
        let caller = &mut self.callers[self.frames[frame].caller];
        caller.live += 1;
        if last {
            match caller.scope.admit(Priority::Normal, random, now) {
                Ok(pass) => self.frames[frame].pass = Some(pass),
                Err(_) => return self.close(frame, Happening::Local, Mark::None),
            }
        }
        self.attempt(frame);
    }

    pub(super) fn attempt(&mut self, frame: usize) {
        if self.frames[frame].over {
            return;
        }
        self.frames[frame].serial += 1;
        self.frames[frame].counted += 1;
        self.send(frame);
    }

    /// One attempt, counted by whoever calls.
    pub(super) fn send(&mut self, frame: usize) {
        let serial = self.frames[frame].serial;
        self.frames[frame].live = Some(serial);
        if let Some(per_try) = self.plan.clients.per_try {
            let left = self.frames[frame].deadline.map_or(u64::MAX, |deadline| deadline.saturating_sub(self.now));
            self.at(((per_try * 1e9) as u64).min(left), Event::TimedOut(frame, serial));
        }
        if !self.is_last(frame) {
            let (client, caller, layer) =
                (self.frames[frame].client, self.frames[frame].caller, self.frames[frame].layer);
            let inner = self.frame(client, caller, layer + 1, Some((frame, serial)), self.frames[frame].deadline);
            self.frames[frame].inner = Some(inner);
            return self.begin(inner);
        }
        let random = self.random.bits();
        let now = self.time();
        let state = &self.frames[frame];
        let ask = Ask { random, replayable: true, tried: &state.tried, key: None };
        let Ok(attempt) = self.callers[state.caller].set.pick(ask, now) else {
            return self.close(frame, Happening::Local, Mark::None);
        };
        let instance = attempt.member().id;
        let state = &mut self.frames[frame];
        state.tried.push(attempt.index());
        state.attempt = Some(attempt);
        self.reach(frame, serial, instance);
    }

    /// An attempt is over, unless it has been given up before.
    pub(super) fn ended(&mut self, frame: usize, attempt: u32, happening: Happening, mark: Mark) {
        if self.frames[frame].over || self.frames[frame].live != Some(attempt) {
            return;
        }
        let now = self.time();
        self.frames[frame].live = None;
        self.frames[frame].token = None;
        let outcome = classify(happening);
        let mut probe = false;
        if let Some(mut attempt) = self.frames[frame].attempt.take() {
            probe = attempt.is_probe();
            if happening != Happening::Timeout && happening != Happening::ConnectRefused {
                attempt.answered(outcome, now);
            }
            attempt.end(outcome, now);
        }
        if probe && outcome.is_failure() && self.frames[frame].tried.len() < INSTANCES {
            // Outside the budget, and it does not count.
            self.frames[frame].serial += 1;
            return self.send(frame);
        }
        if !self.frames[frame].first_over {
            self.frames[frame].first_over = true;
            let settled = if outcome.is_failure() { Settled::Failed } else { Settled::Succeeded };
            self.budget(frame).settle_first(settled, now);
        }
        match self.again(frame, happening, mark) {
            Some(after) => self.at(after, Event::Try(frame)),
            None => self.close(frame, happening, mark),
        }
    }

    pub(super) fn budget(&self, frame: usize) -> &Arc<Budget> {
        &self.callers[self.frames[frame].caller].budgets[self.frames[frame].layer]
    }

    /// Whether there is another attempt, and after how many nanoseconds.
    pub(super) fn again(&mut self, frame: usize, happening: Happening, mark: Mark) -> Option<u64> {
        if !classify(happening).is_failure() {
            return None;
        }
        let (now, random) = (self.time(), self.random.bits());
        let naive = self.plan.engine == Engine::Naive;
        let state = &self.frames[frame];
        let caller = &self.callers[state.caller];
        let untried = if !self.is_last(frame) || state.tried.len() < INSTANCES { Untried::Some } else { Untried::None };
        let calm = naive || caller.scope.allows_retry(now);
        let mut backoff = state.backoff;
        let case = Case {
            happening,
            repeat: Repeat::Idempotent,
            committed: false,
            whole: true,
            attempts: state.counted,
            resent: false,
            allowance: state.allowance,
            mark: if naive { Mark::None } else { mark },
            scope: if calm { Scope::Calm } else { Scope::Strained },
            untried,
            left: state.deadline.map(|deadline| Duration::from_nanos(deadline.saturating_sub(self.now))),
            median: None,
            pushback: None,
            retry_after: None,
        };
        let decision = judge(&self.policy, &case, &mut backoff, random);
        self.frames[frame].backoff = backoff;
        let after = match decision {
            Decision::Resend => 0,
            Decision::Retry { after } => after.as_nanos() as u64,
            Decision::No(_) => return None,
        };
        if !naive {
            let live = self.callers[self.frames[frame].caller].live;
            self.frames[frame].token = Some(self.budget(frame).take(live, now).ok()?);
        }
        Some(after)
    }

    /// The logical request is over at this layer.
    pub(super) fn close(&mut self, frame: usize, happening: Happening, mark: Mark) {
        let now = self.time();
        let state = &mut self.frames[frame];
        if std::mem::replace(&mut state.over, true) {
            return;
        }
        (state.live, state.token) = (None, None);
        self.callers[state.caller].live -= 1;
        let outcome = classify(happening);
        if let Some(pass) = state.pass.take() {
            pass.settle(if happening == Happening::Local { Outcome::IGNORED } else { outcome }, now);
        }
        let fine = outcome.class == Class::Ok;
        match state.parent {
            Some((outer, attempt)) => {
                let marked = mark == Mark::OverloadedInside || happening == Happening::Overloaded;
                let marked = marked || happening == Happening::Local;
                let what = if fine {
                    FINE
                } else if marked {
                    INNER_OVERLOADED
                } else {
                    INNER_FAILED
                };
                self.at(QUICK, Event::Ended(outer, attempt, what));
            }
            None => {
                let client = state.client;
                self.answered(client, if fine { Failed::No } else { Failed::Yes });
            }
        }
    }

    /// The caller has gone: nobody waits for this any more.
    pub(super) fn cancel(&mut self, frame: usize) {
        let now = self.time();
        if self.frames[frame].over {
            return;
        }
        if let Some(live) = self.frames[frame].live {
            self.leave_queue(frame, live);
        }
        self.cancel_inner(frame);
        let state = &mut self.frames[frame];
        state.over = true;
        (state.live, state.token) = (None, None);
        self.callers[state.caller].live -= 1;
        let gone = match state.attempt.as_ref().map(Attempt::started) {
            Some(started) => classify(Happening::ClientGone { waited: now.since(started), limit: None }),
            None => Outcome::IGNORED,
        };
        if let Some(attempt) = state.attempt.take() {
            attempt.end(gone, now);
        }
        if let Some(pass) = state.pass.take() {
            pass.settle(gone, now);
        }
    }

    pub(super) fn cancel_inner(&mut self, frame: usize) {
        if let Some(inner) = self.frames[frame].inner.take() {
            self.cancel(inner);
        }
    }

    pub(super) fn leave_queue(&mut self, frame: usize, attempt: u32) {
        let instance = self.frames[frame].attempt.as_ref().map(|attempt| attempt.member().id);
        if let Some(instance) = instance {
            self.remove_waiting(instance, frame, attempt);
        }
    }
}
