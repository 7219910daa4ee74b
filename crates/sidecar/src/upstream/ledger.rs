//! What the requests to one service have in common, whatever configuration they were made under: who paid for retries, how
//! long answers take, how many callers are being given something else, and how many copies are on their way.

use fusewire_resilience::Time;
use fusewire_resilience::retry::{Budget, BudgetConfig, Quantile};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Callers of one service that may be given a fallback at once; beyond it they get the failure.
const MAX_REPLACED: usize = 100;
/// Copies of requests to other services that may be on their way to one service at once, each with up to 64 KiB of body.
const MAX_COPIES: usize = 100;

/// Clones share everything.
#[derive(Clone)]
pub(crate) struct Ledger {
    config: BudgetConfig,
    pub(crate) budget: Arc<Budget>,
    pace: Arc<Pace>,
    replaced: Arc<Semaphore>,
    copies: Arc<Semaphore>,
}

/// Time to the response headers, of what was answered well.
struct Pace {
    median: Quantile,
    p95: Quantile,
}

impl Ledger {
    pub(crate) fn new(config: &BudgetConfig, now: Time) -> Self {
        Self {
            config: config.clone(),
            budget: Arc::new(Budget::new(config.clone(), now)),
            pace: Arc::new(Pace { median: Quantile::new(50), p95: Quantile::new(95) }),
            replaced: Arc::new(Semaphore::new(MAX_REPLACED)),
            copies: Arc::new(Semaphore::new(MAX_COPIES)),
        }
    }

    /// The same under another configuration: what was saved stays, up to the new limit.
    pub(crate) fn under(&self, config: &BudgetConfig, now: Time) -> Self {
        if self.config == *config {
            return self.clone();
        }
        let saved = BudgetConfig { start: self.budget.tokens().min(config.cap), ..config.clone() };
        Self { config: config.clone(), budget: Arc::new(Budget::new(saved, now)), ..self.clone() }
    }

    pub(crate) fn answered_in(&self, took: Duration) {
        self.pace.median.sample(took);
        self.pace.p95.sample(took);
    }
    pub(crate) fn median(&self) -> Option<Duration> {
        self.pace.median.estimate()
    }
    pub(crate) fn p95(&self) -> Option<Duration> {
        self.pace.p95.estimate()
    }

    /// A place for a caller that is given a fallback, held until its answer has ended.
    pub(crate) fn replace(&self) -> Option<OwnedSemaphorePermit> {
        self.replaced.clone().try_acquire_owned().ok()
    }

    /// A place for a copy, held until its answer has come.
    pub(crate) fn copy(&self) -> Option<OwnedSemaphorePermit> {
        self.copies.clone().try_acquire_owned().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_saved_and_learnt_outlives_a_change_of_the_configuration() {
        let (config, now) = (BudgetConfig::default(), Time(1));
        let ledger = Ledger::new(&config, now);
        (0..30).for_each(|_| ledger.answered_in(Duration::from_millis(8)));
        assert!(ledger.budget.take(100, now).is_ok());
        let same = ledger.under(&config, now);
        assert!(Arc::ptr_eq(&same.budget, &ledger.budget));
        let other = ledger.under(&BudgetConfig { per_success: 100, ..config.clone() }, now);
        assert_eq!((other.budget.tokens(), other.median()), (9_000, ledger.median()));
        let small = ledger.under(&BudgetConfig { cap: 2_000, start: 1_000, ..config }, now);
        assert_eq!(small.budget.tokens(), 2_000);
    }

    #[test]
    fn a_hundred_callers_are_given_something_else_and_no_more() {
        let ledger = Ledger::new(&BudgetConfig::default(), Time(1));
        let mut held: Vec<_> = (0..MAX_REPLACED).filter_map(|_| ledger.replace()).collect();
        assert!(held.len() == MAX_REPLACED && ledger.clone().replace().is_none());
        held.pop();
        assert!(ledger.replace().is_some());
    }
}
