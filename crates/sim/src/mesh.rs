//! Many sidecars, ten instances: overload, with everything that stands between a caller and an application.
//!
//! Each caller has a sidecar of its own: the real set of instances with its breakers, the scope of the service, retries by
//! the real decision and budget. Each instance has ten workers, a queue without end or a listen backlog, and the real queue
//! guard in front; it works on what it has been given also when the caller has gone. In front of the service there may be
//! more layers, applications that only pass on, each of whose sidecars may try again.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::sync::Arc;

use fusewire_resilience::limit::{QueueGuard, Ticket};
use fusewire_resilience::retry::{Allowance, Backoff, Budget, BudgetConfig, Mark, Policy, RetryToken};
use fusewire_resilience::{
    Attempt, BreakerConfig, Happening, InstanceSet, Mode, Prober, ServiceConfig, ServicePass, ServiceScope, Slot,
    State, Time,
};

use crate::case::{Failed, Track};
use crate::random::Random;
use crate::service::Instance;

mod instance;
mod sidecar;

const SECOND: u64 = 1_000_000_000;
/// What a refusal takes, and a layer that passes on.
const QUICK: u64 = 300_000;
/// Until a connection to a full backlog is given up.
const NOT_TAKEN: u64 = SECOND / 4;

/// How clients behave, and what their sidecars are told.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct Clients {
    /// Seconds until the sidecar gives up on one attempt.
    pub(crate) per_try: Option<f64>,
    /// Seconds that the client says it will wait; the sidecar knows.
    pub(crate) deadline: Option<f64>,
    /// Seconds after which the client goes away without a word.
    pub(crate) patience: Option<f64>,
    /// How often the client asks, whatever comes.
    pub(crate) tries: u32,
}

#[derive(Clone, Copy)]
pub(crate) struct Plan<'a> {
    pub(crate) callers: usize,
    pub(crate) clients: Clients,
    /// Requests a second of all callers at a time.
    pub(crate) rate: &'a (dyn Fn(f64) -> f64 + Sync),
    /// Mean seconds of work at a time.
    pub(crate) work: &'a (dyn Fn(f64) -> f64 + Sync),
    /// Whether an instance is dead at a time.
    pub(crate) dead: &'a (dyn Fn(usize, f64) -> bool + Sync),
    pub(crate) backlog: usize,
    /// Sidecars that a request passes, one behind the other; the last has the service.
    pub(crate) layers: usize,
    /// Whether the applications between them pass on what ties requests together.
    pub(crate) chain: Passes,
    pub(crate) engine: Engine,
    pub(crate) seconds: f64,
    /// Requests from here on are counted.
    pub(crate) count_from: f64,
    pub(crate) seed: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Passes {
    On,
    Nothing,
}

/// What stands between caller and application.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Engine {
    All,
    /// No breaker, no throttle, no guard, and three tries that nobody pays for.
    Naive,
}

const INSTANCES: usize = 10;
const WORKERS: usize = 10;

#[derive(Default)]
pub(crate) struct Report {
    pub(crate) requests: u64,
    pub(crate) good: u64,
    pub(crate) seconds: Vec<(u32, u32)>,
    pub(crate) states: Vec<(f64, usize, State)>,
}

impl Report {
    pub(crate) fn goodput(&self) -> f64 {
        self.good as f64 * 100.0 / self.requests.max(1) as f64
    }

    pub(crate) fn track(self, without: Option<Report>) -> Track {
        let without = without.map(|report| report.seconds).unwrap_or_default();
        Track { seconds: self.seconds, without, instances: INSTANCES, states: self.states }
    }
}

/// One sidecar.
struct Caller {
    set: Arc<InstanceSet<Instance>>,
    scope: Arc<ServiceScope>,
    /// One budget for each layer.
    budgets: Vec<Arc<Budget>>,
    live: u32,
}

struct Application {
    guard: QueueGuard,
    /// Behind the guard, `(frame, attempt)`.
    waiting: VecDeque<(usize, u32)>,
    backlog: VecDeque<Job>,
    busy: usize,
}

struct Job {
    frame: usize,
    attempt: u32,
    ticket: Option<Ticket>,
}

/// One logical request at one layer.
struct Frame {
    client: usize,
    caller: usize,
    layer: usize,
    /// The frame one layer out, and which of its attempts this is.
    parent: Option<(usize, u32)>,
    inner: Option<usize>,
    /// Counts every attempt ever made; names them.
    serial: u32,
    /// Those that count as tries.
    counted: u8,
    live: Option<u32>,
    attempt: Option<Attempt<Instance>>,
    pass: Option<ServicePass>,
    token: Option<RetryToken>,
    tried: Vec<usize>,
    backoff: Backoff,
    allowance: Allowance,
    deadline: Option<u64>,
    first_over: bool,
    over: bool,
}

struct Client {
    came: f64,
    caller: usize,
    tries: u32,
    frame: usize,
    over: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Arrive,
    Try(usize),
    Ended(usize, u32, u8),
    TimedOut(usize, u32),
    LeaveQueue(usize, usize, u32),
    Done(usize, usize),
    Dropped(usize, usize),
    GiveUp(usize, usize),
    Sweep,
}

/// Happenings that an event can carry.
const REFUSED: u8 = 0;
const OVERLOADED: u8 = 1;
const INNER_FAILED: u8 = 2;
const FINE: u8 = 3;
const INNER_OVERLOADED: u8 = 4;

pub(crate) struct Mesh<'a> {
    plan: Plan<'a>,
    policy: Policy,
    random: Random,
    events: BinaryHeap<Reverse<(u64, u64, Event)>>,
    serial: u64,
    now: u64,
    callers: Vec<Caller>,
    applications: Vec<Application>,
    clients: Vec<Client>,
    frames: Vec<Frame>,
    jobs: Vec<Option<Job>>,
    free_jobs: Vec<usize>,
    report: Report,
}

impl<'a> Mesh<'a> {
    pub(crate) fn run(plan: Plan<'a>) -> Report {
        let callers = (0..plan.callers).map(|id| Caller::new(id, &plan)).collect();
        let application = |_| Application {
            guard: QueueGuard::new(Time(0)),
            waiting: VecDeque::new(),
            backlog: VecDeque::new(),
            busy: 0,
        };
        let mut mesh = Mesh {
            policy: Policy::default(),
            random: Random::seeded(plan.seed),
            events: BinaryHeap::new(),
            serial: 0,
            now: 0,
            callers,
            applications: (0..INSTANCES).map(application).collect(),
            clients: Vec::new(),
            frames: Vec::new(),
            jobs: Vec::new(),
            free_jobs: Vec::new(),
            report: Report::default(),
            plan,
        };
        mesh.next_arrival();
        mesh.at(SECOND, Event::Sweep);
        while let Some(Reverse((at, _, event))) = mesh.events.pop() {
            if at as f64 > (mesh.plan.seconds + 3.0) * 1e9 {
                break;
            }
            mesh.now = at;
            mesh.handle(event);
        }
        mesh.report
    }

    fn second(&self) -> f64 {
        self.now as f64 / 1e9
    }

    fn time(&self) -> Time {
        Time(self.now)
    }

    fn at(&mut self, after: u64, event: Event) {
        self.serial += 1;
        self.events.push(Reverse((self.now + after, self.serial, event)));
    }

    fn next_arrival(&mut self) {
        let rate = (self.plan.rate)(self.second());
        let gap = self.random.exponential(1.0 / rate.max(0.01));
        if self.second() + gap < self.plan.seconds {
            self.at((gap * 1e9) as u64, Event::Arrive);
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Arrive => {
                let caller = (self.random.bits() % self.plan.callers as u64) as usize;
                let client = Client { came: self.second(), caller, tries: 0, frame: 0, over: false };
                self.clients.push(client);
                self.ask(self.clients.len() - 1);
                self.next_arrival();
            }
            Event::Try(frame) => self.attempt(frame),
            Event::Ended(frame, attempt, what) => {
                let (happening, mark) = match what {
                    REFUSED => (Happening::ConnectRefused, Mark::None),
                    OVERLOADED => (Happening::Overloaded, Mark::None),
                    INNER_OVERLOADED => (Happening::Status(503), Mark::OverloadedInside),
                    INNER_FAILED => (Happening::Status(503), Mark::None),
                    _ => (Happening::Complete, Mark::None),
                };
                self.ended(frame, attempt, happening, mark);
            }
            Event::TimedOut(frame, attempt) => {
                self.leave_queue(frame, attempt);
                self.cancel_inner(frame);
                self.ended(frame, attempt, Happening::Timeout, Mark::None);
            }
            Event::LeaveQueue(instance, frame, attempt) => {
                if self.remove_waiting(instance, frame, attempt) {
                    self.ended(frame, attempt, Happening::Overloaded, Mark::None);
                }
            }
            Event::Done(instance, job) => self.done(instance, job),
            Event::Dropped(instance, job) => self.dropped(instance, job),
            Event::GiveUp(client, frame) => self.give_up(client, frame),
            Event::Sweep => self.sweep(),
        }
    }

    fn sweep(&mut self) {
        let (now, second) = (self.time(), self.second());
        for (id, caller) in self.callers.iter().enumerate() {
            caller.set.sweep(now);
            caller.scope.sweep(now);
            let events = caller.set.drain_transitions();
            if id == 0 {
                self.report
                    .states
                    .extend(events.iter().map(|(_, event)| (event.at.0 as f64 / 1e9, event.index, event.to)));
            }
        }
        if second < self.plan.seconds {
            self.at(SECOND, Event::Sweep);
        }
    }

    fn ask(&mut self, client: usize) {
        let caller = self.clients[client].caller;
        let deadline = self.plan.clients.deadline.map(|deadline| self.now + (deadline * 1e9) as u64);
        let frame = self.frame(client, caller, 0, None, deadline);
        self.clients[client].tries += 1;
        self.clients[client].frame = frame;
        if let Some(patience) = self.plan.clients.patience {
            self.at((patience * 1e9) as u64, Event::GiveUp(client, frame));
        }
        self.begin(frame);
    }

    fn give_up(&mut self, client: usize, frame: usize) {
        if self.frames[frame].over || self.clients[client].frame != frame {
            return;
        }
        self.cancel(frame);
        self.answered(client, Failed::Yes);
    }

    fn answered(&mut self, client: usize, failed: Failed) {
        if self.clients[client].over {
            return;
        }
        if failed == Failed::Yes && self.clients[client].tries < self.plan.clients.tries {
            return self.ask(client);
        }
        self.clients[client].over = true;
        let came = self.clients[client].came;
        Track::count(&mut self.report.seconds, came, failed);
        if came >= self.plan.count_from {
            self.report.requests += 1;
            self.report.good += u64::from(failed == Failed::No);
        }
    }
}

impl Caller {
    fn new(id: usize, plan: &Plan<'_>) -> Caller {
        let mode = if plan.engine == Engine::All { Mode::Enforce } else { Mode::Disabled };
        let config = Arc::new(BreakerConfig { mode, ..BreakerConfig::default() });
        let slot = |instance: usize| Slot {
            member: Arc::new(Instance::new(instance, (plan.seed * 10_000 + id as u64) * 100 + instance as u64)),
            config: config.clone(),
            weight: 1,
            prober: Prober::Request,
        };
        let budget = |_| Arc::new(Budget::new(BudgetConfig::default(), Time(0)));
        Caller {
            set: Arc::new(InstanceSet::new((0..INSTANCES).map(slot).collect())),
            scope: ServiceScope::new("simulated", id as u64, ServiceConfig { mode, ..ServiceConfig::default() }),
            budgets: (0..plan.layers).map(budget).collect(),
            live: 0,
        }
    }
}
