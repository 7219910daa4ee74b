//! A service in virtual time: instances with a behaviour, one sidecar that picks and settles, Poisson arrivals.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::time::Duration;

use fusewire_resilience::{
    Ask, Attempt, BreakerConfig, Happening, InstanceSet, Member, Node, Outcome, Slot, State, Time, Transition, classify,
};

pub(crate) struct Instance {
    pub(crate) id: usize,
    node: Node,
}

impl Member for Instance {
    fn node(&self) -> &Node {
        &self.node
    }
}

pub(crate) fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

pub(crate) fn at(ms: u64) -> Time {
    Time(ms * 1_000_000)
}

pub(crate) fn refused() -> Outcome {
    classify(Happening::ConnectRefused)
}

pub(crate) fn status(code: u16) -> Outcome {
    classify(Happening::Status(code))
}

pub(crate) fn slots(n: usize, config: &BreakerConfig) -> Vec<Slot<Instance>> {
    let config = Arc::new(config.clone());
    let member = |id| Arc::new(Instance { id, node: Node::new(id as u64 + 1, Time(0)) });
    (0..n).map(|id| Slot { member: member(id), config: config.clone(), weight: 1 }).collect()
}

pub(crate) fn service(n: usize, config: &BreakerConfig) -> Arc<InstanceSet<Instance>> {
    Arc::new(InstanceSet::new(slots(n, config)))
}

/// A replayable request's pick.
pub(crate) fn pick(
    set: &Arc<InstanceSet<Instance>>,
    random: u64,
    now: Time,
) -> Result<Attempt<Instance>, fusewire_resilience::Exhausted> {
    set.pick(Ask { random, replayable: true, tried: &[] }, now)
}

/// An attempt at one given instance, by naming the others as tried.
pub(crate) fn pick_at(set: &Arc<InstanceSet<Instance>>, index: usize, now: Time) -> Option<Attempt<Instance>> {
    let others: Vec<usize> = (0..set.len()).filter(|other| *other != index).collect();
    set.pick(Ask { random: 1, replayable: true, tried: &others }, now).ok()
}

pub(crate) fn states(set: &InstanceSet<Instance>) -> Vec<State> {
    set.members().map(|member| member.node().state()).collect()
}

pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn bits(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub(crate) fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn exponential(&mut self, mean: f64) -> f64 {
        -mean * (1.0 - self.unit()).ln()
    }
}

/// What an instance does with a request.
pub(crate) enum Act {
    Answer(Duration, u16),
    Refuse,
    Hang,
}

pub(crate) fn healthy(random: &mut Random) -> Act {
    Act::Answer(Duration::from_secs_f64(0.005 + random.exponential(0.005)), 200)
}

pub(crate) fn failing(share: f64, random: &mut Random) -> Act {
    if random.unit() < share { Act::Answer(ms(1), 500) } else { healthy(random) }
}

pub(crate) struct Scenario<'a> {
    pub(crate) instances: usize,
    pub(crate) rps: f64,
    pub(crate) seconds: u64,
    pub(crate) timeout: Duration,
    pub(crate) config: BreakerConfig,
    pub(crate) replayable: bool,
    pub(crate) seed: u64,
    /// What instance `id` does with a request of route 0..1 that arrives at a second of the run.
    pub(crate) behave: &'a dyn Fn(usize, f64, f64, &mut Random) -> Act,
}

impl Default for Scenario<'_> {
    fn default() -> Self {
        Scenario {
            instances: 10,
            rps: 1000.0,
            seconds: 60,
            timeout: ms(1000),
            config: BreakerConfig::default(),
            replayable: true,
            seed: 1,
            behave: &|_, _, _, random| healthy(random),
        }
    }
}

pub(crate) struct Report {
    pub(crate) sent: u64,
    pub(crate) failed: u64,
    pub(crate) rejected: u64,
    pub(crate) timeouts: u64,
    pub(crate) attempts: Vec<u64>,
    pub(crate) events: Vec<Transition>,
    /// `(second, route, ok)` of each request.
    pub(crate) requests: Vec<(f64, f64, bool)>,
    pub(crate) set: Arc<InstanceSet<Instance>>,
}

impl Report {
    pub(crate) fn failed_percent(&self) -> f64 {
        100.0 * (self.failed as f64) / self.sent as f64
    }

    pub(crate) fn opens(&self) -> Vec<&Transition> {
        self.events.iter().filter(|event| event.from == State::Closed && event.to == State::Open).collect()
    }
}

enum Event {
    Arrive,
    Finish { attempt: Attempt<Instance>, outcome: Outcome, tried: Vec<usize>, born: f64, route: f64 },
    Sweep,
}

struct Run<'a> {
    scenario: &'a Scenario<'a>,
    random: Random,
    queue: BinaryHeap<Reverse<(u64, u64)>>,
    pending: std::collections::HashMap<u64, Event>,
    next: u64,
    report: Report,
}

pub(crate) fn run(scenario: &Scenario<'_>) -> Report {
    let report = Report {
        sent: 0,
        failed: 0,
        rejected: 0,
        timeouts: 0,
        attempts: vec![0; scenario.instances],
        events: Vec::new(),
        requests: Vec::new(),
        set: service(scenario.instances, &scenario.config),
    };
    let random = Random(scenario.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut run = Run { scenario, random, queue: BinaryHeap::new(), pending: Default::default(), next: 0, report };
    run.schedule(0, Event::Arrive);
    run.schedule(1_000_000_000, Event::Sweep);
    while let Some(Reverse((time, id))) = run.queue.pop() {
        let event = run.pending.remove(&id).unwrap_or(Event::Sweep);
        run.step(Time(time), event);
    }
    run.report
}

impl Run<'_> {
    fn schedule(&mut self, time: u64, event: Event) {
        self.queue.push(Reverse((time, self.next)));
        self.pending.insert(self.next, event);
        self.next += 1;
    }

    fn step(&mut self, now: Time, event: Event) {
        let running = now.0 < self.scenario.seconds * 1_000_000_000;
        match event {
            Event::Arrive if running => {
                let gap = self.random.exponential(1e9 / self.scenario.rps) as u64;
                self.schedule(now.0 + gap, Event::Arrive);
                self.report.sent += 1;
                let route = self.random.unit();
                self.send(now, Vec::new(), now.0 as f64 / 1e9, route);
            }
            Event::Sweep if running => {
                self.report.set.sweep(now);
                self.drain();
                self.schedule(now.0 + 1_000_000_000, Event::Sweep);
            }
            Event::Finish { attempt, outcome, tried, born, route } => {
                self.finish(now, attempt, outcome, tried, born, route);
            }
            Event::Arrive | Event::Sweep => self.drain(),
        }
    }

    fn drain(&mut self) {
        let events = self.report.set.drain_transitions();
        self.report.events.extend(events.into_iter().map(|(_, event)| event));
    }

    fn send(&mut self, now: Time, mut tried: Vec<usize>, born: f64, route: f64) {
        let ask = Ask { random: self.random.bits(), replayable: self.scenario.replayable, tried: &tried };
        let Ok(attempt) = self.report.set.pick(ask, now) else {
            self.report.rejected += 1;
            self.report.failed += 1;
            self.report.requests.push((born, route, false));
            return;
        };
        let id = attempt.member().id;
        self.report.attempts[id] += 1;
        tried.push(attempt.index());
        let timeout = self.scenario.timeout;
        let (after, happening) = match (self.scenario.behave)(id, now.0 as f64 / 1e9, route, &mut self.random) {
            Act::Answer(after, code) if after < timeout => (after, Happening::Status(code)),
            Act::Answer(..) | Act::Hang => (timeout, Happening::Timeout),
            Act::Refuse => (Duration::from_micros(300), Happening::ConnectRefused),
        };
        let outcome = classify(happening);
        let event = Event::Finish { attempt, outcome, tried, born, route };
        self.schedule((now + after).0, event);
    }

    fn finish(
        &mut self,
        now: Time,
        mut attempt: Attempt<Instance>,
        outcome: Outcome,
        tried: Vec<usize>,
        born: f64,
        route: f64,
    ) {
        let probe = attempt.is_probe();
        let timed_out = outcome == classify(Happening::Timeout);
        if !timed_out {
            attempt.answered(outcome, now);
        }
        attempt.end(outcome, now);
        if !outcome.is_failure() {
            self.report.requests.push((born, route, true));
        } else if probe && self.scenario.replayable && tried.len() < 3 {
            self.send(now, tried, born, route);
        } else {
            self.report.failed += 1;
            self.report.timeouts += u64::from(timed_out);
            self.report.requests.push((born, route, false));
        }
    }
}
