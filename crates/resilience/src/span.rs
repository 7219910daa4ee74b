//! Two counts over the last `N` seconds, for what a whole service shares: a ring of one-second buckets, each one word
//! `tag:16 | a:24 | b:24`.
//!
//! The breaker's ring holds 65,000 calls in a bucket, sample enough for one instance; here ratios of a whole service are
//! wanted, so the counts are wider. Like there, a stale bucket is overwritten in place and nobody sweeps. Invariant: a sum
//! is what was added within the last `N` seconds, the second that runs counted; a bucket full at 8 million stops counting.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::time::Time;

const SECOND: u64 = 1_000_000_000;
const MASK: u64 = (1 << 24) - 1;
/// Half of what the field holds, so that recorders that race past the check cannot carry into the neighbour.
const FULL: u64 = 1 << 23;

pub(crate) struct Span<const N: usize> {
    buckets: [AtomicU64; N],
}

impl<const N: usize> Default for Span<N> {
    fn default() -> Self {
        Span { buckets: [const { AtomicU64::new(0) }; N] }
    }
}

impl<const N: usize> Span<N> {
    /// The bucket of a second, and the tag of this turn of the ring; 0 marks a bucket never used. A tag repeats after
    /// `65,536 x N` seconds, a week for ten buckets.
    fn at(second: u64) -> (usize, u64) {
        ((second % N as u64) as usize, (second / N as u64 + 1) & 0xffff)
    }

    pub(crate) fn add(&self, now: Time, a: u32, b: u32) {
        let (slot, tag) = Self::at(now.0 / SECOND);
        let delta = (u64::from(a).min(MASK) << 24) | u64::from(b).min(MASK);
        let bucket = &self.buckets[slot];
        let mut seen = bucket.load(Relaxed);
        loop {
            if seen >> 48 == tag {
                if (seen >> 24) & MASK < FULL && seen & MASK < FULL {
                    bucket.fetch_add(delta, Relaxed);
                }
                return;
            }
            match bucket.compare_exchange_weak(seen, tag << 48 | delta, Relaxed, Relaxed) {
                Ok(_) => return,
                Err(other) => seen = other,
            }
        }
    }

    pub(crate) fn sum(&self, now: Time) -> (u64, u64) {
        let (mut slot, mut tag) = Self::at(now.0 / SECOND);
        let mut sum = (0, 0);
        // Back around the ring once; the tag before the first turn is that of buckets never used, which hold nothing.
        for _ in 0..N {
            let seen = self.buckets[slot].load(Relaxed);
            if seen >> 48 == tag {
                sum = (sum.0 + ((seen >> 24) & MASK), sum.1 + (seen & MASK));
            }
            (slot, tag) = if slot == 0 { (N - 1, tag.wrapping_sub(1) & 0xffff) } else { (slot - 1, tag) };
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(seconds: u64) -> Time {
        Time(seconds * SECOND)
    }

    #[test]
    fn a_second_is_forgotten_when_its_turn_comes_again() {
        let span = Span::<3>::default();
        span.add(at(0), 2, 1);
        span.add(at(2), 3, 0);
        assert_eq!(span.sum(at(2)), (5, 1));
        assert_eq!(span.sum(at(3)), (3, 0));
        span.add(at(3), 1, 1);
        assert_eq!(span.sum(at(3)), (4, 1));
        assert_eq!(span.sum(at(1000)), (0, 0));
    }

    #[test]
    fn a_full_bucket_stops_counting_and_never_carries() {
        let span = Span::<2>::default();
        for _ in 0..5 {
            span.add(at(1), u32::MAX, 1);
        }
        assert_eq!(span.sum(at(1)), (MASK, 1));
    }

    proptest! {
        #[test]
        fn sums_equal_the_brute_force_count(
            steps in prop::collection::vec((0u64..4, 0u32..9, 0u32..9), 1..60),
            start in 0u64..1_000_000,
        ) {
            let span = Span::<5>::default();
            let mut now = start;
            let mut all = Vec::new();
            for (step, a, b) in steps {
                now += step;
                span.add(at(now), a, b);
                all.push((now, u64::from(a), u64::from(b)));
                let recent = all.iter().filter(|(second, _, _)| second + 5 > now);
                let expected = recent.fold((0, 0), |sum, one| (sum.0 + one.1, sum.1 + one.2));
                prop_assert_eq!(span.sum(at(now)), expected);
            }
        }
    }
}
