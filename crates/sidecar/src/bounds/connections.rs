//! `limit.connections`: how many connections to one service's instances there are, and who waits for one.
//!
//! A connection counts from its dial to its end. Where all are taken, one that is idle, at whatever instance, makes room;
//! else the request waits for one that is given back or ends, within `timeout.connect`.

use crate::fault::Fault;
use crate::upstream::instance::Instance;
use fusewire_model::policy::Policy;
use fusewire_resilience::bulkhead::Place;
use fusewire_telemetry::metrics::Limit;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use tokio::sync::Notify;

#[derive(Default)]
pub(super) struct Connections {
    /// A connection ended, or was given back.
    freed: Notify,
    /// Those whose idle connections may have to make room.
    instances: Mutex<Vec<Weak<Instance>>>,
}

/// Held for as long as a connection lives.
pub(crate) struct Room {
    bounds: Arc<super::Bounds>,
    place: Option<Place>,
}

impl Drop for Room {
    fn drop(&mut self) {
        if self.place.take().is_some() {
            self.bounds.connections.freed.notify_one();
        }
    }
}

impl super::Bounds {
    pub(crate) fn knows(&self, instance: &Arc<Instance>) {
        let mut known = self.connections.instances.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|instance| instance.strong_count() > 0);
        known.push(Arc::downgrade(instance));
    }

    /// A connection is idle again.
    pub(crate) fn given_back(&self) {
        self.connections.freed.notify_one();
    }

    /// Room for one more connection, or one that another request gave back meanwhile (`take`).
    pub(crate) async fn room<T>(
        self: &Arc<Self>,
        policy: &Policy,
        take: impl Fn() -> Option<T>,
    ) -> Result<Result<Room, T>, Fault> {
        let made = |place| Ok(Room { bounds: self.clone(), place });
        if self.gate.is_some() {
            return Ok(made(None)); // the gate bounds what the application gets
        }
        let max = policy.limits.bulkhead.max_connections;
        let found = async {
            loop {
                let mut freed = std::pin::pin!(self.connections.freed.notified());
                freed.as_mut().enable();
                if let Some(place) = self.bulkheads.connections.enter_below(max) {
                    return made(Some(place));
                }
                if let Some(taken) = take() {
                    return Err(taken);
                }
                self.let_go_of_an_idle_one();
                freed.await;
            }
        };
        tokio::time::timeout(policy.timeout.connect, found).await.map_err(|_| Fault::Full(Limit::Connections))
    }

    fn let_go_of_an_idle_one(&self) {
        let known = self.connections.instances.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let _ = known.iter().filter_map(Weak::upgrade).any(|instance| instance.let_go_of_an_idle_one());
    }
}
