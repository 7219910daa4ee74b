//! How many connections a listener has open at once, and who goes when there are too many.
//!
//! Past the limit the idle connection that came first makes room: its caller loses nothing that it asked for. Where none
//! is idle the new one is refused. Few are looked at for each that knocks, so that a flood costs no more than its own
//! accepts. Connections between sidecars are not known here: the caller's pool decides over them.

use crate::http::strict::Line;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// Connections that are looked at for one that is idle.
const LOOKED_AT: usize = 64;

/// One listener's, whatever worker accepts.
#[derive(Debug)]
pub(crate) struct Doors {
    max: usize,
    open: AtomicUsize,
    /// Refusals that are being written.
    refusing: AtomicUsize,
    lines: Mutex<VecDeque<Weak<Line>>>,
}

/// A connection's place, given back when the last of its tasks drops it.
#[derive(Debug)]
pub(crate) struct Place(Arc<Doors>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A refusal that is being written; few at once.
#[derive(Debug)]
pub(crate) struct Refusing(Arc<Doors>);

impl Drop for Refusing {
    fn drop(&mut self) {
        self.0.refusing.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Doors {
    pub(crate) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { max, open: AtomicUsize::new(0), refusing: AtomicUsize::new(0), lines: Mutex::default() })
    }

    /// `None`: full, and nobody is idle.
    pub(crate) fn enter(self: &Arc<Self>) -> Option<Place> {
        let place = Place(self.clone());
        let before = self.open.fetch_add(1, Ordering::Relaxed);
        (before < self.max || self.evict()).then_some(place)
    }

    /// The right to write a refusal; `None`: too many are being written, and this one is just closed.
    pub(crate) fn refuse(self: &Arc<Self>) -> Option<Refusing> {
        let refusing = Refusing(self.clone());
        (self.refusing.fetch_add(1, Ordering::Relaxed) < LOOKED_AT).then_some(refusing)
    }

    /// `line` can be evicted from here on, once.
    pub(crate) fn know(&self, line: &Arc<Line>) {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() >= 2 * self.open.load(Ordering::Relaxed).max(LOOKED_AT) {
            lines.retain(|line| line.strong_count() > 0);
        }
        lines.push_back(Arc::downgrade(line));
    }

    fn evict(&self) -> bool {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        for _ in 0..LOOKED_AT {
            let Some(first) = lines.pop_front() else { return false };
            let Some(line) = first.upgrade() else { continue };
            if line.is_idle() {
                line.evict();
                return true;
            }
            lines.push_back(first);
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn past_the_limit_an_idle_connection_makes_room_and_else_the_new_one_is_refused() {
        let doors = Doors::new(2);
        let (busy, idle) = (Arc::new(Line::default()), Arc::new(Line::default()));
        busy.ended(7); // whatever is not as many as were given
        let first = doors.enter().unwrap();
        doors.know(&busy);
        let _second = doors.enter().unwrap();
        doors.know(&idle);
        let _third = doors.enter().expect("the idle one makes room, though a busy one came before it");
        assert!(doors.enter().is_none(), "nobody else is idle");
        drop(first);
        assert!(doors.enter().is_none(), "three are open, and two may be");
    }

    #[test]
    fn places_come_back() {
        let doors = Doors::new(1);
        for _ in 0..3 {
            let place = doors.enter().expect("free");
            assert!(doors.enter().is_none());
            drop(place);
        }
    }
}
