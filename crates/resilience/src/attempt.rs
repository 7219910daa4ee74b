//! One attempt at one instance: the permit, the in-flight count, and how they are given back.
//!
//! Decides when an outcome is final. A failure is, as soon as it is known; a probe is at the response headers, so that
//! a service of endless streams can still prove itself; an ok waits for the end of the stream, because headers alone
//! say little about gRPC. It deliberately knows nothing of retries.
//!
//! Invariant: a permit is given back exactly once, by an outcome or as ignored when the attempt is dropped.

use std::sync::Arc;
use std::time::Duration;

use crate::breaker::Permit;
use crate::config::Mode;
use crate::event::Transition;
use crate::node::Member;
use crate::outcome::{Class, Outcome};
use crate::set::InstanceSet;
use crate::tally::Pace;
use crate::time::Time;

/// Peers whose estimates decide how much a failure costs.
const SAMPLED: usize = 32;

/// One attempt at one instance.
///
/// # Drop behavior
///
/// Dropped unsettled, it gives the permit back as ignored: nothing is learnt, and a probe's place is free again.
#[must_use = "an attempt that is dropped counts as ignored"]
pub struct Attempt<M: Member> {
    set: Arc<InstanceSet<M>>,
    index: usize,
    permit: Permit,
    started: Time,
    pace: Pace,
    /// How long the response headers took; `None` before they came.
    heard: Option<Duration>,
    settled: bool,
}

impl<M: Member> Attempt<M> {
    pub(crate) fn begin(set: Arc<InstanceSet<M>>, index: usize, permit: Permit, now: Time) -> Attempt<M> {
        set.node(index).load.enter(now);
        Attempt { set, index, permit, started: now, pace: Pace::Fine, heard: None, settled: false }
    }

    pub fn member(&self) -> &Arc<M> {
        &self.set.slots[self.index].member
    }

    /// The instance's index in the set that was picked from; what `Ask::tried` wants.
    pub fn index(&self) -> usize {
        self.index
    }

    /// Whether the instance is on probation: connect first, and send a failed request elsewhere at once, outside the
    /// retry budget. Never true in observe mode, where probes are only counted.
    pub fn is_probe(&self) -> bool {
        self.permit.probe && self.set.slots[self.index].config.mode == Mode::Enforce
    }

    pub fn started(&self) -> Time {
        self.started
    }

    /// Response headers arrived: the latency sample. Settles when final: any failure, what is ignored, or a probe.
    pub fn answered(&mut self, outcome: Outcome, now: Time) -> Option<Transition> {
        if self.settled || self.heard.is_some() {
            return None;
        }
        self.time(now);
        let rtt = now.since(self.started);
        self.heard = Some(rtt);
        self.set.node(self.index).load.heard(now);
        self.measure(outcome, rtt, now);
        if outcome.class != Class::Ok || self.permit.probe {
            return self.settle(outcome, self.heard, now);
        }
        let slot = &self.set.slots[self.index];
        let node = slot.member.node();
        if slot.config.mode != Mode::Disabled && node.breaker.word().generation == self.permit.generation {
            node.tally.heard(now);
        }
        None
    }

    /// The stream ended, or the attempt failed before an answer. No effect on the breaker if already settled.
    pub fn end(mut self, outcome: Outcome, now: Time) -> Option<Transition> {
        if self.settled {
            return None;
        }
        // A failure that nothing answered took as long as it took; an opaque connection that ended well may have lived
        // for hours and not been slow for a moment.
        if self.heard.is_none() && outcome.is_failure() {
            self.time(now);
        }
        // The end of an answered stream is no latency, but a failure in it must not look cheap. A clean end that no
        // answer preceded (an opaque connection) says nothing about latency either.
        let mut took = self.heard;
        if outcome.is_failure() {
            let rtt = if self.heard.is_some() { Duration::ZERO } else { now.since(self.started) };
            self.measure(outcome, rtt, now);
            took = took.or(Some(rtt));
        }
        self.settle(outcome, took, now)
    }

    /// Time to the response headers, against what the policy calls slow.
    fn time(&mut self, now: Time) {
        if self.set.slots[self.index].config.is_slow(now.since(self.started)) {
            self.pace = Pace::Slow;
        }
    }

    fn settle(&mut self, outcome: Outcome, took: Option<Duration>, now: Time) -> Option<Transition> {
        self.settled = true;
        self.member().ended(outcome.class, took);
        self.set.settle(self.index, self.permit, outcome, (self.started, self.pace), now)
    }

    /// A failure counts at least twice the others' median, so that failing fast does not attract traffic.
    fn measure(&self, outcome: Outcome, rtt: Duration, now: Time) {
        let load = &self.set.node(self.index).load;
        match outcome.class {
            Class::Ok => load.sample(rtt, now),
            Class::Hard | Class::Soft => {
                let median = self.set.median_estimate::<SAMPLED>(self.index, now).unwrap_or(0.0);
                let floor = Duration::from_nanos((median * 2.0) as u64);
                load.sample(rtt.max(floor), now);
            }
            Class::Ignored => {}
        }
    }
}

impl<M: Member> Drop for Attempt<M> {
    fn drop(&mut self) {
        if !self.settled {
            self.set.give_back(self.index, self.permit);
            self.member().ended(Class::Ignored, self.heard);
        }
        self.set.node(self.index).load.leave(self.heard.is_some());
    }
}
