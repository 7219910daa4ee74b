//! Keeps the statuses of objects true, at the replica that leads.
//!
//! It decides when to look: after a change, soon while sidecars are still on their way to the newest, and now and then. It
//! deliberately looks at everything each time: what is as it should be is not written.

use super::{Kubernetes, enforcement};
use crate::shared::Shared;
use fusewire_kubernetes::crd::Sidecars;
use fusewire_kubernetes::write_statuses;
use jiff::Timestamp;
use std::time::Duration;

/// While something is pending, and after a failure.
const SOON: Duration = Duration::from_millis(500);
/// Otherwise: sidecars come and go.
const LATER: Duration = Duration::from_secs(10);
/// At least between two looks, so that a storm of changes is one.
const PACE: Duration = Duration::from_millis(100);

/// Until dropped.
pub(super) async fn run(kubernetes: &Kubernetes, shared: &Shared) {
    let declarations = kubernetes.discovery.declarations();
    let (mut in_force, mut changed) = (shared.in_force.subscribe(), declarations.changed());
    loop {
        let standing = in_force.borrow_and_update().standing.clone();
        changed.mark_unchanged();
        let mut next = LATER;
        if !standing.declared.is_silent() {
            let counts = enforcement::everywhere(shared, &standing).await;
            let is_pending = |sidecars: &Sidecars| sidecars.enforcing < sidecars.connected;
            if counts.as_ref().is_none_or(|counts| counts.values().any(is_pending)) {
                next = SOON;
            }
            let of = |id: &_| counts.as_ref().and_then(|counts| counts.get(id).copied());
            if let Err(error) = write_statuses(declarations, &standing.declared, of, Timestamp::now()).await {
                tracing::warn!(%error, "statuses cannot be written; trying again");
                next = SOON;
            }
        }
        tokio::time::sleep(PACE).await;
        tokio::select! {
            // what ends ends with this
            _ = in_force.wait_for(|now| !std::sync::Arc::ptr_eq(&now.standing, &standing)) => {}
            _ = changed.changed() => {}
            () = tokio::time::sleep(next) => {}
        }
    }
}
