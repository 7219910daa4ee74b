//! A simulated application with callers, for what happens under load.
//!
//! A discrete-event model: the application has workers and an endless queue of its own, and works on what it has been
//! given also when the caller has gone; callers come at random, give up, and perhaps try again. Everything is seeded.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::sync::Arc;

use crate::random::Random;
use fusewire_resilience::Time;
use fusewire_resilience::limit::{Admission, Phase, QueueGuard, Ticket};
use fusewire_resilience::retry::{Budget, BudgetConfig, Settled};

const SECOND: f64 = 1e9;

/// How callers behave.
#[derive(Clone, Copy)]
pub(crate) struct Callers {
    /// Seconds until one gives up on an attempt.
    pub(crate) patience: f64,
    pub(crate) attempts: u32,
    pub(crate) pays: Pays,
}

/// What a retry needs.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Pays {
    Nothing,
    /// A token of the default budget.
    BySuccess,
    /// The same, but every request pays, whatever became of it.
    ByRequest,
}

/// Whom a free worker serves.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Order {
    First,
    Last,
    Any,
    /// Half the time whoever comes in that moment, before all who wait: threads at a condition variable.
    Barging,
}

pub(crate) const PATIENT: Callers = Callers { patience: 1e6, attempts: 1, pays: Pays::Nothing };

#[derive(Clone, Copy)]
pub(crate) struct Plan<'a> {
    pub(crate) workers: usize,
    /// From this second on there are so many.
    pub(crate) later: Option<(f64, usize)>,
    /// Arrivals a second at a time.
    pub(crate) rate: &'a (dyn Fn(f64) -> f64 + Sync),
    /// Arrivals at time zero.
    pub(crate) at_once: usize,
    /// Seconds of work for a request that begins at a time; without a worker if `parked`.
    pub(crate) work: &'a (dyn Fn(f64, &mut Random) -> f64 + Sync),
    /// Requests at time zero that need this many seconds and no worker: long polls.
    pub(crate) parked: (usize, f64),
    /// All work stops for `.1` seconds at every multiple of `.0`.
    pub(crate) pause: Option<(f64, f64)>,
    pub(crate) order: Order,
    /// Connections that the application has not accepted yet; one more is not taken, and is given up after 250 ms.
    pub(crate) backlog: usize,
    pub(crate) callers: Callers,
    pub(crate) guarded: bool,
    pub(crate) seconds: f64,
    /// Requests that arrive from here on are counted.
    pub(crate) count_from: f64,
    pub(crate) seed: u64,
}

impl Default for Plan<'_> {
    fn default() -> Self {
        Plan {
            workers: 10,
            later: None,
            rate: &|_| 0.0,
            at_once: 0,
            work: &|_, _| 0.1,
            parked: (0, 0.0),
            pause: None,
            order: Order::First,
            backlog: usize::MAX,
            callers: PATIENT,
            guarded: true,
            seconds: 60.0,
            count_from: 0.0,
            seed: 1,
        }
    }
}

#[derive(Default, Debug)]
pub(crate) struct Report {
    pub(crate) requests: u64,
    pub(crate) good: u64,
    pub(crate) refused: u64,
    /// When the last request was refused.
    pub(crate) last_refused: f64,
    pub(crate) tests: u64,
    pub(crate) engaged: bool,
    pub(crate) limited_at_the_end: bool,
    pub(crate) most_inflight: u32,
}

impl Report {
    pub(crate) fn goodput(&self) -> f64 {
        self.good as f64 * 100.0 / self.requests as f64
    }
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Arrive,
    Try(usize),
    GiveUp(usize, u32),
    LeaveQueue(usize, u32),
    Done(usize, u32),
    Parked(usize, u32),
    NotTaken(usize, u32),
}

struct Request {
    arrived: f64,
    attempts: u32,
    /// The attempt that the caller waits for.
    live: Option<u32>,
}

struct Job {
    request: usize,
    attempt: u32,
    ticket: Option<Ticket>,
}

pub(crate) struct Sim<'a> {
    plan: Plan<'a>,
    guard: QueueGuard,
    random: Random,
    events: BinaryHeap<Reverse<(u64, u64, Event)>>,
    serial: u64,
    now: u64,
    requests: Vec<Request>,
    waiting: VecDeque<(usize, u32)>,
    backlog: VecDeque<Job>,
    running: Vec<Job>,
    busy: usize,
    report: Report,
    phase: Phase,
    budget: Arc<Budget>,
    live: u32,
}

impl<'a> Sim<'a> {
    pub(crate) fn run(plan: Plan<'a>) -> Report {
        let mut sim = Sim {
            guard: QueueGuard::new(Time(0)),
            random: Random::seeded(plan.seed),
            events: BinaryHeap::new(),
            serial: 0,
            now: 0,
            requests: Vec::new(),
            waiting: VecDeque::new(),
            backlog: VecDeque::new(),
            running: Vec::new(),
            busy: 0,
            report: Report::default(),
            phase: Phase::Free,
            budget: Arc::new(Budget::new(BudgetConfig::default(), Time(0))),
            live: 0,
            plan,
        };
        for _ in 0..sim.plan.at_once + sim.plan.parked.0 {
            sim.arrive();
        }
        sim.next_arrival();
        while let Some(Reverse((at, _, event))) = sim.events.pop() {
            if at as f64 > (sim.plan.seconds + 10.0) * SECOND {
                break;
            }
            sim.now = at;
            sim.handle(event);
            sim.wake();
            sim.watch();
        }
        sim.report.limited_at_the_end = sim.guard.limit().is_some();
        sim.report
    }

    fn second(&self) -> f64 {
        self.now as f64 / SECOND
    }

    fn at(&mut self, second: f64, event: Event) {
        self.serial += 1;
        self.events.push(Reverse(((second * SECOND) as u64, self.serial, event)));
    }

    fn next_arrival(&mut self) {
        let rate = (self.plan.rate)(self.second());
        // Where nobody comes, look again soon.
        let gap = if rate > 0.0 { -(1.0 - self.random.unit()).ln() / rate } else { 0.1 };
        if self.second() + gap < self.plan.seconds {
            self.at(self.second() + gap, Event::Arrive);
        }
    }

    fn arrive(&mut self) {
        let arrived = self.second();
        self.requests.push(Request { arrived, attempts: 0, live: None });
        if arrived >= self.plan.count_from {
            self.report.requests += 1;
        }
        self.try_once(self.requests.len() - 1);
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Arrive => {
                if (self.plan.rate)(self.second()) > 0.0 {
                    self.arrive();
                }
                self.next_arrival();
            }
            Event::Try(request) => self.try_once(request),
            Event::GiveUp(request, attempt) => {
                if self.requests[request].live == Some(attempt) {
                    if let Some(at) = self.waiting.iter().position(|one| *one == (request, attempt)) {
                        self.waiting.remove(at);
                        self.guard.gave_up(Time(self.now));
                    }
                    self.again(request);
                }
            }
            Event::LeaveQueue(request, attempt) => {
                if let Some(at) = self.waiting.iter().position(|one| *one == (request, attempt)) {
                    self.waiting.remove(at);
                    self.guard.gave_up(Time(self.now));
                    self.refuse(request);
                }
            }
            Event::Done(request, attempt) => {
                self.busy -= 1;
                self.finish(request, attempt);
                self.work();
            }
            Event::Parked(request, attempt) => self.finish(request, attempt),
            Event::NotTaken(request, attempt) => self.not_taken(request, attempt),
        }
    }

    fn try_once(&mut self, request: usize) {
        let state = &mut self.requests[request];
        state.attempts += 1;
        state.live = Some(state.attempts);
        let attempt = state.attempts;
        self.live += 1;
        if !self.plan.guarded {
            self.dispatch(Job { request, attempt, ticket: None });
        } else {
            match self.guard.ask(None, Time(self.now)) {
                Admission::Dispatch(ticket) => self.dispatch(Job { request, attempt, ticket: Some(ticket) }),
                Admission::Wait { at_most } => {
                    self.waiting.push_back((request, attempt));
                    self.at(self.second() + at_most.as_secs_f64(), Event::LeaveQueue(request, attempt));
                }
                Admission::Shed => return self.refuse(request),
            }
        }
        self.at(self.second() + self.plan.callers.patience, Event::GiveUp(request, attempt));
    }

    fn refuse(&mut self, request: usize) {
        self.report.refused += 1;
        self.report.last_refused = self.second();
        self.again(request);
    }

    /// The caller's attempt is over, one way or the other.
    fn over(&mut self, request: usize, settled: Settled) {
        let state = &mut self.requests[request];
        state.live = None;
        self.live -= 1;
        if state.attempts == 1 {
            let settled = if self.plan.callers.pays == Pays::ByRequest { Settled::Succeeded } else { settled };
            self.budget.settle_first(settled, Time(self.now));
        }
    }

    fn again(&mut self, request: usize) {
        self.over(request, Settled::Failed);
        let more = self.requests[request].attempts < self.plan.callers.attempts;
        // The retry's place among the active ones is not held: the tokens are what is tested.
        let paid = |sim: &Self| {
            sim.plan.callers.pays == Pays::Nothing || sim.budget.take(sim.live + 100, Time(sim.now)).is_ok()
        };
        if more && paid(self) {
            let wait = 0.025 * self.random.unit();
            self.at(self.second() + wait, Event::Try(request));
        }
    }

    fn wake(&mut self) {
        while let Some((request, attempt)) = self.waiting.front().copied() {
            let Some(ticket) = self.guard.wake(Time(self.now)) else { return };
            self.waiting.pop_front();
            self.dispatch(Job { request, attempt, ticket: Some(ticket) });
        }
        debug_assert_eq!(self.guard.queued(), 0);
    }

    fn dispatch(&mut self, job: Job) {
        if job.request < self.plan.parked.0 {
            self.at(self.second() + self.plan.parked.1, Event::Parked(job.request, job.attempt));
            self.running.push(job);
            return;
        }
        if self.backlog.len() >= self.plan.backlog {
            self.at(self.second() + 0.25, Event::NotTaken(job.request, job.attempt));
            self.running.push(job);
            return;
        }
        self.backlog.push_back(job);
        self.work();
    }

    fn work(&mut self) {
        let workers = match self.plan.later {
            Some((from, workers)) if self.second() >= from => workers,
            _ => self.plan.workers,
        };
        while self.busy < workers {
            let Some(job) = self.next_job() else { return };
            self.busy += 1;
            let needed = (self.plan.work)(self.second(), &mut self.random);
            let done = self.after_pauses(self.second(), needed);
            self.at(done, Event::Done(job.request, job.attempt));
            self.running.push(job);
        }
    }

    fn next_job(&mut self) -> Option<Job> {
        match self.plan.order {
            Order::First => self.backlog.pop_front(),
            Order::Last => self.backlog.pop_back(),
            Order::Barging if self.random.unit() < 0.5 => self.backlog.pop_back(),
            Order::Barging => self.backlog.pop_front(),
            Order::Any if self.backlog.is_empty() => None,
            Order::Any => {
                let at = (self.random.bits() % self.backlog.len() as u64) as usize;
                self.backlog.swap_remove_back(at)
            }
        }
    }

    fn after_pauses(&self, start: f64, work: f64) -> f64 {
        let Some((every, length)) = self.plan.pause else { return start + work };
        let (mut at, mut left) = (start, work);
        loop {
            let begun = (at / every).floor() * every;
            at = at.max(begun + length);
            let next = begun + every;
            if at + left <= next {
                return at + left;
            }
            left -= next - at;
            at = next;
        }
    }

    fn not_taken(&mut self, request: usize, attempt: u32) {
        if let Some(ticket) = self.leave(request, attempt) {
            self.guard.connect_timed_out(ticket, Time(self.now));
        }
        if self.requests[request].live == Some(attempt) {
            self.refuse(request);
        }
    }

    fn leave(&mut self, request: usize, attempt: u32) -> Option<Ticket> {
        let at = self.running.iter().position(|job| (job.request, job.attempt) == (request, attempt))?;
        self.running.swap_remove(at).ticket
    }

    fn finish(&mut self, request: usize, attempt: u32) {
        let is_wanted = self.requests[request].live == Some(attempt);
        match self.leave(request, attempt) {
            Some(ticket) if is_wanted => self.guard.answered(ticket, Time(self.now)),
            Some(ticket) => self.guard.answered_in_vain(ticket, Time(self.now)),
            None => {}
        }
        if is_wanted {
            self.over(request, Settled::Succeeded);
            self.report.good += u64::from(self.requests[request].arrived >= self.plan.count_from);
        }
    }

    fn watch(&mut self) {
        let phase = self.guard.phase();
        if phase == Phase::Test && self.phase != Phase::Test {
            self.report.tests += 1;
        }
        self.report.engaged |= phase == Phase::Engaged;
        self.report.most_inflight = self.report.most_inflight.max(self.guard.inflight());
        self.phase = phase;
    }
}
