//! A sliding window over the last n calls, however old they are.
//!
//! For what gets less than a call a second, where a window of seconds holds nothing, and for settings that come from
//! libraries that count calls. A head counter gives each call its place, and one ring of bits for each kind of mark says
//! what it was; sums are population counts. Exact when calls end one after another; under concurrency off by at most
//! the number of threads that record at that moment.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::window::Marks;

/// The largest window.
pub(crate) const MAX_CALLS: usize = 256;
const WORDS: usize = MAX_CALLS / 64;

pub(crate) struct CallWindow {
    head: AtomicU64,
    rings: [[AtomicU64; WORDS]; Marks::KINDS],
}

impl CallWindow {
    pub(crate) fn new() -> CallWindow {
        CallWindow { head: AtomicU64::new(0), rings: [const { [const { AtomicU64::new(0) }; WORDS] }; Marks::KINDS] }
    }

    /// `calls`: the window's size, 1..256, the same in every call until [`CallWindow::clear`].
    pub(crate) fn add(&self, calls: u16, marks: Marks) {
        let place = self.head.fetch_add(1, Relaxed) % u64::from(calls);
        let (word, bit) = ((place / 64) as usize, 1 << (place % 64));
        for (ring, marked) in self.rings.iter().zip(marks.each()) {
            // The mark of the call that leaves the window is overwritten, and only if it differs.
            match (marked, ring[word].load(Relaxed) & bit != 0) {
                (true, false) => drop(ring[word].fetch_or(bit, Relaxed)),
                (false, true) => drop(ring[word].fetch_and(!bit, Relaxed)),
                _ => {}
            }
        }
    }

    pub(crate) fn total(&self, calls: u16) -> u32 {
        self.head.load(Relaxed).min(u64::from(calls)) as u32
    }

    /// Calls in the window with each mark, in the order of [`Marks::each`].
    pub(crate) fn sums(&self) -> [u32; Marks::KINDS] {
        let sum = |ring: &[AtomicU64; WORDS]| ring.iter().map(|word| word.load(Relaxed).count_ones()).sum();
        std::array::from_fn(|kind| sum(&self.rings[kind]))
    }

    pub(crate) fn clear(&self) {
        self.head.store(0, Relaxed);
        self.rings.iter().flatten().for_each(|word| word.store(0, Relaxed));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Invariant (a), for calls in place of seconds.
        #[test]
        fn sums_equal_brute_force_over_the_last_calls(
            calls in 1u16..=256,
            marks in prop::collection::vec(any::<[bool; 5]>(), 0..600),
        ) {
            let window = CallWindow::new();
            for (n, [hard, soft, slow, absolute, shed]) in marks.iter().copied().enumerate() {
                window.add(calls, Marks { hard, soft, slow, absolute, shed });
                let from = (n + 1).saturating_sub(usize::from(calls));
                let live = &marks[from..=n];
                prop_assert_eq!(window.total(calls) as usize, live.len());
                for (kind, sum) in window.sums().into_iter().enumerate() {
                    prop_assert_eq!(sum as usize, live.iter().filter(|marks| marks[kind]).count());
                }
            }
            window.clear();
            prop_assert_eq!((window.total(calls), window.sums()), (0, [0; 5]));
        }
    }
}
