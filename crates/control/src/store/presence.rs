//! An entry that lasts as long as its process.

use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// Holds an entry in place. Dropped, the entry goes soon after, in the background; [`Presence::leave`] waits for it.
#[derive(Debug)]
pub(crate) struct Presence {
    /// Dropping it is the signal.
    stay: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Presence {
    /// `task` removes the entry and ends when the other end of `stay` fails.
    pub(super) fn new(stay: oneshot::Sender<()>, task: JoinHandle<()>) -> Self {
        Self { stay, task }
    }

    /// Removes the entry; where the store is away it is left to its time to live.
    pub(crate) async fn leave(self) {
        drop(self.stay);
        // an error would mean that the runtime ends, and the entry with it
        let _ = self.task.await;
    }
}
