//! What one instance has done lately: the counts that the triggers read.
//!
//! Records and reports; decides nothing. Everything is an atomic of its own, because the triggers need each count to be
//! right and never need two of them at the same instant. Off by at most the number of threads between a generation
//! check and an add; the sums are read against thresholds of five and ten.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use crate::config::BreakerConfig;
use crate::outcome::{Class, Evidence, Outcome};
use crate::ring::{Ring, Shape, delta};
use crate::time::{Time, mix, nanos};
use crate::window::{Detail, Marks, Window};

/// A witness needs this many clean calls in a row.
pub(crate) const CLEAN_STREAK: u32 = 20;
/// "The last 3 s" of the rules: the current second and the two before.
const RECENT: Shape = Shape::new(1_000_000_000, 3);

/// Whether a call took longer than its policy's `slow`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Pace {
    Fine,
    Slow,
}

/// Calls in a window.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Totals {
    pub total: u32,
    pub hard: u32,
    pub soft: u32,
    /// Those that were slow, clean or not. Counted only where the policy says what is slow, and zero elsewhere.
    pub slow: u32,
}

impl Totals {
    pub(crate) fn bad(self) -> u32 {
        self.hard + self.soft
    }

    pub(crate) fn bad_rate(self) -> f64 {
        if self.total == 0 { 0.0 } else { f64::from(self.bad()) / f64::from(self.total) }
    }
}

/// The last three seconds: what the release and the unresponsive trigger compare among peers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Recent {
    pub(crate) total: u32,
    pub(crate) hard: u32,
    pub(crate) strain: u32,
}

/// Failures in a row, of one sort.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Run {
    pub(crate) began_ms: u64,
    pub(crate) count: u8,
    /// Those of them that need no comparison with peers.
    pub(crate) absolute: u8,
}

impl Run {
    fn unpack(bits: u64) -> Run {
        Run { began_ms: bits >> 16, count: bits as u8, absolute: (bits >> 8) as u8 }
    }

    fn extended(bits: u64, now: Time, absolute: bool) -> u64 {
        let run = Run::unpack(bits);
        let began = if run.count == 0 { now.millis() } else { run.began_ms };
        began << 16
            | u64::from(run.absolute.saturating_add(u8::from(absolute))) << 8
            | u64::from(run.count.saturating_add(1))
    }
}

pub(crate) struct Tally {
    /// The default's ten buckets lie in place.
    window: Window<[AtomicU64; 10]>,
    recent: [AtomicU64; 3],
    /// A fingerprint of the window's shape when the set was last built, 0 before; another shape would misread the buckets.
    shape: AtomicU32,
    /// Hard failures since the last ok.
    run: AtomicU64,
    /// Timeouts since the last response byte.
    silence: AtomicU64,
    clean_streak: AtomicU32,
    last_clean: AtomicU64,
    last_answer: AtomicU64,
    last_connect: AtomicU64,
    last_bad: AtomicU64,
}

impl Tally {
    pub(crate) fn new() -> Tally {
        Tally {
            window: Window::new([const { AtomicU64::new(0) }; _]),
            recent: [const { AtomicU64::new(0) }; _],
            shape: AtomicU32::new(0),
            run: AtomicU64::new(0),
            silence: AtomicU64::new(0),
            clean_streak: AtomicU32::new(0),
            last_clean: AtomicU64::new(0),
            last_answer: AtomicU64::new(0),
            last_connect: AtomicU64::new(0),
            last_bad: AtomicU64::new(0),
        }
    }

    pub(crate) fn is_new(&self) -> bool {
        self.shape.load(Relaxed) == 0
    }

    /// The window is this one from now on. Whether it is the first.
    pub(crate) fn reshape(&self, config: &BreakerConfig) -> bool {
        let shape = match config.window_calls {
            0 => u64::from(config.buckets) << 56 | nanos(config.window) & ((1 << 56) - 1),
            calls => 1 << 63 | u64::from(calls),
        };
        let shape = mix(shape) as u32 | 1;
        let before = self.shape.swap(shape, Relaxed);
        if before != 0 && before != shape {
            self.clear();
        }
        before == 0
    }

    /// A slow call that is otherwise clean counts as soft where instances are compared, and breaks no run.
    pub(crate) fn record(&self, shape: Shape, outcome: Outcome, pace: Pace, now: Time) {
        let hard = outcome.class == Class::Hard;
        let slow = pace == Pace::Slow;
        let soft = outcome.class == Class::Soft || (slow && !hard);
        let (absolute, shed) = (outcome.is_absolute(), outcome.evidence == Evidence::Overload);
        self.window.add(shape, now, Marks { hard, soft, slow, absolute, shed });
        Ring(&self.recent).add(RECENT, now, delta([true, hard, outcome.is_strain()]));
        if outcome.is_answer() {
            self.heard(now);
        }
        if slow {
            self.clean_streak.store(0, Relaxed);
            self.last_bad.fetch_max(now.0.max(1), Relaxed);
        }
        if outcome.is_failure() {
            self.record_failure(outcome, now);
            return;
        }
        if self.run.load(Relaxed) != 0 {
            self.run.store(0, Relaxed);
        }
        if slow {
            return;
        }
        if self.clean_streak.load(Relaxed) < CLEAN_STREAK {
            self.clean_streak.fetch_add(1, Relaxed);
        }
        self.last_clean.store(now.0, Relaxed);
    }

    fn record_failure(&self, outcome: Outcome, now: Time) {
        self.clean_streak.store(0, Relaxed);
        self.last_bad.fetch_max(now.0.max(1), Relaxed);
        if outcome.class == Class::Hard {
            extend(&self.run, now, outcome.is_absolute());
        }
        if matches!(outcome.evidence, Evidence::Timeout | Evidence::ConnectTimeout) {
            extend(&self.silence, now, false);
        }
    }

    /// A response byte arrived. Known at the headers, long before the outcome of a stream.
    pub(crate) fn heard(&self, now: Time) {
        if self.silence.load(Relaxed) != 0 {
            self.silence.store(0, Relaxed);
        }
        self.last_answer.store(now.0, Relaxed);
    }

    /// A new connection came up.
    pub(crate) fn connected(&self, now: Time) {
        self.last_connect.fetch_max(now.0, Relaxed);
    }

    pub(crate) fn totals(&self, shape: Shape, now: Time) -> Totals {
        self.window.totals(shape, now)
    }

    pub(crate) fn detail(&self, shape: Shape, now: Time) -> Detail {
        self.window.detail(shape, now)
    }

    pub(crate) fn recent(&self, now: Time) -> Recent {
        let [total, hard, strain] = Ring(&self.recent).sum(RECENT, now);
        Recent { total, hard, strain }
    }

    pub(crate) fn run(&self) -> Run {
        Run::unpack(self.run.load(Relaxed))
    }

    pub(crate) fn silence(&self) -> Run {
        Run::unpack(self.silence.load(Relaxed))
    }

    pub(crate) fn has_clean_streak(&self) -> bool {
        self.clean_streak.load(Relaxed) >= CLEAN_STREAK
    }

    pub(crate) fn last_clean(&self) -> Time {
        Time(self.last_clean.load(Relaxed))
    }

    pub(crate) fn last_answer(&self) -> Time {
        Time(self.last_answer.load(Relaxed))
    }

    pub(crate) fn last_connect(&self) -> Time {
        Time(self.last_connect.load(Relaxed))
    }

    /// When the last failure was, if there was one in this period.
    pub(crate) fn last_bad(&self) -> Option<Time> {
        match self.last_bad.load(Relaxed) {
            0 => None,
            at => Some(Time(at)),
        }
    }

    /// A new period begins: what was counted before belongs to another one.
    pub(crate) fn clear(&self) {
        self.window.clear();
        Ring(&self.recent).clear();
        self.run.store(0, Relaxed);
        self.silence.store(0, Relaxed);
        self.clean_streak.store(0, Relaxed);
        self.last_bad.store(0, Relaxed);
    }

    pub(crate) fn forget(&self, shape: Shape, now: Time) {
        self.window.forget(shape, now);
        Ring(&self.recent).forget(RECENT, now);
    }
}

fn extend(run: &AtomicU64, now: Time, absolute: bool) {
    // Cannot fail: the closure always has a next value.
    let _ = run.fetch_update(Relaxed, Relaxed, |bits| Some(Run::extended(bits, now, absolute)));
}
