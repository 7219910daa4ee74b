//! What an operator sees of each instance. Read without stopping anything, so the fields may be an instant apart.

use std::time::Duration;

use crate::breaker::Override;
use crate::config::Mode;
use crate::event::Reason;
use crate::node::Member;
use crate::set::InstanceSet;
use crate::tally::Totals;
use crate::time::Time;
use crate::trigger::Ground;
use crate::word::{Phase, State};

/// One instance at one moment.
#[derive(Clone, PartialEq, Debug)]
pub struct NodeView {
    pub index: usize,
    /// The seed that the node was made with.
    pub node: u64,
    pub state: State,
    pub mode: Mode,
    /// Whether ordinary traffic passes.
    pub ready: bool,
    pub forced: Option<Override>,
    /// Why the circuit opened; `None` while it is closed or held by an operator.
    pub reason: Option<Reason>,
    /// What kind of evidence opened it; as `reason`.
    pub ground: Option<Ground>,
    pub generation: u32,
    /// Openings in a row.
    pub k: u8,
    /// Until a probe may be sent, or an override ends; zero when that is due. `None` unless open, and for an override
    /// without end.
    pub open_remaining: Option<Duration>,
    /// Calls in the window now.
    pub window: Totals,
    /// Calls in the window when the circuit opened.
    pub at_trip: Option<Totals>,
    /// Hard failures in a row.
    pub run: u8,
    /// Timeouts in a row, without one response byte between them.
    pub silence: u8,
    /// Clean probes that close the circuit if none fails.
    pub probes_needed: u8,
    pub probes_in_flight: u8,
    pub probes_ok: u8,
    pub probes_failed: u8,
    /// Latency estimate; `None` while nothing has been measured.
    pub ewma: Option<Duration>,
    pub inflight: u32,
    pub weight: u32,
    /// Slow-start factor, 0.1..1.
    pub ramp: f32,
    pub stale_results: u64,
    pub would_reject: u64,
}

impl<M: Member> InstanceSet<M> {
    pub fn inspect(&self, now: Time) -> Vec<NodeView> {
        (0..self.slots.len()).map(|index| self.inspect_one(index, now)).collect()
    }

    fn window(&self, index: usize, now: Time) -> Totals {
        let (tally, shape) = (&self.node(index).tally, self.shapes[index]);
        let slow = self.slots[index].config.slow.map_or(0, |_| tally.detail(shape, now).slow);
        Totals { slow, ..tally.totals(shape, now) }
    }

    fn inspect_one(&self, index: usize, now: Time) -> NodeView {
        let slot = &self.slots[index];
        let node = slot.member.node();
        let word = node.breaker.word();
        let trip = node.breaker.trip_view();
        let open = matches!(word.phase, Phase::Open | Phase::ForcedOpen);
        NodeView {
            index,
            node: node.seed(),
            state: word.phase.state(),
            mode: slot.config.mode,
            ready: self.admits(index),
            forced: node.breaker.forced(),
            reason: trip.map(|(reason, _, _)| reason),
            ground: node.breaker.trip_ground(),
            generation: word.generation,
            k: word.k,
            open_remaining: open.then(|| node.breaker.until().since(now)).filter(|_| node.breaker.until() != Time::FAR),
            window: self.window(index, now),
            at_trip: trip.map(|(_, totals, _)| totals),
            run: node.tally.run().count,
            silence: node.tally.silence().count,
            probes_needed: trip.map_or(0, |(_, _, need)| need),
            probes_in_flight: word.outstanding,
            probes_ok: word.ok,
            probes_failed: word.fail,
            ewma: node.load.estimate(now).map(|nanos| Duration::from_nanos(nanos as u64)),
            inflight: node.load.inflight(),
            weight: slot.weight,
            ramp: node.load.ramp(slot.config.slow_start, now),
            stale_results: node.stale_results(),
            would_reject: node.would_reject(),
        }
    }
}
