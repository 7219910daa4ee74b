//! `retry`: whether what failed is sent again, and who pays.

use fusewire_resilience::retry::{BudgetConfig, HedgePolicy, Policy, Repeat};
use std::time::Duration;

#[derive(Clone, Debug, PartialEq, Default)]
pub struct Retry {
    /// `attempts`, `on`, `backoff`.
    pub policy: Policy,
    /// To the response headers of one attempt. Default none: one that nobody tuned makes the rare slow report fail always,
    /// and turns a pause of the application into a storm of retries.
    pub per_try_timeout: Option<Duration>,
    /// One for each service in each sidecar: a route's own has no effect.
    pub budget: BudgetConfig,
    /// `idempotent: true`: doing it twice is doing it once, whatever the method; `false`: not even a GET. Default: by method.
    pub repeat: Option<Repeat>,
    /// Default off.
    pub hedge: HedgePolicy,
}
