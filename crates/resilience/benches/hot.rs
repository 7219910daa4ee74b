//! What a call costs the engine: `cargo xtask bench resilience`.
//!
//! Each figure is the best of many short runs, in nanoseconds and as a multiple of one uncontended atomic addition, which
//! is measured between the runs: on a shared machine both are disturbed alike, and the ratio is what may be compared from
//! one machine to the next. A bound is told in nanoseconds of the machine that it was set for, and fails as a ratio. Nothing
//! here may allocate.
//!
//! `--calls N NAME` only makes N calls of the lines with this name, for who counts instructions:
//! `valgrind --tool=callgrind target/release/deps/hot-* --calls 100000 "a circuit: healthy"`.

use std::hint::black_box;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use fusewire_resilience::compat::{CallResult, Resilience4j};
use fusewire_resilience::throttle::Priority;
use fusewire_resilience::{
    AfterWait, Ask, BreakerConfig, Circuit, HalfOpen, Happening, InstanceSet, Member, Node, Outcome, Policy, Prober,
    Round, ServiceConfig, ServiceScope, SetRules, Slot, State, Time, classify,
};

/// One atomic addition on the machine that the bounds are told for.
const ATOMIC_NS: f64 = 5.0;

/// Bounds of a breaker alone: its permit, and the record of what came of it.
const HEALTHY: f64 = 25.0;
/// The same while calls fail: the window is added up.
const DEGRADED: f64 = 120.0;
const REJECT: f64 = 20.0;
/// A whole attempt: balancer, in-flight counts, latency estimate and the breaker's two windows; some eight atomic additions.
const ATTEMPT: f64 = 100.0;
/// While all instances fail each is compared with all others, up to 256, at each call: of ten, and of a hundred.
const COMPARED: [(usize, f64); 2] = [(10, 300.0), (100, 1200.0)];
/// A pick and the end of what was picked: four atomic additions and two instances looked at.
const PICK: f64 = 50.0;
/// Points on a ring are searched for: 200,000 of them for 1,000 instances.
const SEARCHED_PICK: f64 = 100.0;
const SCOPE: f64 = 45.0;

const RUNS: usize = 300;
const CALLS: u64 = 2_000;
/// Between two calls: 10,000 a second.
const STEP: u64 = 100_000;
/// Measured so often before a bound counts as broken.
const TRIES: usize = 4;

struct Instance(Node);

impl Member for Instance {
    fn node(&self) -> &Node {
        &self.0
    }
}

fn main() -> ExitCode {
    let Some(mut bench) = Bench::of_arguments() else {
        eprintln!("usage: hot [--calls N] [NAME]");
        return ExitCode::FAILURE;
    };
    bench.begin();
    circuits(&mut bench);
    attempts(&mut bench);
    scopes(&mut bench);
    picks(&mut bench);
    bench.end()
}

fn circuits(bench: &mut Bench) {
    let failed = classify(Happening::ConnectRefused);
    let settle = |circuit: &Arc<Circuit>, outcome: Outcome, now: Time| {
        circuit.acquire(now).ok().map(|call| call.settle(outcome, Duration::ZERO, now));
    };
    let circuit = Circuit::new("bench", 1, BreakerConfig::default());
    bench.line("a circuit: healthy", Some(HEALTHY), |now| settle(&circuit, Outcome::OK, now));
    let mut next = seldom(failed);
    bench.line("a circuit: a failure in the window", Some(DEGRADED), |now| settle(&circuit, next(), now));
    let circuit = Circuit::new("bench", 1, BreakerConfig { failure_rate: 100, ..patient() });
    let mut next = mostly(failed);
    bench.line("a circuit: three of four calls fail", Some(DEGRADED), |now| settle(&circuit, next(), now));
    assert_eq!(circuit.state(), State::Closed);
    let round = Round { permits: 10, concurrency: 10, max_wait: None, then: AfterWait::Open };
    let open = Circuit::new("bench", 1, BreakerConfig { half_open: HalfOpen::Rate(round), ..BreakerConfig::default() });
    (0..5).for_each(|_| settle(&open, failed, Time(0)));
    bench.line("a circuit: open, refused", Some(REJECT), |_| {
        black_box(open.acquire(Time(1)).is_err());
    });
    let due = Time(0) + Duration::from_secs(60);
    bench.line("a circuit: half-open, a probe and its return", Some(DEGRADED), |now| {
        drop(black_box(open.acquire(due + now.since(Time(0)))));
    });
    assert!(!bench.is_wanted("a circuit: half-open") || open.state() == State::HalfOpen);
    if let Ok(compat) = Resilience4j::default().build("bench", Time(0)) {
        bench.line("Resilience4j's defaults, a window of 100 calls", None, |now| {
            compat.settle(compat.acquire(now).ok(), CallResult::Success, Duration::ZERO, now);
        });
    }
}

fn attempts(bench: &mut Bench) {
    let failed = classify(Happening::Status(500));
    for (name, instances) in [("an only instance", 1), ("one of ten", 10)] {
        let set = service(instances, Policy::TwoChoices);
        bench.line(&format!("{name}: healthy attempt"), Some(ATTEMPT), |now| attempt(&set, Outcome::OK, now));
        let mut next = seldom(failed);
        let line = format!("{name}: a failure in the window");
        bench.line(&line, Some(DEGRADED), |now| attempt(&set, next(), now));
    }
    for (instances, bound) in COMPARED {
        let set = configured(instances, Policy::TwoChoices, patient());
        let mut next = mostly(failed);
        let line = format!("one of {instances}: three of four attempts fail");
        bench.line(&line, Some(bound), |now| attempt(&set, next(), now));
        assert!(set.members().all(|member| member.0.state() == State::Closed), "none stands out");
    }
    let set = service(10, Policy::TwoChoices);
    let refused = classify(Happening::ConnectRefused);
    (0..100).for_each(|n| attempt(&set, refused, Time(n)));
    bench.line("all of ten open: refused", Some(REJECT), |now| {
        black_box(set.pick(ask(now.0), Time(1_000)).is_err());
    });
}

fn scopes(bench: &mut Bench) {
    let settle = |scope: &Arc<ServiceScope>, last: Outcome, now: Time| {
        scope.admit(Priority::Normal, now.0, now).ok().map(|pass| pass.settle(last, now));
    };
    let scope = ServiceScope::new("bench", 1, ServiceConfig::default());
    bench.line("a service's scope: healthy", Some(SCOPE), |now| settle(&scope, Outcome::OK, now));
    let mut next = seldom(classify(Happening::ConnectRefused));
    bench.line("a service's scope: a failure in the window", Some(DEGRADED), |now| settle(&scope, next(), now));
    let mut next = seldom(classify(Happening::Overloaded));
    bench.line("a service's scope: something was refused there", Some(DEGRADED), |now| settle(&scope, next(), now));
}

fn picks(bench: &mut Bench) {
    let policies = [
        ("two choices by latency", Policy::TwoChoices),
        ("least request", Policy::LeastRequest),
        ("round robin", Policy::RoundRobin),
        ("ring hash", Policy::RING_HASH),
        ("Maglev", Policy::Maglev),
    ];
    for (name, policy) in policies {
        let bound = if matches!(policy, Policy::RingHash { .. }) { SEARCHED_PICK } else { PICK };
        for instances in [10, 100, 1000] {
            let set = service(instances, policy);
            measure(&set);
            bench.line(&format!("{name}: a pick of {instances}"), Some(bound), |now| pick(&set, now));
        }
    }
    let set = service(1000, Policy::TwoChoices);
    bench.line("two choices by latency: of 1000 that nobody measured", Some(PICK), |now| pick(&set, now));
}

/// Judges by what many calls say, so that chance opens nothing.
fn patient() -> BreakerConfig {
    BreakerConfig { consecutive: 0, min_calls: 500, ..BreakerConfig::default() }
}

fn service(instances: usize, policy: Policy) -> Arc<InstanceSet<Instance>> {
    configured(instances, policy, BreakerConfig::default())
}

fn configured(instances: usize, policy: Policy, config: BreakerConfig) -> Arc<InstanceSet<Instance>> {
    let config = Arc::new(config);
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
    Ask { random: random.wrapping_mul(0x9e37_79b9_7f4a_7c15), replayable: true, tried: &[], key: Some(random) }
}

/// One in a thousand fails: ten a second, so that each of ten instances has a failure in its window.
fn seldom(failed: Outcome) -> impl FnMut() -> Outcome {
    let mut n = 0_u32;
    move || {
        n += 1;
        if n % 1_000 == 1 { failed } else { Outcome::OK }
    }
}

/// Three of four fail, by a sequence of its own (xorshift), so that no instance is the one that always gets the failures.
fn mostly(failed: Outcome) -> impl FnMut() -> Outcome {
    let mut bits = 1_u64;
    move || {
        bits ^= bits << 13;
        bits ^= bits >> 7;
        bits ^= bits << 17;
        if bits >> 62 > 0 { failed } else { Outcome::OK }
    }
}

fn attempt(set: &Arc<InstanceSet<Instance>>, outcome: Outcome, now: Time) {
    if let Ok(mut attempt) = set.pick(ask(now.0), now) {
        attempt.answered(outcome, now);
        black_box(attempt.end(outcome, now));
    }
}

fn pick(set: &Arc<InstanceSet<Instance>>, now: Time) {
    black_box(set.pick(ask(now.0), now).is_ok());
}

/// Every instance has answered at least once, but for chances of one in billions.
fn measure(set: &Arc<InstanceSet<Instance>>) {
    (0..set.len() as u64 * 50).for_each(|n| attempt(set, Outcome::OK, Time(n)));
}

/// What was asked for, and what went wrong so far.
struct Bench {
    name: String,
    /// Only so many calls of each line, without a clock.
    calls: Option<u64>,
    clock: Clock,
    over: Vec<String>,
}

/// Virtual, and never turned back: what a window holds comes and goes as it does at 10,000 calls a second.
struct Clock(u64);

impl Bench {
    fn of_arguments() -> Option<Bench> {
        let mut bench = Bench { name: String::new(), calls: None, clock: Clock(0), over: Vec::new() };
        // Cargo adds `--bench`.
        let mut words = std::env::args().skip(1).filter(|word| word != "--bench");
        while let Some(word) = words.next() {
            match word.as_str() {
                "--calls" => bench.calls = Some(words.next()?.parse().ok()?),
                name => bench.name = name.to_owned(),
            }
        }
        Some(bench)
    }

    fn begin(&mut self) {
        println!("{:<54} {:>8} {:>8} {:>8}", "best of many runs", "ns", "x atomic", "at most");
        self.line("one atomic addition", None, addition(&AtomicU64::new(0)));
        self.line("the clock: Instant::now", None, |_| {
            black_box(Instant::now());
        });
        let size = size_of::<Node>();
        println!("{:<54} {size:>8} {:>8} {:>8}", "bytes of an instance", "", 256);
    }

    fn is_wanted(&self, name: &str) -> bool {
        name.contains(&self.name)
    }

    /// Measures, and compares with `bound`, in nanoseconds of the machine that it was set for.
    fn line(&mut self, name: &str, bound: Option<f64>, mut call: impl FnMut(Time)) {
        if !self.is_wanted(name) {
            return;
        }
        if let Some(calls) = self.calls {
            self.clock.run(calls, &mut call);
            return;
        }
        let limit = bound.map_or(f64::MAX, |ns| ns / ATOMIC_NS);
        let mut best = (f64::MAX, f64::MAX);
        for _ in 0..TRIES {
            let seen = self.clock.measured(&mut call);
            best = if seen.1 < best.1 { seen } else { best };
            if best.1 <= limit {
                break;
            }
        }
        let told = if bound.is_some() { format!("{limit:.1}") } else { String::new() };
        println!("{name:<54} {:>8.1} {:>8.1} {told:>8}", best.0, best.1);
        let allocated = allocation_counter::measure(|| self.clock.run(CALLS, &mut call)).count_total;
        if allocated > 0 {
            self.over.push(format!("{name}: {allocated} allocations in {CALLS} calls"));
        }
        if best.1 > limit {
            self.over.push(format!("{name}: {:.1} atomic additions, at most {limit:.1}", best.1));
        }
    }

    fn end(self) -> ExitCode {
        self.over.iter().for_each(|over| eprintln!("over its bound: {over}"));
        if self.over.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

fn addition(counter: &AtomicU64) -> impl FnMut(Time) {
    |_| {
        black_box(counter.fetch_add(1, Relaxed));
    }
}

impl Clock {
    /// Nanoseconds of a call, and how many atomic additions that is.
    fn measured(&mut self, call: &mut impl FnMut(Time)) -> (f64, f64) {
        let counter = AtomicU64::new(0);
        let (mut best, mut atomic) = (f64::MAX, f64::MAX);
        for _ in 0..RUNS {
            atomic = atomic.min(self.timed(&mut addition(&counter)));
            best = best.min(self.timed(call));
        }
        (best, best / atomic)
    }

    fn timed(&mut self, call: &mut impl FnMut(Time)) -> f64 {
        let began = Instant::now();
        self.run(CALLS, call);
        began.elapsed().as_secs_f64() * 1e9 / CALLS as f64
    }

    fn run(&mut self, calls: u64, call: &mut impl FnMut(Time)) {
        for _ in 0..calls {
            self.0 += STEP;
            call(Time(self.0));
        }
    }
}
