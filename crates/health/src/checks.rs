//! Many instances, each asked at its own pace, and a finding whenever a verdict changes.
//!
//! It decides when the next question goes out: after the answer to the last one, jittered; and that no more than
//! [`AT_ONCE`] are under way, so that ten thousand instances are a steady trickle and not a wave. It deliberately has no
//! memory of what it no longer asks.
//!
//! Invariant: findings wait in a bounded queue, and one that is of a subject no longer asked is never handed out.

use crate::ask::{Answer, ask};
use crate::watch::{Watch, pause};
use fusewire_model::health::{Health, HealthCheck};
use futures_util::future::BoxFuture;
use std::collections::HashMap;
use std::hash::Hash;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::AbortHandle;

/// Questions under way.
const AT_ONCE: usize = 256;
/// Findings that wait to be taken; beyond that, who has more to say pauses.
const WAITING: usize = 256;

/// Whom to ask, and what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    pub address: SocketAddr,
    pub check: HealthCheck,
    /// The verdict to begin with: `Starting` for what is not to be used before it is up, else `Unchecked`.
    pub from: Health,
}

/// A verdict that changed, or another reason for one that is not good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding<K> {
    pub key: K,
    pub health: Health,
    /// The answer that decided, in words.
    pub detail: String,
}

/// How a question is asked; tests pass their own.
pub type Asker = Arc<dyn Fn(Subject) -> BoxFuture<'static, Answer> + Send + Sync>;

/// The subjects that are asked now. Dropped, it asks no more.
pub struct Checks<K> {
    asked: HashMap<K, Running>,
    asker: Asker,
    gate: Arc<Semaphore>,
    tell: mpsc::Sender<(u64, Finding<K>)>,
    told: mpsc::Receiver<(u64, Finding<K>)>,
    /// Names every start of a task, and is the seed of its jitter.
    count: u64,
    seed: u64,
}

struct Running {
    subject: Subject,
    /// The last verdict that was handed out.
    health: Health,
    number: u64,
    task: AbortHandle,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl<K: Clone + Eq + Hash + Send + 'static> Checks<K> {
    /// Asks nobody yet. `seed`: of the jitter; different ones in different processes.
    pub fn new(seed: u64) -> Self {
        Self::asking(
            seed,
            Arc::new(|subject: Subject| Box::pin(async move { ask(&subject.check, subject.address).await })),
        )
    }

    /// The same with another way to ask.
    pub fn asking(seed: u64, asker: Asker) -> Self {
        let (tell, told) = mpsc::channel(WAITING);
        let gate = Arc::new(Semaphore::new(AT_ONCE));
        Self { asked: HashMap::new(), asker, gate, tell, told, count: 0, seed }
    }

    /// From now on these are asked, and no others. The same subject goes on undisturbed; one whose check changed keeps its
    /// verdict and is counted anew; a key with another address is another instance.
    pub fn set(&mut self, subjects: impl IntoIterator<Item = (K, Subject)>) {
        let mut before = std::mem::take(&mut self.asked);
        for (key, subject) in subjects {
            let running = match before.remove(&key) {
                Some(same) if (same.subject.address, &same.subject.check) == (subject.address, &subject.check) => same,
                Some(other) if other.subject.address == subject.address => {
                    let health = other.health;
                    self.begin(key.clone(), subject, health)
                }
                _ => {
                    let from = subject.from;
                    self.begin(key.clone(), subject, from)
                }
            };
            self.asked.insert(key, running);
        }
    }

    fn begin(&mut self, key: K, subject: Subject, health: Health) -> Running {
        self.count += 1;
        let number = self.count;
        let one = One {
            key,
            number,
            subject: subject.clone(),
            watch: Watch::new(&subject.check, health),
            random: self.seed ^ number.wrapping_mul(0xD6E8_FEB8_6659_FD93),
            asker: self.asker.clone(),
            gate: self.gate.clone(),
            tell: self.tell.clone(),
        };
        let task = tokio::spawn(one.run()).abort_handle();
        Running { subject, health, number, task }
    }

    /// The next finding; waits for ever while nothing changes.
    ///
    /// # Cancel safety
    /// No finding is lost when it is dropped.
    pub async fn next(&mut self) -> Finding<K> {
        loop {
            let Some((number, finding)) = self.told.recv().await else { return std::future::pending().await };
            // of a subject that is no longer asked, or no longer so
            if let Some(running) = self.asked.get_mut(&finding.key).filter(|r| r.number == number) {
                running.health = finding.health;
                return finding;
            }
        }
    }

    /// The last verdict that was handed out.
    pub fn health(&self, key: &K) -> Option<Health> {
        self.asked.get(key).map(|running| running.health)
    }

    pub fn len(&self) -> usize {
        self.asked.len()
    }

    pub fn is_empty(&self) -> bool {
        self.asked.is_empty()
    }
}

/// The task of one subject.
struct One<K> {
    key: K,
    number: u64,
    subject: Subject,
    watch: Watch,
    random: u64,
    asker: Asker,
    gate: Arc<Semaphore>,
    tell: mpsc::Sender<(u64, Finding<K>)>,
}

impl<K: Clone> One<K> {
    async fn run(mut self) {
        let mut said: Option<String> = None;
        loop {
            let Ok(turn) = self.gate.acquire().await else { return };
            let answer = (self.asker)(self.subject.clone()).await;
            drop(turn);
            let changed = self.watch.answered(answer.is_ok()).is_some();
            let (Ok(detail) | Err(detail)) = answer;
            let health = self.watch.health();
            // a reason is worth telling only while all is not well, or every stumble would be news
            if changed || (health != Health::Up && said.as_ref() != Some(&detail)) {
                said = Some(detail.clone());
                let finding = Finding { key: self.key.clone(), health, detail };
                if self.tell.send((self.number, finding)).await.is_err() {
                    return;
                }
            }
            tokio::time::sleep(pause(self.subject.check.interval, self.bits())).await;
        }
    }

    /// For jitter: SplitMix64 (Steele, Lea, Flood 2014).
    fn bits(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}
