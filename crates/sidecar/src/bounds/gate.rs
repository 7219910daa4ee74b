//! The gate before one port of the application, shared by all workers and all callers: who goes, who waits, who is refused.
//!
//! The algorithm decides ([`super::algorithm`]); the gate holds its queue, first come, first served, and sees to it that
//! every slot comes back. Another algorithm may take over at any time: those who wait are let in, and slots of the one
//! before change nothing any more.
//!
//! Invariants: the lock is held for a few additions, never across an await; a [`Turn`] gives its slot back exactly once,
//! also when it is dropped; so does who waits, also where the turn had just come.

use super::algorithm::{Algorithm, Asked, Ended, Slot};
use crate::clock::Clock;
use fusewire_model::policy::Concurrency;
use fusewire_resilience::Time;
use fusewire_resilience::limit::Phase;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::oneshot;

pub(crate) struct Gate {
    clock: Clock,
    state: Mutex<State>,
    shed: AtomicU64,
    has_answered: AtomicBool,
    /// Requests that the application still works on though nobody waits for them.
    pub(super) abandoned: AtomicU32,
}

struct State {
    algorithm: Algorithm,
    /// Of the algorithm: counts those before it.
    era: u32,
    waiting: VecDeque<(u64, oneshot::Sender<Admitted>)>,
    /// Names those who wait.
    next: u64,
}

/// What who waited is told; `None`: there is no limit any more.
type Admitted = Option<(u32, Slot)>;

/// No turn within the time that a request may wait.
#[derive(Debug)]
pub(crate) struct Refused;

/// As it stands, for those who look.
pub(crate) struct GateView {
    pub(crate) algorithm: &'static str,
    pub(crate) phase: Option<Phase>,
    pub(crate) limit: Option<u32>,
    pub(crate) in_flight: u32,
    pub(crate) queued: u32,
    pub(crate) shed: u64,
    pub(crate) abandoned: u32,
}

impl State {
    /// After each other call, while anyone waits.
    fn hand_on(&mut self, now: Time) {
        while !self.waiting.is_empty() {
            let Some(slot) = self.algorithm.wake(now) else { return };
            let Some((_, waits)) = self.waiting.pop_front() else { return };
            if let Err(Some((_, slot))) = waits.send(Some((self.era, slot))) {
                self.algorithm.give_back(slot, Ended::Closed, now);
            }
        }
    }
}

impl Gate {
    pub(super) fn new(clock: Clock) -> Self {
        let algorithm = Algorithm::new(&Concurrency::default(), clock.now());
        let state = State { algorithm, era: 0, waiting: VecDeque::new(), next: 0 };
        let (shed, has_answered, abandoned) = (AtomicU64::new(0), AtomicBool::new(false), AtomicU32::new(0));
        Self { clock, state: Mutex::new(state), shed, has_answered, abandoned }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn now(&self) -> Time {
        self.clock.now()
    }

    /// Puts settings in force. What is known is kept where the algorithm stays the same.
    pub(crate) fn configure(&self, wanted: &Concurrency) {
        let now = self.clock.now();
        let mut state = self.lock();
        if !state.algorithm.reconfigure(wanted) {
            state.algorithm = Algorithm::new(wanted, now);
            state.era += 1;
            for (_, waits) in std::mem::take(&mut state.waiting) {
                let _ = waits.send(None);
            }
        }
        state.hand_on(now);
    }

    /// A turn at the application, at once or after a short wait; `None` where there is no guard. `left`: until the
    /// caller's deadline.
    ///
    /// # Cancel safety
    /// Dropped while it waits, it leaves the queue.
    pub(crate) async fn enter(self: &Arc<Self>, left: Option<Duration>, now: Time) -> Result<Option<Turn>, Refused> {
        let (at_most, mut waiter) = {
            let mut state = self.lock();
            let asked = state.algorithm.ask(left, now);
            let era = state.era;
            let entered = match asked {
                Asked::Unlimited => Ok(None),
                Asked::Go(slot) => Ok(Some(Turn { gate: self.clone(), slot: Some((era, slot)) })),
                Asked::Wait { at_most } => {
                    let ((waits, told), id) = (oneshot::channel(), state.next);
                    state.next += 1;
                    state.waiting.push_back((id, waits));
                    Err(Some((at_most, Waiter { gate: self.clone(), id, told: Some(told) })))
                }
                Asked::Shed => Err(None),
            };
            state.hand_on(now);
            match entered {
                Ok(turn) => return Ok(turn),
                Err(Some(waits)) => waits,
                Err(None) => {
                    drop(state);
                    return Err(self.refuse());
                }
            }
        };
        match tokio::time::timeout(at_most, waiter.told()).await {
            Ok(admitted) => Ok(admitted),
            Err(_) => waiter.leave().ok_or_else(|| self.refuse()),
        }
    }

    fn refuse(&self) -> Refused {
        self.shed.fetch_add(1, Ordering::Relaxed);
        Refused
    }

    /// Whether the application ever answered: until then it may be starting.
    pub(crate) fn has_answered(&self) -> bool {
        self.has_answered.load(Ordering::Relaxed)
    }

    /// Whether the application has as much to do as it can.
    pub(crate) fn is_strained(&self) -> bool {
        self.lock().algorithm.is_strained()
    }

    pub(crate) fn view(&self) -> GateView {
        let state = self.lock();
        let algorithm = &state.algorithm;
        GateView {
            algorithm: algorithm.word(),
            phase: algorithm.phase(),
            limit: algorithm.limit(),
            in_flight: algorithm.in_flight(),
            queued: algorithm.queued(),
            shed: self.shed.load(Ordering::Relaxed),
            abandoned: self.abandoned.load(Ordering::Relaxed),
        }
    }

    fn give_back(&self, (era, slot): (u32, Slot), ended: Ended, now: Time) {
        let mut state = self.lock();
        if era == state.era {
            state.algorithm.give_back(slot, ended, now);
            state.hand_on(now);
        }
    }
}

/// One request's slot at the application.
///
/// # Drop behavior
/// The slot is free, and nothing was learnt.
pub(crate) struct Turn {
    gate: Arc<Gate>,
    slot: Option<(u32, Slot)>,
}

impl Turn {
    pub(super) fn gate(&self) -> &Arc<Gate> {
        &self.gate
    }
    /// The application's headers are here; [`Ended::Answered`] or [`Ended::AnsweredInVain`].
    pub(super) fn answered(mut self, how: Ended, now: Time) {
        if !self.gate.has_answered() {
            self.gate.has_answered.store(true, Ordering::Relaxed);
        }
        self.end(how, now);
    }
    /// The application did not take the connection.
    pub(super) fn connect_timed_out(mut self, now: Time) {
        self.end(Ended::ConnectTimedOut, now);
    }
    fn end(&mut self, ended: Ended, now: Time) {
        if let Some(slot) = self.slot.take() {
            self.gate.give_back(slot, ended, now);
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if self.slot.is_some() {
            self.end(Ended::Closed, self.gate.clock.now());
        }
    }
}

/// A place in the queue.
///
/// # Drop behavior
/// Leaves it; a turn that had just come goes to the next.
struct Waiter {
    gate: Arc<Gate>,
    id: u64,
    told: Option<oneshot::Receiver<Admitted>>,
}

impl Waiter {
    async fn told(&mut self) -> Option<Turn> {
        let Some(told) = &mut self.told else { return None };
        let admitted = told.await;
        self.told = None;
        self.turn(admitted.ok().flatten())
    }

    fn turn(&self, admitted: Admitted) -> Option<Turn> {
        admitted.map(|slot| Turn { gate: self.gate.clone(), slot: Some(slot) })
    }

    /// `None`: the turn had not come, and does not any more.
    fn leave(&mut self) -> Option<Option<Turn>> {
        let mut told = self.told.take()?;
        let now = self.gate.clock.now();
        let mut state = self.gate.lock();
        if let Some(place) = state.waiting.iter().position(|(id, _)| *id == self.id) {
            state.waiting.remove(place);
            state.algorithm.gave_up(now);
            state.hand_on(now);
            return None;
        }
        drop(state);
        told.close();
        told.try_recv().ok().map(|admitted| self.turn(admitted))
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        drop(self.leave());
    }
}

#[cfg(test)]
mod tests;
