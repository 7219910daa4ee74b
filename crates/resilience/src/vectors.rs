//! The project's own sequences, section `ours` of `tests/vectors/breaker.json`: one circuit without peers, driven through
//! the code that serves requests, but without the service's pacing of probes.

use std::sync::Arc;
use std::time::Duration;

use crate::breaker::{Chance, open_time};
use crate::config::BreakerConfig;
use crate::event::{Reason, Transition};
use crate::node::{Member, Node};
use crate::outcome::{Happening, Outcome, classify};
use crate::time::Time;
use crate::word::{Phase, State};
use crate::{Attempt, InstanceSet, Prober, Slot};

struct Lone(Node);

impl Member for Lone {
    fn node(&self) -> &Node {
        &self.0
    }
}

fn at(ms: u64) -> Time {
    Time(ms * 1_000_000)
}

fn fail() -> Outcome {
    classify(Happening::ConnectRefused)
}

struct Core {
    set: Arc<InstanceSet<Lone>>,
    config: Arc<BreakerConfig>,
}

impl Core {
    fn new() -> Core {
        let config = Arc::new(BreakerConfig { jitter_percent: 0, ..BreakerConfig::default() });
        let member = Arc::new(Lone(Node::new(7, at(0))));
        let slot = Slot { member, config: config.clone(), weight: 1, prober: Prober::Request };
        Core { set: Arc::new(InstanceSet::new(vec![slot])), config }
    }

    fn acquire(&self, ms: u64) -> Option<Attempt<Lone>> {
        let breaker = &self.set.node(0).breaker;
        if breaker.word().phase == Phase::Closed {
            return Some(self.set.admit(0, at(ms)));
        }
        match breaker.chance(&self.config, at(ms)) {
            Chance::Begin | Chance::Continue => {
                let permit = self.set.grant(0, at(ms))?;
                Some(Attempt::begin(self.set.clone(), 0, permit, at(ms)))
            }
            Chance::Lost => {
                self.set.reopen_lost(0, at(ms));
                None
            }
            Chance::Later(_) | Chance::None => None,
        }
    }

    fn call(&self, outcome: Outcome, ms: u64) -> Option<Transition> {
        self.acquire(ms).expect("admitted").end(outcome, at(ms))
    }

    fn fail_five(&self, ms: u64) -> Transition {
        (0..5).find_map(|_| self.call(fail(), ms)).expect("tripped")
    }

    fn pass_three(&self, ms: u64) -> Transition {
        (0..3).find_map(|_| self.call(Outcome::OK, ms)).expect("recovered")
    }

    fn state(&self) -> State {
        self.set.node(0).state()
    }

    fn until_ms(&self) -> u64 {
        self.set.node(0).breaker.until().millis()
    }

    fn k(&self) -> u8 {
        self.set.node(0).breaker.word().k
    }
}

#[test]
fn consecutive_trip_and_recover() {
    let core = Core::new();
    core.fail_five(0);
    assert_eq!((core.state(), core.k(), core.until_ms()), (State::Open, 1, 5000));
    assert!(core.acquire(5000).is_none(), "now must be later than until");
    let probe = core.acquire(5001).expect("probe granted");
    assert_eq!(core.state(), State::HalfOpen);
    assert!(core.acquire(5001).is_none(), "one probe at a time");
    assert_eq!(probe.end(Outcome::OK, at(5010)), None);
    assert_eq!(core.call(Outcome::OK, 5020), None);
    assert_eq!(core.state(), State::HalfOpen);
    let closed = core.call(Outcome::OK, 5030).expect("closed");
    assert_eq!((closed.from, closed.to, closed.reason), (State::HalfOpen, State::Closed, Reason::Recovered));
    assert_eq!(core.set.inspect(at(5030))[0].window.total, 0, "the window is empty");
}

#[test]
fn failed_probe_doubles() {
    let core = Core::new();
    core.fail_five(0);
    let probe = core.acquire(5001).expect("probe");
    let reopened = probe.end(fail(), at(5002)).expect("reopened");
    assert_eq!((reopened.to, reopened.reason), (State::Open, Reason::ProbeFailed));
    assert_eq!((core.k(), core.until_ms()), (2, 15_002));
}

#[test]
fn stale_results_ignored() {
    let core = Core::new();
    let mut held: Vec<_> = (0..6).map(|_| core.acquire(0).expect("closed")).collect();
    let sixth = held.pop().expect("six");
    let generation = core.set.node(0).breaker.word().generation;
    let trip = held.into_iter().find_map(|attempt| attempt.end(fail(), at(1))).expect("tripped");
    assert_eq!(trip.generation, generation + 1);
    assert_eq!(sixth.end(Outcome::OK, at(2)), None);
    assert_eq!((core.state(), core.set.node(0).stale_results()), (State::Open, 1));
    assert!(core.acquire(5002).is_some());
}

#[test]
fn cancel_returns_probe_permit() {
    let core = Core::new();
    core.fail_five(0);
    drop(core.acquire(5001).expect("probe"));
    let word = core.set.node(0).breaker.word();
    assert_eq!((core.state(), word.outstanding, word.probes_done()), (State::HalfOpen, 0, 0));
    assert!(core.acquire(5003).is_some());
}

#[test]
fn lost_probe_reopens() {
    let core = Core::new();
    core.fail_five(0);
    let lost = core.acquire(5001).expect("probe");
    assert_eq!(core.until_ms(), 15_001);
    assert!(core.acquire(15_001).is_none());
    assert_eq!(core.state(), State::HalfOpen);
    assert!(core.acquire(15_002).is_none());
    assert_eq!((core.state(), core.k(), core.until_ms()), (State::Open, 2, 25_002));
    assert_eq!(core.set.drain_transitions().last().map(|(_, event)| event.reason), Some(Reason::ProbeLost));
    assert_eq!(lost.end(Outcome::OK, at(15_010)), None);
    assert_eq!((core.state(), core.set.node(0).stale_results()), (State::Open, 1));
}

#[test]
fn retrip_within_stable_keeps_backoff() {
    let core = Core::new();
    core.fail_five(0);
    assert_eq!(core.k(), 1);
    core.pass_three(5001);
    core.fail_five(10_000);
    assert_eq!((core.k(), core.until_ms()), (2, 20_000));
    core.pass_three(20_001);
    core.fail_five(60_000);
    assert_eq!((core.k(), core.until_ms()), (1, 65_000));
}

#[test]
fn time_window_50pct_of_10() {
    let core = Core::new();
    for _ in 0..4 {
        assert_eq!(core.call(Outcome::OK, 0), None);
        assert_eq!(core.call(fail(), 0), None);
    }
    assert_eq!(core.call(Outcome::OK, 1000), None);
    let trip = core.call(fail(), 1001).expect("10 calls, 5 failed");
    assert_eq!((trip.reason, trip.total, trip.hard), (Reason::Rate, 10, 5));
}

#[test]
fn opens_on_a_success_that_reaches_the_minimum() {
    let core = Core::new();
    for outcome in [fail(), Outcome::OK, fail(), Outcome::OK, fail(), Outcome::OK, fail(), Outcome::OK, fail()] {
        assert_eq!(core.call(outcome, 0), None);
    }
    assert_eq!(core.call(Outcome::OK, 1).map(|trip| trip.reason), Some(Reason::Rate));
}

#[test]
fn open_times_double_to_the_maximum_and_jitter_stays_within_a_quarter() {
    let plain = BreakerConfig { jitter_percent: 0, ..BreakerConfig::default() };
    let jittered = BreakerConfig::default();
    for (k, nominal) in [(1, 5), (2, 10), (3, 20), (4, 40), (5, 60), (6, 60), (7, 60), (63, 60)] {
        let nominal = Duration::from_secs(nominal);
        assert_eq!(open_time(&plain, k, 1, 1), nominal);
        let spans: Vec<_> = (0..1000).map(|seed| open_time(&jittered, k, seed, 3)).collect();
        assert!(spans.iter().all(|span| (nominal.mul_f64(0.75)..nominal.mul_f64(1.25)).contains(span)), "k={k}");
        let mean = spans.iter().sum::<Duration>() / 1000;
        assert!((nominal.mul_f64(0.98)..nominal.mul_f64(1.02)).contains(&mean), "k={k} mean {mean:?}");
        assert_eq!(open_time(&jittered, k, 42, 3), open_time(&jittered, k, 42, 3));
    }
}

#[test]
fn a_retry_hint_lengthens_the_opening_up_to_the_maximum() {
    for (hint, until) in [(3, 5000), (30, 30_000), (300, 60_000)] {
        let core = Core::new();
        for _ in 0..5 {
            core.call(fail().with_retry_hint(Duration::from_secs(hint)), 0);
        }
        assert_eq!(core.until_ms(), until, "hint {hint}");
    }
}

#[test]
fn no_probe_in_flight_means_no_deadline() {
    let core = Core::new();
    core.fail_five(0);
    assert_eq!(core.call(Outcome::OK, 5001), None);
    assert!(core.acquire(900_000).is_some(), "low traffic must not re-open the circuit");
}

#[test]
fn a_probe_settles_at_its_headers() {
    let core = Core::new();
    core.fail_five(0);
    for ms in [5001, 5002, 5003] {
        core.acquire(ms).expect("probe").answered(Outcome::OK, at(ms));
    }
    assert_eq!(core.state(), State::Closed);
}
