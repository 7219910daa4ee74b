use proptest::prelude::*;

use super::*;
use crate::breaker::Forced;
use crate::outcome::{Happening, classify};
use crate::throttle::ThrottleConfig;

fn at(ms: u64) -> Time {
    Time(ms * 1_000_000)
}

fn every_failure() -> ServiceConfig {
    ServiceConfig { open: OpenStage::Any, throttle: None, ..ServiceConfig::default() }
}

fn scope(config: ServiceConfig) -> Arc<ServiceScope> {
    assert_eq!(config.validate(), Ok(()));
    ServiceScope::new("inventory", 1, config)
}

/// One request that is over at once; whether it was admitted.
fn call(scope: &Arc<ServiceScope>, happening: Happening, ms: u64) -> bool {
    let pass = scope.admit(Priority::Normal, ms, at(ms));
    pass.is_ok_and(|pass| {
        pass.settle(classify(happening), at(ms));
        true
    })
}

fn calls(scope: &Arc<ServiceScope>, n: u64, happening: Happening, ms: u64) -> u64 {
    (0..n).map(|_| u64::from(call(scope, happening, ms))).sum()
}

#[test]
fn connections_that_cannot_be_had_open_a_service_by_default_and_nothing_else_does() {
    for (happening, opens) in [
        (Happening::ConnectRefused, true),
        (Happening::TlsFailed, true),
        (Happening::AppUnreachable, true),
        (Happening::Status(500), false),
        (Happening::Status(503), false),
        (Happening::Timeout, false),
        (Happening::ConnectTimeout, false),
        (Happening::Reset, false),
        (Happening::Local, false),
    ] {
        let scope = scope(ServiceConfig { throttle: None, ..ServiceConfig::default() });
        calls(&scope, 19, happening, 10);
        assert_eq!(scope.state(), State::Closed, "19 requests say nothing: {happening:?}");
        calls(&scope, 1, happening, 10);
        assert_eq!(scope.state() == State::Open, opens, "{happening:?}");
    }
}

#[test]
fn every_failure_opens_it_where_the_policy_says_so_and_none_where_it_says_off() {
    for happening in [Happening::Status(500), Happening::Timeout, Happening::ConnectRefused] {
        let all = scope(every_failure());
        calls(&all, 20, happening, 10);
        assert_eq!(all.state(), State::Open, "{happening:?}");
        let off = scope(ServiceConfig { open: OpenStage::Off, ..every_failure() });
        assert_eq!(calls(&off, 1000, happening, 10), 1000);
        assert_eq!(off.state(), State::Closed);
    }
}

#[test]
fn it_does_not_open_on_history_that_is_already_mended() {
    let mended = scope(ServiceConfig { min_calls: 100, ..every_failure() });
    calls(&mended, 90, Happening::Status(500), 100);
    calls(&mended, 20, Happening::Complete, 4_000);
    calls(&mended, 1, Happening::Status(500), 4_001);
    assert_eq!(mended.state(), State::Closed, "91 of 111 failed, but 1 of 21 lately");
    let heedless = mended.reconfigured(ServiceConfig { min_calls: 100, recent_rate: 0, ..every_failure() }, at(4_002));
    calls(&heedless, 1, Happening::Status(500), 4_002);
    assert_eq!(heedless.state(), State::Open);
}

#[test]
fn a_round_of_ten_three_at_once_closes_it_and_then_the_admitted_share_grows() {
    let scope = scope(every_failure());
    calls(&scope, 20, Happening::Status(500), 0);
    let refusal = scope.admit(Priority::Normal, 1, at(1)).err().map(|refusal| refusal.cause);
    assert_eq!(refusal, Some(RefusalCause::Open));
    let due = 10_000;
    let passes: Vec<_> = (0..4).map(|i| scope.admit(Priority::Normal, i, at(due))).collect();
    assert_eq!(passes.iter().filter(|pass| pass.is_ok()).count(), 3, "three at once");
    for pass in passes.into_iter().flatten() {
        assert!(pass.is_probe());
        pass.settle(Outcome::OK, at(due));
    }
    assert_eq!(calls(&scope, 7, Happening::Complete, due), 7);
    assert_eq!(scope.state(), State::Closed);
    let share = |ms: u64| {
        let pass = |i: u64| scope.admit(Priority::Normal, i.wrapping_mul(0x9e37_79b9_7f4a_7c15), at(ms)).is_ok();
        (0..10_000).filter(|i| pass(*i)).count() as f64 / 10_000.0
    };
    for (after, expected) in [(0, 0.1), (500, 0.1), (5_000, 0.5), (9_000, 0.9), (10_000, 1.0)] {
        assert!((share(due + after) - expected).abs() < 0.02, "after {after} ms: {}", share(due + after));
    }
    assert!(scope.inspect(at(due)).ramped > 0);
}

#[test]
fn critical_requests_pass_the_ramp() {
    let scope = scope(every_failure());
    calls(&scope, 20, Happening::Status(500), 0);
    assert_eq!(calls(&scope, 10, Happening::Complete, 10_000), 10);
    let critical = (0..1000).filter(|i| scope.admit(Priority::Critical, *i, at(10_001)).is_ok()).count();
    assert_eq!(critical, 1000);
}

#[test]
fn a_dropped_pass_is_ignored_and_a_dropped_probe_frees_its_place() {
    let scope = scope(every_failure());
    for _ in 0..1000 {
        drop(scope.admit(Priority::Normal, 1, at(0)));
    }
    assert_eq!(scope.inspect(at(0)).circuit.window.total, 0);
    calls(&scope, 20, Happening::Status(500), 0);
    for _ in 0..100 {
        assert!(scope.admit(Priority::Normal, 1, at(10_000)).is_ok(), "each was given back");
    }
}

#[test]
fn a_service_that_refuses_is_throttled_and_five_hundred_long_requests_are_not() {
    let scope = scope(ServiceConfig::default());
    let polls: Vec<_> = (0..512).map(|i| scope.admit(Priority::Normal, i, at(0))).collect();
    assert!(polls.iter().all(Result::is_ok));
    drop(polls);
    calls(&scope, 1000, Happening::Overloaded, 10);
    let admitted = calls(&scope, 1000, Happening::Overloaded, 11);
    assert!(admitted < 250, "{admitted}");
    assert!(!scope.allows_retry(at(11)));
    let view = scope.inspect(at(11));
    assert_eq!(view.throttle.map(|throttle| throttle.accepts), Some(0));
    assert!(view.throttled > 700 && view.circuit.state == State::Closed);
}

#[test]
fn observe_mode_refuses_nothing_and_says_what_it_would_have_done() {
    let observing = scope(ServiceConfig {
        mode: Mode::Observe,
        open: OpenStage::Any,
        throttle: Some(ThrottleConfig::default()),
        ..ServiceConfig::default()
    });
    assert_eq!(calls(&observing, 1000, Happening::Overloaded, 10), 1000);
    let view = observing.inspect(at(10));
    assert!(
        view.circuit.state == State::Open && view.circuit.would_reject > 900 && view.would_reject > 500,
        "{view:?}"
    );
    assert!(observing.drain_transitions().iter().all(|event| event.observed));
    let disabled = scope(ServiceConfig { mode: Mode::Disabled, ..every_failure() });
    assert_eq!(calls(&disabled, 1000, Happening::Status(500), 10), 1000);
    assert_eq!(disabled.inspect(at(10)).circuit.window.total, 0);
}

#[test]
fn another_configuration_keeps_state_counts_and_events() {
    let before = scope(every_failure());
    calls(&before, 12, Happening::Status(500), 10);
    let in_flight = before.admit(Priority::Normal, 1, at(10)).ok();
    let after = before.reconfigured(ServiceConfig { min_calls: 13, ..every_failure() }, at(11));
    in_flight.map(|pass| pass.settle(classify(Happening::Status(500)), at(11)));
    assert_eq!(after.inspect(at(11)).circuit.window.total, 13);
    assert!(call(&after, Happening::Status(500), 11));
    assert_eq!((before.state(), after.state()), (State::Open, State::Open), "they are one");
    assert_eq!(after.drain_transitions().len(), 1);
    let off = after.reconfigured(ServiceConfig { open: OpenStage::Off, ..every_failure() }, at(12));
    assert_eq!(off.state(), State::Closed, "nothing could close it otherwise");
}

#[test]
fn an_operator_holds_it_lets_go_of_it_and_starts_it_again() {
    let scope = scope(ServiceConfig { open: OpenStage::Off, ..every_failure() });
    let held = |forced| {
        let (owner, reason) = ("ann".to_owned(), "drill".to_owned());
        Some(Override { forced, owner, reason, until: Some(at(60_000)) })
    };
    let change = scope.set_override(held(Forced::Open), at(1)).expect("it was closed");
    assert_eq!((change.to, change.actor.as_deref()), (State::Open, Some("ann")));
    assert!(!call(&scope, Happening::Complete, 2));
    assert!(scope.sweep(at(59_000)).is_none());
    assert_eq!(scope.sweep(at(60_000)).map(|change| change.to), Some(State::Closed));
    assert_eq!(calls(&scope, 100, Happening::Complete, 60_001), 100, "no ramp after an operator");
    scope.set_override(held(Forced::Open), at(60_002));
    let change = scope.reset("bob", at(60_003));
    assert_eq!((change.to, change.k, change.actor.as_deref()), (State::Closed, 0, Some("bob")));
    assert!(scope.inspect(at(60_003)).circuit.forced.is_none());
}

#[test]
fn settings_out_of_bounds_are_named() {
    let fields = |config: ServiceConfig| -> Vec<_> {
        config.validate().err().unwrap_or_default().into_iter().map(|(field, _)| field).collect()
    };
    let bad = ServiceConfig {
        failure_rate: 0,
        min_calls: 0,
        window: Duration::from_millis(100),
        recent_rate: 101,
        open_base: Duration::ZERO,
        open_max: Duration::ZERO,
        jitter_percent: 51,
        permits: 0,
        concurrency: 0,
        probe_timeout: Duration::ZERO,
        ramp: Duration::from_secs(3601),
        throttle: Some(ThrottleConfig { k_percent: 0 }),
        ..ServiceConfig::default()
    };
    let expected = [
        "min_calls",
        "failure_rate",
        "open_base",
        "jitter_percent",
        "probe_timeout",
        "permits",
        "concurrency",
        "window",
        "recent_rate",
        "ramp",
        "throttle",
    ];
    assert_eq!(fields(bad), expected);
    let unordered = ServiceConfig { open_max: Duration::from_secs(4), concurrency: 11, ..ServiceConfig::default() };
    assert_eq!(fields(unordered), ["open_max", "concurrency"]);
    assert_eq!(fields(ServiceConfig::default()), Vec::<&str>::new());
}

#[derive(Clone, Debug)]
enum Step {
    Admit,
    Settle(prop::sample::Index, Happening),
    Drop(prop::sample::Index),
    Wait(u64),
    Back(u64),
    Sweep,
    Hold(Option<Forced>),
    Reset,
    Reconfigure(u8),
}

fn step() -> impl Strategy<Value = Step> {
    let happening = prop::sample::select(vec![
        Happening::Complete,
        Happening::Status(500),
        Happening::Timeout,
        Happening::ConnectRefused,
        Happening::Overloaded,
        Happening::Local,
    ]);
    let forced = prop::sample::select(vec![None, None, Some(Forced::Open), Some(Forced::Closed)]);
    prop_oneof![
        8 => Just(Step::Admit),
        8 => (any::<prop::sample::Index>(), happening).prop_map(|(which, happening)| Step::Settle(which, happening)),
        1 => any::<prop::sample::Index>().prop_map(Step::Drop),
        3 => (0u64..4_000).prop_map(Step::Wait),
        1 => (0u64..50).prop_map(Step::Back),
        1 => Just(Step::Sweep),
        1 => forced.prop_map(Step::Hold),
        1 => Just(Step::Reset),
        1 => (0u8..3).prop_map(Step::Reconfigure),
    ]
}

proptest! {
    /// In order of the checks: an open circuit admits nothing before its time; late results change nothing; time that runs
    /// back is the present; held states stay; at most three probes at once; totals are a brute-force count; events are the
    /// path; open times are within their bounds; permits given back leave nothing behind. All over changes of configuration.
    #[test]
    fn any_history_keeps_the_invariants(steps in prop::collection::vec(step(), 1..400)) {
        let configs = [OpenStage::Any, OpenStage::Connect, OpenStage::Off].map(|open| ServiceConfig {
            open,
            min_calls: 5,
            ..ServiceConfig::default()
        });
        let mut scope = scope(configs[0].clone());
        let (mut now, mut passes, mut events) = (Time(1_000_000_000_000), Vec::new(), Vec::new());
        // Half seconds in which calls counted since the circuit last closed, and whether they failed.
        let (mut counted, mut ran_back): (Vec<(u64, bool)>, bool) = (Vec::new(), false);
        for (n, step) in steps.into_iter().enumerate() {
            let before = scope.inspect(now);
            match step {
                Step::Admit => {
                    let pass = scope.admit(Priority::Normal, n as u64, now);
                    let open = before.circuit.state == State::Open;
                    if open && before.circuit.open_remaining.is_some_and(|left| !left.is_zero()) {
                        prop_assert!(pass.is_err(), "open admits nothing before its time");
                    }
                    passes.extend(pass);
                }
                Step::Settle(which, happening) if !passes.is_empty() => {
                    let pass: ServicePass = passes.swap_remove(which.index(passes.len()));
                    let stale = pass.permit.generation != before.circuit.generation;
                    let outcome = classify(happening);
                    if !stale && before.circuit.state == State::Closed && outcome.class != Class::Ignored {
                        counted.push((now.0 / 500_000_000, outcome.is_failure()));
                    }
                    pass.settle(outcome, now);
                    if stale {
                        let after = scope.inspect(now).circuit;
                        prop_assert_eq!(after.window, before.circuit.window);
                        prop_assert_eq!(after.generation, before.circuit.generation);
                    }
                }
                Step::Drop(which) if !passes.is_empty() => drop(passes.swap_remove(which.index(passes.len()))),
                Step::Settle(..) | Step::Drop(_) => {}
                Step::Wait(ms) => now = now + Duration::from_millis(ms),
                Step::Back(ms) => {
                    now = Time(now.0 - ms * 1_000_000);
                    ran_back = true;
                }
                Step::Sweep => {
                    let change = scope.sweep(now);
                    prop_assert!(before.circuit.forced.is_none() || change.is_none(), "held without end");
                }
                Step::Hold(forced) => {
                    let (owner, reason) = ("ann".to_owned(), String::new());
                    scope.set_override(forced.map(|forced| Override { forced, owner, reason, until: None }), now);
                }
                Step::Reset => drop(scope.reset("ann", now)),
                Step::Reconfigure(which) => {
                    scope = scope.reconfigured(configs[usize::from(which)].clone(), now);
                }
            }
            let new = scope.drain_transitions();
            if new.iter().any(|event| event.to != State::Open) {
                counted.clear();
            }
            events.extend(new);
            let after = scope.inspect(now).circuit;
            if after.state == State::Closed && !ran_back {
                let oldest = (now.0 / 500_000_000).saturating_sub(19);
                let live = || counted.iter().filter(|(half, _)| *half >= oldest);
                prop_assert_eq!(after.window.total as usize, live().count());
                prop_assert_eq!(after.window.bad() as usize, live().filter(|(_, failed)| *failed).count());
            }
            prop_assert!(after.probes_in_flight <= 3 && after.k < 64);
        }
        let mut state = State::Closed;
        for (seq, event) in events.iter().enumerate() {
            prop_assert_eq!((event.seq, event.from), (seq as u64, state));
            state = event.to;
            if event.to == State::Open && event.reason != Reason::Manual {
                let nominal = (5_000_u128 << (event.k - 1).min(10)).min(30_000);
                let open = event.open_for.as_millis();
                prop_assert!(open * 100 >= nominal * 75 && open * 100 <= nominal * 125, "{} of {}", open, nominal);
            }
        }
        prop_assert_eq!(state, scope.state());
        passes.clear();
        prop_assert_eq!(scope.inspect(now).circuit.probes_in_flight, 0);
    }
}
