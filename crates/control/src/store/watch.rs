//! What a watcher is told, and the bounded queue it waits in.
//!
//! An engine pushes, the watcher pulls; neither waits for the other. It decides what happens to a watcher that is too
//! slow: everything that waits for it is dropped, and it is told to list again, which costs less than the backlog would.
//! It deliberately has no clock and no task.
//!
//! Invariant: after [`Event::Resync`], everything that is committed after the list is taken is told, in the order of
//! revisions, or there is another `Resync`.

use super::{Change, Entry};
use crate::shared::lock;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, Weak};
use tokio::sync::Notify;
use tokio::task::AbortHandle;

/// What may wait for one watcher.
pub(crate) const MAX_EVENTS: usize = 1024;
const MAX_BYTES: usize = 8 << 20;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// What one commit did below the prefix, all of it.
    Changed { revision: u64, puts: Vec<Entry>, deletes: Vec<String> },
    /// Something may have been missed, or this is the beginning: list again.
    Resync,
}

impl Event {
    /// What `change`, committed as `revision`, did below `prefix`; `None` where that is nothing.
    pub(super) fn below(prefix: &str, revision: u64, change: &Change) -> Option<Self> {
        let puts: Vec<Entry> = change
            .put
            .iter()
            .filter(|(key, _)| key.starts_with(prefix))
            .map(|(key, value)| Entry { key: key.clone(), value: value.clone(), revision })
            .collect();
        let deletes: Vec<String> = change.delete.iter().filter(|key| key.starts_with(prefix)).cloned().collect();
        (!puts.is_empty() || !deletes.is_empty()).then_some(Self::Changed { revision, puts, deletes })
    }

    fn bytes(&self) -> usize {
        match self {
            Self::Changed { puts, deletes, .. } => {
                let puts: usize = puts.iter().map(|entry| entry.key.len() + entry.value.len()).sum();
                puts + deletes.iter().map(String::len).sum::<usize>()
            }
            Self::Resync => 0,
        }
    }
}

/// One watcher's view of what happens.
#[derive(Debug)]
pub(crate) struct Watch {
    queue: Arc<Queue>,
    /// Ended with the watch; an engine with [`Watchers`] needs none.
    task: Option<AbortHandle>,
}

impl Watch {
    pub(super) fn new(queue: Arc<Queue>, task: Option<AbortHandle>) -> Self {
        Self { queue, task }
    }

    /// Waits for the next event. Waits for ever where the store is closed.
    ///
    /// # Drop behavior
    /// Dropping the future loses nothing.
    pub(crate) async fn next(&mut self) -> Event {
        loop {
            if let Some(event) = self.queue.pop() {
                return event;
            }
            self.queue.pushed.notified().await;
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

/// Those who watch one engine that has a single source of news, each with its prefix.
#[derive(Debug, Default)]
pub(super) struct Watchers(Mutex<Vec<(String, Weak<Queue>)>>);

impl Watchers {
    /// Told to list first of all.
    pub(super) fn add(&self, prefix: &str) -> Arc<Queue> {
        let queue = Arc::new(Queue::default());
        queue.resync();
        let mut watchers = lock(&self.0);
        watchers.retain(|(_, queue)| queue.strong_count() > 0);
        watchers.push((prefix.to_owned(), Arc::downgrade(&queue)));
        queue
    }

    /// `events`: those below a prefix.
    pub(super) fn tell<E: IntoIterator<Item = Event>>(&self, events: impl Fn(&str) -> E) {
        for (prefix, queue) in lock(&self.0).iter() {
            let Some(queue) = queue.upgrade() else { continue };
            events(prefix).into_iter().for_each(|event| queue.push(event));
        }
    }

    pub(super) fn resync(&self) {
        lock(&self.0).iter().filter_map(|(_, queue)| queue.upgrade()).for_each(|queue| queue.resync());
    }
}

#[derive(Debug, Default)]
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    pushed: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    /// Comes before whatever else waits.
    resync: bool,
    events: VecDeque<Event>,
    bytes: usize,
}

impl Queue {
    pub(super) fn push(&self, event: Event) {
        {
            let mut waiting = lock(&self.waiting);
            waiting.bytes += event.bytes();
            waiting.events.push_back(event);
            if waiting.events.len() > MAX_EVENTS || waiting.bytes > MAX_BYTES {
                *waiting = Waiting { resync: true, ..Waiting::default() };
            }
        }
        self.pushed.notify_one();
    }

    /// What waits is worth nothing any more: a list that is taken from now on holds it.
    pub(super) fn resync(&self) {
        *lock(&self.waiting) = Waiting { resync: true, ..Waiting::default() };
        self.pushed.notify_one();
    }

    fn pop(&self) -> Option<Event> {
        let mut waiting = lock(&self.waiting);
        if std::mem::take(&mut waiting.resync) {
            return Some(Event::Resync);
        }
        let event = waiting.events.pop_front()?;
        waiting.bytes -= event.bytes();
        Some(event)
    }
}
