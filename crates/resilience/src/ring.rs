//! A sliding window as a ring of buckets, each one word: `tag:16 | a:16 | b:16 | c:16`.
//!
//! The tag says which turn of the ring a bucket belongs to. A bucket that has gone stale is overwritten in place by the
//! next one to record, so nobody sweeps, no count is lost by rotation, and reading is a walk that skips old tags.
//! Invariant: a sum equals the brute-force count of what was added within the last `buckets` bucket widths.
//!
//! An EWMA in its place was rejected: its weight depends on the arrival rate, so one busy second outvotes a quiet minute.

use std::num::NonZeroU16;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::calls::MAX_CALLS;
use crate::config::BreakerConfig;
use crate::time::{Time, nanos};

pub(crate) const MAX_BUCKETS: usize = 20;
/// A bucket this full is sample enough; stopping short of 2^16 leaves room for recorders that race past the check.
const FULL: u64 = 65_000;

/// Width and number of the buckets, or the number of calls that a window holds in their place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Shape {
    width: u64,
    buckets: u64,
    calls: Option<NonZeroU16>,
}

impl Shape {
    pub(crate) fn of(config: &BreakerConfig) -> Shape {
        let buckets = u64::from(config.buckets).clamp(1, MAX_BUCKETS as u64);
        let calls = NonZeroU16::new(config.window_calls.min(MAX_CALLS as u16));
        Shape { width: (nanos(config.window) / buckets).max(1), buckets, calls }
    }

    pub(crate) const fn new(width: u64, buckets: u64) -> Shape {
        Shape { width, buckets, calls: None }
    }

    /// How many buckets a ring needs for it.
    pub(crate) fn len(self) -> usize {
        self.buckets as usize
    }

    pub(crate) fn calls(self) -> Option<NonZeroU16> {
        self.calls
    }

    /// How many buckets lie wholly within the last `span`; at least one.
    pub(crate) fn buckets_of(self, span: Duration) -> u64 {
        (nanos(span) / self.width).clamp(1, self.buckets)
    }

    fn at(self, now: Time) -> (u64, u64) {
        let epoch = now.0 / self.width;
        (epoch % self.buckets, epoch / self.buckets + 1)
    }
}

/// What to add, as `[a, b, c]` of at most a few counts each.
pub(crate) fn delta([a, b, c]: [bool; 3]) -> u64 {
    u64::from(a) << 32 | u64::from(b) << 16 | u64::from(c)
}

/// So many buckets on the heap.
pub(crate) fn buckets(count: usize) -> Box<[AtomicU64]> {
    (0..count).map(|_| AtomicU64::new(0)).collect()
}

/// The ring of buckets that lie where their owner has them, as many as the shape says or more. One of none has counted
/// nothing, and can be read.
#[derive(Clone, Copy)]
pub(crate) struct Ring<'a>(pub(crate) &'a [AtomicU64]);

impl Ring<'_> {
    #[inline]
    pub(crate) fn add(self, shape: Shape, now: Time, delta: u64) {
        let (slot, turn) = shape.at(now);
        let tag = turn as u16;
        let bucket = &self.0[slot as usize];
        let mut seen = bucket.load(Relaxed);
        loop {
            if seen != 0 && !older((seen >> 48) as u16, tag) {
                // This turn, or a later one that a faster thread has begun: an old `now` counts as the present.
                if (seen >> 32) & 0xffff < FULL {
                    bucket.fetch_add(delta, Relaxed);
                }
                return;
            }
            let fresh = u64::from(tag) << 48 | delta;
            match bucket.compare_exchange_weak(seen, fresh, Relaxed, Relaxed) {
                Ok(_) => return,
                Err(actual) => seen = actual,
            }
        }
    }

    pub(crate) fn sum(self, shape: Shape, now: Time) -> [u32; 3] {
        self.sum_newest(shape, shape.buckets, now)
    }

    /// What the newest buckets hold, the present one counted; no more of them than the shape has.
    pub(crate) fn sum_newest(self, shape: Shape, newest: u64, now: Time) -> [u32; 3] {
        let mut sums = [0; 3];
        if self.0.is_empty() {
            return sums;
        }
        let (mut slot, mut turn) = shape.at(now);
        for _ in 0..newest.min(shape.buckets) {
            let bits = self.0[slot as usize].load(Relaxed);
            if bits != 0 && (bits >> 48) as u16 == turn as u16 {
                sums[0] += (bits >> 32) as u32 & 0xffff;
                sums[1] += (bits >> 16) as u32 & 0xffff;
                sums[2] += bits as u32 & 0xffff;
            }
            if slot == 0 {
                slot = shape.buckets;
                turn = turn.wrapping_sub(1);
            }
            slot -= 1;
        }
        sums
    }

    pub(crate) fn clear(self) {
        for bucket in self.0 {
            bucket.store(0, Relaxed);
        }
    }

    /// Empties buckets of past turns, so that a tag that comes round again after 2^16 turns finds nothing.
    pub(crate) fn forget(self, shape: Shape, now: Time) {
        let (_, turn) = shape.at(now);
        for bucket in self.0 {
            let bits = bucket.load(Relaxed);
            let age = (turn as u16).wrapping_sub((bits >> 48) as u16);
            if bits != 0 && (2..0x8000).contains(&age) {
                // A recorder that got in between has already overwritten it; then there is nothing to forget.
                let _ = bucket.compare_exchange(bits, 0, Relaxed, Relaxed);
            }
        }
    }
}

fn older(tag: u16, than: u16) -> bool {
    (than.wrapping_sub(tag) as i16) > 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;

    const SECOND: u64 = 1_000_000_000;
    const TEN: Shape = Shape::new(SECOND, 10);

    fn one() -> u64 {
        delta([true, false, false])
    }

    #[test]
    fn a_call_stays_in_the_window_for_nine_to_ten_seconds_depending_on_alignment() {
        for (offset, last_seen) in [(0, 9_999), (999, 9_000)] {
            let heap = buckets(MAX_BUCKETS);
            let ring = Ring(&heap);
            let at = |ms: u64| Time((100_000 + offset + ms) * 1_000_000);
            ring.add(TEN, at(0), one());
            assert_eq!(ring.sum(TEN, at(last_seen)), [1, 0, 0]);
            assert_eq!(ring.sum(TEN, at(last_seen + 1)), [0, 0, 0]);
        }
    }

    #[test]
    fn a_full_bucket_stops_counting_before_it_overflows() {
        let heap = buckets(MAX_BUCKETS);
        let ring = Ring(&heap);
        for _ in 0..70_000 {
            ring.add(TEN, Time(0), delta([true, true, true]));
        }
        assert_eq!(ring.sum(TEN, Time(0)), [65_000; 3]);
    }

    #[test]
    fn a_thread_with_an_older_now_does_not_wipe_the_newer_bucket() {
        let heap = buckets(MAX_BUCKETS);
        let ring = Ring(&heap);
        let later = Time(10 * SECOND);
        ring.add(TEN, later, one());
        ring.add(TEN, Time(SECOND - 1), one());
        assert_eq!(ring.sum(TEN, later), [2, 0, 0]);
    }

    #[test]
    fn a_tag_that_comes_round_again_finds_nothing_after_upkeep() {
        let heap = buckets(MAX_BUCKETS);
        let ring = Ring(&heap);
        let origin = Time(5 * SECOND);
        ring.add(TEN, origin, one());
        let again = Time(origin.0 + (1 << 16) * 10 * SECOND);
        assert_eq!(ring.sum(TEN, again), [1, 0, 0], "the hazard is real");
        ring.forget(TEN, origin + Duration::from_secs(60));
        assert_eq!(ring.sum(TEN, again), [0, 0, 0]);
    }

    proptest! {
        /// Invariant (a): totals equal brute force, whatever the shape.
        #[test]
        fn totals_equal_brute_force(
            width in 1u64..500,
            buckets in 2u64..=20,
            steps in prop::collection::vec((0u64..700, any::<[bool; 2]>()), 1..200),
        ) {
            let shape = Shape::new(width, buckets);
            let heap = super::buckets(MAX_BUCKETS);
            let ring = Ring(&heap);
            let mut now = 0;
            let mut log: Vec<(u64, [bool; 2])> = Vec::new();
            for (advance, [hard, soft]) in steps {
                now += advance;
                ring.add(shape, Time(now), delta([true, hard, soft]));
                log.push((now / width, [hard, soft]));
                let live: Vec<_> = log.iter().filter(|(epoch, _)| epoch + buckets > now / width).collect();
                let count = |pick: usize| live.iter().filter(|(_, flags)| flags[pick]).count() as u32;
                prop_assert_eq!(ring.sum(shape, Time(now)), [live.len() as u32, count(0), count(1)]);
            }
        }
    }
}
