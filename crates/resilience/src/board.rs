//! What the instances of one service share: the order of events, and who may be probed when.
//!
//! A board outlives the sets built one after another for a service, so an attempt that began under an older set still
//! tells the current one that a circuit opened. It holds no instance state.

use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicU8, AtomicU64};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::event::Journal;
use crate::time::Time;

/// Between two probes of one service.
pub(crate) const PROBE_GAP: Duration = Duration::from_millis(100);
/// How long a due probe waits for a replayable request before others may be used, and then the longest between two.
const PATIENCE: Duration = Duration::from_secs(1);
const NEVER: u64 = u64::MAX;
const EPOCHS: u64 = (1 << 24) - 1;

pub(crate) struct Board<M> {
    journal: Mutex<Journal<M>>,
    /// The first instant at which looking for a probe may be worthwhile; FAR while all is well. The one thing that
    /// every pick reads.
    attention: AtomicU64,
    last_probe: AtomicU64,
    /// Since when probes have been due and only requests came that cannot be replayed.
    unserved_since: AtomicU64,
    clean_probes: AtomicU8,
    /// Counts what may admit a request again; with [`Shut`], it saves the walk while nothing can be had.
    epoch: AtomicU64,
}

/// What a look at one set's instances found, where it found nothing. Each set's own: requests that began under an older one
/// say nothing about who has come since.
#[derive(Default)]
pub(crate) struct Shut {
    /// `until in ms : 40 | epoch : 24`
    word: AtomicU64,
}

impl Shut {
    /// Nobody can be had before `until`, as of `epoch`.
    pub(crate) fn set(&self, until: Time, epoch: u64) {
        self.word.store(until.millis() << 24 | epoch, Release);
    }

    /// If nobody can be had, and nothing has changed since it was so: until when.
    #[inline]
    pub(crate) fn until<M>(&self, board: &Board<M>, now: Time) -> Option<Time> {
        let word = self.word.load(Acquire);
        let until = Time((word >> 24).saturating_mul(1_000_000));
        (now < until && word & EPOCHS == board.epoch()).then_some(until)
    }
}

impl<M> Board<M> {
    pub(crate) fn new() -> Board<M> {
        Board {
            journal: Mutex::new(Journal::new()),
            attention: AtomicU64::new(NEVER),
            last_probe: AtomicU64::new(NEVER),
            unserved_since: AtomicU64::new(NEVER),
            clean_probes: AtomicU8::new(0),
            epoch: AtomicU64::new(0),
        }
    }

    /// Held around every transition, so that the journal's order is the order of the transitions.
    pub(crate) fn journal(&self) -> MutexGuard<'_, Journal<M>> {
        self.journal.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[inline]
    pub(crate) fn is_attention_due(&self, now: Time) -> bool {
        self.attention.load(Relaxed) <= now.0
    }

    pub(crate) fn attend_at(&self, at: Time) {
        self.attention.fetch_min(at.0, AcqRel);
    }

    /// Call before looking at every instance; what changes during the look lowers it again.
    pub(crate) fn begin_look(&self) {
        self.attention.swap(NEVER, AcqRel);
    }

    /// When the service may be probed again.
    pub(crate) fn next_probe(&self) -> Time {
        match self.last_probe.load(Relaxed) {
            NEVER => Time(0),
            at => Time(at) + PROBE_GAP,
        }
    }

    /// Takes the turn to probe, for one caller in each gap.
    pub(crate) fn claim_probe(&self, now: Time) -> bool {
        let last = self.last_probe.load(Relaxed);
        let due = last == NEVER || Time(last) + PROBE_GAP <= now;
        due && self.last_probe.compare_exchange(last, now.0, Relaxed, Relaxed).is_ok()
    }

    pub(crate) fn probe_settled(&self, failed: bool) {
        if failed {
            self.clean_probes.store(0, Relaxed);
        } else {
            // Lost increments under contention only slow the ramp.
            self.clean_probes.store(self.clean_probes.load(Relaxed).saturating_add(1).min(7), Relaxed);
        }
    }

    pub(crate) fn replayable_seen(&self) {
        if self.unserved_since.load(Relaxed) != NEVER {
            self.unserved_since.store(NEVER, Relaxed);
        }
    }

    /// Whether a request that cannot be replayed may be risked: after a second without better, one in a hundred (twice
    /// as many after each clean probe), and at least one a second.
    pub(crate) fn may_risk(&self, random: u64, now: Time) -> bool {
        let since = self.unserved_since.load(Relaxed);
        if since == NEVER {
            self.unserved_since.store(now.0, Relaxed);
            return false;
        }
        if now.since(Time(since)) < PATIENCE {
            return false;
        }
        let last = self.last_probe.load(Relaxed);
        let overdue = last == NEVER || now.since(Time(last)) >= PATIENCE;
        overdue || random % 100 < 1 << self.clean_probes.load(Relaxed)
    }

    /// A circuit opened, or all are closed: the wait for a replayable request starts again.
    pub(crate) fn reset_patience(&self) {
        self.unserved_since.store(NEVER, Relaxed);
        self.clean_probes.store(0, Relaxed);
    }

    /// What a look that found nothing can be compared with: it holds until then, if nothing has changed.
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch.load(Acquire) & EPOCHS
    }

    /// Something happened that may admit a request.
    pub(crate) fn reopen(&self) {
        self.epoch.fetch_add(1, AcqRel);
    }
}
