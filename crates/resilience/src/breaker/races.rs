//! Two threads at one breaker, in every order that their atomics and the lock allow (`cargo xtask loom`).
//!
//! Each test names the two that race. In all of them a transition has one winner, and no probe's place is lost.

use std::time::Duration;

use loom::sync::Arc;
use loom::thread;

use super::{Breaker, Probed, Settled, Site};
use crate::breaker::Permit;
use crate::config::{AfterWait, BreakerConfig, HalfOpen, Round};
use crate::event::{Change, Reason};
use crate::tally::{Pace, Totals};
use crate::time::Time;
use crate::trigger::{Ground, Suspicion};
use crate::word::{Phase, State};

const OPEN: Duration = Duration::from_secs(5);

fn config() -> BreakerConfig {
    let round = Round { permits: 2, concurrency: 2, max_wait: None, then: AfterWait::Open };
    let half_open = HalfOpen::Rate(round);
    BreakerConfig { jitter_percent: 0, min_calls: 1, half_open, ..BreakerConfig::default() }
}

fn at(seconds: u64) -> Time {
    Time(seconds * 1_000_000_000)
}

fn with<T>(seconds: u64, act: impl FnOnce(Site<'_>) -> T) -> T {
    act(Site { config: &config(), seed: 7, now: at(seconds) })
}

fn trip(breaker: &Breaker, generation: u32, seconds: u64) -> Option<Change> {
    let totals = Totals { total: 5, hard: 5, soft: 0, slow: 0 };
    let suspicion = Suspicion { reason: Reason::Consecutive, ground: Ground::Absolute, totals };
    with(seconds, |site| breaker.trip(generation, suspicion, None, site))
}

fn grant(breaker: &Breaker, seconds: u64) -> Option<Permit> {
    with(seconds, |site| breaker.grant(site)).map(|(permit, _)| permit)
}

fn settle(breaker: &Breaker, permit: Permit, failed: bool, seconds: u64) -> Option<Change> {
    let result = Probed { failed, pace: Pace::Fine, peers: 0.0, hint: None };
    match with(seconds, |site| breaker.settle_probe(permit, result, site)) {
        Settled::Decided(change) => Some(change),
        Settled::Counted | Settled::Stale => None,
    }
}

/// Half-open since the sixth second, with so many probes in flight.
fn half_open(probes: usize) -> (Arc<Breaker>, Vec<Permit>) {
    let breaker = Arc::new(Breaker::new());
    trip(&breaker, 0, 0).expect("opens");
    let permits = (0..probes).map(|_| grant(&breaker, 6).expect("due")).collect();
    (breaker, permits)
}

fn race<A: 'static, B>(
    breaker: &Arc<Breaker>,
    one: impl FnOnce(&Breaker) -> A + Send + 'static,
    other: impl FnOnce(&Breaker) -> B,
) -> (A, B)
where
    A: Send,
{
    let shared = breaker.clone();
    let first = thread::spawn(move || one(&shared));
    let second = other(breaker);
    (first.join().expect("no panic"), second)
}

#[test]
fn trip_against_trip_opens_once() {
    loom::model(|| {
        let breaker = Arc::new(Breaker::new());
        let (a, b) = race(&breaker, |breaker| trip(breaker, 0, 1), |breaker| trip(breaker, 0, 2));
        assert!(a.is_some() != b.is_some(), "one winner");
        let word = breaker.word();
        assert_eq!((word.phase, word.k, word.generation), (Phase::Open, 1, 1));
        let began = if a.is_some() { at(1) } else { at(2) };
        assert_eq!(breaker.until(), began + OPEN, "the deadline is the winner's");
    });
}

#[test]
fn trip_against_close_has_one_verdict_and_the_other_is_of_an_earlier_period() {
    loom::model(|| {
        let (breaker, permits) = half_open(2);
        let [good, bad] = permits[..] else { unreachable!("two were granted") };
        let (close, open) = race(
            &breaker,
            move |breaker| settle(breaker, good, false, 7),
            move |breaker| settle(breaker, bad, true, 7),
        );
        assert!(close.is_some() != open.is_some(), "one verdict");
        let word = breaker.word();
        assert_eq!((word.generation, word.outstanding), (3, 0));
        assert_eq!(word.phase.state(), if close.is_some() { State::Closed } else { State::Open });
    });
}

#[test]
fn a_straggler_that_would_trip_cannot_undo_a_release() {
    loom::model(|| {
        let breaker = Arc::new(Breaker::new());
        let totals = Totals { total: 5, hard: 5, soft: 0, slow: 0 };
        let suspicion = Suspicion { reason: Reason::Consecutive, ground: Ground::ByStatus, totals };
        with(0, |site| breaker.trip(0, suspicion, None, site)).expect("opens");
        let (straggler, released) = race(&breaker, |breaker| trip(breaker, 0, 2), |breaker| breaker.release(at(2)));
        assert!(straggler.is_none() && released.is_some());
        assert_eq!(breaker.word().phase, Phase::Closed);
    });
}

#[test]
fn probe_against_probe_timeout_counts_once() {
    loom::model(|| {
        let (breaker, permits) = half_open(1);
        let permit = permits[0];
        // The answer is on its way in while somebody finds that it has taken too long.
        let (answer, lost) = race(
            &breaker,
            move |breaker| settle(breaker, permit, false, 17),
            |breaker| with(17, |site| breaker.reopen_lost(site)),
        );
        assert!(answer.is_some() != lost.is_some());
        let word = breaker.word();
        assert_eq!((word.generation, word.outstanding), (3, 0));
        if lost.is_some() {
            assert_eq!((word.phase, word.k), (Phase::Open, 2));
            assert_eq!(breaker.until(), at(17) + OPEN * 2);
        } else {
            assert_eq!(word.phase, Phase::Closed);
        }
    });
}

#[test]
fn a_cancelled_probe_against_its_timeout_leaves_no_place_taken() {
    loom::model(|| {
        let (breaker, permits) = half_open(1);
        let permit = permits[0];
        let (_, lost) = race(
            &breaker,
            move |breaker| breaker.give_back(permit),
            |breaker| with(17, |site| breaker.reopen_lost(site)),
        );
        let word = breaker.word();
        assert_eq!(word.outstanding, 0);
        assert_eq!(word.phase, if lost.is_some() { Phase::Open } else { Phase::HalfOpen });
        assert!(grant(&breaker, 60).is_some(), "nothing is wedged");
    });
}

#[test]
fn a_cancelled_probe_against_the_next_one_keeps_the_count() {
    loom::model(|| {
        let (breaker, permits) = half_open(2);
        let permit = permits[0];
        let (_, next) = race(&breaker, move |breaker| breaker.give_back(permit), |breaker| grant(breaker, 7));
        let expected = 1 + u8::from(next.is_some());
        assert_eq!(breaker.word().outstanding, expected);
        let deadline = if next.is_some() { 17 } else { 16 };
        assert_eq!(breaker.until(), at(deadline), "a place that was not granted moves no deadline");
    });
}

#[test]
fn an_operators_hold_against_a_trip_is_what_stays() {
    loom::model(|| {
        let breaker = Arc::new(Breaker::new());
        let hold =
            super::Override { forced: super::Forced::Closed, owner: "ann".into(), reason: "drill".into(), until: None };
        race(&breaker, |breaker| trip(breaker, 0, 1), move |breaker| breaker.force(Some(hold), at(1)));
        assert_eq!(breaker.word().phase, Phase::Closed);
    });
}

#[test]
fn a_reset_against_a_trip_is_what_stays() {
    loom::model(|| {
        let breaker = Arc::new(Breaker::new());
        let reset = |breaker: &Breaker| with(1, |site| breaker.reset("ann", site));
        race(&breaker, |breaker| trip(breaker, 0, 1), reset);
        assert_eq!((breaker.word().phase, breaker.word().k), (Phase::Closed, 0));
    });
}

#[test]
fn a_reset_against_a_cancelled_probe_begins_with_no_place_taken() {
    loom::model(|| {
        let (breaker, permits) = half_open(1);
        let permit = permits[0];
        let reset = |breaker: &Breaker| with(7, |site| breaker.reset("ann", site));
        race(&breaker, move |breaker| breaker.give_back(permit), reset);
        assert_eq!((breaker.word().phase, breaker.word().outstanding), (Phase::Closed, 0));
    });
}
