//! One sequence, played step by step against the breaker.

use super::file::{Op, Sequence, Shown, Step};
use fusewire_resilience::compat::{CallResult, Resilience4jBreaker, Resilience4jEvent, Resilience4jState};
use fusewire_resilience::{Call, Time};
use std::fmt;
use std::time::Duration;

/// What becomes of a result or a permit of an earlier period.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Leftovers {
    /// Nothing: our rule.
    Ignored,
    /// It counts in the present one, as with the original.
    Counted,
}

/// Where a sequence and the breaker part.
#[derive(Debug)]
pub(super) struct Difference {
    /// From 1; 0 if the breaker could not be built.
    step: usize,
    op: String,
    expected: String,
    got: String,
    /// Something of an earlier period had come in by then.
    pub(super) after_leftovers: bool,
}

impl Difference {
    /// The sequence cannot be played at all.
    pub(super) fn unplayable(why: String) -> Difference {
        Difference { step: 0, op: "config".into(), expected: "a sequence".into(), got: why, after_leftovers: false }
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "step {} {}, expected {}, got {}", self.step, self.op, self.expected, self.got)
    }
}

pub(super) fn play(sequence: &Sequence, leftovers: Leftovers) -> Result<(), Difference> {
    let mut player = match sequence.properties.clone().build("replay", Time(0)) {
        Ok(breaker) => Player {
            breaker,
            leftovers,
            now: Time(0),
            calls: Vec::new(),
            generation: 0,
            spare: 0,
            unrefused: 0,
            seen_leftovers: false,
        },
        Err(faults) => {
            let got =
                faults.iter().map(|(property, fault)| format!("{property} {fault}")).collect::<Vec<_>>().join(", ");
            return Err(Difference::unplayable(got));
        }
    };
    for (at, step) in sequence.steps.iter().enumerate() {
        let result = player.apply(step);
        let shown = player.shown(result);
        if shown != step.expected {
            let (expected, got) = differing(&step.expected, &shown);
            let after_leftovers = player.seen_leftovers;
            return Err(Difference { step: at + 1, op: step.word.clone(), expected, got, after_leftovers });
        }
    }
    Ok(())
}

struct Player {
    breaker: Resilience4jBreaker,
    leftovers: Leftovers,
    now: Time,
    /// Granted and not yet settled; `None` is a call that the original would have granted on a leftover permit.
    calls: Vec<Option<Call>>,
    generation: u32,
    /// Leftover permits that the original would add to this round.
    spare: u32,
    /// Calls that we refused and the original would not have.
    unrefused: u64,
    seen_leftovers: bool,
}

impl Player {
    fn apply(&mut self, step: &Step) -> Option<String> {
        let result = match step.op {
            Op::Acquire => return Some(self.acquire().to_string()),
            Op::Success => self.settle(CallResult::Success, step.span),
            Op::Failure => self.settle(CallResult::Failure, step.span),
            Op::Ignored => self.settle(CallResult::Ignored, step.span),
            Op::Release => self.release(),
            Op::Advance => {
                self.now = self.now + step.span;
                self.breaker.poll(self.now);
                None
            }
            Op::Reset => {
                self.breaker.reset(self.now);
                None
            }
            Op::To(state) => self.breaker.transition_to(state, self.now).err(),
            Op::OpenFor => self.breaker.transition_to_open_for(step.span, self.now).err(),
        };
        result.map(|_| "illegal".to_owned())
    }

    fn acquire(&mut self) -> bool {
        if let Ok(call) = self.breaker.acquire(self.now) {
            self.calls.push(Some(call));
            return true;
        }
        self.begin_period();
        if self.spare == 0 {
            return false;
        }
        self.spare -= 1;
        self.unrefused += 1;
        self.calls.push(None);
        true
    }

    /// The call that was granted last is the one that a result is of.
    fn settle<T>(&mut self, result: CallResult, elapsed: Duration) -> Option<T> {
        let call = match self.calls.pop().flatten() {
            Some(call) if !call.is_current() => {
                self.seen_leftovers = true;
                Some(call).filter(|_| self.leftovers == Leftovers::Ignored)
            }
            call => call,
        };
        let unasked = call.is_none();
        self.breaker.settle(call, result, elapsed, self.now);
        if unasked {
            // The original takes no permit for it, and gives one back for what it ignores.
            self.leave_spare();
        }
        None
    }

    fn release<T>(&mut self) -> Option<T> {
        match self.calls.pop().flatten() {
            Some(call) if call.is_current() => drop(call),
            _ => self.leave_spare(),
        }
        None
    }

    fn leave_spare(&mut self) {
        self.begin_period();
        if self.breaker.state() == Resilience4jState::HalfOpen {
            self.seen_leftovers = true;
            self.spare += u32::from(self.leftovers == Leftovers::Counted);
        }
    }

    /// Leftover permits end with the period that they came into.
    fn begin_period(&mut self) {
        let generation = self.breaker.circuit().inspect(self.now).generation;
        if generation != self.generation {
            (self.generation, self.spare, self.unrefused) = (generation, 0, 0);
        }
    }

    fn shown(&mut self, result: Option<String>) -> Shown {
        self.begin_period();
        let metrics = self.breaker.metrics(self.now);
        let counts = [metrics.buffered, metrics.failed, metrics.slow, metrics.successful].map(u64::from);
        let [buffered, failed, slow, ok] = counts;
        Shown {
            time_ms: self.now.0 / 1_000_000,
            state: self.breaker.state().as_str().to_owned(),
            result,
            counts: [buffered, failed, slow, ok, metrics.not_permitted - self.unrefused],
            failure_rate: metrics.failure_rate,
            slow_rate: metrics.slow_call_rate,
            events: self.breaker.drain_events().into_iter().map(event).collect(),
        }
    }
}

fn event(event: Resilience4jEvent) -> String {
    match event {
        Resilience4jEvent::Transition { from, to } => format!("{}>{}", from.as_str(), to.as_str()),
        Resilience4jEvent::FailureRateExceeded => "FAILURE_RATE_EXCEEDED".into(),
        Resilience4jEvent::SlowCallRateExceeded => "SLOW_RATE_EXCEEDED".into(),
        Resilience4jEvent::Reset => "RESET".into(),
        Resilience4jEvent::IgnoredError => "IGNORED".into(),
    }
}

/// Only the columns that differ, of both.
fn differing(expected: &Shown, got: &Shown) -> (String, String) {
    let cells = |shown: &Shown| {
        let [buffered, failed, slow, ok, not_permitted] = shown.counts;
        let rate = |rate: Option<f32>| rate.map_or("none".to_owned(), |rate| rate.to_string());
        [
            format!("t_ms={}", shown.time_ms),
            format!("state={}", shown.state),
            format!("result={}", shown.result.as_deref().unwrap_or("none")),
            format!("buffered={buffered}"),
            format!("failed={failed}"),
            format!("slow={slow}"),
            format!("ok={ok}"),
            format!("not_permitted={not_permitted}"),
            format!("failure_rate={}", rate(shown.failure_rate)),
            format!("slow_rate={}", rate(shown.slow_rate)),
            format!("events={:?}", shown.events),
        ]
    };
    let pairs = cells(expected).into_iter().zip(cells(got)).filter(|(expected, got)| expected != got);
    let (expected, got): (Vec<_>, Vec<_>) = pairs.unzip();
    (expected.join(" "), got.join(" "))
}
