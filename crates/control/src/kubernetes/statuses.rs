//! Keeps the statuses of objects true, at the replica that leads.
//!
//! It decides when to look: after a change, soon while sidecars are still on their way to the newest, less and less often while
//! nothing moves, and now and then. It deliberately looks at everything each time: what is as it should be is not written.

use super::{Kubernetes, Standing, enforcement};
use crate::shared::Shared;
use fusewire_kubernetes::StatusWriter;
use fusewire_kubernetes::crd::{ObjectId, Sidecars};
use jiff::Timestamp;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// While something is pending, and after a failure.
const SOON: Duration = Duration::from_millis(500);
/// Otherwise: sidecars come and go, and statuses may be written by others.
const LATER: Duration = Duration::from_secs(10);
/// At least between two looks, so that a storm of changes is one.
const PACE: Duration = Duration::from_millis(100);
/// What was counted stays believed for so long while a replica does not answer: one that ends is not missed at once.
const BELIEVED: Duration = Duration::from_secs(30);

/// The last counts of all replicas together.
#[derive(Default)]
struct Counted {
    standing: Arc<Standing>,
    counts: BTreeMap<ObjectId, Sidecars>,
    at: Option<Instant>,
}

impl Counted {
    /// Of an object that is as it was when it was counted.
    fn of(&self, standing: &Standing, id: &ObjectId) -> Option<Sidecars> {
        let is_believed = self.at.is_some_and(|at| at.elapsed() < BELIEVED);
        let is_same = self.standing.since.get(id) == standing.since.get(id);
        self.counts.get(id).copied().filter(|_| is_believed && is_same)
    }

    fn is_pending(&self) -> bool {
        self.counts.values().any(|count| count.enforcing < count.connected)
    }
}

/// Until dropped.
pub(super) async fn run(kubernetes: &Kubernetes, shared: &Shared) {
    let declarations = kubernetes.discovery.declarations();
    let mut in_force = shared.in_force.subscribe();
    let mut writer = StatusWriter::default();
    let (mut last, mut wait) = (Counted::default(), SOON);
    loop {
        let standing = in_force.borrow_and_update().standing.clone();
        let counts = match standing.declared.objects.is_empty() {
            true => Some(BTreeMap::new()),
            false => enforcement::everywhere(shared, &standing).await,
        };
        let (is_whole, moved) = (counts.is_some(), counts.as_ref().is_some_and(|counts| *counts != last.counts));
        if let Some(counts) = counts {
            last = Counted { standing: standing.clone(), counts, at: Some(Instant::now()) };
        }
        let of = |id: &ObjectId| last.of(&standing, id);
        let written = writer.write(declarations, &standing.declared, of, Timestamp::now()).await;
        if let Err(error) = &written {
            tracing::warn!(%error, "statuses cannot be written; trying again");
        }
        wait = match is_whole && written.is_ok() && !last.is_pending() {
            true => LATER,
            false if moved => SOON,
            false => (wait * 2).clamp(SOON, LATER),
        };
        tokio::time::sleep(PACE).await;
        tokio::select! {
            // what ends ends with this
            _ = in_force.wait_for(|now| !Arc::ptr_eq(&now.standing, &standing)) => wait = SOON,
            () = tokio::time::sleep(wait) => {}
        }
    }
}
