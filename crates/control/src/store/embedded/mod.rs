//! The store of a single control plane: one file, one writer.
//!
//! The engine is redb: pure Rust, copy-on-write pages with checksums in one file, so that a kill at any byte leaves the
//! last commit readable; no thread and no log compaction of its own, and a cache of a stated size. sled never left its
//! beta and rewrites in the background, rocksdb is a C++ build with threads and dozens of files, sqlite is C and a query
//! language where keys and values are all there is.
//!
//! It decides the order of changes: one task takes them in turn, and does those that wait together in one transaction
//! with one fsync, each with its own revision. It deliberately keeps nothing in memory beside redb's cache; `file` is
//! what touches the disk, always on a thread that may block.
//!
//! Invariants: an answer comes after the fsync; watchers are told in the order of revisions, after the fsync.

mod file;

use super::watch::Watchers;
use super::{Change, Entry, Expect, Limits, Presence, StoreError, Watch};
use file::File;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// A file has room for what etcd would refuse; the bounds are those of memory.
pub(crate) const LIMITS: Limits = Limits { operations: 4096, bytes: 4 << 20 };

/// Changes that wait for the one being written; who comes later waits to get in.
const WAITING: usize = 64;
/// A transaction takes no more changes once it holds this much.
const BATCH_BYTES: usize = 8 << 20;
/// How long a process that is just ending may still hold the file.
const PREDECESSOR: Duration = Duration::from_secs(2);
const LOOK_AGAIN: Duration = Duration::from_millis(50);

#[derive(Clone, Debug)]
pub(crate) struct Embedded {
    file: Arc<File>,
    jobs: mpsc::Sender<Job>,
    watchers: Arc<Watchers>,
}

#[derive(Debug)]
struct Job {
    change: Change,
    /// The puts last as long as the process.
    alive: bool,
    answer: oneshot::Sender<Result<u64, StoreError>>,
}

impl Embedded {
    pub(super) async fn open(path: &Path) -> Result<Self, StoreError> {
        let until = tokio::time::Instant::now() + PREDECESSOR;
        let file = loop {
            let path = path.to_owned();
            match blocking(move || File::open(&path)).await {
                Err(StoreError::InUse { .. }) if tokio::time::Instant::now() < until => {
                    tokio::time::sleep(LOOK_AGAIN).await;
                }
                opened => break Arc::new(opened?),
            }
        };
        let (jobs, waiting) = mpsc::channel(WAITING);
        let watchers = Arc::new(Watchers::default());
        tokio::spawn(write(file.clone(), watchers.clone(), waiting));
        Ok(Self { file, jobs, watchers })
    }

    pub(super) async fn get(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        let (file, key) = (self.file.clone(), key.to_owned());
        blocking(move || file.get(&key)).await
    }

    pub(super) async fn list(&self, prefix: &str) -> Result<(u64, Vec<Entry>), StoreError> {
        let (file, prefix) = (self.file.clone(), prefix.to_owned());
        blocking(move || file.list(&prefix)).await
    }

    pub(super) async fn commit(&self, change: Change) -> Result<u64, StoreError> {
        self.ask(change, false).await
    }

    async fn ask(&self, change: Change, alive: bool) -> Result<u64, StoreError> {
        let (answer, answered) = oneshot::channel();
        let closed = |_| StoreError::Unavailable("it is closing".into());
        self.jobs.send(Job { change, alive, answer }).await.map_err(|e| closed(e.to_string()))?;
        answered.await.map_err(|_| StoreError::Uncertain("it closed".into()))?
    }

    pub(super) fn watch(&self, prefix: &str) -> Watch {
        Watch::new(self.watchers.add(prefix), None)
    }

    pub(super) async fn put_while_alive(&self, key: &str, change: Change) -> Result<Presence, StoreError> {
        let revision = self.ask(change, true).await?;
        let (stay, left) = oneshot::channel();
        let (store, key) = (self.clone(), key.to_owned());
        let task = tokio::spawn(async move {
            // nothing is ever sent: it fails when the other end is dropped
            let _ = left.await;
            let own = Change::default().expect(&key, Expect::Revision(revision)).delete(&key);
            match store.ask(own, false).await {
                Ok(_) | Err(StoreError::Conflict { .. }) => {}
                Err(error) => tracing::warn!(key, %error, "an entry of this process stays until the next start"),
            }
        });
        Ok(Presence::new(stay, task))
    }

    pub(super) async fn healthy(&self) -> Result<(), StoreError> {
        let file = self.file.clone();
        blocking(move || file.healthy()).await
    }
}

/// Takes changes in turn until the last handle is gone.
async fn write(file: Arc<File>, watchers: Arc<Watchers>, mut waiting: mpsc::Receiver<Job>) {
    while let Some(first) = waiting.recv().await {
        let mut bytes = first.change.bytes();
        let mut jobs = vec![first];
        while bytes < BATCH_BYTES
            && let Ok(next) = waiting.try_recv()
        {
            bytes += next.change.bytes();
            jobs.push(next);
        }
        let (changes, answers): (Vec<_>, Vec<_>) =
            jobs.into_iter().map(|job| ((job.change, job.alive), job.answer)).unzip();
        let writing = file.clone();
        let written = blocking(move || Ok((writing.write(&changes), changes))).await;
        let results = match written {
            Ok((written, changes)) => {
                watchers.tell(|prefix| {
                    let all = changes.iter().zip(&written);
                    let done = all.filter_map(|((change, _), result)| Some((change, result.as_ref().ok()?)));
                    done.flat_map(|(change, written)| written.event(prefix, change)).collect::<Vec<_>>()
                });
                written.into_iter().map(|result| result.map(|written| written.revision)).collect()
            }
            Err(error) => vec![Err(error); answers.len()],
        };
        if results.iter().any(|result| matches!(result, Err(StoreError::Uncertain(_)))) {
            // it may have happened: who lists from here on sees whether it has
            watchers.resync();
        }
        // whoever asked may have gone
        answers.into_iter().zip(results).for_each(|(answer, result)| drop(answer.send(result)));
    }
}

/// Runs what may block. Whatever panics in there (redb does on some kinds of damage) ends as an error.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(StoreError::Uncertain(format!("the store's thread ended: {error}"))))
}
