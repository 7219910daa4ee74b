//! Settings of other breakers, run by the machine of this crate.
//!
//! Whoever comes from Resilience4j brings its properties and its states, and gets the same decisions: its own test
//! sequences are replayed against this module (`cargo xtask replay`). It deliberately keeps three differences, each a
//! fault that operators have met: a result or a permit of an earlier period changes nothing, and what comes in after a
//! half-open round has been decided is of an earlier period.

mod resilience4j;
mod states;

pub use resilience4j::{OpenWait, Resilience4j, Sliding, ToHalfOpen};
pub use states::{CallResult, Metrics, NoSuchTransition, Resilience4jBreaker, Resilience4jEvent, Resilience4jState};
