//! One circuit with the settings that Polly, Hystrix, Linkerd and Finagle would have, on their own test sequences.
//!
//! Same file and same manner as in `vectors`: equal where the rule is equal, and each difference asserted with its reason.

use std::sync::Arc;
use std::time::Duration;

use fusewire_resilience::{
    AfterWait, BreakerConfig, Circuit, Class, Evidence, Forced, HalfOpen, Outcome, Override, Round, State,
};
use serde_json::Value;

use crate::vectors::{list, number, section, spread};
use crate::world::{at, ms, refused};

/// A rate rule with single probes, without anything else.
fn rate(min_calls: usize, percent: usize) -> BreakerConfig {
    BreakerConfig {
        consecutive: 0,
        min_calls: min_calls as u16,
        failure_rate: percent as u8,
        jitter_percent: 0,
        half_open: HalfOpen::Rate(Round { permits: 1, concurrency: 1, max_wait: None, then: AfterWait::Open }),
        ..BreakerConfig::default()
    }
}

fn circuit(config: BreakerConfig) -> Arc<Circuit> {
    assert_eq!(config.validate(), Ok(()));
    Circuit::new("theirs", 1, config)
}

/// Success, failure, timeout.
fn outcome(letter: char) -> Outcome {
    match letter {
        'S' => Outcome::OK,
        'F' => refused(),
        'T' => Outcome::new(Class::Soft, Evidence::Timeout),
        other => unreachable!("no such call as {other}"),
    }
}

/// Makes the calls until the circuit opens; the number of the one that opened it.
fn opens_at(circuit: &Arc<Circuit>, calls: impl Iterator<Item = char>, now: u64) -> Option<usize> {
    let mut calls = calls.enumerate();
    calls.find_map(|(n, letter)| {
        let call = circuit.acquire(at(now)).expect("closed");
        call.settle(outcome(letter), Duration::ZERO, at(now)).map(|_| n + 1)
    })
}

#[test]
fn polly_breaks_where_ours_does_at_the_same_ratio_and_throughput() {
    for case in list(&section("polly_v8"), "should_break") {
        let total = number(&case["throughput"]);
        let share = case["failure_rate"].as_f64().expect("a rate");
        let threshold = (case["threshold"].as_f64().expect("a rate") * 100.0) as usize;
        let circuit = circuit(rate(number(&case["minimum"]), threshold));
        let failures = (share * total as f64).ceil() as usize;
        let calls = spread(total, failures).map(|failed| if failed { 'F' } else { 'S' });
        assert_eq!(opens_at(&circuit, calls, 1).is_some(), case["expect"] == true, "{case}");
    }
}

#[test]
fn pollys_rolling_window_of_ten_seconds_is_ours() {
    let windows = list(&section("polly_v8"), "rolling_10s_10_buckets");
    let circuit_of = || circuit(rate(65_000, 100));
    let circuit = circuit_of();
    let batches = windows[0]["each_2s"].as_array().expect("batches");
    for (n, (batch, expected)) in batches.iter().zip(list(&windows[0], "after_each")).enumerate() {
        for letter in batch.as_array().expect("calls") {
            let letter = letter.as_str().and_then(|word| word.chars().next()).expect("a letter");
            opens_at(&circuit, [letter].into_iter(), n as u64 * 2000);
        }
        // It is read after the clock has moved on.
        let window = circuit.inspect(at((n as u64 + 1) * 2000)).window;
        let share = if window.total == 0 { 0.0 } else { f64::from(window.hard) / f64::from(window.total) };
        assert_eq!((window.total as usize, window.hard as usize), (number(&expected[0]), number(&expected[2])));
        assert!((share - expected[1].as_f64().expect("a rate")).abs() < 1e-6);
    }
    let circuit = circuit_of();
    let seconds = number(&windows[1]["one_success_then_1s_each"]) as u64;
    (0..seconds).for_each(|second| assert_eq!(opens_at(&circuit, ['S'].into_iter(), second * 1000), None));
    let total = |second: u64| circuit.inspect(at(second * 1000)).window.total as usize;
    assert_eq!(total(seconds), number(&windows[1]["throughput_after"]));
    assert_eq!(total(seconds + 1), number(&windows[1]["throughput_one_second_later"]));
}

fn in_state(name: &str) -> Arc<Circuit> {
    let circuit = circuit(rate(1, 1));
    match name {
        "Closed" => {}
        "Isolated" => {
            let hold = Override { forced: Forced::Open, owner: "ann".into(), reason: "isolated".into(), until: None };
            circuit.set_override(Some(hold), at(0));
        }
        _ => drop(opens_at(&circuit, ['F'].into_iter(), 0)),
    }
    circuit
}

fn polly_name(circuit: &Circuit) -> &'static str {
    match (circuit.state(), circuit.inspect(at(0)).forced) {
        (State::Open, Some(_)) => "Isolated",
        (State::Open, None) => "Open",
        (State::HalfOpen, _) => "HalfOpen",
        (State::Closed, _) => "Closed",
    }
}

#[test]
fn pollys_next_states_are_ours() {
    let polly = section("polly_v8");
    for (key, letter) in [("on_failure", 'F'), ("on_success", 'S')] {
        for case in list(&polly, key) {
            let from = case["state"].as_str().expect("a state");
            let circuit = in_state(from);
            // Where it should not break, there are not calls enough; a success breaks nothing either.
            let breaks = case["should_break"] == true || letter == 'S';
            let call = match from {
                "HalfOpen" => circuit.acquire(at(5001)).ok(),
                "Closed" if breaks => circuit.acquire(at(1)).ok(),
                _ => None,
            };
            if let Some(call) = call {
                call.settle(outcome(letter), Duration::ZERO, at(5001));
            }
            assert_eq!(polly_name(&circuit), case["next"].as_str().expect("a state"), "{case}");
        }
    }
}

/// Hystrix looks twice a second, ours at every call: the same verdicts, up to half a second earlier.
#[test]
fn hystrix_trips_and_recovers_as_ours_with_its_settings() {
    let sequences = list(&section("hystrix"), "sequences");
    assert_eq!(sequences.len(), 9);
    for sequence in sequences {
        let calls = sequence["calls"].as_str().expect("calls");
        let volume = sequence.get("request_volume").map_or(1, number);
        // A volume of one and half of all: it judges only at the end of the calls, so that is what ours is given.
        let judged_at_end = if volume == 1 { calls.len() } else { volume };
        let circuit = circuit(rate(judged_at_end, number(&section("hystrix")["defaults"]["error_pct"])));
        opens_at(&circuit, calls.chars(), 1);
        let Some(then) = sequence.get("then").and_then(Value::as_str) else {
            let expected = if sequence["expect"] == "open" { State::Open } else { State::Closed };
            assert_eq!(circuit.state(), expected, "{sequence}");
            continue;
        };
        assert_eq!(circuit.state(), State::Open);
        let due = |now: u64| now + circuit.inspect(at(now)).open_remaining.expect("open").as_millis() as u64 + 1;
        let mut now = due(1);
        assert!(circuit.acquire(at(now - 1)).is_err(), "strictly after");
        let probe = circuit.acquire(at(now)).expect("first attempt");
        assert!(circuit.acquire(at(now)).is_err(), "second attempt");
        match then {
            "sleep>window" => drop(probe),
            "sleep>window, S" => drop(probe.settle(Outcome::OK, Duration::ZERO, at(now))),
            "sleep F sleep F sleep S" => {
                probe.settle(refused(), Duration::ZERO, at(now));
                for letter in ['F', 'S'] {
                    assert_eq!(circuit.state(), State::Open);
                    now = due(now);
                    circuit.acquire(at(now)).expect("due").settle(outcome(letter), Duration::ZERO, at(now));
                }
            }
            other => unreachable!("{other}"),
        }
        let closed = then.ends_with('S');
        assert_eq!(circuit.state(), if closed { State::Closed } else { State::HalfOpen }, "{sequence}");
        assert!(!closed || circuit.inspect(at(now)).window.total == 0, "window cleared");
    }
}

/// Linkerd calls a serving gate open. Its probation begins at the moment that the wait ends, ours just after it.
#[test]
fn linkerds_consecutive_failures_are_ours() {
    let config = BreakerConfig {
        consecutive: 2,
        open_base: ms(1000),
        open_max: ms(100_000),
        stable: ms(1),
        ..rate(65_000, 100)
    };
    // A round is decided by its one result whatever the volume.
    let circuit = circuit(config);
    let mut now = 0;
    let late = circuit.acquire(at(0)).expect("closed");
    let mut late = Some(late);
    let mut probe = None;
    for step in list(&section("linkerd_consecutive"), "steps") {
        let row = step.as_array().expect("a row");
        now += number(&row[1]) as u64;
        match row[0].as_str().expect("a step") {
            "advance" => {}
            "success_late" => assert_eq!(late.take().expect("one").settle(Outcome::OK, ms(0), at(now)), None),
            word => {
                let call = probe.take().unwrap_or_else(|| circuit.acquire(at(now)).expect("serving"));
                let good = word == "success";
                call.settle(if good { Outcome::OK } else { refused() }, ms(0), at(now));
            }
        }
        match row[2].as_str().expect("a gate") {
            "open_gate" => assert_eq!(circuit.state(), State::Closed, "{step}"),
            "shut" => {
                assert_eq!(circuit.state(), State::Open, "{step}");
                assert!(circuit.acquire(at(now)).is_err(), "{step}");
            }
            "probation_1_permit" => {
                assert!(circuit.acquire(at(now)).is_err(), "strictly after");
                now += 1;
                probe = Some(circuit.acquire(at(now)).expect("probation"));
                assert!(circuit.acquire(at(now)).is_err(), "one permit");
            }
            other => unreachable!("{other}"),
        }
    }
}

#[test]
fn finagles_consecutive_failures_are_ours() {
    for case in list(&section("finagle"), "consecutive") {
        let config = BreakerConfig { consecutive: number(&case["n"]) as u8, ..rate(65_000, 100) };
        let circuit = circuit(config);
        let calls = case["calls"].as_str().expect("calls").chars();
        for (letter, dead) in calls.zip(list(&case, "mark_dead")) {
            // Revived: from now on it counts afresh.
            match letter {
                'R' => {
                    let hold = Override { forced: Forced::Closed, owner: "r".into(), reason: "r".into(), until: None };
                    circuit.set_override(Some(hold), at(0));
                    circuit.set_override(None, at(0));
                }
                letter => drop(opens_at(&circuit, [letter].into_iter(), 0)),
            }
            assert_eq!(circuit.state() == State::Open, dead == 1, "{case}");
        }
    }
}

/// Finagle's average weighs a call by how many came after it: of a hundred good calls, seventy bad ones must follow
/// before it falls to a half. A window of a hundred is at a half after fifty.
#[test]
fn finagles_success_rate_is_slower_to_believe_what_a_window_counts() {
    let finagle = section("finagle");
    let requests = list(&finagle, "success_rate_requests");
    let by_calls = |window: usize, minimum: usize| BreakerConfig { window_calls: window as u16, ..rate(minimum, 50) };
    let short = circuit(by_calls(number(&requests[0]["window"]), 5));
    let calls = requests[0]["calls"].as_str().expect("calls").chars();
    assert_eq!(opens_at(&short, calls, 0), Some(number(&requests[0]["mark_dead_at"])));

    let long = circuit(by_calls(number(&requests[1]["window"]), 100));
    let good = number(&requests[1]["successes_first"]);
    assert_eq!(opens_at(&long, std::iter::repeat_n('S', good), 0), None);
    let theirs = number(&requests[1]["failures_until_dead"]);
    assert_eq!((opens_at(&long, std::iter::repeat_n('F', theirs), 0), theirs), (Some(50), 70));

    let durations = list(&finagle, "success_rate_duration");
    let seconds = number(&durations[0]["window_s"]);
    let config = BreakerConfig { window: ms(seconds as u64 * 1000), buckets: 20, ..rate(20, 50) };
    let timed = circuit(config);
    let ok = number(&durations[0]["one_success_per_s"]) as u64;
    (0..ok).for_each(|second| assert_eq!(opens_at(&timed, ['S'].into_iter(), second * 1000), None));
    let dead = (0..100).find(|n| opens_at(&timed, ['F'].into_iter(), (ok + n) * 1000).is_some()).expect("opens");
    let theirs = number(&durations[0]["then_one_failure_per_s_dead_at"]) as u64;
    // A window of twenty buckets covers 95 to 100 seconds.
    assert!((47..=50).contains(&(dead + 1)) && theirs == 70, "{dead}");

    // Required 1: the first failure is one too many, once there are calls enough.
    let strict =
        circuit(BreakerConfig { window: ms(30_000), buckets: 15, ..rate(number(&durations[1]["min_requests"]), 1) });
    let calls = durations[1]["calls"].as_str().expect("calls").chars();
    let after = number(&durations[1]["advance_s"]) as u64 * 1000;
    assert_eq!(opens_at(&strict, calls, after), Some(number(&durations[1]["mark_dead_at"])));
}
