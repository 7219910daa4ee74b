//! Resilience4j's properties and states, as a program that embeds them would use them. The whole of their semantics is
//! replayed by `cargo xtask replay`; here is what a reader of the documentation would try first.

use std::time::Duration;

use fusewire_resilience::AfterWait;
use fusewire_resilience::compat::{
    CallResult, NoSuchTransition, OpenWait, Resilience4j, Resilience4jBreaker, Resilience4jEvent as Event,
    Resilience4jState as S, Sliding, ToHalfOpen,
};

use crate::world::{at, ms};

fn two_of_four() -> Resilience4j {
    Resilience4j {
        sliding_window: Sliding::Calls(4),
        minimum_calls: 4,
        permitted_in_half_open: 2,
        wait_in_open: OpenWait::Fixed(ms(1000)),
        ..Resilience4j::default()
    }
}

fn built(properties: Resilience4j) -> Resilience4jBreaker {
    properties.build("orders", at(0)).expect("valid")
}

fn call(breaker: &Resilience4jBreaker, result: CallResult, now: u64) {
    let call = breaker.acquire(at(now)).expect("permitted");
    breaker.settle(Some(call), result, Duration::ZERO, at(now));
}

fn opened(properties: Resilience4j) -> Resilience4jBreaker {
    let breaker = built(properties);
    (0..4).for_each(|_| call(&breaker, CallResult::Failure, 0));
    assert_eq!(breaker.state(), S::Open);
    breaker.drain_events();
    breaker
}

#[test]
fn a_round_of_calls_closes_the_circuit_and_says_so() {
    let breaker = built(two_of_four());
    for result in [CallResult::Success, CallResult::Failure, CallResult::Success, CallResult::Failure] {
        call(&breaker, result, 0);
    }
    let opening = Event::Transition { from: S::Closed, to: S::Open };
    assert_eq!(breaker.drain_events(), [Event::FailureRateExceeded, opening]);
    assert_eq!(breaker.acquire(at(1)).err().map(|refused| refused.retry_after), Some(ms(999)));
    (0..2).for_each(|_| call(&breaker, CallResult::Success, 1001));
    let passed = [(S::Open, S::HalfOpen), (S::HalfOpen, S::Closed)].map(|(from, to)| Event::Transition { from, to });
    assert_eq!(breaker.drain_events(), passed);
}

#[test]
fn every_property_out_of_bounds_is_named_at_once() {
    let bad = Resilience4j {
        sliding_window: Sliding::Calls(257),
        minimum_calls: 0,
        failure_rate: 0,
        slow_call_rate: 101,
        permitted_in_half_open: 201,
        wait_in_open: OpenWait::Exponential { initial: Duration::ZERO, factor: 999, max: None },
        ..Resilience4j::default()
    };
    let faults = bad.build("orders", at(0)).err().expect("refused");
    let named: Vec<_> = faults.iter().map(|(property, _)| *property).collect();
    let expected = [
        "slidingWindowSize",
        "minimumNumberOfCalls",
        "failureRateThreshold",
        "slowCallRateThreshold",
        "permittedNumberOfCallsInHalfOpenState",
        "waitDurationInOpenState",
        "waitDurationInOpenState",
    ];
    assert_eq!(named, expected);
    assert_eq!(Resilience4j::default().validate(), Ok(()));
}

#[test]
fn permits_that_are_never_given_back_block_a_round_until_its_longest_wait_is_over() {
    for (max_wait, then, expected) in [
        (None, AfterWait::Open, S::HalfOpen),
        (Some(ms(5000)), AfterWait::Open, S::Open),
        (Some(ms(5000)), AfterWait::Closed, S::Closed),
    ] {
        let breaker = opened(Resilience4j { max_wait_in_half_open: max_wait, after_max_wait: then, ..two_of_four() });
        let lost: Vec<_> = (0..2).map(|_| breaker.acquire(at(1001)).expect("permitted")).collect();
        assert!(breaker.acquire(at(1001)).is_err());
        breaker.poll(at(6000));
        assert_eq!(breaker.state(), S::HalfOpen);
        breaker.poll(at(6001));
        assert_eq!(breaker.state(), expected);
        assert!(max_wait.is_none() || lost.iter().all(|call| !call.is_current()));
    }
}

#[test]
fn time_alone_begins_a_round_where_that_is_automatic() {
    for (to_half_open, expected) in [(ToHalfOpen::OnTime, S::HalfOpen), (ToHalfOpen::OnCall, S::Open)] {
        let breaker = opened(Resilience4j { to_half_open, ..two_of_four() });
        breaker.poll(at(999));
        assert_eq!(breaker.state(), S::Open);
        breaker.poll(at(1000));
        assert_eq!(breaker.state(), expected);
    }
}

#[test]
fn metrics_only_opens_nothing_and_says_once_that_it_would_have() {
    let breaker = built(Resilience4j { initial_state: S::MetricsOnly, ..two_of_four() });
    (0..20).for_each(|_| call(&breaker, CallResult::Failure, 0));
    assert_eq!((breaker.state(), breaker.drain_events()), (S::MetricsOnly, vec![Event::FailureRateExceeded]));
    let metrics = breaker.metrics(at(0));
    assert_eq!((metrics.buffered, metrics.failed, metrics.failure_rate), (4, 4, Some(100.0)));
    let refused = NoSuchTransition { from: S::MetricsOnly, to: S::Open };
    assert_eq!(breaker.transition_to(S::Open, at(0)), Err(refused));
}

#[test]
fn forced_open_outlasts_every_wait_and_disabled_counts_nothing() {
    let breaker = built(two_of_four());
    assert_eq!(breaker.transition_to(S::ForcedOpen, at(0)), Ok(()));
    assert!(breaker.acquire(at(1_000_000_000)).is_err());
    assert_eq!(breaker.metrics(at(0)).not_permitted, 1);
    assert_eq!(breaker.transition_to(S::Disabled, at(0)), Ok(()));
    (0..20).for_each(|_| call(&breaker, CallResult::Failure, 0));
    assert_eq!((breaker.state(), breaker.metrics(at(0)).buffered), (S::Disabled, 0));
    breaker.reset(at(0));
    assert_eq!(breaker.state(), S::Closed);
}

#[test]
fn an_exponential_wait_grows_in_whole_milliseconds_and_starts_again_after_a_close() {
    let wait = OpenWait::Exponential { initial: ms(1001), factor: 1500, max: Some(ms(3000)) };
    let breaker = opened(Resilience4j { wait_in_open: wait, permitted_in_half_open: 1, ..two_of_four() });
    let mut now = 0;
    for expected in [1001, 1501, 2251, 3000, 3000] {
        let left = breaker.acquire(at(now)).err().expect("open").retry_after;
        assert_eq!(left, ms(expected));
        now += expected + 1;
        call(&breaker, CallResult::Failure, now);
    }
    now += 3001;
    call(&breaker, CallResult::Success, now);
    assert_eq!(breaker.state(), S::Closed);
    (0..4).for_each(|_| call(&breaker, CallResult::Failure, now));
    assert_eq!(breaker.acquire(at(now)).err().map(|refused| refused.retry_after), Some(ms(1001)));
}

#[test]
fn a_result_of_an_earlier_period_counts_nowhere() {
    let breaker = built(two_of_four());
    let late = breaker.acquire(at(0)).expect("closed");
    (0..4).for_each(|_| call(&breaker, CallResult::Failure, 0));
    let probe = breaker.acquire(at(1001)).expect("due");
    breaker.settle(Some(late), CallResult::Success, Duration::ZERO, at(1001));
    assert_eq!((breaker.state(), breaker.metrics(at(1001)).buffered), (S::HalfOpen, 0));
    assert_eq!(breaker.circuit().inspect(at(1001)).stale_results, 1);
    breaker.settle(Some(probe), CallResult::Ignored, Duration::ZERO, at(1001));
    assert_eq!(breaker.drain_events().last(), Some(&Event::IgnoredError));
}
