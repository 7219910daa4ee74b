//! Triggers that look at more than failures: the peers' median, slow calls, and windows that hold calls.

use fusewire_resilience::{
    BreakerConfig, Happening, Mode, Outcome, PeerOutlier, Reason, SlowCalls, State, Transition, classify,
};

use crate::vectors::{section, spread};
use crate::world::{Instance, at, ms, pick_at, refused, service, slots, states, status};

type Set = std::sync::Arc<fusewire_resilience::InstanceSet<Instance>>;

/// Only the comparison with the peers.
fn peers_only() -> BreakerConfig {
    BreakerConfig { consecutive: 0, failure_rate: 100, jitter_percent: 0, ..BreakerConfig::default() }
}

fn call(set: &Set, index: usize, outcome: Outcome, now: u64) -> Option<Transition> {
    pick_at(set, index, at(now)).expect("admitted").end(outcome, at(now))
}

/// `bad` of `calls`, the failures spread among the others.
fn calls(set: &Set, index: usize, calls: usize, bad: usize, outcome: Outcome, now: u64) {
    for failed in spread(calls, bad) {
        call(set, index, if failed { outcome } else { Outcome::OK }, now);
    }
}

fn opened(set: &Set, now: u64) -> Vec<(usize, Reason)> {
    set.sweep(at(now)).iter().map(|event| (event.index, event.reason)).collect()
}

#[test]
fn outliers_are_those_of_the_vectors() {
    let cases = section("ours")["peer_outlier"]["cases"].as_array().expect("cases").clone();
    assert!(!cases.is_empty());
    for case in cases {
        let rates: Vec<f64> = serde_json::from_value(case["rates"].clone()).expect("rates");
        let tripped: Vec<usize> = serde_json::from_value(case["tripped"].clone()).expect("indices");
        let count = case["calls"].as_u64().expect("calls") as usize;
        let set = service(rates.len(), &peers_only());
        for (index, rate) in rates.iter().enumerate() {
            calls(&set, index, count, (rate * count as f64 + 1e-9) as usize, status(500), 1000);
        }
        let expected: Vec<_> = tripped.into_iter().map(|index| (index, Reason::Peer)).collect();
        assert_eq!(opened(&set, 1500), expected, "{case}");
    }
}

#[test]
fn below_twenty_calls_five_failures_or_three_instances_nobody_is_an_outlier() {
    for (instances, count, bad, opens) in [(3, 20, 6, true), (3, 19, 6, false), (3, 20, 4, false), (2, 20, 6, false)] {
        let set = service(instances, &peers_only());
        (1..instances).for_each(|index| calls(&set, index, 30, 0, Outcome::OK, 1000));
        calls(&set, 0, count, bad, status(500), 1000);
        assert_eq!(!opened(&set, 1500).is_empty(), opens, "{bad} of {count}, {instances} instances");
    }
}

#[test]
fn timeouts_alone_need_twenty_points_and_peers_that_are_at_ease() {
    let timeout = classify(Happening::Timeout);
    for (bad, peers_bad, opens) in [(30, 0, true), (19, 0, false), (60, 6, false)] {
        let set = service(4, &peers_only());
        (1..4).for_each(|index| calls(&set, index, 100, peers_bad, timeout, 1000));
        calls(&set, 0, 100, bad, timeout, 1000);
        assert_eq!(opened(&set, 1500), if opens { vec![(0, Reason::Peer)] } else { vec![] }, "{bad} {peers_bad}");
    }
}

#[test]
fn answers_that_no_application_saw_make_nobody_an_outlier() {
    let set = service(4, &peers_only());
    (1..4).for_each(|index| calls(&set, index, 100, 0, Outcome::OK, 1000));
    calls(&set, 0, 100, 80, classify(Happening::Overloaded), 1000);
    assert_eq!(opened(&set, 1500), []);
}

#[test]
fn the_comparison_can_be_turned_off_and_is_only_reported_in_observe_mode() {
    for (config, observed) in [
        (BreakerConfig { peer: PeerOutlier { delta: 0, z: 4 }, ..peers_only() }, None),
        (BreakerConfig { mode: Mode::Disabled, ..peers_only() }, None),
        (BreakerConfig { mode: Mode::Observe, ..peers_only() }, Some(true)),
    ] {
        let set = service(3, &config);
        (1..3).for_each(|index| calls(&set, index, 100, 0, Outcome::OK, 1000));
        calls(&set, 0, 100, 30, status(500), 1000);
        assert_eq!(set.sweep(at(1500)).first().map(|event| event.observed), observed);
        assert!(observed.is_none() || pick_at(&set, 0, at(1600)).is_some());
    }
}

fn slow_limit() -> BreakerConfig {
    BreakerConfig { slow: Some(SlowCalls { over: ms(100), rate: 50 }), jitter_percent: 0, ..BreakerConfig::default() }
}

fn slow_call(set: &Set, index: usize, elapsed: u64, now: u64) -> Option<Transition> {
    let mut attempt = pick_at(set, index, at(now)).expect("admitted");
    attempt.answered(Outcome::OK, at(now + elapsed));
    attempt.end(Outcome::OK, at(now + elapsed))
}

#[test]
fn slow_answers_open_only_where_a_limit_is_set_and_slow_is_strictly_longer() {
    for (config, elapsed, opens) in
        [(slow_limit(), 101, true), (slow_limit(), 100, false), (BreakerConfig::default(), 60_000, false)]
    {
        let set = service(1, &config);
        let mut trip = None;
        for now in 0..10 {
            trip = trip.or(slow_call(&set, 0, elapsed, now));
        }
        let seen = trip.map(|trip| (trip.reason, trip.total, trip.slow, trip.soft));
        assert_eq!(seen, opens.then_some((Reason::Slow, 10, 10, 10)), "{elapsed}");
    }
}

#[test]
fn a_limit_on_slow_calls_never_opens_the_last_of_several() {
    let set = service(2, &slow_limit());
    for _ in 0..5 {
        call(&set, 1, refused(), 0);
    }
    for now in 0..30 {
        assert_eq!(slow_call(&set, 0, 500, now), None);
    }
    assert_eq!(states(&set), [State::Closed, State::Open]);
}

#[test]
fn a_slow_probe_does_not_bring_back_what_was_opened_for_being_slow() {
    let set = service(1, &slow_limit());
    for now in 0..10 {
        slow_call(&set, 0, 200, now);
    }
    assert_eq!(states(&set), [State::Open]);
    let due = at(0) + set.inspect(at(0))[0].open_remaining.expect("open") + ms(1);
    let mut probe = pick_at(&set, 0, due).expect("due");
    let reopened = probe.answered(Outcome::OK, due + ms(101)).expect("decided");
    assert_eq!((reopened.to, reopened.reason), (State::Open, Reason::ProbeFailed));
}

#[test]
fn an_instance_with_a_window_of_calls_is_judged_however_rare_they_are() {
    let rare = BreakerConfig { window_calls: 10, consecutive: 0, jitter_percent: 0, ..BreakerConfig::default() };
    for (config, opens) in [(rare.clone(), true), (BreakerConfig { window_calls: 0, ..rare }, false)] {
        let set = service(1, &config);
        let minute = 60_000;
        let trip = (0..12).find_map(|n| {
            let outcome = if n % 2 == 0 { refused() } else { Outcome::OK };
            call(&set, 0, outcome, n * minute)
        });
        assert_eq!(trip.map(|trip| (trip.reason, trip.total, trip.hard)), opens.then_some((Reason::Rate, 10, 5)));
    }
}

#[test]
fn another_number_of_calls_begins_an_empty_window() {
    let rare = BreakerConfig { window_calls: 10, ..BreakerConfig::default() };
    let set = service(1, &rare);
    call(&set, 0, refused(), 0);
    assert_eq!(set.inspect(at(0))[0].window.total, 1);
    let mut next = slots(1, &BreakerConfig { window_calls: 11, ..rare });
    next[0].member = set.members().next().expect("one").clone();
    assert_eq!(set.rebuilt(next).inspect(at(0))[0].window.total, 0);
}
