//! Leaving without breaking anything: no new connections, running exchanges to their end, all within a deadline.

use crate::doors::Place;
use std::sync::Arc;
use tokio::sync::watch;

/// One direction's switch, and the count of connections that are still open.
#[derive(Clone)]
pub(crate) struct Drain {
    begun: watch::Sender<bool>,
    open: watch::Sender<usize>,
}

/// Held for as long as a connection lives.
pub(crate) struct Guard {
    open: watch::Sender<usize>,
    _place: Place,
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.open.send_modify(|n| *n -= 1);
    }
}

impl Default for Drain {
    fn default() -> Self {
        Self { begun: watch::Sender::new(false), open: watch::Sender::new(0) }
    }
}

impl Drain {
    pub(crate) fn begin(&self) {
        self.begun.send_replace(true);
    }
    pub(crate) fn has_begun(&self) -> bool {
        *self.begun.borrow()
    }
    /// Resolves once it has begun.
    pub(crate) async fn begun(&self) {
        let _ = self.begun.subscribe().wait_for(|b| *b).await;
    }
    pub(crate) fn guard(&self, place: Place) -> Guard {
        self.open.send_modify(|n| *n += 1);
        Guard { open: self.open.clone(), _place: place }
    }
    pub(crate) fn open(&self) -> usize {
        *self.open.borrow()
    }
    /// Resolves when the last connection is gone.
    pub(crate) async fn finished(&self) {
        let _ = self.open.subscribe().wait_for(|n| *n == 0).await;
    }
}

/// Shared by the tasks of one connection: a tunnel outlives the HTTP connection that it began on.
pub(crate) type SharedGuard = Arc<Guard>;
