//! What an operator, and the triggers, see of a circuit. Read without stopping anything, so the fields may be an instant
//! apart.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use super::Circuit;
use crate::breaker::Override;
use crate::config::{HalfOpen, Mode};
use crate::event::Reason;
use crate::probation::MAX_PROBES;
use crate::tally::Totals;
use crate::time::Time;
use crate::word::{Phase, State};

/// One circuit at one moment.
#[derive(Clone, PartialEq, Debug)]
pub struct CircuitView {
    pub state: State,
    pub mode: Mode,
    pub forced: Option<Override>,
    /// Why the circuit opened; `None` while it is closed or was put where it is.
    pub reason: Option<Reason>,
    pub generation: u32,
    /// Openings in a row.
    pub k: u8,
    /// Until a probe may be sent; `None` unless open, and for an opening without end.
    pub open_remaining: Option<Duration>,
    /// Calls in the window; in and after a half-open round, those of the round.
    pub window: Totals,
    /// Calls in the window below which its rates say nothing.
    pub minimum: u32,
    pub at_trip: Option<Totals>,
    pub probes_in_flight: u8,
    /// Calls refused since the circuit was made, and since it last closed, began a round, or was put where it is.
    pub refused: u64,
    pub refused_in_period: u64,
    /// Calls that passed only because the mode is observe.
    pub would_reject: u64,
    /// Results of an earlier period, which were not counted.
    pub stale_results: u64,
}

impl Circuit {
    /// Who holds it, if anybody does.
    pub(crate) fn forced(&self) -> Option<Override> {
        self.core.breaker.forced()
    }

    pub fn inspect(&self, now: Time) -> CircuitView {
        let word = self.core.breaker.word();
        let trip = self.core.breaker.trip_view();
        let round = self.core.shows_round.load(Relaxed);
        let open = matches!(word.phase, Phase::Open | Phase::ForcedOpen);
        let until = Some(self.core.breaker.until()).filter(|until| open && *until != Time::FAR);
        CircuitView {
            state: word.phase.state(),
            mode: self.config.mode,
            forced: self.forced(),
            reason: trip.map(|(reason, _, _)| reason),
            generation: word.generation,
            k: word.k,
            open_remaining: until.map(|until| until.since(now)),
            window: if round { self.round_totals() } else { self.totals(now) },
            minimum: if round { self.round_minimum() } else { self.config.window_minimum() },
            at_trip: trip.map(|(_, totals, _)| totals),
            probes_in_flight: word.outstanding,
            refused: self.core.refused.load(Relaxed),
            refused_in_period: self.core.refused_in_period.load(Relaxed),
            would_reject: self.core.breaker.would_reject(),
            stale_results: self.core.breaker.stale_results(),
        }
    }

    pub(super) fn totals(&self, now: Time) -> Totals {
        let slow = self.config.slow.map_or(0, |_| self.window.detail(self.shape, now).slow);
        Totals { slow, ..self.window.totals(self.shape, now) }
    }

    pub(super) fn round_totals(&self) -> Totals {
        let [hard, soft, slow, ..] = self.core.round.sums();
        Totals { total: self.core.round.total(self.round_size()), hard, soft, slow }
    }

    pub(super) fn round_size(&self) -> u16 {
        match self.config.half_open {
            HalfOpen::Evidence => MAX_PROBES.into(),
            HalfOpen::Rate(round) => round.permits.into(),
        }
    }

    pub(super) fn round_minimum(&self) -> u32 {
        match self.config.half_open {
            HalfOpen::Evidence => self.core.breaker.trip_view().map_or(0, |(_, _, need)| need.into()),
            HalfOpen::Rate(round) => self.config.round_minimum(round).into(),
        }
    }
}
