//! What happened to a circuit, as plain data.
//!
//! The journal keeps the order: it is written under the lock that every transition of the service is made under, so
//! what it holds is exactly the path each circuit took. It is bounded; an owner who does not drain it loses the oldest
//! events and can see how many.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use crate::config::Mode;
use crate::tally::Totals;
use crate::time::Time;
use crate::word::State;

/// Why a circuit changed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Reason {
    /// Hard failures in a row.
    Consecutive,
    /// Too many hard failures in the window.
    Rate,
    /// Takes requests and does not answer, while its peers do.
    Unresponsive,
    /// Too many slow calls in the window.
    Slow,
    /// Worse than its peers, without failing often.
    Peer,
    /// An operator set or cleared an override, or its time was over.
    Manual,
    /// The open time is over: the first probe is on its way.
    Due,
    /// Enough clean probes.
    Recovered,
    ProbeFailed,
    /// A probe brought no answer before its deadline.
    ProbeLost,
    /// The half-open round lasted as long as it may, without a verdict.
    RoundOver,
    /// The peers are no better than this instance was: not its fault.
    Released,
}

impl Reason {
    pub const ALL: [Reason; 12] = [
        Reason::Consecutive,
        Reason::Rate,
        Reason::Unresponsive,
        Reason::Slow,
        Reason::Peer,
        Reason::Manual,
        Reason::Due,
        Reason::Recovered,
        Reason::ProbeFailed,
        Reason::ProbeLost,
        Reason::RoundOver,
        Reason::Released,
    ];

    /// The word for logs and metric labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::Consecutive => "consecutive",
            Reason::Rate => "rate",
            Reason::Unresponsive => "unresponsive",
            Reason::Slow => "slow",
            Reason::Peer => "peer",
            Reason::Manual => "manual",
            Reason::Due => "due",
            Reason::Recovered => "recovered",
            Reason::ProbeFailed => "probe_failed",
            Reason::ProbeLost => "probe_lost",
            Reason::RoundOver => "round_over",
            Reason::Released => "released",
        }
    }
}

/// What kind of failure opened a circuit.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum TripClass {
    /// Connections that could not be had or broke: what no application can answer badly.
    Connection,
    /// Failures that were answered.
    Status,
    /// Silence, slowness, refusals because of load: the instance is there.
    Soft,
}

impl TripClass {
    /// The word for logs.
    pub fn as_str(self) -> &'static str {
        match self {
            TripClass::Connection => "connection",
            TripClass::Status => "status",
            TripClass::Soft => "soft",
        }
    }
}

/// One breaker event, with the evidence.
#[derive(Clone, PartialEq, Debug)]
pub struct Transition {
    /// Position in the service's order of events. Gaps are events that the journal had to drop.
    pub seq: u64,
    pub at: Time,
    /// The instance: the seed its node was made with, and its index in the set that the event came through.
    pub node: u64,
    pub index: usize,
    pub from: State,
    pub to: State,
    pub reason: Reason,
    /// What had opened the circuit, while anything has; `None` for what an operator did.
    pub class: Option<TripClass>,
    /// The period that begins.
    pub generation: u32,
    /// Openings in a row.
    pub k: u8,
    /// How long the circuit stays open; zero if it does not, centuries for an override without end.
    pub open_for: Duration,
    /// Calls in the window when the circuit opened.
    pub total: u32,
    pub hard: u32,
    pub soft: u32,
    /// Of those calls, the slow ones; zero where the policy does not say what is slow.
    pub slow: u32,
    /// Clean probes that close it again if none fails; zero if nothing opened it.
    pub need: u8,
    /// Results of the half-open round that ended with this; zero otherwise.
    pub probes_ok: u8,
    pub probes_failed: u8,
    /// The mode was observe: nothing was refused.
    pub observed: bool,
    /// Who held it, for an override.
    pub actor: Option<String>,
}

impl Transition {
    pub(crate) fn new(change: Change, (node, index): (u64, usize), mode: Mode, at: Time) -> Transition {
        Transition {
            seq: 0,
            at,
            node,
            index,
            from: change.from,
            to: change.to,
            reason: change.reason,
            class: change.class,
            generation: change.generation,
            k: change.k,
            open_for: change.open_for,
            total: change.totals.total,
            hard: change.totals.hard,
            soft: change.totals.soft,
            slow: change.totals.slow,
            need: change.need,
            probes_ok: change.probes.0,
            probes_failed: change.probes.1,
            observed: mode == Mode::Observe,
            actor: change.actor,
        }
    }
}

/// A transition as the breaker knows it; the set adds where and when.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Change {
    pub(crate) from: State,
    pub(crate) to: State,
    pub(crate) reason: Reason,
    pub(crate) class: Option<TripClass>,
    pub(crate) generation: u32,
    pub(crate) k: u8,
    pub(crate) open_for: Duration,
    pub(crate) totals: Totals,
    pub(crate) need: u8,
    /// Clean and failed, of the half-open round that this ends.
    pub(crate) probes: (u8, u8),
    pub(crate) actor: Option<String>,
}

const KEPT: usize = 1024;

pub(crate) struct Journal<M: ?Sized> {
    events: VecDeque<(Arc<M>, Transition)>,
    next_seq: u64,
    dropped: u64,
}

impl<M: ?Sized> Journal<M> {
    pub(crate) fn new() -> Journal<M> {
        Journal { events: VecDeque::new(), next_seq: 0, dropped: 0 }
    }

    pub(crate) fn push(&mut self, member: &Arc<M>, mut transition: Transition) -> Transition {
        transition.seq = self.next_seq;
        self.next_seq += 1;
        if self.events.len() == KEPT {
            self.events.pop_front();
            self.dropped += 1;
        }
        self.events.push_back((member.clone(), transition.clone()));
        transition
    }

    pub(crate) fn drain(&mut self) -> Vec<(Arc<M>, Transition)> {
        std::mem::take(&mut self.events).into()
    }

    pub(crate) fn dropped(&self) -> u64 {
        self.dropped
    }
}
