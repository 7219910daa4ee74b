//! Faults that other breakers have shown in the field, each by its name: ours must not have them.

use std::time::Duration;

use fusewire_resilience::{BreakerConfig, Circuit, Outcome, State};

use crate::world::{Instance, at, ms, pick, pick_at, refused, service, states};

type Set = std::sync::Arc<fusewire_resilience::InstanceSet<Instance>>;

fn plain() -> BreakerConfig {
    BreakerConfig { jitter_percent: 0, ..BreakerConfig::default() }
}

/// One instance, opened at the start: due after five seconds, three probes needed.
fn broken() -> Set {
    let set = service(1, &plain());
    for _ in 0..5 {
        pick_at(&set, 0, at(0)).expect("closed").end(refused(), at(0));
    }
    assert_eq!(states(&set), [State::Open]);
    set
}

/// Polly closes on any outcome that it does not handle, a cancelled trial among them; Hystrix opens again on one whose
/// subscriber left.
#[test]
fn a_cancelled_probe_neither_closes_nor_opens_the_circuit() {
    let set = broken();
    for round in 0..50 {
        drop(pick(&set, 1, at(5001 + round * 100)).expect("the place is free again"));
        let view = &set.inspect(at(5001 + round * 100))[0];
        assert_eq!((view.state, view.probes_ok, view.probes_failed, view.k), (State::HalfOpen, 0, 0, 1));
    }
}

/// Resilience4j, Polly and Linkerd count the result of a call that began before the circuit opened.
#[test]
fn a_straggler_neither_closes_a_circuit_nor_opens_it_again() {
    let set = service(1, &plain());
    let stragglers: Vec<_> = (0..45).map(|_| pick_at(&set, 0, at(0)).expect("closed")).collect();
    let mut stragglers = stragglers.into_iter();
    stragglers.by_ref().take(5).for_each(|attempt| drop(attempt.end(refused(), at(1))));
    let probe = pick(&set, 1, at(5002)).expect("due");
    stragglers.by_ref().take(20).for_each(|attempt| assert_eq!(attempt.end(Outcome::OK, at(5003)), None));
    assert_eq!((states(&set)[0], set.inspect(at(5003))[0].probes_ok), (State::HalfOpen, 0), "successes close nothing");
    probe.end(Outcome::OK, at(5004));
    for now in [5103, 5204] {
        pick(&set, 1, at(now)).expect("probe").end(Outcome::OK, at(now));
    }
    assert_eq!(states(&set), [State::Closed]);
    stragglers.for_each(|attempt| assert_eq!(attempt.end(refused(), at(5300)), None));
    let view = &set.inspect(at(5300))[0];
    assert_eq!((view.state, view.window.total, view.stale_results), (State::Closed, 0, 40), "failures open nothing");
}

/// A permit that nobody gives back blocks Resilience4j's half-open circuit for ever, and Polly's.
#[test]
fn a_lost_permit_blocks_the_circuit_no_longer_than_a_probe_may_take() {
    let set = broken();
    let lost = pick(&set, 1, at(5001)).expect("due");
    assert!(pick(&set, 1, at(15_001)).is_err(), "one at a time");
    assert_eq!(set.sweep(at(15_002)).len(), 1, "it has had its ten seconds");
    assert_eq!((states(&set)[0], set.inspect(at(15_002))[0].k), (State::Open, 2));
    for now in [25_003, 25_104, 25_205] {
        pick(&set, 1, at(now)).expect("due again").end(Outcome::OK, at(now));
    }
    assert_eq!(states(&set), [State::Closed]);
    assert_eq!(lost.end(refused(), at(25_300)), None, "and its answer, when it comes, is of another period");
    assert_eq!(set.inspect(at(25_300))[0].window.total, 0);
}

/// What was waiting for the circuit goes through all at once, and the instance that had just come up is down again.
#[test]
fn a_circuit_that_comes_due_under_a_flood_admits_one_probe() {
    let set = broken();
    let admitted: Vec<_> = (0..10_000).filter_map(|random| pick(&set, random, at(5001)).ok()).collect();
    assert_eq!(admitted.len(), 1);
    let alone = Circuit::new("alone", 1, plain());
    for _ in 0..5 {
        alone.acquire(at(0)).expect("closed").settle(refused(), Duration::ZERO, at(0));
    }
    let admitted: Vec<_> = (0..10_000).filter_map(|_| alone.acquire(at(5001)).ok()).collect();
    assert_eq!(admitted.len(), 1);
    assert_eq!(alone.inspect(at(5001)).refused, 9_999);
    assert_eq!(alone.acquire(at(5001)).err().map(|refused| refused.retry_after), Some(ms(10_000)));
}
