//! Ring hash: requests with one key go to one instance, and when an instance comes or goes only its own keys move.
//!
//! Each instance has points on a ring of 64-bit hashes, as many as its weight asks for (Karger et al. 1997); a key belongs to
//! the next point. Bounded loads (Mirrokni, Thorup, Zadimoghaddam 2016): an instance that has more than 1.25 times its fair
//! share of the requests in flight is passed over, so that one hot key cannot bury one instance.

use super::{Instances, Seat, highest};
use crate::time::mix;

/// Points of an instance of mean weight. 100 to 1,000, default 200: the largest share is then some 15 % above the mean.
pub const VNODES: u32 = 200;
const MAX_VNODES: u64 = 1000;
/// 4 MiB; with more instances each gets fewer points.
const MAX_POINTS: u64 = 1 << 18;
const LOAD_BOUND: f64 = 1.25;
/// Points looked at before rendezvous hashing over what is usable takes over.
const LOOKS: usize = 128;

pub struct HashRing {
    /// `(point, index)`, by point.
    points: Box<[(u64, u32)]>,
    seats: Box<[Seat]>,
}

impl HashRing {
    /// `vnodes`: points for the mean weight; taken to 1..1000.
    pub fn new(seats: &[Seat], vnodes: u32) -> HashRing {
        let sum: u64 = seats.iter().map(|seat| u64::from(seat.weight)).sum();
        let n = seats.len() as u64;
        let mean = u64::from(vnodes).clamp(1, MAX_VNODES).min(MAX_POINTS / n.max(1)).max(1);
        let of = |seat: &Seat| match u128::from(seat.weight) * u128::from(mean * n) / u128::from(sum.max(1)) {
            0 => u64::from(seat.weight > 0),
            points => (points as u64).min(MAX_VNODES.max(mean)),
        };
        let point = |seat: &Seat, i: u64| mix(seat.id ^ mix(i));
        let mut points: Vec<_> = seats
            .iter()
            .enumerate()
            .flat_map(|(index, seat)| (0..of(seat)).map(move |i| (point(seat, i), index as u32)))
            .collect();
        points.sort_unstable();
        HashRing { points: points.into(), seats: seats.into() }
    }

    pub(super) fn propose<I: Instances + ?Sized>(&self, key: u64, instances: &I) -> Option<usize> {
        let hash = mix(key);
        let start = self.points.partition_point(|(point, _)| *point < hash);
        let n = self.points.len();
        let mut bound = None;
        let mut overloaded = None;
        for step in 0..n.min(LOOKS) {
            let index = self.points[(start + step) % n].1 as usize;
            if index >= instances.len() || !instances.usable(index) {
                continue;
            }
            if is_within(index, instances, &mut bound) {
                return Some(index);
            }
            overloaded = overloaded.or(Some(index));
        }
        overloaded.or_else(|| highest(hash, &self.seats, instances))
    }
}

/// Whether one more request leaves it within 1.25 of its fair share. Who has none always is, which saves the walk over
/// the set in quiet times; `bound` keeps the requests for each unit of weight.
fn is_within<I: Instances + ?Sized>(index: usize, instances: &I, bound: &mut Option<f64>) -> bool {
    let inflight = instances.inflight(index);
    if inflight == 0 {
        return true;
    }
    let each = *bound.get_or_insert_with(|| {
        let (requests, weight) = instances.totals();
        LOAD_BOUND * (requests as f64 + 1.0) / weight.max(f64::MIN_POSITIVE)
    });
    f64::from(inflight) + 1.0 <= (each * f64::from(instances.weight(index))).ceil()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::tests::{Set, seats};
    use super::*;

    fn owners(ring: &HashRing, set: &Set, keys: u64) -> Vec<usize> {
        (0..keys).map(|key| ring.propose(key, set).unwrap()).collect()
    }

    #[test]
    fn shares_follow_the_weights() {
        let weights = [1, 1, 2, 4, 1, 1];
        let ring = HashRing::new(&seats(&weights), VNODES);
        let owners = owners(&ring, &Set::idle(6), 100_000);
        for (index, weight) in weights.iter().enumerate() {
            let share = owners.iter().filter(|owner| **owner == index).count() as f64 / 10_000.0;
            assert!((share / f64::from(*weight) - 1.0).abs() < 0.25, "{index}: {share}");
        }
    }

    #[test]
    fn one_that_goes_takes_only_its_own_keys_along() {
        let all = seats(&[1; 10]);
        let fewer: Vec<Seat> = all.iter().copied().enumerate().filter(|(i, _)| *i != 4).map(|(_, seat)| seat).collect();
        let before = owners(&HashRing::new(&all, VNODES), &Set::idle(10), 20_000);
        let after = owners(&HashRing::new(&fewer, VNODES), &Set::idle(9), 20_000);
        for (before, after) in before.into_iter().zip(after) {
            let after = if after >= 4 { after + 1 } else { after };
            assert!(before == 4 || before == after);
        }
    }

    #[test]
    fn one_that_opens_takes_only_its_own_keys_along_and_they_spread() {
        let ring = HashRing::new(&seats(&[1; 10]), VNODES);
        let before = owners(&ring, &Set::idle(10), 20_000);
        let mut set = Set::idle(10);
        set.0[4].0 = false;
        let after = owners(&ring, &set, 20_000);
        let moved: Vec<usize> = before.iter().zip(&after).filter(|(b, a)| b != a).map(|(_, a)| *a).collect();
        assert!(before.iter().zip(&after).all(|(before, after)| *before == 4 || before == after));
        assert!((0..10).filter(|i| *i != 4).all(|i| moved.iter().filter(|to| **to == i).count() * 4 < moved.len()));
    }

    #[test]
    fn one_hot_key_cannot_bury_one_instance() {
        let ring = HashRing::new(&seats(&[1; 10]), VNODES);
        let mut set = Set::idle(10);
        for _ in 0..1000 {
            let index = ring.propose(7, &set).unwrap();
            set.0[index].1 += 1;
        }
        let most = set.0.iter().map(|one| one.1).max().unwrap();
        assert!(most <= 126, "{most} of 1000 at ten instances");
    }

    #[test]
    fn ten_thousand_instances_do_not_make_the_ring_too_large() {
        let ring = HashRing::new(&seats(&vec![1; 10_000]), 1000);
        assert!(ring.points.len() as u64 <= MAX_POINTS && ring.points.len() >= 10_000);
        let lopsided = HashRing::new(&seats(&[u32::MAX, 1, 0]), 1000);
        assert!(lopsided.points.len() <= 1001);
        assert!(lopsided.points.iter().any(|(_, index)| *index == 1), "a little weight is some");
    }

    proptest! {
        #[test]
        fn nobody_exceeds_its_bound_while_others_have_room(
            keys in prop::collection::vec(0u64..5, 1..300), n in 2usize..8,
        ) {
            let ring = HashRing::new(&seats(&vec![1; n]), VNODES);
            let mut set = Set::idle(n);
            for (sent, key) in keys.into_iter().enumerate() {
                let index = ring.propose(key, &set).unwrap();
                set.0[index].1 += 1;
                let bound = (1.25 * (sent as f64 + 1.0) / n as f64).ceil();
                prop_assert!(f64::from(set.0[index].1) <= bound);
            }
        }
    }
}
