//! Leaving without breaking anything: no new connections, running exchanges to their end, all within a deadline.
//!
//! Where another sidecar has taken over there is time: then even a caller that was accepted and has asked nothing yet is heard
//! first.

use crate::doors::Place;
use std::sync::Arc;
use tokio::sync::watch;

/// One direction's switch, and the count of connections that are still open.
#[derive(Clone)]
pub(crate) struct Drain {
    stage: watch::Sender<Stage>,
    open: watch::Sender<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Serving,
    /// Nothing new is accepted, and each connection ends after its next answer.
    Patient,
    /// Connections on which nothing is asked end too.
    Hurried,
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
        Self { stage: watch::Sender::new(Stage::Serving), open: watch::Sender::new(0) }
    }
}

impl Drain {
    pub(crate) fn begin(&self) {
        self.stage.send_replace(Stage::Hurried);
    }
    /// Whoever is idle may stay until [`Self::begin`].
    pub(crate) fn begin_patiently(&self) {
        self.stage.send_replace(Stage::Patient);
    }
    pub(crate) fn has_begun(&self) -> bool {
        *self.stage.borrow() >= Stage::Patient
    }
    /// Resolves once it has begun.
    pub(crate) async fn begun(&self) {
        let _ = self.stage.subscribe().wait_for(|stage| *stage >= Stage::Patient).await;
    }
    /// Resolves once there is no more waiting for callers that ask nothing.
    pub(crate) async fn hurried(&self) {
        let _ = self.stage.subscribe().wait_for(|stage| *stage == Stage::Hurried).await;
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
