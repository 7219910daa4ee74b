//! Limits by key, 16,384 of them at once.
//!
//! A key is the hash of a route and a descriptor (a header, a path, a peer's identity), made by the caller with a secret of
//! its own, so that nobody can choose keys that collide. Two keys with one hash share a limit.
//!
//! The table is 256 sets of 64 keys. A new key in a full set takes the place of the one whose bucket is the
//! fullest: for equal rates that is the one not seen for longest, and where its bucket is full again nothing is lost by
//! forgetting it. So a flood of new keys cannot wash out those that are over their limit, as it could with a plain
//! least-recently-used list.
//!
//! Shared between threads: a set has a lock of its own, held for a scan of 64 words and never across a wait. All memory
//! (260 KiB) is taken when the table is made.

use std::sync::{Mutex, PoisonError};

use super::gcra::{Rate, Standing};
use crate::time::{Time, mix};

const SETS: usize = 256;
const WAYS: usize = 64;
/// Keys that are remembered at once.
pub const KEYS: usize = SETS * WAYS;

struct Set {
    keys: [u64; WAYS],
    /// 0 marks a place never used.
    full_at: [u64; WAYS],
}

pub struct KeyedLimits {
    sets: Box<[Mutex<Set>]>,
}

impl Default for KeyedLimits {
    fn default() -> Self {
        let empty = || Mutex::new(Set { keys: [0; WAYS], full_at: [0; WAYS] });
        KeyedLimits { sets: (0..SETS).map(|_| empty()).collect() }
    }
}

impl KeyedLimits {
    /// Whether a request with this key passes; takes its place if so.
    pub fn ask(&self, key: u64, rate: Rate, now: Time) -> Standing {
        let set = &self.sets[(mix(key) >> 56) as usize % SETS];
        // A panic elsewhere leaves two words that are still a limit.
        let mut set = set.lock().unwrap_or_else(PoisonError::into_inner);
        let known = (0..WAYS).find(|way| set.keys[*way] == key && set.full_at[*way] != 0);
        let full_at = known.map_or(0, |way| set.full_at[way]);
        let (next, standing) = rate.step(full_at, now.0);
        // Even a limit that began at time zero has a place that is used.
        let next = next.max(1);
        match known {
            Some(way) => set.full_at[way] = next,
            None => {
                let way = (0..WAYS).min_by_key(|way| set.full_at[*way]).unwrap_or(0);
                set.keys[way] = key;
                set.full_at[way] = next;
            }
        }
        standing
    }

    /// Keys in the table. Walks it; for metrics.
    pub fn len(&self) -> usize {
        let used = |set: &Mutex<Set>| {
            let set = set.lock().unwrap_or_else(PoisonError::into_inner);
            set.full_at.iter().filter(|full_at| **full_at != 0).count()
        };
        self.sets.iter().map(used).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::gcra::RateConfig;
    use super::*;

    fn rate() -> Rate {
        Rate::of(&RateConfig { requests: 10, per: Duration::from_secs(1), burst: 3 })
    }

    fn at(ms: u64) -> Time {
        Time(ms * 1_000_000)
    }

    fn passes(limits: &KeyedLimits, key: u64, now: Time) -> bool {
        matches!(limits.ask(key, rate(), now), Standing::Within { .. })
    }

    #[test]
    fn each_key_has_a_limit_of_its_own_also_zero() {
        let limits = KeyedLimits::default();
        assert!(limits.is_empty());
        for key in [0, 1, u64::MAX] {
            let passed = (0..10).filter(|_| passes(&limits, key, at(0))).count();
            assert_eq!(passed, 3, "key {key}");
        }
        assert_eq!(limits.len(), 3);
    }

    #[test]
    fn a_flood_of_keys_is_bounded_and_washes_out_nobody_who_is_over_the_limit() {
        let limits = KeyedLimits::default();
        let spent: Vec<u64> = (0..100).map(|i| mix(i + 1_000_000_000)).collect();
        for key in &spent {
            (0..10).for_each(|_| {
                passes(&limits, *key, at(1000));
            });
        }
        for key in 0..200_000 {
            passes(&limits, key, at(1000));
        }
        assert_eq!(limits.len(), KEYS);
        assert!(spent.iter().all(|key| !passes(&limits, *key, at(1000))));
    }

    #[test]
    fn eight_thousand_keys_are_remembered_all() {
        let limits = KeyedLimits::default();
        for _ in 0..3 {
            assert!((0..8_000).all(|key| passes(&limits, key, at(0))));
        }
        assert!((0..8_000).all(|key| !passes(&limits, key, at(0))));
        assert_eq!(limits.len(), 8_000);
    }
}
