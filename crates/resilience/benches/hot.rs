//! What a call costs the breaker: `cargo xtask bench resilience`.
//!
//! Each figure is the best of many short runs, in nanoseconds and as a multiple of one uncontended atomic addition on the
//! same machine, which is what may be compared from one machine to the next. It says and does not judge: on a shared
//! machine a limit would fail for the neighbours' sake.

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use fusewire_resilience::compat::{CallResult, Resilience4j};
use fusewire_resilience::throttle::Priority;
use fusewire_resilience::{
    Ask, BreakerConfig, Circuit, Happening, InstanceSet, Member, Node, Outcome, Policy, Prober, ServiceConfig,
    ServiceScope, SetRules, Slot, Time, classify,
};

const RUNS: usize = 400;
const CALLS: u32 = 2_000;
/// Between two calls: 10,000 a second.
const STEP: u64 = 100_000;

struct Instance(Node);

impl Member for Instance {
    fn node(&self) -> &Node {
        &self.0
    }
}

fn main() {
    let counter = AtomicU64::new(0);
    let atomic = best(|_| {
        black_box(counter.fetch_add(1, Relaxed));
    });
    println!("{:<58} {:>8} {:>8}", "best of many runs", "ns", "x atomic");
    let line = |name: &str, ns: f64| println!("{name:<58} {ns:>8.1} {:>8.1}", ns / atomic);
    line("one atomic addition", atomic);

    let failed = classify(Happening::ConnectRefused);
    for (name, instances) in [("an only instance", 1), ("one of ten", 10)] {
        line(&format!("{name}: pick, answer, end"), best(call(&service(instances, Policy::TwoChoices))));
        let set = service(instances, Policy::TwoChoices);
        set.pick(ask(1), Time(1)).ok().map(|attempt| attempt.end(failed, Time(1)));
        line(&format!("{name}: the same, with a failure in the window"), best(call(&set)));
    }

    let circuit = Circuit::new("bench", 1, BreakerConfig::default(), Time(0));
    let one = |circuit: &Arc<Circuit>, now: Time| {
        circuit.acquire(now).ok().map(|call| call.settle(Outcome::OK, Duration::ZERO, now));
    };
    line("a circuit on its own: acquire, settle", best(|now| one(&circuit, now)));
    circuit.acquire(Time(1)).ok().map(|call| call.settle(failed, Duration::ZERO, Time(1)));
    line("the same, with a failure in the window", best(|now| one(&circuit, now)));
    let open = Circuit::new("bench", 1, BreakerConfig::default(), Time(0));
    (0..5).for_each(|_| drop(open.acquire(Time(0)).ok().map(|call| call.settle(failed, Duration::ZERO, Time(0)))));
    line(
        "an open circuit: refuse",
        best(|_| {
            black_box(open.acquire(Time(1)).is_err());
        }),
    );
    let scope = ServiceScope::new("bench", 1, ServiceConfig::default(), Time(0));
    let one = |scope: &Arc<ServiceScope>, last: Outcome, now: Time| {
        scope.admit(Priority::Normal, now.0, now).ok().map(|pass| pass.settle(last, now));
    };
    line("a service's scope: admit, settle", best(|now| one(&scope, Outcome::OK, now)));
    one(&scope, failed, Time(1));
    line("the same, with a failure in the window", best(|now| one(&scope, Outcome::OK, now)));
    one(&scope, classify(Happening::Overloaded), Time(1));
    line("the same, and something was refused there", best(|now| one(&scope, Outcome::OK, now)));
    for (name, policy) in POLICIES {
        for instances in [10, 100, 1000] {
            let set = service(instances, policy);
            measure(&set);
            line(&format!("{name}: a pick among {instances}"), best(pick(&set)));
        }
    }
    let compat = Resilience4j::default().build("bench", Time(0));
    if let Ok(compat) = compat {
        let one = |now: Time| compat.settle(compat.acquire(now).ok(), CallResult::Success, Duration::ZERO, now);
        line("Resilience4j's defaults, a window of 100 calls", best(one));
    }
}

const POLICIES: [(&str, Policy); 5] = [
    ("two choices by latency", Policy::TwoChoices),
    ("least request", Policy::LeastRequest),
    ("round robin", Policy::RoundRobin),
    ("ring hash", Policy::RING_HASH),
    ("Maglev", Policy::Maglev),
];

fn service(instances: usize, policy: Policy) -> Arc<InstanceSet<Instance>> {
    let config = Arc::new(BreakerConfig::default());
    let slot = |seed| Slot {
        member: Arc::new(Instance(Node::new(seed, Time(0)))),
        config: config.clone(),
        weight: 1,
        prober: Prober::Request,
    };
    let rules = SetRules { policy, ..SetRules::default() };
    Arc::new(InstanceSet::with_rules((0..instances as u64).map(slot).collect(), rules))
}

fn ask(random: u64) -> Ask<'static> {
    Ask { random, replayable: true, tried: &[], key: Some(random) }
}

fn call(set: &Arc<InstanceSet<Instance>>) -> impl FnMut(Time) {
    let set = set.clone();
    move |now| {
        if let Ok(mut attempt) = set.pick(ask(now.0.wrapping_mul(0x9e37_79b9_7f4a_7c15)), now) {
            attempt.answered(Outcome::OK, now);
            black_box(attempt.end(Outcome::OK, now));
        }
    }
}

/// Every instance has answered once: what nobody has measured yet costs a look at its peers.
fn measure(set: &Arc<InstanceSet<Instance>>) {
    for index in 0..set.len() {
        let tried: Vec<usize> = (0..set.len()).filter(|other| *other != index).collect();
        let ask = Ask { random: 1, replayable: true, tried: &tried, key: None };
        set.pick(ask, Time(1)).ok().map(|mut attempt| attempt.answered(Outcome::OK, Time(1_000_000)));
    }
}

fn pick(set: &Arc<InstanceSet<Instance>>) -> impl FnMut(Time) {
    let set = set.clone();
    move |now| {
        black_box(set.pick(ask(now.0.wrapping_mul(0x9e37_79b9_7f4a_7c15)), now).is_ok());
    }
}

/// Nanoseconds of one call. The virtual clock stays within a window, so that what is in it remains.
fn best(mut call: impl FnMut(Time)) -> f64 {
    let mut best = f64::MAX;
    for _ in 0..RUNS {
        let began = Instant::now();
        for n in 0..u64::from(CALLS) {
            call(Time(1 + n * STEP));
        }
        best = best.min(began.elapsed().as_secs_f64() * 1e9 / f64::from(CALLS));
    }
    best
}
