//! Whether an attempt that failed is made again, when, and who pays.
//!
//! Decides from facts that the caller gathers: what happened ([`Happening`](crate::Happening)), what the request allows
//! ([`Repeat`]), what the policy names ([`Policy`]), what is left (attempts, time, instances, budget), and which layer's
//! turn it is ([`Allowance`]). It deliberately sends nothing, waits for nothing and picks no instance. The order of
//! the questions is the order of certainty: what would be wrong comes before what would be too much.
//!
//! Invariants:
//! * a request that may not be repeated is sent again only when it is certain that no application saw it;
//! * a retry costs a token that an earlier success paid for, so that retries end when successes do;
//! * nobody retries inside a retry.
//!
//! Reading order: [`judge`], `repeat`, `budget`, `backoff`, `allowance`, then `hedge`, `quantile`, `replay`, `compat`.

mod allowance;
mod backoff;
mod budget;
mod compat;
mod decision;
mod hedge;
mod quantile;
mod repeat;
mod replay;

pub use allowance::{Allowance, Carried, Chain, Mark, Origin};
pub use backoff::{Backoff, BackoffPolicy, Jitter};
pub use budget::{Broke, Budget, BudgetConfig, RetryToken, Settled};
pub use compat::{A6Throttle, a6_attempts, max_active_retries};
pub use decision::{Case, Decision, Denied, MAX_ATTEMPTS, Policy, Scope, Untried, judge};
pub use hedge::{Hedge, HedgePolicy};
pub use quantile::Quantile;
pub use repeat::{Cause, On, Repeat, cause, repeat};
pub use replay::{Replay, ReplayPool};
