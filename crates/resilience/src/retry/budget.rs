//! The retry budget of one service in one sidecar, paid by successes.
//!
//! Tokens in thousandths: a successful first attempt pays 200, a retry or a hedge costs 1,000, and while at least half
//! of the first attempts of the last ten seconds succeeded one whole token a second comes in for free, so that a quiet
//! service can retry at all. No token, no retry. Paying by *success* is the point: a budget of 20 % of the requests keeps
//! an overload alive for ever (measured in simulation, 85 % load, capacity halved for five seconds: 0 % goodput
//! afterwards), because requests keep coming while nothing succeeds; per success it recovers (99.4 %).
//!
//! Beside it a bound on how many run at once, Envoy's: `max(3, 20 % of the active requests)`.
//!
//! Shared between threads: a few atomics, no lock, no allocation when a token is taken.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use super::compat::max_active_retries;
use crate::span::Span;
use crate::time::Time;

const COST: u64 = 1000;
const SECOND: u64 = 1_000_000_000;

/// The settings, all in thousandths of a retry.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct BudgetConfig {
    /// What a service starts with. Default 10,000: ten retries.
    pub start: u64,
    /// What it can save. 1,000 to 10,000,000, default 100,000.
    pub cap: u64,
    /// What a successful first attempt pays. 0..1000, default 200: retries are at most a fifth of the successes.
    pub per_success: u64,
    /// What comes in each second while at least half succeeds. 0..1,000,000, default 1,000.
    pub per_second: u64,
    /// Retries at once, in percent of the active requests. 0..100, default 20.
    pub active_percent: u32,
    /// Retries at once that are always allowed. Default 3.
    pub active_min: u32,
}

impl Default for BudgetConfig {
    fn default() -> Self {
        let (start, cap, per_success, per_second) = (10_000, 100_000, 200, 1_000);
        BudgetConfig { start, cap, per_success, per_second, active_percent: 20, active_min: 3 }
    }
}

impl BudgetConfig {
    /// Every bound that is broken, as `(field, message)`.
    pub fn validate(&self) -> Result<(), Vec<(&'static str, String)>> {
        let mut faults = Vec::new();
        let mut within = |field: &'static str, value: u64, min: u64, max: u64| {
            if !(min..=max).contains(&value) {
                faults.push((field, format!("must be {min}..{max}, got {value}")));
            }
        };
        within("cap", self.cap, 1_000, 10_000_000);
        within("start", self.start, 0, self.cap);
        within("per_success", self.per_success, 0, 1_000);
        within("per_second", self.per_second, 0, 1_000_000);
        within("active_percent", u64::from(self.active_percent), 0, 100);
        if faults.is_empty() { Ok(()) } else { Err(faults) }
    }
}

/// How a logical request's first attempt went; its retries do not pay.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Settled {
    Succeeded,
    Failed,
}

/// Why there is no token.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Broke {
    /// Successes have not paid for another retry.
    NoTokens,
    /// Enough retries are under way.
    TooManyActive,
}

impl Broke {
    pub const ALL: [Broke; 2] = [Broke::NoTokens, Broke::TooManyActive];

    /// The label `reason` of `retry_denied`, as [`Denied::as_str`](super::Denied::as_str) has the others.
    pub fn as_str(self) -> &'static str {
        match self {
            Broke::NoTokens => "budget",
            Broke::TooManyActive => "active",
        }
    }
}

/// One service's retry budget.
pub struct Budget {
    config: BudgetConfig,
    tokens: AtomicU64,
    active: AtomicU32,
    /// The second up to which the free tokens have been handed out.
    paid_to: AtomicU64,
    /// First attempts, successes among them.
    recent: Span<10>,
}

/// A retry under way.
///
/// # Drop behavior
///
/// Its place among the active retries is free again; the token stays spent.
#[must_use = "a retry that is dropped no longer counts as active"]
pub struct RetryToken(Arc<Budget>);

impl Drop for RetryToken {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Relaxed);
    }
}

impl Budget {
    /// `now`: free tokens come in from here on.
    pub fn new(config: BudgetConfig, now: Time) -> Budget {
        let tokens = AtomicU64::new(config.start.min(config.cap));
        let paid_to = AtomicU64::new(now.0 / SECOND);
        Budget { config, tokens, active: AtomicU32::new(0), paid_to, recent: Span::default() }
    }

    /// A logical request's first attempt is over.
    pub fn settle_first(&self, settled: Settled, now: Time) {
        self.trickle(now);
        match settled {
            Settled::Succeeded => {
                self.recent.add(now, 1, 1);
                self.deposit(self.config.per_success);
            }
            Settled::Failed => self.recent.add(now, 1, 0),
        }
    }

    /// A token for one retry or one hedge. `active`: requests to this service under way, retries included.
    pub fn take(self: &Arc<Self>, active: u32, now: Time) -> Result<RetryToken, Broke> {
        self.trickle(now);
        let most = max_active_retries(active, self.config.active_percent, self.config.active_min);
        let enter = |running: u32| (running < most).then_some(running + 1);
        self.active.fetch_update(Relaxed, Relaxed, enter).map_err(|_| Broke::TooManyActive)?;
        let token = RetryToken(self.clone());
        let pay = |tokens: u64| tokens.checked_sub(COST);
        self.tokens.fetch_update(Relaxed, Relaxed, pay).map_err(|_| Broke::NoTokens)?;
        Ok(token)
    }

    /// Thousandths of a retry in hand.
    pub fn tokens(&self) -> u64 {
        self.tokens.load(Relaxed)
    }

    pub fn active_retries(&self) -> u32 {
        self.active.load(Relaxed)
    }

    /// Hands out the seconds that have passed since the last call, or lets them go while most requests fail. Every
    /// request comes by here, so that a bad minute is not paid afterwards.
    fn trickle(&self, now: Time) {
        let second = now.0 / SECOND;
        let paid_to = self.paid_to.load(Relaxed);
        if second <= paid_to || self.config.per_second == 0 {
            return;
        }
        if self.paid_to.compare_exchange(paid_to, second, Relaxed, Relaxed).is_err() {
            return; // another thread hands it out
        }
        let (total, succeeded) = self.recent.sum(now);
        if succeeded * 2 >= total {
            self.deposit((second - paid_to).saturating_mul(self.config.per_second));
        }
    }

    fn deposit(&self, amount: u64) {
        let cap = self.config.cap;
        let add = |tokens: u64| (tokens < cap).then(|| tokens.saturating_add(amount).min(cap));
        // Full is no failure.
        let _ = self.tokens.fetch_update(Relaxed, Relaxed, add);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MANY: u32 = 1_000_000;

    fn at(ms: u64) -> Time {
        Time(ms * 1_000_000)
    }

    fn budget(config: BudgetConfig) -> Arc<Budget> {
        Arc::new(Budget::new(config, at(0)))
    }

    /// How many of `n` take a token right after having paid.
    fn retries(budget: &Arc<Budget>, n: u32) -> u64 {
        let deposit_then_try = |_| {
            budget.settle_first(Settled::Succeeded, at(0));
            u64::from(budget.take(MANY, at(0)).is_ok())
        };
        (0..n).map(deposit_then_try).sum()
    }

    #[test]
    fn the_defaults_are_the_designs_and_valid() {
        let config = BudgetConfig::default();
        assert_eq!(config.validate(), Ok(()));
        let budget = budget(config);
        assert_eq!(budget.tokens(), 10_000);
        budget.settle_first(Settled::Succeeded, at(1));
        assert_eq!(budget.tokens(), 10_200);
        let _token = budget.take(1, at(2)).ok();
        assert_eq!((budget.tokens(), budget.active_retries()), (9_200, 1));
    }

    #[test]
    fn every_broken_bound_is_named_at_once() {
        let bad = BudgetConfig {
            start: 1,
            cap: 0,
            per_success: 1001,
            per_second: 1_000_001,
            active_percent: 101,
            active_min: 0,
        };
        let fields: Vec<_> = bad.validate().err().unwrap_or_default().into_iter().map(|fault| fault.0).collect();
        assert_eq!(fields, ["cap", "start", "per_success", "per_second", "active_percent"]);
    }

    /// The table of `finagle.retry_budget`: ten thousand times, pay and then try.
    #[test]
    fn as_many_retries_as_the_ratio_allows() {
        for (milli, expected) in [(100, 1000), (500, 5000), (250, 2500), (750, 7500), (990, 9900), (10, 100), (1, 10)] {
            let config = BudgetConfig {
                start: 0,
                per_success: milli,
                per_second: 0,
                active_percent: 100,
                ..BudgetConfig::default()
            };
            let got = retries(&budget(config), 10_000);
            assert!(got.abs_diff(expected) <= 1, "ratio {milli}/1000: {got}");
        }
        let generous =
            BudgetConfig { start: 0, cap: u64::MAX, per_success: 2000, per_second: 0, ..BudgetConfig::default() };
        let saved = budget(generous);
        (0..10_000).for_each(|_| saved.settle_first(Settled::Succeeded, at(0)));
        assert_eq!(saved.tokens() / COST, 20_000);
        let reserve = BudgetConfig { start: 10_000, per_success: 0, per_second: 0, ..BudgetConfig::default() };
        assert_eq!(retries(&budget(reserve), 10_000), 10);
    }

    #[test]
    fn free_tokens_come_in_only_while_half_succeeds() {
        let broke = BudgetConfig { start: 0, per_success: 0, ..BudgetConfig::default() };
        let well = budget(broke.clone());
        for ms in 0..20 {
            let settled = if ms % 2 == 0 { Settled::Succeeded } else { Settled::Failed };
            well.settle_first(settled, at(ms * 250));
        }
        assert_eq!(well.tokens(), 4_000, "one a second, at exactly one half");
        let late = Budget::new(broke.clone(), at(1_000_000));
        late.settle_first(Settled::Succeeded, at(1_000_999));
        assert_eq!(late.tokens(), 0, "a budget is not paid for the time before it was made");
        let ill = budget(broke);
        for ms in 0..200 {
            let settled = if ms % 3 == 0 { Settled::Succeeded } else { Settled::Failed };
            ill.settle_first(settled, at(900 + ms * 10));
        }
        assert!(ill.tokens() <= 1_000, "only the second before the first failure counted");
    }

    #[test]
    fn a_bad_minute_is_not_paid_afterwards() {
        let budget = budget(BudgetConfig { start: 0, per_success: 0, ..BudgetConfig::default() });
        (0..600).for_each(|i| budget.settle_first(Settled::Failed, at(i * 100)));
        let before = budget.tokens();
        (600..720).for_each(|i| budget.settle_first(Settled::Succeeded, at(i * 100)));
        assert!(budget.tokens() - before <= 8_000, "{} after {before}", budget.tokens());
    }

    #[test]
    fn retries_at_once_are_a_fifth_of_the_active_requests_or_three() {
        let budget = budget(BudgetConfig { start: 100_000, ..BudgetConfig::default() });
        let mut held: Vec<_> = (0..3).filter_map(|_| budget.take(1, at(0)).ok()).collect();
        assert_eq!(held.len(), 3);
        assert_eq!(budget.take(1, at(0)).err(), Some(Broke::TooManyActive));
        held.extend((0..9).filter_map(|_| budget.take(30, at(0)).ok()));
        assert_eq!((held.len(), budget.active_retries()), (6, 6));
        held.clear();
        assert_eq!(budget.active_retries(), 0);
        assert_eq!(budget.tokens(), 94_000, "what was spent stays spent");
    }

    #[test]
    fn a_retry_that_gets_no_token_takes_no_place() {
        let budget = budget(BudgetConfig { start: 999, per_second: 0, ..BudgetConfig::default() });
        assert_eq!(budget.take(100, at(0)).err(), Some(Broke::NoTokens));
        assert_eq!((budget.active_retries(), budget.tokens()), (0, 999));
    }

    #[test]
    fn threads_together_spend_no_token_twice() {
        let budget = budget(BudgetConfig { start: 100_000, per_second: 0, ..BudgetConfig::default() });
        let taken: usize = std::thread::scope(|scope| {
            let work = || (0..1000).filter(|_| budget.take(MANY, at(0)).is_ok()).count();
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(work)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!((taken, budget.tokens(), budget.active_retries()), (100, 0, 0));
    }

    proptest! {
        #[test]
        fn retries_never_exceed_what_was_paid(
            steps in prop::collection::vec((0u64..2000, 0u8..3), 1..300),
        ) {
            let config = BudgetConfig::default();
            let budget = budget(config.clone());
            let (mut now, mut paid, mut spent) = (0, config.start, 0);
            for (step, what) in steps {
                now += step;
                match what {
                    0 => budget.settle_first(Settled::Failed, at(now)),
                    1 => {
                        budget.settle_first(Settled::Succeeded, at(now));
                        paid += config.per_success;
                    }
                    _ => spent += budget.take(MANY, at(now)).map_or(0, |_| COST),
                }
                let free = now / 1000 * config.per_second;
                prop_assert!(spent <= paid + free);
                prop_assert!(budget.tokens() <= config.cap);
                prop_assert_eq!(budget.active_retries(), 0);
            }
        }
    }
}
