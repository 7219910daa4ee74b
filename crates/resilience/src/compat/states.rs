//! Resilience4j's six states over one [`Circuit`].
//!
//! CLOSED, OPEN and HALF_OPEN are the machine's own. FORCED_OPEN, DISABLED and METRICS_ONLY are the same circuit, held:
//! open, or closed with nothing counted, or closed and only counted. Every transition that its tables call legal can be
//! asked for; entering any state but OPEN begins its counts afresh.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::resilience4j::{Resilience4j, ToHalfOpen};
use crate::breaker::{Climb, Forced, Override, Place};
use crate::circuit::{Call, Circuit, Refused};
use crate::event::{Reason, Transition};
use crate::outcome::{Class, Evidence, Outcome};
use crate::time::Time;
use crate::word::{Phase, State};

/// Events that are kept for [`Resilience4jBreaker::drain_events`]; the oldest go first.
const KEPT: usize = 1024;

/// Resilience4j's states.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Resilience4jState {
    #[default]
    Closed,
    Open,
    HalfOpen,
    ForcedOpen,
    Disabled,
    MetricsOnly,
}

impl Resilience4jState {
    /// The name that Resilience4j gives it.
    pub fn as_str(self) -> &'static str {
        match self {
            Resilience4jState::Closed => "CLOSED",
            Resilience4jState::Open => "OPEN",
            Resilience4jState::HalfOpen => "HALF_OPEN",
            Resilience4jState::ForcedOpen => "FORCED_OPEN",
            Resilience4jState::Disabled => "DISABLED",
            Resilience4jState::MetricsOnly => "METRICS_ONLY",
        }
    }

    /// Its tables allow all but these: a round needs an opening before it, and METRICS_ONLY has none.
    fn may_become(self, to: Resilience4jState) -> bool {
        use Resilience4jState as S;
        !matches!((self, to), (S::Closed | S::MetricsOnly, S::HalfOpen) | (S::MetricsOnly, S::Open))
    }

    fn publishes(self) -> bool {
        !matches!(self, Resilience4jState::Disabled | Resilience4jState::ForcedOpen)
    }
}

/// What Resilience4j publishes of a breaker, save the calls themselves.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Resilience4jEvent {
    Transition { from: Resilience4jState, to: Resilience4jState },
    FailureRateExceeded,
    SlowCallRateExceeded,
    Reset,
    IgnoredError,
}

/// How a call ended.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum CallResult {
    /// Also an exception that is not recorded.
    Success,
    Failure,
    /// An exception that is ignored: the permit goes back and nothing is counted.
    Ignored,
}

/// The tables do not have this transition.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct NoSuchTransition {
    pub from: Resilience4jState,
    pub to: Resilience4jState,
}

/// The counts of the present state.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Metrics {
    pub buffered: u32,
    pub failed: u32,
    pub slow: u32,
    pub successful: u32,
    pub not_permitted: u64,
    /// Percent; `None` below the minimum number of calls.
    pub failure_rate: Option<f32>,
    pub slow_call_rate: Option<f32>,
}

/// One breaker with Resilience4j's properties and states.
pub struct Resilience4jBreaker {
    circuit: Arc<Circuit>,
    properties: Resilience4j,
    held: Mutex<Held>,
    /// The rates that METRICS_ONLY has reported: `failure | slow << 1`.
    told: AtomicU8,
}

struct Held {
    /// DISABLED or METRICS_ONLY, if it is one of these; the machine's phase says the rest.
    state: Option<Resilience4jState>,
    events: VecDeque<Resilience4jEvent>,
}

impl Held {
    fn push(&mut self, event: Resilience4jEvent) {
        if self.events.len() == KEPT {
            self.events.pop_front();
        }
        self.events.push_back(event);
    }
}

impl Resilience4jBreaker {
    pub(super) fn new(circuit: Arc<Circuit>, properties: Resilience4j, now: Time) -> Resilience4jBreaker {
        let held = Mutex::new(Held { state: None, events: VecDeque::new() });
        let breaker = Resilience4jBreaker { circuit, properties, held, told: AtomicU8::new(0) };
        let initial = breaker.properties.initial_state;
        if initial != Resilience4jState::Closed {
            breaker.put(&mut breaker.held(), initial, None, now);
            breaker.circuit.drain_transitions();
        }
        breaker
    }

    pub fn circuit(&self) -> &Arc<Circuit> {
        &self.circuit
    }

    pub fn state(&self) -> Resilience4jState {
        self.state_of(&self.held())
    }

    /// `tryAcquirePermission`.
    pub fn acquire(&self, now: Time) -> Result<Call, Refused> {
        // While closed, nothing changes by time alone, and to admit a call changes nothing either.
        if self.circuit.phase() == Phase::Closed {
            return self.circuit.acquire(now);
        }
        self.poll(now);
        let outcome = self.circuit.acquire(now);
        self.publish();
        outcome
    }

    /// `onSuccess`, `onError`. `call` is what [`Resilience4jBreaker::acquire`] gave; `None` for a call that was made
    /// without asking, which counts in the present state.
    pub fn settle(&self, call: Option<Call>, result: CallResult, elapsed: Duration, now: Time) {
        let state = self.state();
        if result == CallResult::Ignored && state.publishes() {
            self.held().push(Resilience4jEvent::IgnoredError);
        }
        let outcome = match result {
            CallResult::Success => Outcome::OK,
            CallResult::Failure => Outcome::new(Class::Hard, Evidence::Connect),
            CallResult::Ignored => Outcome::IGNORED,
        };
        let transition = match call {
            // Dropping the call gives it back.
            _ if state == Resilience4jState::Disabled => None,
            Some(call) => call.settle(outcome, elapsed, now),
            None => self.circuit.record(outcome, elapsed, now),
        };
        if state == Resilience4jState::MetricsOnly {
            self.report_rates(now);
        }
        if transition.is_some() || state != Resilience4jState::Closed {
            self.publish();
        }
    }

    /// What time alone changes: the end of a half-open round's wait, and of an opening where that is automatic.
    pub fn poll(&self, now: Time) {
        let mut held = self.held();
        let automatic = self.properties.to_half_open == ToHalfOpen::OnTime;
        if automatic && self.circuit.phase() == Phase::Open {
            let due = self.circuit.inspect(now).open_remaining.is_some_and(|left| left.is_zero());
            if due {
                self.change(&mut held, Resilience4jState::HalfOpen, None, now);
            }
        }
        drop(held);
        self.circuit.sweep(now);
        self.publish();
    }

    /// `transitionTo...State`. From a state to itself it begins that state again, without an event.
    pub fn transition_to(&self, to: Resilience4jState, now: Time) -> Result<(), NoSuchTransition> {
        self.checked(to, None, now)
    }

    /// `transitionToOpenStateFor`.
    pub fn transition_to_open_for(&self, span: Duration, now: Time) -> Result<(), NoSuchTransition> {
        self.checked(Resilience4jState::Open, Some(span), now)
    }

    /// `reset`: CLOSED, from whichever state, with nothing counted.
    pub fn reset(&self, now: Time) {
        let mut held = self.held();
        self.change(&mut held, Resilience4jState::Closed, None, now);
        held.push(Resilience4jEvent::Reset);
    }

    pub fn metrics(&self, now: Time) -> Metrics {
        let view = self.circuit.inspect(now);
        let (buffered, failed, slow) = (view.window.total, view.window.bad(), view.window.slow);
        let enough = buffered > 0 && buffered >= view.minimum;
        let rate = |count: u32| enough.then(|| count as f32 * 100.0 / buffered as f32);
        Metrics {
            buffered,
            failed,
            slow,
            successful: buffered.saturating_sub(failed),
            not_permitted: view.refused_in_period,
            failure_rate: rate(failed),
            slow_call_rate: rate(slow),
        }
    }

    /// Takes the events since the last call.
    pub fn drain_events(&self) -> Vec<Resilience4jEvent> {
        std::mem::take(&mut self.held().events).into()
    }

    fn checked(&self, to: Resilience4jState, span: Option<Duration>, now: Time) -> Result<(), NoSuchTransition> {
        let mut held = self.held();
        let from = self.state_of(&held);
        if !from.may_become(to) {
            return Err(NoSuchTransition { from, to });
        }
        self.change(&mut held, to, span, now);
        Ok(())
    }

    fn change(&self, held: &mut Held, to: Resilience4jState, span: Option<Duration>, now: Time) {
        let from = self.state_of(held);
        self.put(held, to, span, now);
        if from != to {
            held.push(Resilience4jEvent::Transition { from, to });
        }
    }

    fn put(&self, held: &mut Held, to: Resilience4jState, span: Option<Duration>, now: Time) {
        use Resilience4jState as S;
        let from = self.state_of(held);
        let fresh = matches!(from, S::Closed | S::Disabled | S::MetricsOnly);
        let climb = match to {
            S::Open | S::ForcedOpen if span.is_none() => {
                if fresh {
                    Climb::First
                } else {
                    Climb::Step
                }
            }
            S::Open | S::HalfOpen | S::ForcedOpen => {
                if fresh {
                    Climb::Restart
                } else {
                    Climb::Keep
                }
            }
            S::Closed | S::Disabled | S::MetricsOnly => Climb::Restart,
        };
        let phase = match to {
            S::Closed | S::Disabled | S::MetricsOnly => Phase::Closed,
            S::Open => Phase::Open,
            S::HalfOpen => Phase::HalfOpen,
            S::ForcedOpen => Phase::ForcedOpen,
        };
        held.state = matches!(to, S::Disabled | S::MetricsOnly).then_some(to);
        let hold = |forced| Override { forced, owner: "transition".into(), reason: to.as_str().into(), until: None };
        let hold = match to {
            S::Disabled | S::MetricsOnly => Some(hold(Forced::Closed)),
            S::ForcedOpen => Some(hold(Forced::Open)),
            S::Closed | S::Open | S::HalfOpen => None,
        };
        self.told.store(0, Relaxed);
        self.circuit.place(Place { phase, climb, span, hold }, now);
    }

    /// METRICS_ONLY says once for each rate that it would have opened.
    fn report_rates(&self, now: Time) {
        let metrics = self.metrics(now);
        let over = |rate: Option<f32>, limit: u8| rate.is_some_and(|rate| rate >= f32::from(limit));
        let failure = over(metrics.failure_rate, self.properties.failure_rate);
        let slow = over(metrics.slow_call_rate, self.properties.slow_call_rate);
        let seen = self.told.fetch_or(u8::from(failure) | u8::from(slow) << 1, Relaxed);
        let mut held = self.held();
        if failure && seen & 1 == 0 {
            held.push(Resilience4jEvent::FailureRateExceeded);
        }
        if slow && seen & 2 == 0 {
            held.push(Resilience4jEvent::SlowCallRateExceeded);
        }
    }

    /// The machine's own transitions, in Resilience4j's words.
    fn publish(&self) {
        let mut held = self.held();
        for event in self.circuit.drain_transitions() {
            // Those that were asked for have been told where they were made.
            if event.reason == Reason::Manual {
                continue;
            }
            if event.from == State::Closed {
                self.exceeded(&mut held, &event);
            }
            held.push(Resilience4jEvent::Transition { from: plain(event.from), to: plain(event.to) });
        }
    }

    fn exceeded(&self, held: &mut Held, event: &Transition) {
        let over = |count: u32, rate: u8| count * 100 >= u32::from(rate) * event.total;
        if over(event.hard + event.soft, self.properties.failure_rate) {
            held.push(Resilience4jEvent::FailureRateExceeded);
        }
        if over(event.slow, self.properties.slow_call_rate) {
            held.push(Resilience4jEvent::SlowCallRateExceeded);
        }
    }

    fn state_of(&self, held: &Held) -> Resilience4jState {
        held.state.unwrap_or(match self.circuit.phase() {
            Phase::Closed => Resilience4jState::Closed,
            Phase::Open => Resilience4jState::Open,
            Phase::HalfOpen => Resilience4jState::HalfOpen,
            Phase::ForcedOpen => Resilience4jState::ForcedOpen,
        })
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn plain(state: State) -> Resilience4jState {
    match state {
        State::Closed => Resilience4jState::Closed,
        State::Open => Resilience4jState::Open,
        State::HalfOpen => Resilience4jState::HalfOpen,
    }
}
