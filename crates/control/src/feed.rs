//! Who serves what, as it is told to many watchers: per service the set now, and the last changes as ready messages.
//!
//! It decides that a change is encoded once, however many watch, and that a watcher is told of it when it has room: it
//! holds a position, never a queue. One that fell behind is told the sum of what it missed, and the whole set where that
//! is smaller or the log is not that long any more. It deliberately does not know where instances come from: whoever
//! does publishes here.
//!
//! Invariants: no message holds more than [`PART`] instances (a larger set goes in parts, `more` on all but the last); a
//! service that nobody serves and nobody watches costs nothing; a revision is never used twice.

mod log;
#[cfg(test)]
mod tests;

use crate::shared::lock;
use bytes::Bytes;
use fusewire_api::v1;
use fusewire_model::ServiceName;
use log::State;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use tokio::sync::watch;

/// Instances in one message: some 100 KiB.
pub(crate) const PART: usize = 500;
/// Watches at once. Each costs a position and the message it is sending.
const MAX_WATCHERS: usize = 50_000;

/// Encoded `WatchResponse`s that go together.
type Messages = Arc<[Bytes]>;

/// Every service's feed.
#[derive(Debug, Default)]
pub(crate) struct Feeds {
    services: Mutex<BTreeMap<ServiceName, Arc<ServiceFeed>>>,
    /// The last revision of any service.
    revision: AtomicU64,
    watchers: AtomicUsize,
}

#[derive(Debug)]
struct ServiceFeed {
    state: Mutex<State>,
    /// The revision; what watchers wait for.
    moved: watch::Sender<u64>,
}

impl Feeds {
    /// `now` is all of the service's instances; what is equal to before is no change.
    pub(crate) fn publish(&self, service: &ServiceName, now: Vec<v1::Found>) {
        let feed = self.feed(service);
        {
            let mut state = lock(&feed.state);
            let now: BTreeMap<String, v1::Found> =
                now.into_iter().map(|found| (id(&found).to_owned(), found)).collect();
            let removed: Vec<String> = state.current().keys().filter(|id| !now.contains_key(*id)).cloned().collect();
            self.step(&feed, &mut state, now.into_values().collect(), removed);
        }
        self.forget_idle(service);
    }

    fn step(&self, feed: &ServiceFeed, state: &mut State, upserted: Vec<v1::Found>, removed: Vec<String>) {
        let next = || self.revision.fetch_add(1, Ordering::Relaxed) + 1;
        if let Some(revision) = state.apply(upserted, removed, next) {
            feed.moved.send_replace(revision);
        }
    }

    /// The set now, and its revision.
    pub(crate) fn lookup(&self, service: &ServiceName) -> (u64, Vec<Arc<v1::Found>>) {
        let feed = lock(&self.services).get(service).cloned();
        feed.map_or((0, Vec::new()), |feed| {
            let state = lock(&feed.state);
            (state.revision(), state.current().values().cloned().collect())
        })
    }

    /// `None`: too many watch already.
    pub(crate) fn watch(self: &Arc<Self>, service: &ServiceName) -> Option<Watcher> {
        let taken = |count| (count < MAX_WATCHERS).then_some(count + 1);
        self.watchers.fetch_update(Ordering::Relaxed, Ordering::Relaxed, taken).ok()?;
        let mut services = lock(&self.services);
        let feed = services.entry(service.clone()).or_default().clone();
        let moved = feed.moved.subscribe();
        drop(services);
        Some(Watcher {
            feeds: self.clone(),
            service: service.clone(),
            feed,
            moved: Some(moved),
            position: None,
            left: None,
        })
    }

    pub(crate) fn watchers(&self) -> usize {
        self.watchers.load(Ordering::Relaxed)
    }

    fn feed(&self, service: &ServiceName) -> Arc<ServiceFeed> {
        lock(&self.services).entry(service.clone()).or_default().clone()
    }

    fn forget_idle(&self, service: &ServiceName) {
        let mut services = lock(&self.services);
        let idle = |feed: &ServiceFeed| feed.moved.receiver_count() == 0 && lock(&feed.state).current().is_empty();
        if services.get(service).is_some_and(|feed| idle(feed)) {
            services.remove(service);
        }
    }
}

impl Default for ServiceFeed {
    fn default() -> Self {
        Self { state: Mutex::default(), moved: watch::Sender::new(0) }
    }
}

/// One who watches a service.
#[derive(Debug)]
pub(crate) struct Watcher {
    feeds: Arc<Feeds>,
    service: ServiceName,
    feed: Arc<ServiceFeed>,
    moved: Option<watch::Receiver<u64>>,
    /// The revision that it was told; none before the first set.
    position: Option<u64>,
    /// Parts of the same step that are still to be sent, and the next of them.
    left: Option<(Messages, usize)>,
}

impl Watcher {
    /// The next message: at first the whole set, even if it is empty. Cancel safe: what was not returned is not lost.
    pub(crate) async fn next(&mut self) -> Bytes {
        loop {
            if let Some(part) = self.part() {
                return part;
            }
            if let Some(moved) = &mut self.moved {
                moved.borrow_and_update();
            }
            let missed = lock(&self.feed.state).since(self.position);
            if let Some((messages, revision)) = missed {
                self.position = Some(revision);
                self.left = Some((messages, 0));
                continue;
            }
            match &mut self.moved {
                // the sender is in `feed`, which is ours
                Some(moved) => drop(moved.changed().await),
                None => std::future::pending().await,
            }
        }
    }

    fn part(&mut self) -> Option<Bytes> {
        let (messages, at) = self.left.as_mut()?;
        let part = messages.get(*at).cloned();
        *at += 1;
        if part.is_none() {
            self.left = None;
        }
        part
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.moved = None;
        self.feeds.watchers.fetch_sub(1, Ordering::Relaxed);
        self.feeds.forget_idle(&self.service);
    }
}

fn id(found: &v1::Found) -> &str {
    found.instance.as_ref().map(|instance| instance.id.as_str()).unwrap_or_default()
}
