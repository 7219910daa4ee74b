//! Nothing is allocated for a call: what an instance needs beside its node comes once, with the first failure of its kind.

use std::sync::Arc;
use std::time::Duration;

use allocation_counter::measure;
use fusewire_resilience::throttle::Priority;
use fusewire_resilience::{
    BreakerConfig, Circuit, InstanceSet, Outcome, Policy, ServiceConfig, ServiceScope, SetRules,
};

use crate::world::{Instance, at, pick, refused, service, slots, status};

fn allocations(mut call: impl FnMut(u64)) -> u64 {
    measure(|| (0..1_000).for_each(&mut call)).count_total
}

fn attempt(set: &Arc<InstanceSet<Instance>>, outcome: Outcome, n: u64) {
    if let Ok(mut attempt) = pick(set, n.wrapping_mul(0x9e37_79b9_7f4a_7c15), at(n)) {
        attempt.answered(outcome, at(n));
        attempt.end(outcome, at(n));
    }
}

#[test]
fn healthy_calls_allocate_nothing_from_the_first_one_on() {
    let policies = [Policy::TwoChoices, Policy::LeastRequest, Policy::RoundRobin, Policy::RING_HASH, Policy::Maglev];
    for policy in policies {
        let set = Arc::new(InstanceSet::with_rules(
            slots(10, &BreakerConfig::default()),
            SetRules { policy, ..SetRules::default() },
        ));
        assert_eq!(allocations(|n| attempt(&set, Outcome::OK, n)), 0, "{policy:?}");
    }
    let circuit = Circuit::new("one", 1, BreakerConfig::default());
    let call = |n: u64| {
        circuit.acquire(at(n)).ok().map(|call| call.settle(Outcome::OK, Duration::ZERO, at(n)));
    };
    assert_eq!(allocations(call), 0);
    let scope = ServiceScope::new("one", 1, ServiceConfig::default());
    let request = |n: u64| {
        scope.admit(Priority::Normal, n, at(n)).ok().map(|pass| pass.settle(Outcome::OK, at(n)));
    };
    assert_eq!(allocations(request), 0);
}

#[test]
fn failing_and_refused_calls_allocate_nothing_once_each_kind_has_been_seen() {
    let set = service(10, &BreakerConfig::default());
    let half = |n: u64| attempt(&set, if n.is_multiple_of(2) { status(500) } else { Outcome::OK }, n);
    assert_eq!(allocations(half), 0, "statuses need no memory of their own");
    (0..1_000).for_each(|n| attempt(&set, refused(), n));
    assert!(set.inspect(at(1_000)).iter().all(|node| node.generation > 0), "all have opened");
    set.drain_transitions();
    assert_eq!(allocations(|n| assert!(pick(&set, n, at(1_000)).is_err())), 0);
}
