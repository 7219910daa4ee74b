//! Which control plane to ask next, and when.
//!
//! It decides the order in which replicas are tried: from a random one on, so that a fleet spreads over them, and the next
//! after each failure. It decides the pauses too: how long after a connection broke, and how much longer after each that did
//! not come to be; all random, so that a replica's end does not bring its whole fleet to another in one instant. It
//! deliberately does not go back to an earlier one by itself: every replica serves alike.
//!
//! Invariant: there is always one to ask.

use std::fmt;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// The control planes of one mesh, each `host:port`, and whose turn it is. A clone has a turn of its own.
pub struct Controls {
    addresses: Arc<[String]>,
    turn: AtomicUsize,
}

impl Controls {
    /// `None` where there are none.
    pub fn new(addresses: &[String]) -> Option<Self> {
        let turn = AtomicUsize::new(chance(addresses.len())?);
        Some(Self { addresses: addresses.into(), turn })
    }

    pub(crate) fn count(&self) -> usize {
        self.addresses.len()
    }

    /// Whose turn it is.
    pub fn now(&self) -> &str {
        let turn = self.turn.load(Ordering::Relaxed) % self.addresses.len();
        &self.addresses[turn]
    }

    /// It failed: the next one's turn.
    pub fn pass(&self) {
        self.turn.fetch_add(1, Ordering::Relaxed);
    }
}

impl Clone for Controls {
    fn clone(&self) -> Self {
        let turn = chance(self.addresses.len()).unwrap_or_default();
        Self { addresses: self.addresses.clone(), turn: AtomicUsize::new(turn) }
    }
}

impl fmt::Debug for Controls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.addresses.iter()).finish()
    }
}

const MIN_PAUSE: Duration = Duration::from_millis(100);
/// A connection that lived for longer had been well.
const MAX_PAUSE: Duration = Duration::from_secs(5);

/// Waits between attempts to connect.
#[derive(Debug)]
pub(crate) struct Pause(Duration);

impl Default for Pause {
    fn default() -> Self {
        Self(MIN_PAUSE)
    }
}

impl Pause {
    /// After an attempt, or a connection, that lasted for `lasted`: 0.1 to 0.5 s after one that had been well, and from
    /// there doubling to 5 s, with full jitter above the least.
    pub(crate) fn after(&mut self, lasted: Duration) -> Duration {
        self.0 = if lasted > MAX_PAUSE { MIN_PAUSE * 5 } else { (self.0 * 2).min(MAX_PAUSE) };
        let fraction = random() as f64 / u64::MAX as f64;
        MIN_PAUSE + (self.0 - MIN_PAUSE).mul_f64(fraction)
    }
}

/// One of `count`; `None` where there are none.
pub(crate) fn chance(count: usize) -> Option<usize> {
    usize::try_from(random()).unwrap_or_default().checked_rem(count)
}

/// For spreading, not for secrets.
fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn a_fleet_spreads_and_everybody_comes_by_every_replica() {
        assert!(Controls::new(&[]).is_none());
        let all = ["a:1", "b:1", "c:1"].map(String::from);
        let first: BTreeSet<String> = (0..200).map(|_| Controls::new(&all).unwrap().now().to_owned()).collect();
        assert_eq!(first.len(), 3);
        let controls = Controls::new(&all).unwrap();
        let clones: BTreeSet<String> = (0..200).map(|_| controls.clone().now().to_owned()).collect();
        assert_eq!(clones.len(), 3);
        let mut seen = BTreeSet::new();
        for _ in 0..3 {
            assert_eq!(controls.now(), controls.now());
            seen.insert(controls.now().to_owned());
            controls.pass();
        }
        assert_eq!(seen.len(), 3);
    }

    #[test]
    fn pauses_are_jittered_grow_while_it_fails_and_begin_again_after_a_good_connection() {
        let first = |_| Pause::default().after(Duration::from_secs(60));
        let waits: BTreeSet<Duration> = (0..50).map(first).collect();
        assert!(waits.len() > 10, "{waits:?}");
        assert!(waits.iter().all(|wait| (MIN_PAUSE..=MIN_PAUSE * 5).contains(wait)), "{waits:?}");
        let mut pause = Pause::default();
        let longest = (0..40).map(|_| pause.after(Duration::ZERO)).max().unwrap();
        assert!(longest > Duration::from_secs(1) && longest <= MAX_PAUSE, "{longest:?}");
        assert!(pause.after(MAX_PAUSE * 2) <= MIN_PAUSE * 5);
    }
}
