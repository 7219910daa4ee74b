//! Which instance gets the next attempt, and what the way it ended means for the ones after it.
//!
//! This crate decides: circuit breakers per instance, the balancer over the instances of one service, the
//! classification of what happened to an attempt, and the probes that let an instance come back. The same machine also
//! stands before a service or a route as a whole ([`ServiceScope`]) and on its own ([`Circuit`]), and takes the settings of
//! Resilience4j ([`compat`]). [`SelfSuspicion`] says when it is rather the caller itself that nothing can be reached from.
//!
//! It deliberately does nothing else. It opens no socket, starts no task, reads no clock and no random source: the
//! caller passes [`Time`] and random bits to every call, so a second of production is a microsecond of test and every
//! decision can be replayed. An attempt is made again by the caller, who picks with the tried instances named; whether
//! it should be is [`retry`]'s to say.
//!
//! Beside all that stand parts that bound what a service or an application gets at all, each on its own: [`hint`] and
//! [`deadline`], [`retry`], [`throttle`], [`limit`], [`bulkhead`] and [`rate`].
//!
//! Invariants that the tests name:
//! * a permit is given back exactly once: by an outcome, or as ignored when the [`Attempt`] is dropped;
//! * an answer touches only the breaker period in which its permit was issued;
//! * a cancelled or lost probe cannot wedge a breaker;
//! * breaker and load estimate live in the [`Node`] and outlive every [`InstanceSet`] that shows it.
//!
//! How it is known to be right: `cargo xtask replay FILE` plays Resilience4j's sequences, every one exact but the three that
//! diverge because leftovers of an earlier period change nothing here. Our rules meet A50's, Envoy's, Polly's, Hystrix's,
//! Linkerd's and Finagle's cases in `tests/it/vectors.rs` and `migrate.rs`, each difference with its reason. Random histories
//! are held against sequential models (`invariants.rs`, `circuit.rs`); `cargo xtask loom` tries every order of two threads;
//! `field.rs` names the faults that others had.
//!
//! With the feature `tower` the breakers also come as a layer around any `tower::Service`; without it the crate depends on nothing.
//!
//! Reading order: [`outcome`](classify), `config`, `set`, `pick`, `attempt`, then `trigger`, `breaker`, `probation`;
//! `outlier` and `sweep` for what happens once a second; `policy` and [`balance`] for other ways to choose, `few` for what
//! happens when few are left.

mod attempt;
mod board;
mod breaker;
mod calls;
mod circuit;
pub mod compat;
mod config;
mod event;
mod few;
mod load;
mod node;
mod outcome;
mod outlier;
mod pick;
mod policy;
mod probation;
mod probe;
mod ring;
mod rules;
mod scope;
mod set;
mod span;
mod suspect;
mod sweep;
mod sync;
mod tally;
mod time;
mod trigger;
#[cfg(test)]
mod vectors;
mod view;
mod window;
mod word;

pub mod balance;
pub mod bulkhead;
pub mod deadline;
pub mod hint;
pub mod limit;
pub mod rate;
pub mod retry;
pub mod throttle;
#[cfg(feature = "tower")]
pub mod tower;

/// The examples of README.md, compiled.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

pub use attempt::Attempt;
pub use breaker::{Forced, Override};
pub use circuit::{Call, Circuit, CircuitView, Refused};
pub use config::{AfterWait, BreakerConfig, HalfOpen, Mode, PeerOutlier, Round, SlowCalls, Unresponsive};
pub use event::{Reason, Transition, TripClass};
pub use few::WhenFew;
pub use node::{Member, Node, ProbeResult};
pub use outcome::{Class, Evidence, Happening, Outcome, classify};
pub use pick::{Ask, Exhausted, ExhaustedCause};
pub use policy::{Policy, SetRules};
pub use rules::ClassRules;
pub use scope::{
    OpenStage, Refusal, RefusalCause, ServiceConfig, ServicePass, ServiceScope, ServiceView, ThrottleView,
};
pub use set::{InstanceSet, Prober, Slot};
pub use suspect::{SelfSuspicion, Suspected};
pub use tally::Totals;
pub use time::Time;
pub use trigger::Ground;
pub use view::NodeView;
pub use word::State;
