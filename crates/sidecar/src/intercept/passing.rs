//! The connections that we made to pass others on, by their own address: what a redirected connection is compared with.
//! Where the rules do not leave the sidecar's traffic alone, each would come back as a new one, for ever.

use fusewire_resilience::Time;
use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// Between two log lines about refused connections.
const LOG_EVERY: u64 = 1_000_000_000;

#[derive(Default)]
pub(crate) struct Passing {
    from: Mutex<HashSet<SocketAddr>>,
    next_log: AtomicU64,
}

/// # Drop behavior
/// The connection is gone.
pub(crate) struct Mark<'a>(&'a Passing, SocketAddr);

impl Passing {
    pub(crate) fn enter(&self, from: SocketAddr) -> Mark<'_> {
        self.from.lock().unwrap_or_else(PoisonError::into_inner).insert(from);
        Mark(self, from)
    }

    pub(super) fn has(&self, from: SocketAddr) -> bool {
        self.from.lock().unwrap_or_else(PoisonError::into_inner).contains(&from)
    }

    /// Once a second: a loop must not fill the disk.
    pub(super) fn may_log(&self, now: Time) -> bool {
        let due = self.next_log.load(Ordering::Relaxed);
        let next = now.0 + LOG_EVERY;
        now.0 >= due && self.next_log.compare_exchange(due, next, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}

impl Drop for Mark<'_> {
    fn drop(&mut self) {
        self.0.from.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_of_our_own_is_known_until_it_is_gone() {
        let passing = Passing::default();
        let from: SocketAddr = "10.0.0.1:40000".parse().unwrap();
        let mark = passing.enter(from);
        assert!(passing.has(from) && !passing.has("10.0.0.1:40001".parse().unwrap()));
        drop(mark);
        assert!(!passing.has(from));
    }

    #[test]
    fn refusals_are_logged_once_a_second() {
        let passing = Passing::default();
        let logged = |ms: u64| passing.may_log(Time(ms * 1_000_000));
        assert_eq!([1, 2, 1_000, 1_001, 1_002].map(logged), [true, false, false, true, false]);
    }
}
