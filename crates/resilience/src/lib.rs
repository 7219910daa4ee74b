//! Which instance gets the next attempt, and what the way it ended means for the ones after it.
//!
//! This crate decides: circuit breakers per instance, the balancer over the instances of one service, the
//! classification of what happened to an attempt, and the probes that let an instance come back.
//!
//! It deliberately does nothing else. It opens no socket, starts no task, reads no clock and no random source: the
//! caller passes [`Time`] and random bits to every call, so a second of production is a microsecond of test and every
//! decision can be replayed. Retries belong to the caller, who picks again with the tried instances named.
//!
//! Invariants that the tests name:
//! * a permit is given back exactly once: by an outcome, or as ignored when the [`Attempt`] is dropped;
//! * an answer touches only the breaker period in which its permit was issued;
//! * a cancelled or lost probe cannot wedge a breaker;
//! * breaker and load estimate live in the [`Node`] and outlive every [`InstanceSet`] that shows it.
//!
//! Reading order: [`outcome`](classify), `config`, `set`, `pick`, `attempt`, then `trigger`, `breaker`, `probation`.

mod attempt;
mod board;
mod breaker;
mod config;
mod event;

mod load;
mod node;
mod outcome;
mod pick;
mod probation;
mod probe;
mod ring;
mod rules;
mod set;
mod sweep;
mod tally;
mod time;
mod trigger;
#[cfg(test)]
mod vectors;
mod view;
mod word;

pub use attempt::Attempt;
pub use breaker::{Forced, Override};
pub use config::{BreakerConfig, Mode, Unresponsive};
pub use event::{Reason, Transition};
pub use node::{Member, Node};
pub use outcome::{Class, Evidence, Happening, Outcome, classify};
pub use pick::{Ask, Exhausted, ExhaustedCause};
pub use rules::ClassRules;
pub use set::{InstanceSet, Slot};
pub use tally::Totals;
pub use time::Time;
pub use view::NodeView;
pub use word::State;
