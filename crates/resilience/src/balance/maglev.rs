//! Maglev hashing (Eisenbud et al. 2016): one read instead of a search, and shares that are even to a percent.
//!
//! Each instance has a permutation of the 65,537 places, and they take turns choosing, as often as their weights say. When an
//! instance comes or goes a few keys of others move as well; when a circuit opens none does, because the table stays as it
//! is, and only a key that meets an unusable instance is hashed again.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::{Instances, Seat, highest};
use crate::time::mix;

/// A prime; so many instances at most get a place each.
pub const MAGLEV_SIZE: usize = 65_537;
const EMPTY: u32 = u32::MAX;
/// Places looked at before rendezvous hashing over what is usable takes over.
const LOOKS: u64 = 8;

pub struct Maglev {
    /// 256 KiB, or nothing where there is nobody.
    table: Box<[u32]>,
    seats: Box<[Seat]>,
}

impl Maglev {
    /// Takes milliseconds, some twenty for a thousand instances: off the request path.
    pub fn new(seats: &[Seat]) -> Maglev {
        Maglev { table: fill(seats), seats: seats.into() }
    }

    pub(super) fn propose<I: Instances + ?Sized>(&self, key: u64, instances: &I) -> Option<usize> {
        let place = |look: u64| (mix(key ^ mix(look)) % MAGLEV_SIZE as u64) as usize;
        let found = (0..LOOKS)
            .filter_map(|look| self.table.get(place(look)))
            .map(|index| *index as usize)
            .find(|index| *index < instances.len() && instances.usable(*index));
        found.or_else(|| highest(mix(key), &self.seats, instances))
    }
}

/// Where an instance's permutation is: it goes on from `at` by `skip`.
struct Choice {
    index: u32,
    at: u64,
    skip: u64,
    /// How long it waits between two turns; the heaviest waits 2^32.
    wait: u64,
}

fn fill(seats: &[Seat]) -> Box<[u32]> {
    let size = MAGLEV_SIZE as u64;
    let Some(most) = seats.iter().map(|seat| seat.weight).max().filter(|most| *most > 0) else { return Box::default() };
    let choice = |index: usize, seat: &Seat| {
        let (at, skip) = (mix(seat.id) % size, mix(seat.id ^ 0x6d61_676c_6576) % (size - 1) + 1);
        Choice { index: index as u32, at, skip, wait: (u64::from(most) << 32) / u64::from(seat.weight) }
    };
    let with_weight = seats.iter().enumerate().filter(|(_, seat)| seat.weight > 0);
    let mut choices: Vec<Choice> = with_weight.map(|(index, seat)| choice(index, seat)).collect();
    // Whom the caller lists first must not matter.
    choices.sort_unstable_by_key(|choice| seats[choice.index as usize].id);
    let mut turns: BinaryHeap<_> = choices.iter().enumerate().map(|(i, choice)| Reverse((choice.wait, i))).collect();
    let mut table = vec![EMPTY; MAGLEV_SIZE];
    for _ in 0..MAGLEV_SIZE {
        let Some(mut turn) = turns.peek_mut() else { break };
        let Reverse((due, i)) = *turn;
        let choice = &mut choices[i];
        *turn = Reverse((due.saturating_add(choice.wait), i));
        while table[choice.at as usize] != EMPTY {
            choice.at = (choice.at + choice.skip) % size;
        }
        table[choice.at as usize] = choice.index;
    }
    table.into()
}

#[cfg(test)]
mod tests {
    use super::super::tests::{Set, seats};
    use super::*;

    fn shares(weights: &[u32]) -> Vec<usize> {
        let table = fill(&seats(weights));
        let mut counts = vec![0; weights.len()];
        table.iter().for_each(|index| counts[*index as usize] += 1);
        counts
    }

    #[test]
    fn equal_instances_get_equal_shares_to_a_place() {
        for n in [1, 2, 3, 7, 10, 100, 1000] {
            let counts = shares(&vec![1; n]);
            let (least, most) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
            assert!(most - least <= 1, "{n}: {least}..{most}");
        }
    }

    #[test]
    fn shares_follow_the_weights() {
        let counts = shares(&[1, 2, 0, 4, 1]);
        assert_eq!(counts[2], 0);
        for (index, weight) in [(0, 1.0), (1, 2.0), (3, 4.0), (4, 1.0)] {
            let share = counts[index] as f64 * 8.0 / MAGLEV_SIZE as f64;
            assert!((share / weight - 1.0_f64).abs() < 0.01, "{index}: {share}");
        }
    }

    #[test]
    fn extreme_weights_and_too_many_instances_still_fill_the_table() {
        let counts = shares(&[u32::MAX, 1]);
        assert!(counts[1] <= 1 && counts[0] >= MAGLEV_SIZE - 1);
        let many = Maglev::new(&seats(&vec![1; 70_000]));
        assert!(many.table.iter().all(|index| (*index as usize) < 70_000));
        assert!(fill(&[]).is_empty() && fill(&seats(&[0, 0])).is_empty());
    }

    #[test]
    fn one_that_goes_moves_few_keys_of_the_others() {
        let all = seats(&[1; 10]);
        let fewer: Vec<Seat> = all.iter().copied().enumerate().filter(|(i, _)| *i != 4).map(|(_, seat)| seat).collect();
        let (before, after) = (fill(&all), fill(&fewer));
        let name = |index: u32| if index >= 4 { index + 1 } else { index };
        let moved = before.iter().zip(&after).filter(|(b, a)| **b != 4 && **b != name(**a)).count();
        let share = moved as f64 / MAGLEV_SIZE as f64;
        assert!(share < 0.06, "{share}");
    }

    #[test]
    fn the_order_of_the_list_does_not_matter() {
        let all = seats(&[1, 2, 3, 1, 2]);
        let mut turned = all.clone();
        turned.reverse();
        let (one, other) = (fill(&all), fill(&turned));
        assert!(one.iter().zip(&other).all(|(a, b)| *a == 4 - *b));
    }

    #[test]
    fn one_that_opens_moves_only_its_own_keys_and_they_spread() {
        let maglev = Maglev::new(&seats(&[1; 10]));
        let mut set = Set::idle(10);
        let before: Vec<_> = (0..20_000).map(|key| maglev.propose(key, &set).unwrap()).collect();
        set.0[4].0 = false;
        let after: Vec<_> = (0..20_000).map(|key| maglev.propose(key, &set).unwrap()).collect();
        assert!(before.iter().zip(&after).all(|(before, after)| *before == 4 || before == after));
        let of = |index: usize| after.iter().filter(|owner| **owner == index).count();
        assert!((0..10).filter(|i| *i != 4).all(|i| (2000..2500).contains(&of(i))));
    }
}
