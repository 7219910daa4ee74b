//! How much of the requests' bodies may be kept so that they can be sent again. Arithmetic only: the bytes are the
//! caller's.
//!
//! A request whose body is longer than its share, or comes when the pool is full, is still sent; it just cannot be sent
//! again (Linkerd's rule, and gRFC A6's). 64 KiB for each request, 8 MiB for each worker. One pool may be shared
//! between threads, but a worker's own costs no contention.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// What all requests of one worker keep together.
#[derive(Debug)]
pub struct ReplayPool {
    used: AtomicUsize,
    max: usize,
    max_each: usize,
}

impl Default for ReplayPool {
    fn default() -> Self {
        ReplayPool::new(8 << 20, 64 << 10)
    }
}

impl ReplayPool {
    /// Bytes in all, and for each request.
    pub fn new(max: usize, max_each: usize) -> ReplayPool {
        ReplayPool { used: AtomicUsize::new(0), max, max_each }
    }

    pub fn used(&self) -> usize {
        self.used.load(Relaxed)
    }

    /// A request begins; nothing of it is kept yet.
    pub fn begin(self: &Arc<Self>) -> Replay {
        Replay { pool: self.clone(), held: Some(0) }
    }
}

/// What one request keeps.
///
/// # Drop behavior
///
/// Its bytes go back to the pool.
#[derive(Debug)]
pub struct Replay {
    pool: Arc<ReplayPool>,
    /// `None` once it has been given up.
    held: Option<usize>,
}

impl Replay {
    /// Whether the next `bytes` of the body may be kept as well. Once no, always no: what is kept so far should be
    /// dropped, and its room is free already.
    #[must_use = "on false the kept bytes must go"]
    pub fn keep(&mut self, bytes: usize) -> bool {
        let Some(held) = self.held else { return false };
        let grown = held.saturating_add(bytes);
        let room = |used: usize| used.checked_add(bytes).filter(|used| *used <= self.pool.max);
        if grown <= self.pool.max_each && self.pool.used.fetch_update(Relaxed, Relaxed, room).is_ok() {
            self.held = Some(grown);
            return true;
        }
        self.give_up();
        false
    }

    /// The request can no longer be sent again: its answer has begun, or its body is too long.
    pub fn give_up(&mut self) {
        if let Some(held) = self.held.take() {
            self.pool.used.fetch_sub(held, Relaxed);
        }
    }

    pub fn is_whole(&self) -> bool {
        self.held.is_some()
    }
}

impl Drop for Replay {
    fn drop(&mut self) {
        self.give_up();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_request_keeps_its_64_kib_and_not_a_byte_more() {
        let pool = Arc::new(ReplayPool::default());
        let mut one = pool.begin();
        assert!(one.keep(65_536) && one.is_whole());
        assert_eq!(pool.used(), 65_536);
        assert!(!one.keep(1) && !one.is_whole());
        assert_eq!(pool.used(), 0, "what cannot be replayed needs no room");
        assert!(!one.keep(0), "once no, always no");
    }

    #[test]
    fn all_requests_together_keep_8_mib() {
        let pool = Arc::new(ReplayPool::default());
        let mut held: Vec<_> = (0..129).map(|_| pool.begin()).collect();
        let kept = held.iter_mut().filter_map(|one| one.keep(65_536).then_some(())).count();
        assert_eq!((kept, pool.used()), (128, 8 << 20));
        drop(held);
        assert_eq!(pool.used(), 0);
    }

    proptest! {
        #[test]
        fn the_pool_holds_what_its_requests_hold(
            steps in prop::collection::vec((0usize..8, 0usize..300, 0u8..4), 1..200),
        ) {
            let pool = Arc::new(ReplayPool::new(1000, 400));
            let mut all: Vec<_> = (0..8).map(|_| pool.begin()).collect();
            for (which, bytes, what) in steps {
                match what {
                    0 => all[which].give_up(),
                    1 => all[which] = pool.begin(),
                    _ => {
                        let whole = all[which].is_whole();
                        let kept = all[which].keep(bytes);
                        prop_assert!(whole || !kept);
                    }
                }
                let sum: usize = all.iter().filter_map(|one| one.held).sum();
                prop_assert_eq!(pool.used(), sum);
                prop_assert!(sum <= 1000 && all.iter().all(|one| one.held.is_none_or(|held| held <= 400)));
            }
        }
    }
}
