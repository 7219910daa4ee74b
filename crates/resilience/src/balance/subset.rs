//! Which instances a sidecar knows at all, where there are very many.
//!
//! Only above a hundred: small subsets starve the comparison among peers that finds bad instances, so a subset is a tenth,
//! but 20 at least. Each sidecar takes the instances that rank highest for its own seed (rendezvous hashing): without
//! knowing the other sidecars, the same at every restart with the same seed, and an instance that comes or goes changes at
//! most one place. The price against the SRE book's dealt-out subsets is that loads differ as by chance: a thousand
//! sidecars of 20 give an instance 100 of them, +-10.

use crate::time::mix;

const ALL_UP_TO: usize = 100;
const FEWEST: usize = 20;

/// How many of `n` instances a sidecar takes.
pub fn subset_size(n: usize) -> usize {
    if n <= ALL_UP_TO { n } else { n.div_ceil(10).max(FEWEST) }
}

/// The indexes of this sidecar's instances, ascending. `ids`: as in [`Seat`](super::Seat). Allocates: for when a set is
/// built, not for a request.
pub fn subset(seed: u64, ids: &[u64]) -> Vec<usize> {
    let size = subset_size(ids.len());
    let mut ranked: Vec<usize> = (0..ids.len()).collect();
    if size < ids.len() {
        ranked.select_nth_unstable_by_key(size, |index| mix(seed ^ mix(ids[*index])));
        ranked.truncate(size);
        ranked.sort_unstable();
    }
    ranked
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn ids(n: u64) -> Vec<u64> {
        (0..n).map(|i| mix(i + 1_000_000)).collect()
    }

    fn chosen(seed: u64, ids: &[u64]) -> BTreeSet<u64> {
        subset(seed, ids).into_iter().map(|index| ids[index]).collect()
    }

    #[test]
    fn up_to_a_hundred_everybody_and_above_a_tenth() {
        let table = [(0, 0), (1, 1), (100, 100), (101, 20), (200, 20), (201, 21), (1000, 100)];
        for (n, size) in table {
            assert_eq!(subset_size(n), size);
            assert_eq!(subset(1, &ids(n as u64)).len(), size);
        }
    }

    #[test]
    fn a_thousand_sidecars_load_every_instance_about_alike() {
        let ids = ids(200);
        let mut loads = vec![0u32; 200];
        (0..1000).for_each(|seed| subset(mix(seed), &ids).into_iter().for_each(|index| loads[index] += 1));
        let (least, most) = (loads.iter().min().unwrap(), loads.iter().max().unwrap());
        assert!(*least > 60 && *most < 140, "{least}..{most}");
    }

    proptest! {
        #[test]
        fn an_instance_that_goes_changes_one_place_at_most(seed: u64, gone in 0usize..150) {
            // 150 and 149 instances have subsets of one size.
            let all = ids(150);
            let mut fewer = all.clone();
            fewer.remove(gone);
            let (before, after) = (chosen(seed, &all), chosen(seed, &fewer));
            let lost = before.difference(&after).count();
            prop_assert_eq!(lost, usize::from(before.contains(&all[gone])));
        }

        #[test]
        fn indexes_are_in_range_and_each_there_once(seed: u64, n in 0u64..400) {
            let chosen = subset(seed, &ids(n));
            prop_assert!(chosen.windows(2).all(|pair| pair[0] < pair[1]));
            prop_assert!(chosen.iter().all(|index| (*index as u64) < n));
        }
    }
}
