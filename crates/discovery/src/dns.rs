//! Instances found by DNS: each name is asked again and again, and what was last known stays in force while it fails.
//!
//! It decides how long an answer is believed (until a better one comes) and when the next question goes out: after the
//! TTL or `refresh`, whichever is shorter, within a tenth, and at least a second; after a failure sooner, with backoff.
//!
//! **An answer never empties a set.** NXDOMAIN and "no such records" are what a name server says that has lost its zone,
//! is half restarted or was asked by way of a broken search path, and an empty set is an outage for every caller at once,
//! where instances that are really gone cost each caller a connect error and an open circuit. So the last known instances
//! stay, their age grows and is told; an operator who means it takes the `dns` out of the configuration. And one address
//! is let go only once it was missing from two good answers in a row: many servers answer with changing subsets.
//!
//! It deliberately does not decide who is told (the merged view) and what an alert is. A loop belongs to one service: two
//! services with the same name ask twice, which no name server notices.
//!
//! Invariant: nothing a name server says makes the process hold more than [`MAX_INSTANCES`] instances for a service.

mod memory;
mod pace;
mod question;

pub use question::{Asks, Round, question};

use fusewire_model::ServiceName;
use fusewire_model::service::{Dns, Instance};
use memory::Memory;
use pace::Pace;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::{Semaphore, watch};
use tokio::task::AbortHandle;

/// Instances of one name; more are left out, the highest addresses first.
pub const MAX_INSTANCES: usize = 1_000;
/// Names that are asked at the same time.
const AT_ONCE: usize = 64;

/// What is known of a name.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct DnsAnswer {
    /// Plain, each with its address as its id, in the order of their addresses.
    pub instances: Vec<Instance>,
    /// When a whole good answer last came; `None` before the first of this process.
    pub confirmed_at: Option<Instant>,
    /// Why the last question had no good answer, in words; such as `db.example.com: SERVFAIL`.
    pub failing: Option<String>,
    /// Grows with every change of `instances` or `failing`; 0 before the first answer.
    revision: u64,
}

impl DnsAnswer {
    /// What an earlier process was told.
    pub fn remembered(instances: Vec<Instance>) -> Self {
        Self { instances, ..Self::default() }
    }
}

/// How a service's name is asked; tests pass their own.
pub type Asker = Arc<dyn Fn(&Dns) -> Box<dyn Asks> + Send + Sync>;

/// The names that are asked now, each by a task. Dropped, it asks no more.
pub struct Names {
    loops: BTreeMap<ServiceName, Loop>,
    asker: Asker,
    gate: Arc<Semaphore>,
    bump: watch::Sender<()>,
    bumped: watch::Receiver<()>,
    random: u64,
}

struct Loop {
    dns: Dns,
    answer: watch::Receiver<DnsAnswer>,
    told: u64,
    task: AbortHandle,
}

impl Drop for Loop {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Names {
    /// Asks nothing yet. `seed`: of the jitter; different ones in different processes.
    pub fn new(seed: u64) -> Self {
        Self::asking(seed, Arc::new(|dns: &Dns| question(dns.clone())))
    }

    /// The same with another way to ask.
    pub fn asking(seed: u64, asker: Asker) -> Self {
        let (bump, bumped) = watch::channel(());
        Self { loops: BTreeMap::new(), asker, gate: Arc::new(Semaphore::new(AT_ONCE)), bump, bumped, random: seed }
    }

    /// From now on these are asked, and no others. `remembered`: instances that an earlier process was told of, in force
    /// until this one's first good answer has come twice without them.
    ///
    /// A service whose `dns` changed keeps the instances it has until the first good answer to the new question.
    pub fn set(
        &mut self,
        wanted: impl IntoIterator<Item = (ServiceName, Dns)>,
        mut remembered: impl FnMut(&ServiceName) -> Vec<Instance>,
    ) {
        let mut before = std::mem::take(&mut self.loops);
        for (service, dns) in wanted {
            let next = match before.remove(&service) {
                Some(same) if same.dns == dns => same,
                Some(other) => {
                    let answer = other.answer.borrow().clone();
                    let same =
                        (&other.dns.name, other.dns.records, other.dns.server) == (&dns.name, dns.records, dns.server);
                    let memory =
                        if same { Memory::of(answer.instances) } else { Memory::until_answered(answer.instances) };
                    self.begin(dns, memory)
                }
                None => self.begin(dns, Memory::of(remembered(&service))),
            };
            self.loops.insert(service, next);
        }
    }

    fn begin(&mut self, dns: Dns, memory: Memory) -> Loop {
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let first = DnsAnswer { instances: memory.instances(), ..DnsAnswer::default() };
        let (tell, answer) = watch::channel(first);
        let asking = Asking {
            asks: (self.asker)(&dns),
            pace: Pace::new(dns.refresh, self.random),
            memory,
            gate: self.gate.clone(),
            tell,
            bump: self.bump.clone(),
        };
        Loop { dns, answer, told: 0, task: tokio::spawn(asking.run()).abort_handle() }
    }

    /// The next service whose instances changed, or whose questions began or ceased to fail; waits for ever while nothing
    /// does.
    ///
    /// # Cancel safety
    /// Nothing is lost when it is dropped.
    pub async fn next(&mut self) -> (ServiceName, DnsAnswer) {
        loop {
            self.bumped.borrow_and_update();
            for (service, asked) in &mut self.loops {
                let answer = asked.answer.borrow();
                if answer.revision != asked.told {
                    asked.told = answer.revision;
                    return (service.clone(), answer.clone());
                }
            }
            if self.bumped.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    /// When each name's answer was last confirmed.
    pub fn confirmed(&self) -> impl Iterator<Item = (&ServiceName, Option<Instant>)> {
        self.loops.iter().map(|(service, asked)| (service, asked.answer.borrow().confirmed_at))
    }

    /// What is known of each name now, with its age.
    pub fn answers(&self) -> impl Iterator<Item = (&ServiceName, DnsAnswer)> {
        self.loops.iter().map(|(service, asked)| (service, asked.answer.borrow().clone()))
    }
}

/// The task of one name.
struct Asking {
    asks: Box<dyn Asks>,
    pace: Pace,
    memory: Memory,
    gate: Arc<Semaphore>,
    tell: watch::Sender<DnsAnswer>,
    bump: watch::Sender<()>,
}

impl Asking {
    async fn run(mut self) {
        loop {
            let Ok(turn) = self.gate.acquire().await else { return };
            let round = self.asks.round().await;
            drop(turn);
            let pause = match round {
                Ok(round) => {
                    self.memory.heard(&round.found);
                    let pause = self.pace.after(&round);
                    self.say(round.lacking);
                    pause
                }
                Err(why) => {
                    self.say(Some(why));
                    self.pace.after_failure()
                }
            };
            tokio::time::sleep(pause).await;
        }
    }

    fn say(&self, failing: Option<String>) {
        let instances = self.memory.instances();
        let now = tokio::time::Instant::now().into_std();
        self.tell.send_modify(|answer| {
            if failing.is_none() {
                answer.confirmed_at = Some(now);
            }
            if answer.revision == 0 || answer.instances != instances || answer.failing != failing {
                answer.revision += 1;
                (answer.instances, answer.failing) = (instances, failing);
            }
        });
        // whoever would be told may have gone
        self.bump.send_replace(());
    }
}
