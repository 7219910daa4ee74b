//! What a circuit counts, over a time or over a number of calls: the one place where both kinds of window meet.
//!
//! It decides nothing. A healthy call touches one word of it; failures and slow calls a second one. A window of calls is
//! allocated by the first call that needs it, so that nobody else pays for it.

use std::num::NonZeroU16;
use std::sync::OnceLock;
use std::sync::atomic::AtomicU64;

use crate::calls::CallWindow;
use crate::ring::{Ring, Shape, delta};
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

pub(crate) struct Window<B> {
    /// Calls, hard, soft.
    main: Ring<B>,
    /// Slow, absolute, shed.
    detail: Ring<B>,
    calls: OnceLock<Box<CallWindow>>,
}

impl<B: AsRef<[AtomicU64]>> Window<B> {
    /// Both rings as long as any shape that is used with them.
    pub(crate) fn new(main: Ring<B>, detail: Ring<B>) -> Window<B> {
        Window { main, detail, calls: OnceLock::new() }
    }

    #[inline]
    pub(crate) fn add(&self, shape: Shape, now: Time, marks: Marks) {
        if let Some(calls) = shape.calls() {
            self.add_to_calls(calls, marks);
            return;
        }
        self.main.add(shape, now, delta([true, marks.hard, marks.soft]));
        if marks.slow || marks.absolute || marks.shed {
            self.detail.add(shape, now, delta([marks.slow, marks.absolute, marks.shed]));
        }
    }

    #[cold]
    fn add_to_calls(&self, calls: NonZeroU16, marks: Marks) {
        self.calls.get_or_init(|| Box::new(CallWindow::new())).add(calls.get(), marks);
    }

    /// All but the slow ones, which cost another walk.
    pub(crate) fn totals(&self, shape: Shape, now: Time) -> Totals {
        let Some(calls) = shape.calls() else {
            let [total, hard, soft] = self.main.sum(shape, now);
            return Totals { total, hard, soft, slow: 0 };
        };
        let Some(window) = self.calls.get() else { return Totals::default() };
        let [hard, soft, ..] = window.sums();
        Totals { total: window.total(calls.get()), hard, soft, slow: 0 }
    }

    /// Calls, hard and soft failures, and failed connections of the newest buckets; of all calls where the window holds calls.
    pub(crate) fn newest(&self, shape: Shape, buckets: u64, now: Time) -> (Totals, u32) {
        if shape.calls().is_some() {
            return (self.totals(shape, now), self.detail(shape, now).absolute);
        }
        let [total, hard, soft] = self.main.sum_newest(shape, buckets, now);
        let [_, absolute, _] = self.detail.sum_newest(shape, buckets, now);
        (Totals { total, hard, soft, slow: 0 }, absolute)
    }

    pub(crate) fn detail(&self, shape: Shape, now: Time) -> Detail {
        if shape.calls().is_none() {
            let [slow, absolute, shed] = self.detail.sum(shape, now);
            return Detail { slow, absolute, shed };
        }
        let Some(window) = self.calls.get() else { return Detail::default() };
        let [_, _, slow, absolute, shed] = window.sums();
        Detail { slow, absolute, shed }
    }

    pub(crate) fn clear(&self) {
        self.main.clear();
        self.detail.clear();
        if let Some(window) = self.calls.get() {
            window.clear();
        }
    }

    pub(crate) fn forget(&self, shape: Shape, now: Time) {
        self.main.forget(shape, now);
        self.detail.forget(shape, now);
    }
}
