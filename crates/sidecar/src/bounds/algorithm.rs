//! The three algorithms behind one gate, and none.
//!
//! It decides nothing itself: `resilience::limit` does. The queue guard counts what is in flight and what waits; for the
//! two others, which only know a limit, that is done here by the guard's own rules: first come, first served, a queue of
//! sixteen or as many as the limit, and 50 ms in it.

use fusewire_model::policy::Concurrency;
use fusewire_resilience::Time;
use fusewire_resilience::limit::{Admission, Aimd, Gradient2, GuardConfig, Phase, QueueGuard, Served, Ticket};
use std::time::Duration;

pub(super) enum Algorithm {
    Off,
    Guard(Box<QueueGuard>),
    Counted(Counted),
}

/// A limit, and what is counted against it.
pub(super) struct Counted {
    limit: Limit,
    in_flight: u32,
    queued: u32,
}

enum Limit {
    Gradient2(Gradient2),
    Aimd(Aimd),
}

/// One request at the application. Given back by exactly one of [`Algorithm`]'s calls; it has no drop of its own.
#[must_use]
pub(super) enum Slot {
    Guard(Ticket),
    Counted { dispatched: Time, in_flight: u32 },
}

pub(super) enum Asked {
    Unlimited,
    Go(Slot),
    Wait { at_most: Duration },
    Shed,
}

/// What became of a slot.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    Answered,
    /// When the caller had gone.
    AnsweredInVain,
    /// Without an answer, which says nothing of how long one takes.
    Closed,
    ConnectTimedOut,
}

const MIN_QUEUE: u32 = 16;

impl Algorithm {
    pub(super) fn new(wanted: &Concurrency, now: Time) -> Self {
        let counted = |limit| Self::Counted(Counted { limit, in_flight: 0, queued: 0 });
        match wanted {
            Concurrency::Off => Self::Off,
            Concurrency::QueueGuard(config) => Self::Guard(Box::new(QueueGuard::with(config.clone(), now))),
            Concurrency::Gradient2(config) => counted(Limit::Gradient2(Gradient2::new(config.clone()))),
            Concurrency::Aimd(config) => counted(Limit::Aimd(Aimd::new(config.clone()))),
        }
    }

    /// Goes on under other settings; `false` where another algorithm is wanted.
    pub(super) fn reconfigure(&mut self, wanted: &Concurrency) -> bool {
        match (self, wanted) {
            (Self::Off, Concurrency::Off) => {}
            (Self::Guard(guard), Concurrency::QueueGuard(config)) => guard.reconfigure(config.clone()),
            (Self::Counted(Counted { limit: Limit::Gradient2(limit), .. }), Concurrency::Gradient2(config)) => {
                limit.reconfigure(config.clone());
            }
            (Self::Counted(Counted { limit: Limit::Aimd(limit), .. }), Concurrency::Aimd(config)) => {
                limit.reconfigure(config.clone());
            }
            _ => return false,
        }
        true
    }

    pub(super) fn ask(&mut self, left: Option<Duration>, now: Time) -> Asked {
        match self {
            Self::Off => Asked::Unlimited,
            Self::Guard(guard) => match guard.ask(left, now) {
                Admission::Dispatch(ticket) => Asked::Go(Slot::Guard(ticket)),
                Admission::Wait { at_most } => Asked::Wait { at_most },
                Admission::Shed => Asked::Shed,
            },
            Self::Counted(counted) => counted.ask(left, now),
        }
    }

    /// The turn of the one that has waited longest, if it has come.
    pub(super) fn wake(&mut self, now: Time) -> Option<Slot> {
        match self {
            Self::Off => None,
            Self::Guard(guard) => guard.wake(now).map(Slot::Guard),
            Self::Counted(counted) => {
                let woken = counted.queued > 0 && counted.in_flight < counted.limit();
                woken.then(|| {
                    counted.queued -= 1;
                    counted.dispatch(now)
                })
            }
        }
    }

    pub(super) fn gave_up(&mut self, now: Time) {
        match self {
            Self::Off => {}
            Self::Guard(guard) => guard.gave_up(now),
            Self::Counted(counted) => counted.queued = counted.queued.saturating_sub(1),
        }
    }

    pub(super) fn give_back(&mut self, slot: Slot, ended: Ended, now: Time) {
        match (self, slot) {
            (Self::Guard(guard), Slot::Guard(ticket)) => match ended {
                Ended::Answered => guard.answered(ticket, now),
                Ended::AnsweredInVain => guard.answered_in_vain(ticket, now),
                Ended::Closed => guard.closed(ticket, now),
                Ended::ConnectTimedOut => guard.connect_timed_out(ticket, now),
            },
            (Self::Counted(counted), Slot::Counted { dispatched, in_flight }) => {
                counted.give_back(now.since(dispatched), in_flight, ended);
            }
            // the gate lets no slot of one algorithm come to another
            (_, Slot::Guard(_) | Slot::Counted { .. }) => {}
        }
    }

    pub(super) fn limit(&self) -> Option<u32> {
        match self {
            Self::Off => None,
            Self::Guard(guard) => guard.limit(),
            Self::Counted(counted) => Some(counted.limit()),
        }
    }

    pub(super) fn in_flight(&self) -> u32 {
        match self {
            Self::Off => 0,
            Self::Guard(guard) => guard.inflight(),
            Self::Counted(counted) => counted.in_flight,
        }
    }

    pub(super) fn queued(&self) -> u32 {
        match self {
            Self::Off => 0,
            Self::Guard(guard) => guard.queued(),
            Self::Counted(counted) => counted.queued,
        }
    }

    /// Whether the application has as much to do as it can.
    pub(super) fn is_strained(&self) -> bool {
        match self {
            Self::Off => false,
            Self::Guard(guard) => guard.phase() != Phase::Free,
            Self::Counted(counted) => counted.in_flight >= counted.limit(),
        }
    }

    /// As the configuration calls it.
    pub(super) fn word(&self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Guard(_) => "queue_guard",
            Self::Counted(Counted { limit: Limit::Gradient2(_), .. }) => "gradient2",
            Self::Counted(Counted { limit: Limit::Aimd(_), .. }) => "aimd",
        }
    }

    /// Only the queue guard has any.
    pub(super) fn phase(&self) -> Option<Phase> {
        match self {
            Self::Guard(guard) => Some(guard.phase()),
            Self::Off | Self::Counted(_) => None,
        }
    }
}

impl Counted {
    fn limit(&self) -> u32 {
        match &self.limit {
            Limit::Gradient2(limit) => limit.limit(),
            Limit::Aimd(limit) => limit.limit(),
        }
    }

    fn ask(&mut self, left: Option<Duration>, now: Time) -> Asked {
        if self.queued == 0 && self.in_flight < self.limit() {
            return Asked::Go(self.dispatch(now));
        }
        let queue = GuardConfig::default().queue;
        let at_most = left.map_or(queue, |left| left.min(queue));
        if self.queued >= self.limit().max(MIN_QUEUE) || at_most.is_zero() {
            return Asked::Shed;
        }
        self.queued += 1;
        Asked::Wait { at_most }
    }

    fn dispatch(&mut self, now: Time) -> Slot {
        self.in_flight += 1;
        Slot::Counted { dispatched: now, in_flight: self.in_flight }
    }

    fn give_back(&mut self, took: Duration, in_flight: u32, ended: Ended) {
        self.in_flight = self.in_flight.saturating_sub(1);
        match (&mut self.limit, ended) {
            (_, Ended::Closed) | (Limit::Gradient2(_), Ended::ConnectTimedOut) => {}
            (Limit::Gradient2(limit), Ended::Answered | Ended::AnsweredInVain) => {
                limit.sample(took, in_flight);
            }
            (Limit::Aimd(limit), Ended::Answered | Ended::AnsweredInVain) => {
                limit.sample(took, in_flight, Served::InTime);
            }
            (Limit::Aimd(limit), Ended::ConnectTimedOut) => {
                limit.sample(took, in_flight, Served::Dropped);
            }
        }
    }
}
