//! The store of replicas in Kubernetes: every entry in one Secret.
//!
//! One object, because only a write of one object is whole or not at all there, and only over the version that was read. It
//! decides how changes of several replicas meet: each is worked out over what is there now, and again where somebody else was
//! first. It deliberately writes no heartbeat into the Secret (`presence` has Leases for that) and holds a copy of what was
//! read last: an API server is asked for the version, and for the whole only where that is another.
//!
//! Invariants: what is answered was true after the call began; a conflict is told only of what was read since.

mod contents;
mod presence;

use super::watch::Watchers;
use super::{Change, Entry, Event, Limits, Presence, StoreError, Watch};
use crate::kubernetes::KubernetesSettings;
use crate::shared::lock;
use contents::{Contents, Outcome};
use fusewire_kubernetes::{ClusterError, Document, Presences, Version};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::task::AbortHandle;

const SECRET: &str = "fusewire-store";
/// A Secret holds 1 MiB in all, and other changes need room too.
pub(crate) const LIMITS: Limits = Limits { operations: 512, bytes: 512 << 10 };
/// Others may be writing too; each round somebody gets on.
const MAX_ROUNDS: u32 = 40;
const PAUSE: Duration = Duration::from_millis(10);

#[derive(Clone, Debug)]
pub(crate) struct Kubernetes {
    shared: Arc<Shared>,
    /// Ended with the last handle.
    _tasks: Arc<Tasks>,
}

#[derive(Debug)]
struct Shared {
    document: Document,
    presences: Presences,
    cached: Mutex<Cached>,
    /// The Secret was seen; if it is not there any more, somebody deleted it.
    was_there: AtomicBool,
    /// One at a time: they would only be in each other's way.
    writing: tokio::sync::Mutex<()>,
    watchers: Watchers,
    /// What watchers were last told of.
    told: Mutex<Arc<Contents>>,
}

/// What was read last. No version: there was no Secret.
#[derive(Clone, Debug, Default)]
struct Cached {
    version: Option<Version>,
    contents: Arc<Contents>,
}

#[derive(Debug)]
struct Tasks([AbortHandle; 2]);

impl Drop for Tasks {
    fn drop(&mut self) {
        self.0.iter().for_each(AbortHandle::abort);
    }
}

impl Kubernetes {
    pub(super) async fn open(settings: &KubernetesSettings) -> Result<Self, StoreError> {
        let cluster = settings.cluster().await.map_err(refused)?;
        let shared = Shared {
            document: Document::new(&cluster, SECRET),
            presences: Presences::new(&cluster, SECRET),
            cached: Mutex::default(),
            was_there: AtomicBool::new(false),
            writing: tokio::sync::Mutex::default(),
            watchers: Watchers::default(),
            told: Mutex::default(),
        };
        let found = shared.fresh().await?;
        *lock(&shared.told) = found.contents;
        let shared = Arc::new(shared);
        let (following, sweeping) = (shared.clone(), shared.clone());
        let follow = tokio::spawn(async move { following.document.follow(|found| following.hear(found)).await });
        let sweep = tokio::spawn(async move { presence::sweep(&sweeping).await });
        let tasks = Arc::new(Tasks([follow.abort_handle(), sweep.abort_handle()]));
        Ok(Self { shared, _tasks: tasks })
    }

    pub(super) async fn get(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        Ok(self.shared.fresh().await?.contents.get(key))
    }

    pub(super) async fn list(&self, prefix: &str) -> Result<(u64, Vec<Entry>), StoreError> {
        let contents = self.shared.fresh().await?.contents;
        Ok((contents.revision(), contents.below(prefix)))
    }

    pub(super) async fn commit(&self, change: Change) -> Result<u64, StoreError> {
        self.shared.commit(&change, None).await
    }

    pub(super) fn watch(&self, prefix: &str) -> Watch {
        Watch::new(self.shared.watchers.add(prefix), None)
    }

    pub(super) async fn put_while_alive(
        &self,
        key: &str,
        change: Change,
        ttl: Duration,
    ) -> Result<Presence, StoreError> {
        presence::hold(&self.shared, key, change, ttl).await
    }

    pub(super) async fn healthy(&self) -> Result<(), StoreError> {
        self.shared.document.version().await.map(drop).map_err(refused)
    }
}

impl Shared {
    /// As of now.
    async fn fresh(&self) -> Result<Cached, StoreError> {
        let cached = lock(&self.cached).clone();
        let version = self.document.version().await.map_err(refused)?;
        if version == cached.version {
            return Ok(cached);
        }
        let fresh = match self.document.read().await.map_err(refused)? {
            Some((version, value)) => {
                self.was_there.store(true, Ordering::Relaxed);
                Cached { version: Some(version), contents: Arc::new(Contents::decode(value)?) }
            }
            None => Cached::default(),
        };
        *lock(&self.cached) = fresh.clone();
        Ok(fresh)
    }

    /// `lease`: what is put lasts as long as it.
    async fn commit(&self, change: &Change, lease: Option<&str>) -> Result<u64, StoreError> {
        let _turn = self.writing.lock().await;
        let mut now = lock(&self.cached).clone();
        let mut is_fresh = false;
        for round in 0..MAX_ROUNDS {
            if !is_fresh && self.is_there(&now).is_err() {
                (now, is_fresh) = (self.fresh().await?, true); // it may be there again
            }
            self.is_there(&now)?;
            let next = match now.contents.after(change, lease) {
                Outcome::Conflict(key) if is_fresh => return Err(StoreError::Conflict { key }),
                Outcome::Nothing if is_fresh => return Ok(now.contents.revision()),
                // of what was read before nothing is said
                Outcome::Conflict(_) | Outcome::Nothing => {
                    (now, is_fresh) = (self.fresh().await?, true);
                    continue;
                }
                Outcome::Next(next) => next,
            };
            match self.document.write(next.encode()?, now.version.as_ref()).await {
                Ok(version) => {
                    self.was_there.store(true, Ordering::Relaxed);
                    let revision = next.revision();
                    *lock(&self.cached) = Cached { version: Some(version), contents: Arc::new(next) };
                    return Ok(revision);
                }
                Err(ClusterError::Conflict(_)) => {
                    tokio::time::sleep(PAUSE * round.min(10)).await;
                    (now, is_fresh) = (self.fresh().await?, true);
                }
                Err(error) => return Err(refused(error)),
            }
        }
        Err(StoreError::Unavailable(format!("the Secret {SECRET} is written by others all the time")))
    }

    /// # Errors
    /// The Secret was read once and is gone: a new one would begin empty, without the authority that sidecars believe.
    fn is_there(&self, now: &Cached) -> Result<(), StoreError> {
        if now.version.is_some() || !self.was_there.load(Ordering::Relaxed) {
            return Ok(());
        }
        Err(StoreError::Refused(format!(
            "the Secret {SECRET} was deleted, and nothing is written in its place: put back a copy, or restart every control \
             plane to begin with an empty one"
        )))
    }

    /// A write, by whomever.
    fn hear(&self, found: Option<(Version, Vec<u8>)>) {
        let next = match found.map(|(_, value)| Contents::decode(value)).transpose() {
            Ok(next) => Arc::new(next.unwrap_or_default()),
            Err(error) => {
                tracing::error!(%error, "what is in the Secret of the store is not followed");
                return;
            }
        };
        let before = std::mem::replace(&mut *lock(&self.told), next.clone());
        if next.revision() == before.revision() + 1 {
            self.watchers.tell(|prefix| below(&before, &next, prefix));
        } else if *next != *before {
            // something was missed, or the Secret is another
            self.watchers.resync();
        }
    }
}

/// What the one commit between the two did below `prefix`.
fn below(before: &Contents, next: &Contents, prefix: &str) -> Option<Event> {
    let revision = next.revision();
    let puts: Vec<Entry> = next.below(prefix).into_iter().filter(|entry| entry.revision == revision).collect();
    let gone = before.below(prefix).into_iter().filter(|entry| next.get(&entry.key).is_none());
    let deletes: Vec<String> = gone.map(|entry| entry.key).collect();
    (!puts.is_empty() || !deletes.is_empty()).then_some(Event::Changed { revision, puts, deletes })
}

fn refused(error: ClusterError) -> StoreError {
    let said = error.to_string();
    match error {
        ClusterError::Configuration(_) => StoreError::Invalid(said),
        ClusterError::Unavailable(why) => StoreError::Unavailable(format!("the Kubernetes API server: {why}")),
        ClusterError::Uncertain(why) => StoreError::Uncertain(format!("the Kubernetes API server: {why}")),
        ClusterError::Conflict(_) => StoreError::Unavailable(said),
        ClusterError::Absent(why) => {
            StoreError::Refused(format!("{why}: does the namespace of --kubernetes-namespace exist?"))
        }
        ClusterError::Refused(_) => StoreError::Refused(said),
    }
}
