//! Random histories against the rules that must hold in all of them.

use std::sync::Arc;
use std::time::Duration;

use fusewire_resilience::{
    Ask, Attempt, BreakerConfig, Class, Forced, InstanceSet, Mode, NodeView, Outcome, Override, Reason, State, Time,
    Transition,
};
use proptest::prelude::*;

use crate::world::{Instance, refused, service, slots, status};

#[derive(Clone, Debug)]
enum Op {
    Advance(u32),
    StepBack(u16),
    Pick { random: u64, replayable: bool },
    Settle { which: usize, outcome: u8, headers: bool },
    Drop(usize),
    Force { index: usize, forced: Option<bool>, ttl: Option<u16> },
    Sweep,
    Rebuild,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        3 => (0u32..2_000).prop_map(Op::Advance),
        1 => (0u32..30_000).prop_map(Op::Advance),
        1 => (0u16..50).prop_map(Op::StepBack),
        8 => (any::<u64>(), any::<bool>()).prop_map(|(random, replayable)| Op::Pick { random, replayable }),
        10 => (any::<usize>(), 0u8..5, any::<bool>())
            .prop_map(|(which, outcome, headers)| Op::Settle { which, outcome, headers }),
        1 => any::<usize>().prop_map(Op::Drop),
        1 => (0usize..4, any::<Option<bool>>(), any::<Option<u16>>())
            .prop_map(|(index, forced, ttl)| Op::Force { index, forced, ttl }),
        2 => Just(Op::Sweep),
        1 => Just(Op::Rebuild),
    ]
}

fn outcome(kind: u8) -> Outcome {
    match kind {
        0 => Outcome::OK,
        1 => refused(),
        2 => status(500),
        3 => status(503),
        _ => Outcome::IGNORED,
    }
}

struct Held {
    attempt: Attempt<Instance>,
    generation: u32,
}

struct Model {
    set: Arc<InstanceSet<Instance>>,
    config: BreakerConfig,
    now: Time,
    ran_back: bool,
    held: Vec<Held>,
    /// Per instance: `(second, class)` of each outcome that counts in the current period.
    counted: Vec<Vec<(u64, Class)>>,
    events: Vec<Transition>,
}

impl Model {
    fn new(n: usize, config: BreakerConfig) -> Model {
        let set = service(n, &config);
        let now = Time(1_000_000_000_000);
        Model { set, config, now, ran_back: false, held: vec![], counted: vec![vec![]; n], events: vec![] }
    }

    fn views(&self) -> Vec<NodeView> {
        self.set.inspect(self.now)
    }

    fn apply(&mut self, op: Op) {
        let before = self.views();
        match op {
            Op::Advance(ms) => self.now = self.now + Duration::from_millis(ms.into()),
            Op::StepBack(ms) => {
                self.now = Time(self.now.0 - u64::from(ms) * 1_000_000);
                self.ran_back = true;
            }
            Op::Pick { random, replayable } => self.pick(random, replayable, &before),
            Op::Settle { which, outcome: kind, headers } if !self.held.is_empty() => {
                let held = self.held.swap_remove(which % self.held.len());
                self.settle(held, outcome(kind), headers, &before);
            }
            Op::Drop(which) if !self.held.is_empty() => {
                self.held.swap_remove(which % self.held.len());
            }
            Op::Force { index, forced, ttl } => {
                let forced = forced.map(|open| if open { Forced::Open } else { Forced::Closed });
                let until = ttl.map(|ms| self.now + Duration::from_millis(ms.into()));
                let to = forced.map(|forced| Override { forced, owner: "me".into(), reason: "test".into(), until });
                self.set.set_override(index, to, self.now);
            }
            Op::Sweep => {
                self.set.sweep(self.now);
            }
            Op::Rebuild => {
                let same = slots_of(&self.set, &self.config);
                self.set = Arc::new(self.set.rebuilt(same));
            }
            Op::Settle { .. } | Op::Drop(_) => {}
        }
        self.check_events(&before);
        self.check_views();
    }

    fn pick(&mut self, random: u64, replayable: bool, before: &[NodeView]) {
        let Ok(attempt) = self.set.pick(Ask { random, replayable, tried: &[], key: None }, self.now) else { return };
        let was = &before[attempt.index()];
        if attempt.is_probe() {
            // (c) An open circuit admits nothing before its time.
            assert!(was.open_remaining.is_none_or(|left| left.is_zero()), "probed early: {was:?}");
            assert_ne!(was.state, State::Closed);
        } else {
            // Among none but slow ones, four at a time get through.
            assert!(was.ready || was.reason == Some(Reason::Peer), "not ready: {was:?}");
        }
        let generation = self.views()[attempt.index()].generation;
        self.held.push(Held { attempt, generation });
    }

    fn settle(&mut self, held: Held, outcome: Outcome, headers: bool, before: &[NodeView]) {
        let Held { mut attempt, generation } = held;
        let index = attempt.index();
        let was = before[index].clone();
        if headers {
            attempt.answered(outcome, self.now);
        }
        attempt.end(outcome, self.now);
        let is = self.views()[index].clone();
        if generation != was.generation {
            // (d) Stale results change nothing.
            assert_eq!((is.window, is.state, is.generation), (was.window, was.state, was.generation));
        } else if was.state == State::Closed && outcome.class != Class::Ignored {
            self.counted[index].push((self.now.0 / 1_000_000_000, outcome.class));
        }
    }

    fn check_events(&mut self, before: &[NodeView]) {
        let mut path: Vec<(State, u32)> = before.iter().map(|view| (view.state, view.generation)).collect();
        for (_, event) in self.set.drain_transitions() {
            // (h) The events are the path of the states, one generation at a time.
            assert_eq!((event.from, event.generation), (path[event.index].0, path[event.index].1 + 1));
            path[event.index] = (event.to, event.generation);
            let held = before[event.index].forced.is_some();
            // (g) What an operator holds changes only by the operator.
            assert!(!held || event.reason == fusewire_resilience::Reason::Manual, "{event:?}");
            if event.to == State::Closed {
                self.counted[event.index].clear();
            }
            self.check_open_time(&event);
            assert!(self.events.last().is_none_or(|last| last.seq + 1 == event.seq));
            self.events.push(event);
        }
        let now: Vec<(State, u32)> = self.views().iter().map(|view| (view.state, view.generation)).collect();
        assert_eq!(path, now);
    }

    /// (e) k stays in its six bits, and an opening within its jitter.
    fn check_open_time(&self, event: &Transition) {
        assert!(event.k <= 63);
        if event.to == State::Open && event.reason != fusewire_resilience::Reason::Manual {
            let doubled = self.config.open_base.saturating_mul(1 << (event.k - 1).min(20));
            let nominal = doubled.min(self.config.open_max);
            assert!(event.open_for >= nominal.mul_f64(0.749) && event.open_for <= nominal.mul_f64(1.251));
        }
    }

    fn check_views(&self) {
        let second = self.now.0 / 1_000_000_000;
        for view in self.views() {
            // (b) No more probes than allowed.
            assert!(view.probes_in_flight <= self.config.probe_concurrency);
            let mine = self.held.iter().filter(|held| held.attempt.index() == view.index);
            assert_eq!(view.inflight as usize, mine.count(), "in-flight counts follow the attempts");
            if self.ran_back {
                continue;
            }
            // (a) Totals equal brute force.
            let live: Vec<Class> =
                self.counted[view.index].iter().filter(|(at, _)| at + 10 > second).map(|(_, class)| *class).collect();
            let count = |class| live.iter().filter(|is| **is == class).count() as u32;
            let window = (view.window.total, view.window.hard, view.window.soft);
            assert_eq!(window, (live.len() as u32, count(Class::Hard), count(Class::Soft)));
        }
    }
}

fn slots_of(set: &InstanceSet<Instance>, config: &BreakerConfig) -> Vec<fusewire_resilience::Slot<Instance>> {
    let mut fresh = slots(set.len(), config);
    for (slot, member) in fresh.iter_mut().zip(set.members()) {
        slot.member = member.clone();
    }
    fresh
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    /// Invariants (a) to (i) of the breaker, on services of one to four instances.
    #[test]
    fn random_histories_keep_the_rules(
        n in 1usize..5,
        observe in prop::bool::weighted(0.2),
        concurrency in 1u8..4,
        ops in prop::collection::vec(op(), 1..300),
    ) {
        let mode = if observe { Mode::Observe } else { Mode::Enforce };
        let config = BreakerConfig { mode, probe_concurrency: concurrency, ..BreakerConfig::default() };
        let mut model = Model::new(n, config);
        for op in ops {
            model.apply(op);
        }
        // (f) Every permit given back: nothing is in flight, and no round is wedged.
        model.held.clear();
        for view in model.views() {
            prop_assert_eq!((view.inflight, view.probes_in_flight), (0, 0));
        }
        recovers(&mut model);
    }
}

/// Whatever happened, an instance that works comes back: no history wedges a breaker.
fn recovers(model: &mut Model) {
    for index in 0..model.set.len() {
        model.set.set_override(index, None, model.now);
    }
    model.now = model.now + Duration::from_secs(80);
    for step in 0..20_000_u64 {
        model.now = model.now + Duration::from_millis(10);
        if let Ok(mut attempt) =
            model.set.pick(Ask { random: step, replayable: true, tried: &[], key: None }, model.now)
        {
            let then = model.now + Duration::from_millis(5);
            attempt.answered(Outcome::OK, then);
            attempt.end(Outcome::OK, then);
        }
    }
    assert!(model.views().iter().all(|view| view.state == State::Closed), "{:?}", model.views());
}

#[test]
fn a_permit_is_given_back_exactly_once() {
    let config = BreakerConfig { jitter_percent: 0, ..BreakerConfig::default() };
    let set = service(1, &config);
    let second = |s: u64| Time(s * 1_000_000_000);
    let view = |s: u64| set.inspect(second(s))[0].clone();
    let pick =
        |s: u64| set.pick(Ask { random: 1, replayable: true, tried: &[], key: None }, second(s)).expect("admitted");

    // Answered and ended: one call in the window.
    let mut attempt = pick(1);
    attempt.answered(Outcome::OK, second(1));
    assert_eq!(view(1).window.total, 0, "an ok waits for the end of the stream");
    attempt.end(Outcome::OK, second(1));
    assert_eq!((view(1).window.total, view(1).inflight), (1, 0));

    // A failure at the headers settles; the end does not count again.
    let mut attempt = pick(1);
    attempt.answered(status(500), second(1));
    attempt.answered(status(500), second(1));
    attempt.end(refused(), second(1));
    assert_eq!((view(1).window.total, view(1).window.hard, view(1).inflight), (2, 1, 0));

    // Dropped: nothing counted, nothing held.
    drop(pick(1));
    assert_eq!((view(1).window.total, view(1).inflight), (2, 0));

    // A probe, in each of the three ways.
    while view(2).state == State::Closed {
        pick(2).end(refused(), second(2));
    }
    let probe = pick(8);
    assert_eq!((view(8).probes_in_flight, probe.is_probe()), (1, true));
    drop(probe);
    assert_eq!((view(8).probes_in_flight, view(8).probes_ok), (0, 0));
    pick(9).end(Outcome::IGNORED, second(9));
    assert_eq!((view(9).probes_in_flight, view(9).probes_ok), (0, 0));
    let mut probe = pick(10);
    probe.answered(Outcome::OK, second(10));
    assert_eq!((view(10).probes_in_flight, view(10).probes_ok), (0, 1));
    probe.end(Outcome::OK, second(10));
    assert_eq!((view(10).probes_in_flight, view(10).probes_ok, view(10).inflight), (0, 1, 0));
}
