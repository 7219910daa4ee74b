//! How much of one thing a service may use at once: connections, requests, waiting requests.
//!
//! The last line of defence, static: 1,024 of each (Envoy's defaults; gRFC A32 for requests). Who finds it full is
//! refused here, and that is never a breaker's event. It deliberately does not wait: a place is there or it is not.
//!
//! Shared between threads, one atomic for each; taking a place allocates nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// One service's bounds; each 1 to 1,000,000, default 1,024.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct BulkheadConfig {
    pub max_connections: u32,
    /// Requests that wait for a connection.
    pub max_pending: u32,
    pub max_requests: u32,
}

impl Default for BulkheadConfig {
    fn default() -> Self {
        BulkheadConfig { max_connections: 1024, max_pending: 1024, max_requests: 1024 }
    }
}

impl BulkheadConfig {
    /// Every bound that is broken, as `(field, message)`.
    pub fn validate(&self) -> Result<(), Vec<(&'static str, String)>> {
        let fields = [
            ("max_connections", self.max_connections),
            ("max_pending", self.max_pending),
            ("max_requests", self.max_requests),
        ];
        let broken = |(_, value): &(&str, u32)| !(1..=1_000_000).contains(value);
        let faults: Vec<_> = fields
            .into_iter()
            .filter(broken)
            .map(|(field, value)| (field, format!("must be 1..1000000, got {value}")))
            .collect();
        if faults.is_empty() { Ok(()) } else { Err(faults) }
    }
}

/// The three bulkheads of one service.
pub struct Bulkheads {
    pub connections: Arc<Bulkhead>,
    pub pending: Arc<Bulkhead>,
    pub requests: Arc<Bulkhead>,
}

impl Bulkheads {
    pub fn new(config: &BulkheadConfig) -> Bulkheads {
        let of = |max| Arc::new(Bulkhead::new(max));
        let (connections, pending) = (of(config.max_connections), of(config.max_pending));
        Bulkheads { connections, pending, requests: of(config.max_requests) }
    }
}

/// So many places, and how many are taken.
pub struct Bulkhead {
    max: u32,
    used: AtomicU32,
    /// How often one was refused; for the metric.
    refused: AtomicU32,
}

/// One place.
///
/// # Drop behavior
///
/// The place is free again.
#[must_use = "a place that is dropped is free again"]
pub struct Place(Arc<Bulkhead>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.used.fetch_sub(1, Relaxed);
    }
}

impl Bulkhead {
    pub fn new(max: u32) -> Bulkhead {
        Bulkhead { max, used: AtomicU32::new(0), refused: AtomicU32::new(0) }
    }

    /// A place, or `None` if all are taken: refuse the request.
    pub fn enter(self: &Arc<Self>) -> Option<Place> {
        self.enter_below(self.max)
    }

    /// The same where the bound is the caller's, of the configuration that is in force now: what is taken is kept.
    pub fn enter_below(self: &Arc<Self>, max: u32) -> Option<Place> {
        let step = |used: u32| (used < max).then_some(used + 1);
        match self.used.fetch_update(Relaxed, Relaxed, step) {
            Ok(_) => Some(Place(self.clone())),
            Err(_) => {
                self.refused.fetch_add(1, Relaxed);
                None
            }
        }
    }

    pub fn used(&self) -> u32 {
        self.used.load(Relaxed)
    }

    /// Refusals so far; wraps.
    pub fn refused(&self) -> u32 {
        self.refused.load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bound_holds_and_a_place_given_back_can_be_taken_again() {
        let all = Bulkheads::new(&BulkheadConfig { max_pending: 2, ..BulkheadConfig::default() });
        let first = all.pending.enter();
        let second = all.pending.enter();
        assert!(first.is_some() && second.is_some() && all.pending.enter().is_none());
        assert_eq!((all.pending.used(), all.pending.refused()), (2, 1));
        drop(first);
        assert!(all.pending.enter().is_some());
        assert_eq!(all.requests.used(), 0, "each has its own places");
    }

    #[test]
    fn a_bound_that_changes_counts_what_was_taken_under_the_one_before() {
        let bulkhead = Arc::new(Bulkhead::new(1024));
        let places: Vec<_> = (0..3).map_while(|_| bulkhead.enter_below(3)).collect();
        assert!(places.len() == 3 && bulkhead.enter_below(3).is_none() && bulkhead.enter_below(2).is_none());
        assert!(bulkhead.enter_below(4).is_some());
    }

    #[test]
    fn envoys_defaults_are_ours() {
        let all = Bulkheads::new(&BulkheadConfig::default());
        for bulkhead in [&all.connections, &all.pending, &all.requests] {
            let places: Vec<_> = (0..2000).map_while(|_| bulkhead.enter()).collect();
            assert_eq!(places.len(), 1024);
        }
    }

    #[test]
    fn threads_never_hold_more_than_the_bound_together() {
        let bulkhead = Arc::new(Bulkhead::new(3));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..10_000 {
                        let place = bulkhead.enter();
                        assert!(bulkhead.used() <= 3);
                        drop(place);
                    }
                });
            }
        });
        assert_eq!(bulkhead.used(), 0);
    }

    #[test]
    fn every_broken_bound_is_named_at_once() {
        let bad = BulkheadConfig { max_connections: 0, max_pending: 1_000_001, max_requests: 0 };
        let fields: Vec<_> = bad.validate().err().unwrap_or_default().into_iter().map(|fault| fault.0).collect();
        assert_eq!(fields, ["max_connections", "max_pending", "max_requests"]);
        assert_eq!(BulkheadConfig::default().validate(), Ok(()));
    }
}
