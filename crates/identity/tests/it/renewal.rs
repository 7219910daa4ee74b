//! When a leaf is due.

use fusewire_identity::renewal_at;
use proptest::prelude::*;

use crate::world::*;

#[test]
fn a_day_long_leaf_is_renewed_after_two_thirds_give_or_take_a_tenth() {
    let (earliest, latest) = (NOW + DAY * 17 / 30, NOW + DAY * 23 / 30);
    assert_eq!(renewal_at(NOW, NOW + DAY, 0), earliest);
    assert_eq!(renewal_at(NOW, NOW + DAY, latest - earliest), latest);
    assert_eq!(renewal_at(NOW, NOW + DAY, latest - earliest + 1), earliest, "any number will do");
    let sum: u64 = (0..=latest - earliest).map(|random| renewal_at(NOW, NOW + DAY, random) - NOW).sum();
    assert_eq!(sum / (latest - earliest + 1), DAY * 2 / 3, "two thirds on average");
}

#[test]
fn a_leaf_of_ten_seconds_is_renewed_while_it_holds() {
    for random in 0..20 {
        let due = renewal_at(NOW - 1, NOW + 10, random);
        assert!((NOW + 5..=NOW + 8).contains(&due), "{due}");
    }
}

#[test]
fn times_that_make_no_sense_give_the_end_and_no_panic() {
    assert_eq!(renewal_at(NOW, NOW, 7), NOW);
    assert_eq!(renewal_at(NOW, NOW - 1, 7), NOW);
    assert!(renewal_at(0, u64::MAX, u64::MAX) > u64::MAX / 2);
}

proptest! {
    #[test]
    fn renewal_is_never_before_half_nor_after_five_sixths_of_a_life(
        begin in any::<u32>(), life in 2..u64::from(u32::MAX), random in any::<u64>(),
    ) {
        let begin = u64::from(begin);
        let after = renewal_at(begin, begin + life, random) - begin;
        prop_assert!(after * 2 >= life, "{after} of {life}");
        prop_assert!(after * 6 <= life * 5, "{after} of {life}");
    }
}
