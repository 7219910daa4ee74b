//! One instance as this sidecar knows it: its circuit, its tally and its load.
//!
//! A node belongs to whoever knows the instance (the pool does) and outlives every set that shows it, which is how
//! breaker state and load estimates survive a change of configuration. Nothing here refers to a set.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use crate::breaker::Breaker;
use crate::config::BreakerConfig;
use crate::load::Load;
use crate::tally::Tally;
use crate::time::Time;
use crate::trigger::Suspicion;
use crate::word::State;

/// What a caller's type must offer to be a member of a set: it owns the breaker and the load estimate.
pub trait Member {
    fn node(&self) -> &Node;
}

/// Breaker, tally and load of one instance.
pub struct Node {
    seed: u64,
    born: Time,
    pub(crate) breaker: Breaker,
    pub(crate) tally: Tally,
    pub(crate) load: Load,
    /// `calls:32 | hard:32` of the window that the circuit tripped with.
    last_window: AtomicU64,
    /// The window's shape when the set was last built; another shape would misread the buckets.
    shape: AtomicU64,
    enlisted: AtomicBool,
    stale: AtomicU64,
    would_reject: AtomicU64,
}

impl Node {
    /// `seed` names the instance in events and decorrelates its jitter: use a hash of its key, and of the sidecar's
    /// own identity, so that sidecars do not probe in step.
    pub fn new(seed: u64, now: Time) -> Node {
        Node {
            seed,
            born: now,
            breaker: Breaker::new(now),
            tally: Tally::new(),
            load: Load::new(),
            last_window: AtomicU64::new(0),
            shape: AtomicU64::new(0),
            enlisted: AtomicBool::new(false),
            stale: AtomicU64::new(0),
            would_reject: AtomicU64::new(0),
        }
    }

    pub fn seed(&self) -> u64 {
        self.seed
    }

    pub fn state(&self) -> State {
        self.breaker.state()
    }

    pub fn inflight(&self) -> u32 {
        self.load.inflight()
    }

    /// A new connection to the instance came up. Only this lets a peer's connect timeout count as hard.
    pub fn connected(&self, now: Time) {
        self.tally.connected(now);
    }

    /// Results that came from an earlier period of the breaker and were not counted.
    pub fn stale_results(&self) -> u64 {
        self.stale.load(Relaxed)
    }

    /// Requests that passed only because the mode is observe.
    pub fn would_reject(&self) -> u64 {
        self.would_reject.load(Relaxed)
    }

    pub(crate) fn is_new(&self) -> bool {
        !self.enlisted.load(Relaxed)
    }

    /// The node becomes part of a set with this configuration.
    pub(crate) fn enlist(&self, config: &BreakerConfig, ramp: bool) {
        let shape = u64::from(config.buckets) << 56 | crate::time::nanos(config.window) & ((1 << 56) - 1);
        let before = self.shape.swap(shape, Relaxed);
        if before != 0 && before != shape {
            self.tally.clear();
        }
        if !self.enlisted.swap(true, Relaxed) && ramp {
            self.load.start_ramp(self.born);
        }
    }

    pub(crate) fn count_stale(&self) {
        self.stale.fetch_add(1, Relaxed);
    }

    pub(crate) fn count_would_reject(&self) {
        self.would_reject.fetch_add(1, Relaxed);
    }

    pub(crate) fn last_window(&self) -> (u32, u32) {
        let bits = self.last_window.load(Relaxed);
        ((bits >> 32) as u32, bits as u32)
    }

    pub(crate) fn keep_window(&self, suspicion: Suspicion) {
        let (calls, hard) = suspicion.last_window();
        self.last_window.store(u64::from(calls) << 32 | u64::from(hard), Relaxed);
    }
}
