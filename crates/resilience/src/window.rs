//! What a circuit counts, over a time or over a number of calls: the one place where both kinds of window meet.
//!
//! It decides nothing. A healthy call touches one word of it; failures and slow calls a second one. What healthy calls do
//! not need is allocated by the first call that does, so that nobody else pays for it.

use std::num::NonZeroU16;
use std::sync::OnceLock;
use std::sync::atomic::AtomicU64;

use crate::calls::CallWindow;
use crate::ring::{MAX_BUCKETS, Ring, Shape, buckets, delta};
use crate::tally::Totals;
use crate::time::Time;

/// What one call was.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Marks {
    pub(crate) hard: bool,
    pub(crate) soft: bool,
    pub(crate) slow: bool,
    /// Hard without asking the peers.
    pub(crate) absolute: bool,
    /// Refused before the application saw it.
    pub(crate) shed: bool,
}

impl Marks {
    pub(crate) const KINDS: usize = 5;

    pub(crate) fn each(self) -> [bool; Marks::KINDS] {
        [self.hard, self.soft, self.slow, self.absolute, self.shed]
    }
}

/// What only some triggers ask for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Detail {
    pub(crate) slow: u32,
    pub(crate) absolute: u32,
    pub(crate) shed: u32,
}

/// `B`: where the buckets lie that nearly everybody needs.
pub(crate) struct Window<B> {
    /// Calls, hard, soft.
    main: B,
    rare: OnceLock<Box<Rare>>,
}

/// What few windows ever need.
struct Rare {
    /// Slow, absolute, shed.
    detail: Box<[AtomicU64]>,
    /// In place of `main`, for a shape with more buckets.
    long: OnceLock<Box<[AtomicU64]>>,
    calls: OnceLock<Box<CallWindow>>,
}

impl<B: AsRef<[AtomicU64]>> Window<B> {
    /// `main`: as many buckets as are commonly wanted; more than [`MAX_BUCKETS`] only if `main` has as many itself.
    pub(crate) fn new(main: B) -> Window<B> {
        Window { main, rare: OnceLock::new() }
    }

    #[inline]
    pub(crate) fn add(&self, shape: Shape, now: Time, marks: Marks) {
        if let Some(calls) = shape.calls() {
            self.add_to_calls(calls, marks);
            return;
        }
        let mut main = self.main(shape);
        if main.is_empty() {
            main = self.rare().long.get_or_init(|| buckets(MAX_BUCKETS));
        }
        Ring(main).add(shape, now, delta([true, marks.hard, marks.soft]));
        if marks.slow || marks.absolute || marks.shed {
            Ring(&self.rare().detail).add(shape, now, delta([marks.slow, marks.absolute, marks.shed]));
        }
    }

    #[cold]
    fn add_to_calls(&self, calls: NonZeroU16, marks: Marks) {
        self.rare().calls.get_or_init(|| Box::new(CallWindow::new())).add(calls.get(), marks);
    }

    /// All but the slow ones, which cost another walk.
    pub(crate) fn totals(&self, shape: Shape, now: Time) -> Totals {
        let Some(calls) = shape.calls() else {
            let [total, hard, soft] = Ring(self.main(shape)).sum(shape, now);
            return Totals { total, hard, soft, slow: 0 };
        };
        let Some(window) = self.calls() else { return Totals::default() };
        let [hard, soft, ..] = window.sums();
        Totals { total: window.total(calls.get()), hard, soft, slow: 0 }
    }

    /// Calls, hard and soft failures, and failed connections of the newest buckets; of all calls where the window holds calls.
    pub(crate) fn newest(&self, shape: Shape, buckets: u64, now: Time) -> (Totals, u32) {
        if shape.calls().is_some() {
            return (self.totals(shape, now), self.detail(shape, now).absolute);
        }
        let [total, hard, soft] = Ring(self.main(shape)).sum_newest(shape, buckets, now);
        let [_, absolute, _] = Ring(self.details()).sum_newest(shape, buckets, now);
        (Totals { total, hard, soft, slow: 0 }, absolute)
    }

    pub(crate) fn detail(&self, shape: Shape, now: Time) -> Detail {
        if shape.calls().is_none() {
            let [slow, absolute, shed] = Ring(self.details()).sum(shape, now);
            return Detail { slow, absolute, shed };
        }
        let Some(window) = self.calls() else { return Detail::default() };
        let [_, _, slow, absolute, shed] = window.sums();
        Detail { slow, absolute, shed }
    }

    pub(crate) fn clear(&self) {
        Ring(self.main.as_ref()).clear();
        let Some(rare) = self.rare.get() else { return };
        Ring(&rare.detail).clear();
        Ring(rare.long.get().map_or(&[], |long| long)).clear();
        if let Some(window) = rare.calls.get() {
            window.clear();
        }
    }

    pub(crate) fn forget(&self, shape: Shape, now: Time) {
        Ring(self.main(shape)).forget(shape, now);
        Ring(self.details()).forget(shape, now);
    }

    /// Where calls are counted; no buckets if none has been yet.
    #[inline]
    fn main(&self, shape: Shape) -> &[AtomicU64] {
        let main = self.main.as_ref();
        if shape.len() <= main.len() {
            return main;
        }
        self.rare.get().and_then(|rare| rare.long.get()).map_or(&[], |long| long)
    }

    fn details(&self) -> &[AtomicU64] {
        self.rare.get().map_or(&[], |rare| &rare.detail)
    }

    fn calls(&self) -> Option<&CallWindow> {
        self.rare.get()?.calls.get().map(|calls| &**calls)
    }

    #[cold]
    fn rare(&self) -> &Rare {
        let longest = self.main.as_ref().len().max(MAX_BUCKETS);
        let new = || Rare { detail: buckets(longest), long: OnceLock::new(), calls: OnceLock::new() };
        self.rare.get_or_init(|| Box::new(new()))
    }
}
