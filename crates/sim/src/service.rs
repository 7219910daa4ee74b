//! One sidecar and the instances of one service: faults, without load.
//!
//! Requests come at random and are sent by the real pick, behind the real scope of the service; what each instance does with
//! one is the scenario's. Nothing is tried again but failed probes, so that what the breakers let through is seen as it is.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use fusewire_resilience::throttle::Priority;
use fusewire_resilience::{
    Ask, Attempt, BreakerConfig, Happening, InstanceSet, Member, Mode, Node, Outcome, Prober, ServiceConfig,
    ServicePass, ServiceScope, SetRules, Slot, State, Time, Transition, classify,
};

use crate::case::{Failed, Track};
use crate::random::{Random, ms};

const SECOND: u64 = 1_000_000_000;

pub(crate) struct Instance {
    pub(crate) id: usize,
    node: Node,
}

impl Instance {
    pub(crate) fn new(id: usize, seed: u64) -> Instance {
        Instance { id, node: Node::new(seed, Time(0)) }
    }
}

impl Member for Instance {
    fn node(&self) -> &Node {
        &self.node
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

/// What instance `.0` does with a request that comes in second `.1` for route `.2` (uniform in 0..1).
pub(crate) type Behaviour = dyn Fn(usize, f64, f64, &mut Random) -> Act + Send + Sync;

#[derive(Clone)]
pub(crate) struct Plan<'a> {
    pub(crate) instances: usize,
    pub(crate) rps: f64,
    pub(crate) seconds: u64,
    /// Of each request; what takes longer is a timeout.
    pub(crate) timeout: Duration,
    pub(crate) config: BreakerConfig,
    pub(crate) rules: SetRules,
    /// Whether requests may be sent again, and so be probes at nobody's risk.
    pub(crate) repeat: Repeat,
    pub(crate) seed: u64,
    pub(crate) behave: &'a Behaviour,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Repeat {
    May,
    MayNot,
}

impl Default for Plan<'_> {
    fn default() -> Self {
        Plan {
            instances: 10,
            rps: 1000.0,
            seconds: 130,
            timeout: ms(1000),
            config: BreakerConfig::default(),
            rules: SetRules::default(),
            repeat: Repeat::May,
            seed: 1,
            behave: &|_, _, _, random| healthy(random),
        }
    }
}

impl Plan<'_> {
    /// The same without breakers.
    pub(crate) fn bare(&self) -> Self {
        Plan { config: BreakerConfig { mode: Mode::Disabled, ..self.config.clone() }, ..self.clone() }
    }
}

/// One request as it ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ended {
    /// Second in which it came.
    pub(crate) second: f64,
    pub(crate) route: f64,
    pub(crate) failed: Failed,
}

pub(crate) struct Report {
    pub(crate) sent: u64,
    pub(crate) failed: u64,
    /// Refused by the breakers or the service's scope.
    pub(crate) rejected: u64,
    pub(crate) timeouts: u64,
    pub(crate) events: Vec<Transition>,
    pub(crate) requests: Vec<Ended>,
    pub(crate) set: Arc<InstanceSet<Instance>>,
}

impl Report {
    pub(crate) fn opens(&self) -> usize {
        self.events.iter().filter(|event| event.from == State::Closed && event.to == State::Open).count()
    }

    pub(crate) fn all_closed(&self) -> bool {
        self.set.members().all(|member| member.node().state() == State::Closed)
    }

    /// Failed percent of the requests that `which` names.
    pub(crate) fn failed_of(&self, which: impl Fn(&Ended) -> bool) -> f64 {
        let (mut all, mut failed) = (0_u64, 0_u64);
        for request in self.requests.iter().filter(|request| which(request)) {
            all += 1;
            failed += u64::from(request.failed == Failed::Yes);
        }
        if all == 0 { 0.0 } else { failed as f64 * 100.0 / all as f64 }
    }

    pub(crate) fn track(&self, without: Option<&Report>) -> Track {
        let by_second = |report: &Report| {
            let mut seconds = Vec::new();
            report.requests.iter().for_each(|one| Track::count(&mut seconds, one.second, one.failed));
            seconds
        };
        Track {
            seconds: by_second(self),
            without: without.map(by_second).unwrap_or_default(),
            instances: self.set.len(),
            states: self.events.iter().map(|event| (event.at.0 as f64 / 1e9, event.index, event.to)).collect(),
        }
    }
}

enum Event {
    Arrive,
    Finish(Flight),
    Sweep,
}

struct Flight {
    attempt: Attempt<Instance>,
    pass: ServicePass,
    happening: Happening,
    tried: Vec<usize>,
    came: f64,
    route: f64,
}

struct Run<'a> {
    plan: &'a Plan<'a>,
    scope: Arc<ServiceScope>,
    random: Random,
    queue: BinaryHeap<Reverse<(u64, u64)>>,
    pending: HashMap<u64, Event>,
    next: u64,
    report: Report,
}

pub(crate) fn run(plan: &Plan<'_>) -> Report {
    let config = Arc::new(plan.config.clone());
    let slot = |id| Slot {
        member: Arc::new(Instance::new(id, plan.seed * 1000 + id as u64 + 1)),
        config: config.clone(),
        weight: 1,
        prober: Prober::Request,
    };
    let report = Report {
        sent: 0,
        failed: 0,
        rejected: 0,
        timeouts: 0,
        events: Vec::new(),
        requests: Vec::new(),
        set: Arc::new(InstanceSet::with_rules((0..plan.instances).map(slot).collect(), plan.rules.clone())),
    };
    let mode = plan.config.mode;
    let scope = ServiceScope::new("simulated", plan.seed, ServiceConfig { mode, ..ServiceConfig::default() });
    let random = Random::seeded(plan.seed);
    let mut run = Run { plan, scope, random, queue: BinaryHeap::new(), pending: HashMap::new(), next: 0, report };
    run.schedule(0, Event::Arrive);
    run.schedule(SECOND, Event::Sweep);
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
        let running = now.0 < self.plan.seconds * SECOND;
        match event {
            Event::Arrive if running => {
                let gap = self.random.exponential(1e9 / self.plan.rps) as u64;
                self.schedule(now.0 + gap, Event::Arrive);
                self.arrive(now);
            }
            Event::Sweep if running => {
                self.report.set.sweep(now);
                self.scope.sweep(now);
                self.drain();
                self.schedule(now.0 + SECOND, Event::Sweep);
            }
            Event::Finish(flight) => self.finish(now, flight),
            Event::Arrive | Event::Sweep => self.drain(),
        }
    }

    fn drain(&mut self) {
        let events = self.report.set.drain_transitions();
        self.report.events.extend(events.into_iter().map(|(_, event)| event));
    }

    fn arrive(&mut self, now: Time) {
        self.report.sent += 1;
        let (came, route) = (now.0 as f64 / 1e9, self.random.unit());
        match self.scope.admit(Priority::Normal, self.random.bits(), now) {
            Ok(pass) => self.send(now, pass, Vec::new(), (came, route)),
            Err(_) => self.reject(came, route),
        }
    }

    fn reject(&mut self, second: f64, route: f64) {
        self.report.rejected += 1;
        self.report.failed += 1;
        self.report.requests.push(Ended { second, route, failed: Failed::Yes });
    }

    fn send(&mut self, now: Time, pass: ServicePass, mut tried: Vec<usize>, (came, route): (f64, f64)) {
        let replayable = self.plan.repeat == Repeat::May;
        let ask = Ask { random: self.random.bits(), replayable, tried: &tried, key: None };
        let Ok(attempt) = self.report.set.pick(ask, now) else {
            pass.settle(Outcome::IGNORED, now);
            return self.reject(came, route);
        };
        tried.push(attempt.index());
        let timeout = self.plan.timeout;
        let id = attempt.member().id;
        let (after, happening) = match (self.plan.behave)(id, now.0 as f64 / 1e9, route, &mut self.random) {
            Act::Answer(after, code) if after < timeout => (after, Happening::Status(code)),
            Act::Answer(..) | Act::Hang => (timeout, Happening::Timeout),
            Act::Refuse => (Duration::from_micros(300), Happening::ConnectRefused),
        };
        let flight = Flight { attempt, pass, happening, tried, came, route };
        self.schedule((now + after).0, Event::Finish(flight));
    }

    fn finish(&mut self, now: Time, flight: Flight) {
        let Flight { mut attempt, pass, happening, tried, came, route } = flight;
        let outcome = classify(happening);
        let probe = attempt.is_probe();
        if happening != Happening::Timeout {
            attempt.answered(outcome, now);
        }
        attempt.end(outcome, now);
        if outcome.is_failure() && probe && self.plan.repeat == Repeat::May && tried.len() < 3 {
            return self.send(now, pass, tried, (came, route));
        }
        pass.settle(outcome, now);
        let failed = if outcome.is_failure() { Failed::Yes } else { Failed::No };
        self.report.failed += u64::from(outcome.is_failure());
        self.report.timeouts += u64::from(happening == Happening::Timeout);
        self.report.requests.push(Ended { second: came, route, failed });
    }
}
