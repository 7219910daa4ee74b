//! What an operator does to a circuit: hold it, let go of it, put it somewhere.
//!
//! An override beats the machine until it is cleared or runs out. Invariant: letting go starts from scratch, CLOSED with
//! an empty window and k = 0, so that nothing which was counted under the hold decides anything.

use std::time::Duration;

use super::{Breaker, Site, change, open_time};
use crate::event::{Change, Reason};
use crate::sync::Ordering;
use crate::time::Time;
use crate::trigger::Ground;
use crate::word::{Phase, Word};

/// Which way an operator holds a circuit.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Forced {
    Open,
    Closed,
}

/// An operator's decision, which beats the machine until it is cleared or runs out.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Override {
    pub forced: Forced,
    pub owner: String,
    pub reason: String,
    /// When it ends by itself (noticed by the sweep, so within a second); `None` holds until it is cleared.
    pub until: Option<Time>,
}

/// Where an operator's tool puts a circuit.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) phase: Phase,
    pub(crate) climb: Climb,
    /// How long it stays open, in place of what the configuration says.
    pub(crate) span: Option<Duration>,
    /// Who keeps the machine from moving it on.
    pub(crate) hold: Option<Override>,
}

/// How a transition that nobody earned moves the count of openings.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Climb {
    /// It counts as one more.
    Step,
    /// It counts as the first.
    First,
    Keep,
    Restart,
}

impl Breaker {
    /// Puts the circuit where an operator's tool wants it; also to start a state again from its beginning.
    pub(crate) fn place(&self, place: Place, site: Site<'_>) -> Change {
        let mut cold = self.cold();
        let cold = cold.get_or_insert_default();
        let Place { phase, climb, span, hold } = place;
        cold.trip = None;
        cold.forced = hold;
        loop {
            let word = self.word();
            let k = match climb {
                Climb::Step => word.k.saturating_add(1),
                Climb::First => 1,
                Climb::Keep => word.k,
                Climb::Restart => 0,
            };
            let next = Word { ground: Ground::Manual, ..word.next(phase, k) };
            let span = match phase {
                Phase::Open => span.unwrap_or_else(|| open_time(site.config, next.k, site.seed, next.generation)),
                Phase::ForcedOpen => Time::FAR.since(site.now),
                Phase::Closed | Phase::HalfOpen => Duration::ZERO,
            };
            self.until.store((site.now + span).0, Ordering::Release);
            if phase == Phase::HalfOpen {
                // No probe is in flight yet; the round's own limit is what holds.
                self.until.store(Time::FAR.0, Ordering::Release);
                self.limit_round(site);
            }
            if self.swap(word, next) {
                match phase {
                    Phase::Closed => cold.closed_at = site.now,
                    Phase::Open => (cold.last_open, cold.hinted) = (span, Time(0)),
                    Phase::HalfOpen | Phase::ForcedOpen => {}
                }
                return change(None, word, next, Reason::Manual, span);
            }
        }
    }

    /// From scratch, whatever was before: CLOSED, no override, k = 0.
    pub(crate) fn reset(&self, owner: &str, site: Site<'_>) -> Change {
        let place = Place { phase: Phase::Closed, climb: Climb::Restart, span: None, hold: None };
        Change { actor: Some(owner.to_owned()), ..self.place(place, site) }
    }

    /// Sets or clears an override. Clearing starts from scratch: CLOSED and k = 0.
    pub(crate) fn force(&self, to: Option<Override>, now: Time) -> Option<Change> {
        let mut cold = self.cold();
        if to.is_none() && cold.as_ref().is_none_or(|cold| cold.forced.is_none()) {
            return None;
        }
        let cold = cold.get_or_insert_default();
        let actor = to.as_ref().or(cold.forced.as_ref()).map(|held| held.owner.clone());
        cold.forced = to;
        cold.trip = None;
        let held_open = matches!(&cold.forced, Some(Override { forced: Forced::Open, .. }));
        let k = if cold.forced.is_some() { self.word().k } else { 0 };
        loop {
            let word = self.word();
            let change = if held_open {
                let until = cold.forced.as_ref().and_then(|held| held.until).unwrap_or(Time::FAR);
                self.until.store(until.0, Ordering::Release);
                let next = Word { ground: Ground::Manual, ..word.next(Phase::ForcedOpen, k) };
                self.swap(word, next).then(|| change(None, word, next, Reason::Manual, until.since(now)))
            } else {
                self.close(cold, word, k, Reason::Manual, now)
            };
            if let Some(change) = change {
                return Some(Change { actor, ..change });
            }
        }
    }

    pub(crate) fn forced(&self) -> Option<Override> {
        self.cold().as_ref()?.forced.clone()
    }

    pub(crate) fn override_expired(&self, now: Time) -> bool {
        let cold = self.cold();
        let held = cold.as_ref().and_then(|cold| cold.forced.as_ref());
        held.and_then(|held| held.until).is_some_and(|until| now >= until)
    }
}
