//! What a caller's sidecar said of a request, kept for the requests that the application makes because of it.
//!
//! Applications carry W3C context from what they answer to what they ask, and no more. So the trace id ties the two, and
//! this table holds our member of `tracestate` by it. It decides how long that is believed: a minute after the last
//! request came in with it. It deliberately does not add up: of two requests in one trace the later one's word counts. The
//! way back is here too: what became of the retries inside, for the answer that the caller's sidecar gets. Deadlines are not: of
//! two requests in one trace one may be patient, and would be cut with the other.
//!
//! Invariants: at most [`SLOTS`] are held, each at most [`MAX_VALUE`] bytes; a trace that was pushed out, or whose id an
//! application made up, is one that we know nothing of. No lock is held across an await.

use fusewire_resilience::Time;
use fusewire_resilience::retry::Mark;
use fusewire_telemetry::TraceId;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

/// Two for each place that a trace id may have.
const SLOTS: usize = 8192;
const MAX_VALUE: usize = 256;
const KEPT: Duration = Duration::from_secs(60);

#[derive(Default)]
struct Slot {
    trace: u128,
    since: Time,
    /// Its memory is used again: a new trace allocates nothing.
    value: String,
    /// What the application's requests met.
    mark: Mark,
}

/// A sidecar that takes nobody in pays nothing for it.
#[derive(Default)]
pub(crate) struct Carried(OnceLock<Box<[Mutex<[Slot; 2]>]>>);

impl Carried {
    fn slots(&self) -> &[Mutex<[Slot; 2]>] {
        self.0.get_or_init(|| (0..SLOTS / 2).map(|_| Mutex::default()).collect())
    }

    pub(crate) fn put(&self, trace: TraceId, value: &str, now: Time) {
        if value.len() > MAX_VALUE {
            return;
        }
        let place = &self.slots()[place(trace)];
        let mut pair = place.lock().unwrap_or_else(PoisonError::into_inner);
        let older = usize::from(pair[1].since < pair[0].since);
        let at = pair.iter().position(|slot| slot.trace == trace.get()).unwrap_or(older);
        let slot = &mut pair[at];
        (slot.trace, slot.since, slot.mark) = (trace.get(), now, Mark::None);
        value.clone_into(&mut slot.value);
    }

    pub(crate) fn get(&self, trace: TraceId, now: Time) -> Option<String> {
        let slots = self.0.get()?;
        let pair = slots[place(trace)].lock().unwrap_or_else(PoisonError::into_inner);
        let slot = pair.iter().find(|slot| slot.trace == trace.get() && now.since(slot.since) < KEPT)?;
        Some(slot.value.clone())
    }

    /// A request that the application made because of this trace failed, and is not to be repeated further out.
    pub(crate) fn mark(&self, trace: TraceId, mark: Mark) {
        let Some(slots) = self.0.get() else { return };
        let mut pair = slots[place(trace)].lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(slot) = pair.iter_mut().find(|slot| slot.trace == trace.get()) {
            slot.mark = mark;
        }
    }

    pub(crate) fn marked(&self, trace: TraceId) -> Mark {
        let Some(slots) = self.0.get() else { return Mark::None };
        let pair = slots[place(trace)].lock().unwrap_or_else(PoisonError::into_inner);
        pair.iter().find(|slot| slot.trace == trace.get()).map_or(Mark::None, |slot| slot.mark)
    }
}

/// The bits that the share of recorded traces is not decided by, so that recorded ones spread too.
fn place(trace: TraceId) -> usize {
    let mixed = ((trace.get() >> 64) as u64 ^ trace.get() as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    (mixed >> 32) as usize % (SLOTS / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Time {
        Time(seconds * 1_000_000_000)
    }

    #[test]
    fn what_was_said_of_a_trace_is_known_for_a_minute() {
        let carried = Carried::default();
        let (one, other) = (TraceId::from_bits(7), TraceId::from_bits(8));
        assert_eq!(carried.get(one, at(1)), None);
        carried.put(one, "f0", at(1));
        assert_eq!(carried.get(one, at(60)).as_deref(), Some("f0"));
        assert_eq!((carried.get(one, at(61)), carried.get(other, at(1))), (None, None));
        carried.put(one, "r1", at(100));
        assert_eq!(carried.get(one, at(101)).as_deref(), Some("r1"), "the later word counts");
        carried.put(other, &"x".repeat(MAX_VALUE + 1), at(100));
        assert_eq!(carried.get(other, at(100)), None);
    }

    #[test]
    fn what_came_of_a_trace_is_known_until_the_next_request_of_it() {
        let carried = Carried::default();
        let (one, other) = (TraceId::from_bits(7), TraceId::from_bits(8));
        carried.mark(one, Mark::RetryExhausted);
        assert_eq!(carried.marked(one), Mark::None, "nobody asked for it");
        carried.put(one, "f0", at(1));
        carried.mark(one, Mark::RetryExhausted);
        assert_eq!((carried.marked(one), carried.marked(other)), (Mark::RetryExhausted, Mark::None));
        carried.put(one, "r0", at(2));
        assert_eq!(carried.marked(one), Mark::None);
    }

    #[test]
    fn memory_is_bounded_and_the_newest_are_kept() {
        let carried = Carried::default();
        let trace = |n: u64| TraceId::from_bits(u128::from(n.wrapping_mul(0xD134_2543_DE82_EF95)) << 17 | 1);
        for n in 1..=100_000 {
            carried.put(trace(n), "f0", Time(n));
        }
        let held = (1..=100_000).filter(|n| carried.get(trace(*n), Time(100_000)).is_some()).count();
        assert!(held <= SLOTS && held > SLOTS / 2, "{held}");
        let newest = (99_501..=100_000).filter(|n| carried.get(trace(*n), Time(100_000)).is_some()).count();
        assert!(newest > 490, "{newest}");
    }
}
