//! One circuit on its own: the state machine, windows and events of an instance's breaker, without peers or balancer.
//!
//! For what is no instance among others: a dependency as a whole, a broker, a caller's own resource; and for those who
//! bring the settings of a library that has nothing but this ([`compat`](crate::compat)). Its triggers are absolute,
//! because there is nobody to compare with: failures in a row, the rate of failures (hard and soft alike), and the rate
//! of slow calls. It deliberately knows neither retries nor concurrency limits, and has no timer: what time alone changes
//! is noticed by the next call, or by [`Circuit::sweep`].
//!
//! Invariant: every transition is made, and written to the journal, under the circuit's one journal lock.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::breaker::{Breaker, Chance, Override, Permit, Place, Probed, Settled, Site};
use crate::calls::CallWindow;
use crate::config::{BreakerConfig, HalfOpen, Mode};
use crate::event::{Change, Journal, Reason, Transition};
use crate::outcome::{Class, Evidence, Outcome};
use crate::ring::{self, Shape};
use crate::tally::{Pace, Totals};
use crate::time::Time;
use crate::trigger::{Ground, Suspicion};
use crate::window::{Marks, Window};
use crate::word::{Phase, State, Word};

mod view;

pub use view::CircuitView;

/// One circuit without peers, under one configuration; [`Circuit::reconfigured`] gives the same one under another.
pub struct Circuit {
    config: BreakerConfig,
    shape: Shape,
    counted: Counted,
    /// Shared with other configurations of the same shape.
    window: Arc<Window<Box<[AtomicU64]>>>,
    core: Arc<Core>,
}

/// What outlives a change of configuration.
struct Core {
    seed: u64,
    breaker: Breaker,
    /// The results of the half-open round, which stay to be seen while the circuit is open after it.
    round: CallWindow,
    shows_round: AtomicBool,
    /// Hard failures in a row.
    run: AtomicU8,
    /// When the last failure or slow call was, if there was one in this period.
    last_bad: AtomicU64,
    refused: AtomicU64,
    refused_in_period: AtomicU64,
    journal: Mutex<Journal<str>>,
    name: Arc<str>,
}

/// Which failures the rates count.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum Which {
    #[default]
    All,
    /// Connections that could not be had, only.
    Connect,
    /// None: the circuit never opens by itself.
    Nothing,
}

/// Which failures open a circuit, and whether they must be recent.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Counted {
    pub(crate) which: Which,
    /// Within the last `.0` at least `.1` percent: a circuit does not open on history that is already mended.
    pub(crate) recently: Option<(Duration, u8)>,
}

impl Which {
    fn is_failure(self, outcome: Outcome) -> bool {
        match self {
            Which::All => outcome.is_failure(),
            Which::Connect => outcome.class == Class::Hard && outcome.evidence == Evidence::Connect,
            Which::Nothing => false,
        }
    }
}

/// The right to make one call.
///
/// # Drop behavior
///
/// Dropped unsettled, it is given back as ignored: nothing is learnt, and a probe's place is free again.
#[must_use = "a call that is dropped counts as ignored"]
pub struct Call {
    circuit: Arc<Circuit>,
    permit: Permit,
    settled: bool,
}

/// The circuit does not admit a call now.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Refused {
    /// When it may; zero if that is not a matter of time.
    pub retry_after: Duration,
}

impl Circuit {
    /// `name` is what events are found by, `seed` decorrelates the jitter. The configuration is taken as it is: validate
    /// it where it comes from. What it says of peers and of silence has no meaning here.
    pub fn new(name: &str, seed: u64, config: BreakerConfig) -> Arc<Circuit> {
        let shape = Shape::of(&config);
        let buckets = usize::from(config.buckets.max(1));
        Circuit::with_shape(name, seed, config, (shape, buckets))
    }

    pub(crate) fn with_shape(
        name: &str,
        seed: u64,
        config: BreakerConfig,
        (shape, buckets): (Shape, usize),
    ) -> Arc<Circuit> {
        Arc::new(Circuit {
            config,
            shape,
            counted: Counted::default(),
            window: Arc::new(Window::new(ring::buckets(buckets))),
            core: Arc::new(Core {
                seed,
                breaker: Breaker::new(),
                round: CallWindow::new(),
                shows_round: AtomicBool::new(false),
                run: AtomicU8::new(0),
                last_bad: AtomicU64::new(0),
                refused: AtomicU64::new(0),
                refused_in_period: AtomicU64::new(0),
                journal: Mutex::new(Journal::new()),
                name: name.into(),
            }),
        })
    }

    /// The same circuit under another configuration: state, events and what is in flight stay. The window stays too, unless
    /// its length or its buckets changed. Calls that began before are settled by the rules that they began under.
    pub fn reconfigured(&self, config: BreakerConfig) -> Arc<Circuit> {
        Arc::new(self.recounted(config, self.counted))
    }

    pub(crate) fn recounted(&self, config: BreakerConfig, counted: Counted) -> Circuit {
        let shape = Shape::of(&config);
        let buckets = usize::from(config.buckets.max(1));
        let window = match shape == self.shape {
            true => self.window.clone(),
            false => Arc::new(Window::new(ring::buckets(buckets))),
        };
        Circuit { config, shape, counted, window, core: self.core.clone() }
    }

    pub fn name(&self) -> &str {
        &self.core.name
    }

    pub fn state(&self) -> State {
        self.core.breaker.state()
    }

    pub(crate) fn phase(&self) -> Phase {
        self.core.breaker.word().phase
    }

    /// The right to make one call.
    ///
    /// # Cancel safety
    ///
    /// The permit is given back when the call is dropped, whatever state it is in.
    pub fn acquire(self: &Arc<Self>, now: Time) -> Result<Call, Refused> {
        self.permit(now).map(|permit| Call { circuit: self.clone(), permit, settled: false })
    }

    /// The same for whoever gives it back by itself: by `settle`, or by `give_back`.
    #[inline]
    pub(crate) fn permit(&self, now: Time) -> Result<Permit, Refused> {
        let word = self.core.breaker.word();
        match word.phase == Phase::Closed || self.config.mode == Mode::Disabled {
            true => Ok(Permit { generation: word.generation, probe: false }),
            false => self.permit_of_unclosed(now),
        }
    }

    #[cold]
    fn permit_of_unclosed(&self, now: Time) -> Result<Permit, Refused> {
        // While it is not due, which is nearly always, nothing is locked.
        let due = !matches!(self.core.breaker.chance(&self.config, now), Chance::Later(_));
        if due && let Some(permit) = self.probe(now) {
            return Ok(permit);
        }
        let word = self.core.breaker.word();
        let observes = self.config.mode == Mode::Observe && word.phase != Phase::ForcedOpen;
        if word.phase != Phase::Closed && !observes {
            self.core.refused.fetch_add(1, Relaxed);
            self.core.refused_in_period.fetch_add(1, Relaxed);
            return Err(Refused { retry_after: self.retry_after(now) });
        }
        if word.phase != Phase::Closed {
            self.core.breaker.count_would_reject();
        }
        Ok(Permit { generation: word.generation, probe: false })
    }

    /// The permit comes back with nothing learnt.
    pub(crate) fn give_back(&self, permit: Permit) {
        if permit.probe {
            self.core.breaker.give_back(permit);
        }
    }

    /// The result of a call that was made without asking. It counts in the present period, whichever that is: in the
    /// window while closed, in the round if that has a free permit, and among the late results while open.
    pub fn record(self: &Arc<Self>, outcome: Outcome, elapsed: Duration, now: Time) -> Option<Transition> {
        if outcome.class == Class::Ignored || self.config.mode == Mode::Disabled {
            return None;
        }
        let word = self.core.breaker.word();
        match word.phase {
            Phase::Closed => self.record_call(word.generation, outcome, elapsed, now),
            Phase::HalfOpen => {
                let permit = self.probe(now)?;
                self.settle_probe(permit, outcome, elapsed, now)
            }
            Phase::Open => {
                let marks = self.marks(outcome, elapsed);
                match self.core.shows_round.load(Relaxed) {
                    true => self.core.round.add(self.round_size(), marks),
                    false => self.window.add(self.shape, now, marks),
                }
                None
            }
            Phase::ForcedOpen => None,
        }
    }

    /// What time alone changes: overrides that end, rounds and probes that have lasted too long. Once a second is enough.
    pub fn sweep(&self, now: Time) -> Option<Transition> {
        self.window.forget(self.shape, now);
        let ended = self.core.breaker.override_expired(now).then(|| self.set_override(None, now)).flatten();
        ended.or_else(|| self.end_overdue(&mut self.journal(), now))
    }

    /// Holds the circuit open or closed, or lets go of it.
    pub fn set_override(&self, to: Option<Override>, now: Time) -> Option<Transition> {
        let mut journal = self.journal();
        let change = self.core.breaker.force(to, now)?;
        Some(self.note(&mut journal, change, now))
    }

    /// Starts from scratch: CLOSED, an empty window, no override, whatever was before. `owner`: who wants it so.
    pub fn reset(&self, owner: &str, now: Time) -> Transition {
        let mut journal = self.journal();
        let change = self.core.breaker.reset(owner, self.site(now));
        self.note(&mut journal, change, now)
    }

    pub(crate) fn place(&self, place: Place, now: Time) -> Transition {
        let mut journal = self.journal();
        let change = self.core.breaker.place(place, self.site(now));
        self.note(&mut journal, change, now)
    }

    /// Takes the events since the last call, in the order in which they happened.
    pub fn drain_transitions(&self) -> Vec<Transition> {
        self.journal().drain().into_iter().map(|(_, event)| event).collect()
    }

    /// Events that were lost because nobody drained them.
    pub fn dropped_transitions(&self) -> u64 {
        self.journal().dropped()
    }

    pub(crate) fn settle(&self, permit: Permit, outcome: Outcome, elapsed: Duration, now: Time) -> Option<Transition> {
        if outcome.class == Class::Ignored || self.config.mode == Mode::Disabled {
            self.give_back(permit);
            return None;
        }
        let word = self.core.breaker.word();
        if word.generation != permit.generation {
            self.core.breaker.count_stale();
            return None;
        }
        match word.phase {
            Phase::Closed => self.record_call(permit.generation, outcome, elapsed, now),
            Phase::HalfOpen if permit.probe => self.settle_probe(permit, outcome, elapsed, now),
            Phase::HalfOpen | Phase::Open | Phase::ForcedOpen => None,
        }
    }

    fn record_call(&self, generation: u32, outcome: Outcome, elapsed: Duration, now: Time) -> Option<Transition> {
        let marks = self.marks(outcome, elapsed);
        self.window.add(self.shape, now, marks);
        if outcome.is_failure() || marks.slow {
            self.core.last_bad.fetch_max(now.0.max(1), Relaxed);
        }
        match outcome.class {
            Class::Hard => drop(self.core.run.fetch_update(Relaxed, Relaxed, |run| Some(run.saturating_add(1)))),
            Class::Ok if self.core.run.load(Relaxed) != 0 => self.core.run.store(0, Relaxed),
            Class::Ok | Class::Soft | Class::Ignored => {}
        }
        let suspicion = self.judge(outcome, now)?;
        let mut journal = self.journal();
        let change = self.core.breaker.trip(generation, suspicion, outcome.retry_hint, self.site(now))?;
        Some(self.note(&mut journal, change, now))
    }

    /// The order of the rules is the order of the reasons. A window without failures ends it after one load.
    fn judge(&self, outcome: Outcome, now: Time) -> Option<Suspicion> {
        let config = &self.config;
        let last_bad = Some(self.core.last_bad.load(Relaxed)).filter(|at| *at != 0)?;
        if self.shape.calls().is_none() && now.since(Time(last_bad)) > config.window {
            return None;
        }
        let totals = self.totals(now);
        let run = self.core.run.load(Relaxed);
        let reached = |count: u32, rate: u8| count * 100 >= u32::from(rate) * totals.total;
        let counts = |totals: Totals, connect: u32| match self.counted.which {
            Which::All => totals.bad(),
            Which::Connect => connect,
            Which::Nothing => 0,
        };
        // A connection that could not be had is a hard failure, and of those there are often none.
        let connect = || match self.counted.which {
            Which::Connect if totals.hard > 0 => self.window.detail(self.shape, now).absolute,
            Which::All | Which::Connect | Which::Nothing => 0,
        };
        let recently = || {
            self.counted.recently.is_none_or(|(span, rate)| {
                let (newest, connect) = self.window.newest(self.shape, self.shape.buckets_of(span), now);
                counts(newest, connect) * 100 >= u32::from(rate) * newest.total.max(1)
            })
        };
        let enough = totals.total >= config.window_minimum();
        let (reason, ground) = if outcome.class == Class::Hard && config.consecutive != 0 && run >= config.consecutive {
            (Reason::Consecutive, Ground::Absolute)
        } else if enough && reached(counts(totals, connect()), config.failure_rate) && recently() {
            (Reason::Rate, Ground::Absolute)
        } else if enough && config.slow.is_some_and(|slow| reached(totals.slow, slow.rate)) {
            (Reason::Slow, Ground::Slow)
        } else {
            return None;
        };
        Some(Suspicion { reason, ground, totals })
    }

    fn settle_probe(&self, permit: Permit, outcome: Outcome, elapsed: Duration, now: Time) -> Option<Transition> {
        let marks = self.marks(outcome, elapsed);
        let pace = if marks.slow { Pace::Slow } else { Pace::Fine };
        let by_evidence = self.config.half_open == HalfOpen::Evidence;
        let failed = self.counted.which.is_failure(outcome) || (by_evidence && marks.slow);
        let result = Probed { failed, pace, peers: 0.0, hint: outcome.retry_hint };
        let mut journal = self.journal();
        match self.core.breaker.settle_probe(permit, result, self.site(now)) {
            Settled::Stale => {
                self.core.breaker.count_stale();
                None
            }
            Settled::Counted => {
                self.core.round.add(self.round_size(), marks);
                None
            }
            Settled::Decided(change) => {
                self.core.round.add(self.round_size(), marks);
                Some(self.note(&mut journal, change, now))
            }
        }
    }

    fn probe(&self, now: Time) -> Option<Permit> {
        let mut journal = self.journal();
        self.end_overdue(&mut journal, now);
        let (permit, change) = self.core.breaker.grant(self.site(now))?;
        if let Some(change) = change {
            self.note(&mut journal, change, now);
        }
        Some(permit)
    }

    fn end_overdue(&self, journal: &mut Journal<str>, now: Time) -> Option<Transition> {
        let change = self.core.breaker.reopen_lost(self.site(now))?;
        Some(self.note(journal, change, now))
    }

    /// What was counted stays to be seen while the circuit is open; every other state begins with nothing.
    fn note(&self, journal: &mut Journal<str>, change: Change, now: Time) -> Transition {
        if change.to != State::Open || self.phase() == Phase::ForcedOpen {
            self.window.clear();
            self.core.round.clear();
            self.core.run.store(0, Relaxed);
            self.core.last_bad.store(0, Relaxed);
            self.core.refused_in_period.store(0, Relaxed);
            self.core.shows_round.store(change.to == State::HalfOpen, Relaxed);
        }
        journal.push(&self.core.name, Transition::new(change, (self.core.seed, 0), self.config.mode, now))
    }

    fn marks(&self, outcome: Outcome, elapsed: Duration) -> Marks {
        let (hard, soft) = (outcome.class == Class::Hard, outcome.class == Class::Soft);
        let absolute = self.counted.which == Which::Connect && Which::Connect.is_failure(outcome);
        Marks { hard, soft, slow: self.config.is_slow(elapsed), absolute, ..Marks::default() }
    }

    fn retry_after(&self, now: Time) -> Duration {
        let at = match self.core.breaker.chance(&self.config, now) {
            Chance::Later(at) => at,
            Chance::Begin | Chance::Continue | Chance::Lost => now,
            Chance::None => self.core.breaker.until(),
        };
        if at == Time::FAR { Duration::ZERO } else { at.since(now) }
    }

    fn site(&self, now: Time) -> Site<'_> {
        Site { config: &self.config, seed: self.core.seed, now }
    }

    fn journal(&self) -> MutexGuard<'_, Journal<str>> {
        self.core.journal.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Call {
    /// The call is over. `elapsed` is what `slow` is measured against.
    pub fn settle(mut self, outcome: Outcome, elapsed: Duration, now: Time) -> Option<Transition> {
        self.settled = true;
        self.circuit.settle(self.permit, outcome, elapsed, now)
    }

    /// Whether the circuit is still in the period that this call began in; its result counts for nothing otherwise.
    pub fn is_current(&self) -> bool {
        let word: Word = self.circuit.core.breaker.word();
        word.generation == self.permit.generation
    }

    /// Whether the call tests a circuit that is not closed. Never true in observe mode, where probes are only counted.
    pub fn is_probe(&self) -> bool {
        self.permit.probe && self.circuit.config.mode == Mode::Enforce
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        if !self.settled {
            self.circuit.give_back(self.permit);
        }
    }
}
