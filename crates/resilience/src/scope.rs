//! A service, or one route of it, as a whole: whether a logical request is sent at all.
//!
//! It is asked once for each logical request and told once how that ended, after retries and hedges: with one of two
//! instances dead the retry succeeds, so that a service breaker of this kind cannot hide a healthy half. A fallback does
//! not turn a failure into a success. Two stages:
//!
//! * **throttle** (on): a service that refuses because of load gets less to refuse (see [`throttle`](crate::throttle)).
//! * **open** (on for connections only): the state machine of every circuit. It opens on the rate of failures over the
//!   window, if the last two seconds still show them; after it has closed, the admitted share grows from a tenth to all.
//!   Errors and timeouts open it only where the policy says so: under overload they would take the last capacity away.
//!
//! It deliberately knows no instance, no retry and no fallback. One object serves a service, a route or a method: whoever
//! keeps several asks each in turn.
//!
//! Invariants: a pass is settled once, or dropped and then ignored; a new configuration keeps state, counts and events;
//! nothing is refused while nothing fails, whatever is in flight.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::breaker::{Forced, Override, Permit};
use crate::circuit::{Circuit, Which};
use crate::config::Mode;
use crate::event::{Reason, Transition};
use crate::load::slow_start_factor;
use crate::outcome::{Class, Evidence, Outcome};
use crate::throttle::{Priority, Throttle, Throttled, unit};
use crate::time::Time;
use crate::word::State;

mod config;
#[cfg(test)]
mod tests;
mod view;

pub use config::{OpenStage, ServiceConfig};
pub use view::{ServiceView, ThrottleView};

const NEVER: u64 = u64::MAX;

/// One service, or one route, under one configuration; [`ServiceScope::reconfigured`] gives the same one under another.
pub struct ServiceScope {
    config: ServiceConfig,
    circuit: Circuit,
    throttle: Option<Throttle>,
    shared: Arc<Shared>,
}

/// What outlives a change of configuration, beside circuit and throttle.
struct Shared {
    /// Since when the admitted share grows; NEVER while everything is admitted.
    ramp_from: AtomicU64,
    throttled: AtomicU64,
    ramped: AtomicU64,
    would_reject: AtomicU64,
}

/// The right to send one logical request.
///
/// # Drop behavior
///
/// Dropped unsettled, it counts as ignored: nothing is learnt, and a probe's place is free again.
#[must_use = "a pass that is dropped counts as ignored"]
pub struct ServicePass {
    scope: Arc<ServiceScope>,
    permit: Permit,
    began: Time,
    /// Whether the throttle hears how it ends. Not after a rejection that was only observed: that has counted already.
    heard: Heard,
    settled: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Heard {
    Both,
    CircuitOnly,
}

/// The request is not to be sent.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Refusal {
    pub cause: RefusalCause,
    /// When it may be worthwhile to ask again; zero if that is not known.
    pub retry_after: Duration,
}

/// Why a scope refuses.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum RefusalCause {
    /// Answer 503 `overloaded`. The probability of it, 0..0.9, is for the log.
    Throttled { probability: f64 },
    /// Answer 503 `circuit-open`.
    Open,
    /// The circuit has closed a moment ago and only this share, 0.1..1, is admitted yet. Answer 503 `circuit-open`.
    Ramp { share: f64 },
}

impl ServiceScope {
    /// `name` is what events are found by; `seed` decorrelates the jitter of sidecars and names the scope in events. The
    /// configuration is taken as it is: validate it where it comes from.
    pub fn new(name: &str, seed: u64, config: ServiceConfig) -> Arc<ServiceScope> {
        let shared = Shared {
            ramp_from: AtomicU64::new(NEVER),
            throttled: AtomicU64::new(0),
            ramped: AtomicU64::new(0),
            would_reject: AtomicU64::new(0),
        };
        let circuit = Circuit::new(name, seed, config.breaker()).recounted(config.breaker(), config.counted());
        let throttle = config.throttle.clone().map(Throttle::new);
        Arc::new(ServiceScope { config, circuit, throttle, shared: Arc::new(shared) })
    }

    /// The same scope under another configuration: state, counts, events and passes in flight stay. Passes that were given
    /// before are settled by the rules that they were given under.
    #[must_use]
    pub fn reconfigured(&self, config: ServiceConfig, now: Time) -> Arc<ServiceScope> {
        let circuit = self.circuit.recounted(config.breaker(), config.counted());
        let throttle = config.throttle.clone().map(|settings| match &self.throttle {
            Some(before) => before.reconfigured(settings),
            None => Throttle::new(settings),
        });
        let may_stay = config.open != OpenStage::Off || circuit.forced().is_some();
        if circuit.state() != State::Closed && !may_stay {
            // No result could ever close it again.
            circuit.reset("policy", now);
        }
        Arc::new(ServiceScope { config, circuit, throttle, shared: self.shared.clone() })
    }

    pub fn config(&self) -> &ServiceConfig {
        &self.config
    }

    pub fn name(&self) -> &str {
        self.circuit.name()
    }

    pub fn state(&self) -> State {
        self.circuit.state()
    }

    /// Whether a logical request may be sent. `random`: 64 random bits, fresh for each call.
    ///
    /// # Cancel safety
    ///
    /// The permit is given back when the pass is dropped, whatever state it is in.
    pub fn admit(self: &Arc<Self>, priority: Priority, random: u64, now: Time) -> Result<ServicePass, Refusal> {
        let permit = match self.circuit.permit(now) {
            Ok(permit) => permit,
            Err(refused) => return Err(Refusal { cause: RefusalCause::Open, retry_after: refused.retry_after }),
        };
        let mut heard = Heard::Both;
        // A probe is one of the few that pass in any case.
        if !permit.probe
            && let Err(cause) = self.thin_out(priority, random, now)
        {
            if self.config.mode == Mode::Enforce {
                return Err(Refusal { cause, retry_after: Duration::ZERO });
            }
            self.shared.would_reject.fetch_add(1, Relaxed);
            heard = Heard::CircuitOnly;
        }
        Ok(ServicePass { scope: self.clone(), permit, began: now, heard, settled: false })
    }

    /// The two stages that refuse by chance. In observe mode they count as they would.
    #[inline]
    fn thin_out(&self, priority: Priority, random: u64, now: Time) -> Result<(), RefusalCause> {
        if self.config.mode == Mode::Disabled {
            return Ok(());
        }
        let ramps = self.shared.ramp_from.load(Relaxed) != NEVER;
        let pressure = self.throttle.as_ref().map_or(0.0, |throttle| throttle.pressure(now));
        if pressure == 0.0 && !ramps {
            return Ok(());
        }
        if self.circuit.forced().is_some_and(|held| held.forced == Forced::Closed) {
            return Ok(()); // an operator's word counts for all stages
        }
        if let Some(throttle) = &self.throttle
            && let Throttled::Reject { probability } = throttle.admit_under(pressure, priority, random, now)
        {
            self.shared.throttled.fetch_add(1, Relaxed);
            return Err(RefusalCause::Throttled { probability });
        }
        if !ramps || priority == Priority::Critical {
            return Ok(());
        }
        let share = self.admitted_share(now);
        if unit(random ^ 0x7261_6d70) < share {
            return Ok(());
        }
        self.shared.ramped.fetch_add(1, Relaxed);
        Err(RefusalCause::Ramp { share })
    }

    /// The share of requests that the ramp after a closing lets pass, 0.1..1.
    pub fn admitted_share(&self, now: Time) -> f64 {
        let from = self.shared.ramp_from.load(Relaxed);
        if from == NEVER {
            return 1.0;
        }
        let share = slow_start_factor(now.since(Time(from)), self.config.ramp);
        if share >= 1.0 {
            // Another ramp that begins meanwhile stays.
            let _ = self.shared.ramp_from.compare_exchange(from, NEVER, Relaxed, Relaxed);
        }
        share
    }

    /// Whether failed attempts may be tried again: a service that is half gone, or refuses, needs fewer requests, not more.
    pub fn allows_retry(&self, now: Time) -> bool {
        let enforced = self.config.mode == Mode::Enforce;
        let calm = || self.throttle.as_ref().is_none_or(|throttle| throttle.allows_retry(now));
        !enforced || (self.state() == State::Closed && calm())
    }

    /// What time alone changes. Call it once a second.
    pub fn sweep(&self, now: Time) -> Option<Transition> {
        self.admitted_share(now);
        let change = self.circuit.sweep(now)?;
        self.note(&change, now);
        Some(change)
    }

    /// Holds the circuit open or closed, or lets go of it. `None` if there is nothing to clear.
    pub fn set_override(&self, to: Option<Override>, now: Time) -> Option<Transition> {
        let change = self.circuit.set_override(to, now)?;
        self.note(&change, now);
        Some(change)
    }

    /// Starts the circuit from scratch, whatever was before; the throttle's counts heal by themselves. `owner`: who wants
    /// it so.
    pub fn reset(&self, owner: &str, now: Time) -> Transition {
        let change = self.circuit.reset(owner, now);
        self.note(&change, now);
        change
    }

    /// Takes the events since the last call, in the order in which they happened: the full account, of which the
    /// transitions that other calls return are copies with the same `seq`.
    pub fn drain_transitions(&self) -> Vec<Transition> {
        self.circuit.drain_transitions()
    }

    /// Events that were lost because nobody drained them.
    pub fn dropped_transitions(&self) -> u64 {
        self.circuit.dropped_transitions()
    }

    fn settle(&self, permit: Permit, outcome: Outcome, (began, heard): (Time, Heard), now: Time) -> Option<Transition> {
        if outcome.class != Class::Ignored && self.config.mode != Mode::Disabled {
            let accepted = outcome.evidence != Evidence::Overload;
            if heard == Heard::Both
                && let Some(throttle) = &self.throttle
            {
                throttle.settle_as(accepted, now);
            }
        }
        let change = self.circuit.settle(permit, outcome, now.since(began), now)?;
        self.note(&change, now);
        Some(change)
    }

    /// A service that came back gets its load by and by; whatever else happens ends that.
    fn note(&self, change: &Transition, now: Time) {
        let earned = matches!(change.reason, Reason::Recovered | Reason::RoundOver);
        let ramps = change.to == State::Closed && earned && !self.config.ramp.is_zero();
        self.shared.ramp_from.store(if ramps { now.0 } else { NEVER }, Relaxed);
    }
}

impl ServicePass {
    /// The logical request is over: how its last attempt went, after retries and before any fallback. Our own refusals and
    /// an exhausted balancer are [`Outcome::IGNORED`].
    pub fn settle(mut self, last: Outcome, now: Time) -> Option<Transition> {
        self.settled = true;
        self.scope.settle(self.permit, last, (self.began, self.heard), now)
    }

    /// The head of a good answer has come, and how the request ends is known later: the throttle hears that it was accepted,
    /// and a probe is settled, since what is streamed may last for hours.
    pub fn heard(mut self, now: Time) -> Option<ServicePass> {
        if self.permit.probe {
            self.settle(Outcome::OK, now);
            return None;
        }
        if self.heard == Heard::Both
            && self.scope.config.mode != Mode::Disabled
            && let Some(throttle) = &self.scope.throttle
        {
            throttle.settle_as(true, now);
        }
        self.heard = Heard::CircuitOnly;
        Some(self)
    }

    /// Whether the request tests a circuit that is not closed. Never true in observe mode, where probes are only counted.
    pub fn is_probe(&self) -> bool {
        self.permit.probe && self.scope.config.mode == Mode::Enforce
    }

    pub fn began(&self) -> Time {
        self.began
    }

    pub fn scope(&self) -> &Arc<ServiceScope> {
        &self.scope
    }
}

impl Drop for ServicePass {
    fn drop(&mut self) {
        if !self.settled {
            self.scope.circuit.give_back(self.permit);
        }
    }
}

impl OpenStage {
    fn counts(self) -> Which {
        match self {
            OpenStage::Off => Which::Nothing,
            OpenStage::Connect => Which::Connect,
            OpenStage::Any => Which::All,
        }
    }
}
