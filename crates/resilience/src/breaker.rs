//! The state machine of one circuit: when it opens, for how long, and what a half-open round may do.
//!
//! It decides transitions from evidence that others weighed (`trigger`, `probation`). It deliberately does not look at
//! peers, windows or the balancer, and has no timer: a deadline is noticed by the next caller, or by the sweep.
//!
//! The request path reads one atomic word. Everything rarer (transitions, probe permits, overrides) happens under a
//! small lock that is never held across anything but arithmetic; the word still changes by compare-and-swap only,
//! because permits are given back without the lock. Invariant: a transition has one winner and starts a generation, and
//! nothing that carries an older generation changes the word.

use std::sync::PoisonError;
use std::time::Duration;

use crate::config::{AfterWait, BreakerConfig, HalfOpen, Round};
use crate::event::{Change, Reason};
use crate::probation::{self, MAX_PROBES, Verdict};
use crate::sync::{AtomicU64, Mutex, MutexGuard, Ordering};
use crate::tally::{Pace, Totals};
use crate::time::{Time, mix, nanos};
use crate::trigger::{Ground, Suspicion};
use crate::word::{Phase, State, Word};

mod held;
#[cfg(all(loom, test))]
mod races;

pub(crate) use held::{Climb, Place};
pub use held::{Forced, Override};

/// The right to make one attempt at one instance.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Permit {
    pub(crate) generation: u32,
    pub(crate) probe: bool,
}

/// Why the circuit is not closed.
#[derive(Clone, Copy, Debug)]
struct Trip {
    suspicion: Suspicion,
    /// Clean probes that close the circuit if none fails.
    need: u8,
}

/// What only transitions need. Made by the first of them: most circuits never open.
#[derive(Debug, Default)]
struct Cold {
    forced: Option<Override>,
    /// When the circuit last closed; not asked for before it has opened.
    closed_at: Time,
    last_open: Duration,
    /// The instance asked not to be called before this.
    hinted: Time,
    trip: Option<Trip>,
    /// Results that came from an earlier period.
    stale: u64,
    /// Calls that passed only because the mode is observe.
    would_reject: u64,
}

/// What a circuit's half-open state says to somebody who would like to probe.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Chance {
    /// Closed, or held by an operator.
    None,
    /// Not before this instant.
    Later(Time),
    /// A new round may begin.
    Begin,
    /// A round is under way and has a free permit.
    Continue,
    /// A probe, or the round itself, has outlived its deadline.
    Lost,
}

pub(crate) struct Breaker {
    word: AtomicU64,
    /// Open: the end of it. Half-open: the deadline of the latest probe. Written before the word.
    until: AtomicU64,
    /// Half-open: the deadline of the round itself; FAR where it has none. Written before the word.
    round_until: AtomicU64,
    cold: Mutex<Option<Box<Cold>>>,
}

impl Breaker {
    pub(crate) fn new() -> Breaker {
        Breaker {
            word: AtomicU64::new(Word::START.pack()),
            until: AtomicU64::new(0),
            round_until: AtomicU64::new(Time::FAR.0),
            cold: Mutex::new(None),
        }
    }

    pub(crate) fn word(&self) -> Word {
        Word::unpack(self.word.load(Ordering::Acquire))
    }

    pub(crate) fn state(&self) -> State {
        self.word().phase.state()
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.word().phase == Phase::Closed
    }

    pub(crate) fn until(&self) -> Time {
        Time(self.until.load(Ordering::Acquire))
    }

    /// The kind of evidence that opened the circuit; meaningful while it is not closed.
    pub(crate) fn ground(&self) -> Ground {
        self.word().ground
    }

    /// CLOSED to OPEN, if `generation` is still the current one and no operator holds the circuit.
    pub(crate) fn trip(
        &self,
        generation: u32,
        suspicion: Suspicion,
        hint: Option<Duration>,
        site: Site<'_>,
    ) -> Option<Change> {
        let mut cold = self.cold();
        let cold = cold.get_or_insert_default();
        let word = self.word();
        if word.generation != generation || word.phase != Phase::Closed || cold.forced.is_some() {
            return None;
        }
        let long = site.config.stable.max(cold.last_open.saturating_mul(2));
        let settled = site.config.stable.is_zero() || site.now.since(cold.closed_at) >= long;
        let k = if word.k == 0 || settled { 1 } else { word.k + 1 };
        let need = match site.config.half_open {
            HalfOpen::Evidence => probation::need(suspicion.rate()),
            HalfOpen::Rate(round) => site.config.round_minimum(round),
        };
        cold.trip = Some(Trip { suspicion, need });
        self.open(cold, word, k, suspicion.reason, hint, site)
    }

    /// One more probe, if the circuit is due or its round has a free permit; OPEN to HALF_OPEN if it is the first.
    pub(crate) fn grant(&self, site: Site<'_>) -> Option<(Permit, Option<Change>)> {
        let cold = self.cold();
        let trip = cold.as_ref().and_then(|cold| cold.trip);
        loop {
            let word = self.word();
            let next = match self.chance_of(word, site.config, site.now) {
                Chance::Begin => word.next(Phase::HalfOpen, word.k),
                Chance::Continue => word,
                Chance::None | Chance::Later(_) | Chance::Lost => return None,
            };
            let granted = Word { outstanding: next.outstanding + 1, ..next };
            let deadline = site.now + site.config.probe_timeout;
            let before = self.until.swap(deadline.0, Ordering::AcqRel);
            if next.generation != word.generation {
                self.limit_round(site);
            }
            if self.swap(word, granted) {
                let permit = Permit { generation: granted.generation, probe: true };
                let change = (granted.generation != word.generation)
                    .then(|| change(trip, word, granted, Reason::Due, Duration::ZERO));
                return Some((permit, change));
            }
            self.until.store(before, Ordering::Release);
        }
    }

    /// HALF_OPEN to OPEN when a probe has outlived its deadline; to what the configuration says when the round has.
    pub(crate) fn reopen_lost(&self, site: Site<'_>) -> Option<Change> {
        let mut cold = self.cold();
        let word = self.word();
        if self.chance_of(word, site.config, site.now) != Chance::Lost {
            return None;
        }
        let cold = cold.get_or_insert_default();
        let k = word.k.saturating_add(1);
        if site.now < self.round_until() {
            return self.open(cold, word, k, Reason::ProbeLost, None, site);
        }
        match site.config.half_open {
            HalfOpen::Rate(Round { then: AfterWait::Closed, .. }) => {
                self.close(cold, word, word.k, Reason::RoundOver, site.now)
            }
            _ => self.open(cold, word, k, Reason::RoundOver, None, site),
        }
    }

    fn limit_round(&self, site: Site<'_>) {
        let end = match site.config.half_open {
            HalfOpen::Rate(Round { max_wait: Some(wait), .. }) => site.now + wait,
            _ => Time::FAR,
        };
        self.round_until.store(end.0, Ordering::Release);
    }

    fn round_until(&self) -> Time {
        Time(self.round_until.load(Ordering::Acquire))
    }

    /// Counts a probe's result and decides the round if it can be decided.
    pub(crate) fn settle_probe(&self, permit: Permit, result: Probed, site: Site<'_>) -> Settled {
        let Probed { failed, pace, peers, hint } = result;
        let mut cold = self.cold();
        let cold = cold.get_or_insert_default();
        loop {
            let word = self.word();
            if word.generation != permit.generation || word.phase != Phase::HalfOpen {
                return Settled::Stale;
            }
            let outstanding = word.outstanding.saturating_sub(1);
            let (ok, fail) = (word.ok + u8::from(!failed), word.fail + u8::from(failed));
            let slow = word.slow + u8::from(pace == Pace::Slow);
            let done = Word { outstanding, ok, fail, slow, ..word };
            let verdict = match site.config.half_open {
                HalfOpen::Evidence => {
                    let rate = cold.trip.map_or(1.0, |trip| trip.suspicion.rate());
                    probation::verdict(ok, fail, failed, rate, peers)
                }
                HalfOpen::Rate(round) => rate_verdict(done, round, site.config),
            };
            let change = match verdict {
                Verdict::Undecided => {
                    if self.swap(word, done) {
                        return Settled::Counted;
                    }
                    continue;
                }
                Verdict::Pass => self.close(cold, word, word.k, Reason::Recovered, site.now),
                Verdict::Fail => self.open(cold, word, word.k.saturating_add(1), Reason::ProbeFailed, hint, site),
            };
            if let Some(change) = change {
                // The word still lacks the result that decided it.
                return Settled::Decided(Change { probes: (ok, fail), ..change });
            }
        }
    }

    /// The permit comes back unused: nothing was learnt.
    pub(crate) fn give_back(&self, permit: Permit) {
        loop {
            let word = self.word();
            if word.generation != permit.generation || word.phase != Phase::HalfOpen {
                return;
            }
            let outstanding = word.outstanding.saturating_sub(1);
            if self.swap(word, Word { outstanding, ..word }) {
                return;
            }
        }
    }

    /// Back to CLOSED with k kept, because the peers turned out to be no better.
    pub(crate) fn release(&self, now: Time) -> Option<Change> {
        let mut cold = self.cold();
        let cold = cold.get_or_insert_default();
        loop {
            let word = self.word();
            if !matches!(word.phase, Phase::Open | Phase::HalfOpen) || word.ground != Ground::ByStatus {
                return None;
            }
            if let Some(change) = self.close(cold, word, word.k, Reason::Released, now) {
                return Some(change);
            }
        }
    }

    /// Reason, totals at the trip, and the probes it takes; `None` while closed or held.
    pub(crate) fn trip_view(&self) -> Option<(Reason, Totals, u8)> {
        self.tripped().map(|Trip { suspicion, need }| (suspicion.reason, suspicion.totals, need))
    }

    /// What kind of evidence opened it; `None` while closed or held.
    pub(crate) fn trip_ground(&self) -> Option<Ground> {
        self.tripped().map(|trip| trip.suspicion.ground)
    }

    /// The hard failure rate at the trip, in percent, for the release.
    pub(crate) fn tripped_percent(&self) -> Option<u32> {
        let suspicion = self.tripped()?.suspicion;
        (suspicion.ground == Ground::ByStatus).then(|| suspicion.hard_percent())
    }

    /// `(calls, hard failures)` of the window that opened the circuit, as its peers see it; nothing while closed or held.
    pub(crate) fn last_window(&self) -> (u32, u32) {
        self.tripped().map(|trip| trip.suspicion.last_window()).unwrap_or_default()
    }

    pub(crate) fn count_stale(&self) {
        self.cold().get_or_insert_default().stale += 1;
    }

    pub(crate) fn count_would_reject(&self) {
        self.cold().get_or_insert_default().would_reject += 1;
    }

    /// Results that came from an earlier period and were not counted.
    pub(crate) fn stale_results(&self) -> u64 {
        self.cold().as_ref().map_or(0, |cold| cold.stale)
    }

    /// Calls that passed only because the mode is observe.
    pub(crate) fn would_reject(&self) -> u64 {
        self.cold().as_ref().map_or(0, |cold| cold.would_reject)
    }

    fn tripped(&self) -> Option<Trip> {
        self.cold().as_ref()?.trip
    }

    /// Shortens what is left of an opening, but not below what the instance asked for.
    pub(crate) fn cut(&self, seed: u64, now: Time) {
        let cold = self.cold();
        let hinted = cold.as_ref().map_or(Time(0), |cold| cold.hinted);
        let word = self.word();
        let spread = mix(seed ^ u64::from(word.generation)) % 1000;
        let cut = (now + Duration::from_millis(1500 + spread)).max(hinted);
        if word.phase == Phase::Open && self.until() > cut {
            self.until.store(cut.0, Ordering::Release);
        }
    }

    pub(crate) fn chance(&self, config: &BreakerConfig, now: Time) -> Chance {
        self.chance_of(self.word(), config, now)
    }

    fn chance_of(&self, word: Word, config: &BreakerConfig, now: Time) -> Chance {
        let until = self.until();
        match word.phase {
            Phase::Closed | Phase::ForcedOpen => Chance::None,
            Phase::Open if now > until => Chance::Begin,
            Phase::Open => Chance::Later(until),
            Phase::HalfOpen if word.outstanding > 0 && now > until => Chance::Lost,
            Phase::HalfOpen if now >= self.round_until() => Chance::Lost,
            Phase::HalfOpen => {
                let (concurrency, permits) = match config.half_open {
                    HalfOpen::Evidence => (config.probe_concurrency, MAX_PROBES),
                    HalfOpen::Rate(round) => (round.concurrency, round.permits),
                };
                let free =
                    word.outstanding < concurrency && word.outstanding.saturating_add(word.probes_done()) < permits;
                if free { Chance::Continue } else { Chance::Later(until.min(self.round_until())) }
            }
        }
    }

    fn open(
        &self,
        cold: &mut Cold,
        word: Word,
        k: u8,
        reason: Reason,
        hint: Option<Duration>,
        site: Site<'_>,
    ) -> Option<Change> {
        let ground = cold.trip.map_or(word.ground, |trip| trip.suspicion.ground);
        let next = Word { ground, ..word.next(Phase::Open, k) };
        let hint = hint.map(|hint| hint.min(site.config.open_max));
        let span = open_time(site.config, next.k, site.seed, next.generation).max(hint.unwrap_or_default());
        let before = self.until.swap((site.now + span).0, Ordering::AcqRel);
        if !self.swap(word, next) {
            self.until.store(before, Ordering::Release);
            return None;
        }
        cold.last_open = span;
        cold.hinted = hint.map_or(Time(0), |hint| site.now + hint);
        Some(change(cold.trip, word, next, reason, span))
    }

    fn close(&self, cold: &mut Cold, word: Word, k: u8, reason: Reason, now: Time) -> Option<Change> {
        let next = word.next(Phase::Closed, k);
        if !self.swap(word, next) {
            return None;
        }
        let change = change(cold.trip, word, next, reason, Duration::ZERO);
        cold.closed_at = now;
        cold.trip = None;
        Some(change)
    }

    fn swap(&self, from: Word, to: Word) -> bool {
        self.word.compare_exchange(from.pack(), to.pack(), Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    fn cold(&self) -> MutexGuard<'_, Option<Box<Cold>>> {
        self.cold.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn change(trip: Option<Trip>, from: Word, to: Word, reason: Reason, open_for: Duration) -> Change {
    let suspicion = trip.map(|trip| trip.suspicion);
    Change {
        from: from.phase.state(),
        to: to.phase.state(),
        reason,
        class: suspicion.and_then(|suspicion| suspicion.ground.class()),
        generation: to.generation,
        k: to.k,
        open_for,
        totals: suspicion.map(|suspicion| suspicion.totals).unwrap_or_default(),
        need: trip.map_or(0, |trip| trip.need),
        probes: if from.phase == Phase::HalfOpen { (from.ok, from.fail) } else { (0, 0) },
        actor: None,
    }
}

/// Where and when something happens to a breaker.
#[derive(Clone, Copy)]
pub(crate) struct Site<'a> {
    pub(crate) config: &'a BreakerConfig,
    pub(crate) seed: u64,
    pub(crate) now: Time,
}

/// What a probe brought back.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Probed {
    pub(crate) failed: bool,
    pub(crate) pace: Pace,
    /// How often the closed peers fail.
    pub(crate) peers: f64,
    pub(crate) hint: Option<Duration>,
}

/// What a probe's result did.
pub(crate) enum Settled {
    Stale,
    Counted,
    Decided(Change),
}

/// The verdict of a round that is decided by rate. Integer arithmetic, as for the triggers.
fn rate_verdict(done: Word, round: Round, config: &BreakerConfig) -> Verdict {
    let results = u32::from(done.probes_done());
    if results < u32::from(config.round_minimum(round)) {
        return Verdict::Undecided;
    }
    let reached = |count: u8, rate: u8| u32::from(count) * 100 >= u32::from(rate) * results;
    let slow = config.slow.is_some_and(|slow| reached(done.slow, slow.rate));
    if reached(done.fail, config.failure_rate) || slow { Verdict::Fail } else { Verdict::Pass }
}

/// `min(base x factor^(k-1), max)`, jittered by a hash of instance and generation. Each step is cut to milliseconds.
pub(crate) fn open_time(config: &BreakerConfig, k: u8, seed: u64, generation: u32) -> Duration {
    let mut nominal = config.open_base;
    for _ in 1..k {
        if nominal >= config.open_max {
            break;
        }
        let longer = nominal.as_millis() * u128::from(config.open_factor) / 1000;
        nominal = Duration::from_millis(u64::try_from(longer).unwrap_or(u64::MAX));
    }
    let nominal = nanos(nominal.min(config.open_max));
    let jitter = u64::from(config.jitter_percent);
    let draw = mix(seed ^ mix(u64::from(generation))) % 10_000;
    // 100 % - jitter .. 100 % + jitter, in hundredths of a percent of it.
    let share = u128::from((100 - jitter.min(100)) * 10_000 + 2 * jitter * draw);
    Duration::from_nanos((u128::from(nominal) * share / 1_000_000).min(u128::from(u64::MAX)) as u64)
}
