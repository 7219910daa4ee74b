//! Weighted round robin that deals as evenly in time as it does in number.
//!
//! Up to 64 instances: one turn of nginx's smooth weighted round robin, worked out when the set is built, and a counter. With
//! weights 5, 1, 1 it deals `a a b a c a a` and not `a a a a a b c`. More instances, or weights without a small common
//! measure: Vose's alias table, two reads and random bits, right in the mean. It knows configured weights, not slow starts.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use super::{Instances, choices};
use crate::pick::Draws;

const MAX_SCHEDULED: usize = 64;
/// Turns longer than this are shortened by rounding the weights.
const MAX_TURN: u64 = 4096;
/// Places looked at before the set is walked.
const LOOKS: usize = 256;
const DRAWS: usize = 12;

pub struct RoundRobin(Kind);

enum Kind {
    Schedule {
        turn: Box<[u8]>,
        /// Wraps; shared by all who ask.
        next: AtomicUsize,
    },
    Alias {
        /// Of 2^32: the chance that a column means itself.
        keep: Box<[u32]>,
        other: Box<[u32]>,
    },
}

impl RoundRobin {
    /// `weights[index]`; an instance of weight 0 gets a turn only if no other is usable.
    pub fn new(weights: &[u32]) -> RoundRobin {
        RoundRobin(if weights.len() <= MAX_SCHEDULED {
            Kind::Schedule { turn: schedule(&small(weights)), next: AtomicUsize::new(0) }
        } else {
            alias(weights)
        })
    }

    pub(super) fn propose<I: Instances + ?Sized>(&self, random: u64, instances: &I) -> Option<usize> {
        let fits = |index: &usize| *index < instances.len() && instances.usable(*index);
        let turn = match &self.0 {
            Kind::Schedule { turn, .. } if turn.is_empty() => None,
            // Who cannot take its turn loses it: were the next one to take it, that one would get both.
            Kind::Schedule { turn, next } => {
                (0..LOOKS).map(|_| usize::from(turn[next.fetch_add(1, Relaxed) % turn.len()])).find(fits)
            }
            Kind::Alias { keep, other } => {
                let mut draws = Draws(random);
                let mut draw = || {
                    let column = draws.below(keep.len());
                    if draws.below(1 << 32) < keep[column] as usize { column } else { other[column] as usize }
                };
                (0..DRAWS).map(|_| draw()).find(fits)
            }
        };
        turn.or_else(|| choices::first_usable(random, instances))
    }
}

/// The same proportions in numbers whose sum is at most a turn.
fn small(weights: &[u32]) -> Vec<i64> {
    fn gcd(a: u64, b: u64) -> u64 {
        if b == 0 { a } else { gcd(b, a % b) }
    }
    let sum: u64 = weights.iter().map(|weight| u64::from(*weight)).sum();
    let common = weights.iter().fold(0, |common, weight| gcd(common, u64::from(*weight))).max(1);
    let shrink = |weight: u64| match weight {
        0 => 0,
        _ if sum / common <= MAX_TURN => weight / common,
        _ => (weight * MAX_TURN / sum).max(1),
    };
    weights.iter().map(|weight| shrink(u64::from(*weight)) as i64).collect()
}

/// Each place goes to whoever is furthest behind its share.
fn schedule(weights: &[i64]) -> Box<[u8]> {
    let sum: i64 = weights.iter().sum();
    let mut owed = vec![0; weights.len()];
    let mut turn = Vec::with_capacity(sum as usize);
    for _ in 0..sum {
        owed.iter_mut().zip(weights).for_each(|(owed, weight)| *owed += weight);
        // The first of equals, as nginx has it.
        let most = (0..owed.len()).rev().max_by_key(|index| owed[*index]).unwrap_or(0);
        owed[most] -= sum;
        turn.push(most as u8);
    }
    turn.into()
}

fn alias(weights: &[u32]) -> Kind {
    let n = weights.len() as u64;
    let sum: u64 = weights.iter().map(|weight| u64::from(*weight)).sum();
    let equal = sum == 0;
    let (sum, height) = if equal { (n, 1) } else { (sum, n) };
    // Each column holds `sum`; `share[i]` is what is left to place of instance `i`.
    let share = |weight: &u32| if equal { sum } else { u64::from(*weight) * height };
    let mut share: Vec<u64> = weights.iter().map(share).collect();
    let mut keep = vec![u32::MAX; weights.len()];
    let mut other: Vec<u32> = (0..weights.len() as u32).collect();
    let (mut low, mut high): (Vec<usize>, Vec<usize>) = (0..weights.len()).partition(|index| share[*index] < sum);
    while let (Some(small), Some(large)) = (low.pop(), high.last().copied()) {
        keep[small] = ((u128::from(share[small]) << 32) / u128::from(sum)) as u32;
        other[small] = large as u32;
        share[large] -= sum - share[small];
        if share[large] < sum {
            high.pop();
            low.push(large);
        }
    }
    Kind::Alias { keep: keep.into(), other: other.into() }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::tests::Set;
    use super::*;
    use crate::time::mix;

    fn deal(weights: &[u32], set: &Set, n: usize) -> Vec<usize> {
        let turns = RoundRobin::new(weights);
        (0..n).map(|i| turns.propose(mix(i as u64), set).unwrap()).collect()
    }

    fn count(dealt: &[usize], index: usize) -> usize {
        dealt.iter().filter(|dealt| **dealt == index).count()
    }

    #[test]
    fn it_deals_as_nginx_does() {
        assert_eq!(deal(&[5, 1, 1], &Set::idle(3), 14), [0, 0, 1, 0, 2, 0, 0, 0, 0, 1, 0, 2, 0, 0]);
        assert_eq!(deal(&[1, 1, 1], &Set::idle(3), 6), [0, 1, 2, 0, 1, 2]);
        assert_eq!(deal(&[100, 200], &Set::idle(2), 6), [1, 0, 1, 1, 0, 1]);
    }

    #[test]
    fn who_is_out_loses_its_turns_to_all_others_alike() {
        let mut set = Set::idle(3);
        set.0[1].0 = false;
        let dealt = deal(&[1, 1, 1], &set, 100);
        assert_eq!((count(&dealt, 0), count(&dealt, 2)), (50, 50));
    }

    #[test]
    fn weight_nothing_gets_nothing_while_anyone_else_is_there() {
        let dealt = deal(&[1, 0], &Set::idle(2), 10);
        assert_eq!(count(&dealt, 1), 0);
        assert_eq!(deal(&[1, 0], &Set(vec![(false, 0, 1.0), (true, 0, 1.0)]), 3), [1, 1, 1]);
        assert_eq!(RoundRobin::new(&[]).propose(1, &Set(vec![])), None);
    }

    #[test]
    fn weights_without_a_common_measure_are_rounded_to_a_turn() {
        let weights = [1_000_003, 3, 999_999];
        let dealt = deal(&weights, &Set::idle(3), 4096);
        assert!(count(&dealt, 0).abs_diff(2048) <= 2 && count(&dealt, 2).abs_diff(2047) <= 2);
        assert!(count(&dealt, 1) >= 1, "nobody is rounded away");
    }

    #[test]
    fn many_instances_get_their_shares_in_the_mean() {
        let weights: Vec<u32> = (0..200).map(|i| i % 4).collect();
        let dealt = deal(&weights, &Set::idle(200), 300_000);
        for (index, weight) in weights.iter().enumerate() {
            let expected = f64::from(*weight) * 1000.0;
            let got = count(&dealt, index) as f64;
            assert!((got - expected).abs() <= 5.0 * expected.sqrt(), "{index}: {got} of {expected}");
        }
        let equal = deal(&[0; 100], &Set::idle(100), 100_000);
        assert!((0..100).all(|index| count(&equal, index).abs_diff(1000) < 200), "all without weight are equal");
    }

    proptest! {
        #[test]
        fn a_turn_is_exact_and_no_instance_is_ever_far_from_its_share(weights in prop::collection::vec(0u32..20, 1..12)) {
            let sum: u32 = weights.iter().sum();
            prop_assume!(sum > 0);
            let turn = schedule(&small(&weights));
            let mut seen = vec![0usize; weights.len()];
            for (i, index) in turn.iter().enumerate() {
                seen[usize::from(*index)] += 1;
                for (index, weight) in weights.iter().enumerate() {
                    let due = (i + 1) as f64 * f64::from(*weight) / f64::from(sum);
                    prop_assert!((seen[index] as f64 - due).abs() < 2.0, "{} of {:?}", index, weights);
                }
            }
            for (index, weight) in weights.iter().enumerate() {
                prop_assert_eq!(seen[index] as u64 * u64::from(sum), u64::from(*weight) * turn.len() as u64);
            }
        }
    }
}
