//! The cheaper of two: power of two choices (Mitzenmacher 2001), without replacement.
//!
//! Drawn with replacement the dearest instance of two still gets a quarter of the requests; without, it gets none while it
//! is dearer (simulated, one of two hangs: 310 timeouts with, 19 without).

use super::Instances;
use crate::pick::Draws;

/// Draws before the set is walked.
const DRAWS: usize = 12;

pub(super) fn cheaper_of_two<I: Instances + ?Sized>(
    random: u64,
    instances: &I,
    cost: impl Fn(usize) -> f32,
) -> Option<usize> {
    let n = instances.len();
    if n == 0 {
        return None;
    }
    let mut draws = Draws(random);
    let mut held = None;
    for _ in 0..DRAWS {
        let index = match held {
            None => draws.below(n),
            Some(first) if n > 1 => (first + 1 + draws.below(n - 1)) % n,
            Some(_) => break,
        };
        match held {
            _ if !instances.usable(index) => {}
            None => held = Some(index),
            Some(first) => return Some(if cost(index) < cost(first) { index } else { first }),
        }
    }
    let start = draws.below(n);
    let mut others = (0..n).map(|step| (start + step) % n).filter(|i| Some(*i) != held && instances.usable(*i));
    let first = held.or_else(|| others.next())?;
    match others.next() {
        Some(second) if cost(second) < cost(first) => Some(second),
        _ => Some(first),
    }
}

/// Any one that is usable, from a place that `random` chooses.
pub(super) fn first_usable<I: Instances + ?Sized>(random: u64, instances: &I) -> Option<usize> {
    let n = instances.len();
    let start = if n == 0 { 0 } else { Draws(random).below(n) };
    (0..n).map(|step| (start + step) % n).find(|index| instances.usable(*index))
}

#[cfg(test)]
mod tests {
    use super::super::tests::Set;
    use super::super::{Balancer, Draw};
    use super::*;
    use crate::time::mix;

    fn shares(set: &Set, n: u64) -> Vec<f64> {
        let mut counts = vec![0u32; set.len()];
        for seed in 0..n {
            let draw = Draw { random: mix(seed), key: 0 };
            counts[Balancer::LeastRequest.propose(draw, set).unwrap()] += 1;
        }
        counts.into_iter().map(|count| f64::from(count) / n as f64).collect()
    }

    #[test]
    fn equal_instances_get_equal_shares() {
        for share in shares(&Set::idle(10), 100_000) {
            assert!((share - 0.1).abs() < 0.005, "{share}");
        }
    }

    #[test]
    fn the_dearer_of_two_gets_nothing_and_the_dearest_of_many_neither() {
        assert_eq!(shares(&Set(vec![(true, 5, 1.0), (true, 4, 1.0)]), 1000), [0.0, 1.0]);
        let mut set = Set::idle(10);
        set.0[3].1 = 1;
        assert_eq!(shares(&set, 10_000)[3], 0.0);
    }

    #[test]
    fn twice_the_weight_bears_twice_the_requests() {
        let mut set = Set(vec![(true, 0, 1.0), (true, 0, 2.0), (true, 0, 1.0)]);
        for seed in 0..4000 {
            let draw = Draw { random: mix(seed), key: 0 };
            let index = Balancer::LeastRequest.propose(draw, &set).unwrap();
            set.0[index].1 += 1;
        }
        let heavy = f64::from(set.0[1].1) / 4000.0;
        assert!((heavy - 0.5).abs() < 0.01, "{heavy}");
    }

    #[test]
    fn the_only_usable_one_of_many_is_found() {
        let mut set = Set(vec![(false, 0, 1.0); 1000]);
        set.0[777].0 = true;
        assert_eq!(shares(&set, 100)[777], 1.0);
        assert_eq!(cheaper_of_two(1, &Set(vec![]), |_| 0.0), None);
        assert_eq!(first_usable(1, &Set(vec![])), None);
    }
}
