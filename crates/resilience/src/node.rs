//! One instance as this sidecar knows it: its circuit, its tally and its load.
//!
//! A node belongs to whoever knows the instance (the pool does) and outlives every set that shows it, which is how
//! breaker state and load estimates survive a change of configuration. Nothing here refers to a set.

use std::time::Duration;

use crate::breaker::{Breaker, Override};
use crate::config::BreakerConfig;
use crate::load::Load;
use crate::outcome::Class;
use crate::tally::Tally;
use crate::time::Time;
use crate::word::State;

/// What a caller's type must offer to be a member of a set: it owns the breaker and the load estimate.
pub trait Member {
    fn node(&self) -> &Node;

    /// Who hashed balancers take it for: must be the same in every sidecar and for as long as the instance lives, such as
    /// [`balance::hash`](crate::balance::hash) of its key. The default is good for one sidecar.
    fn id(&self) -> u64 {
        self.node().seed()
    }

    /// Where it runs: a hash of the zone's name; 0, the default, if that is not known.
    fn zone(&self) -> u64 {
        0
    }

    /// An attempt gave its permit back, as invariants have it once: how it counted, and the time to its response headers,
    /// or to the failure where none came. For counting; it must not block.
    fn ended(&self, _class: Class, _took: Option<Duration>) {}

    /// A test of the open circuit is over. As `ended`; in observe mode there are none.
    fn probed(&self, _result: ProbeResult) {}
}

/// How a test of an open circuit went.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ProbeResult {
    Ok,
    Failed,
    /// Nothing was learnt: it was cancelled, or did not count.
    Ignored,
    /// No answer before its deadline.
    Lost,
}

impl ProbeResult {
    /// As they index what is counted by result.
    pub const ALL: [ProbeResult; 4] = [ProbeResult::Ok, ProbeResult::Failed, ProbeResult::Ignored, ProbeResult::Lost];

    /// The word for metric labels.
    pub fn as_str(self) -> &'static str {
        match self {
            ProbeResult::Ok => "ok",
            ProbeResult::Failed => "failed",
            ProbeResult::Ignored => "ignored",
            ProbeResult::Lost => "lost",
        }
    }
}

/// Breaker, tally and load of one instance: four cache lines while it is well. What only failures, transitions or unusual
/// windows need is on the heap, from when it is first needed.
pub struct Node {
    seed: u64,
    pub(crate) breaker: Breaker,
    pub(crate) tally: Tally,
    pub(crate) load: Load,
}

#[cfg(not(all(loom, test)))] // loom's atomics are larger
const _: () = assert!(size_of::<Node>() <= 256);

impl Node {
    /// `seed` names the instance in events and decorrelates its jitter: use a hash of its key, and of the sidecar's
    /// own identity, so that sidecars do not probe in step.
    pub fn new(seed: u64, now: Time) -> Node {
        Node { seed, breaker: Breaker::new(), tally: Tally::new(), load: Load::new(now) }
    }

    pub fn seed(&self) -> u64 {
        self.seed
    }

    pub fn state(&self) -> State {
        self.breaker.state()
    }

    pub fn inflight(&self) -> u32 {
        self.load.inflight()
    }

    /// A new connection to the instance came up. Only this lets a peer's connect timeout count as hard.
    pub fn connected(&self, now: Time) {
        self.tally.connected(now);
    }

    /// What an operator holds the circuit by.
    pub fn held(&self) -> Option<Override> {
        self.breaker.forced()
    }

    /// Results that came from an earlier period of the breaker and were not counted.
    pub fn stale_results(&self) -> u64 {
        self.breaker.stale_results()
    }

    /// Requests that passed only because the mode is observe.
    pub fn would_reject(&self) -> u64 {
        self.breaker.would_reject()
    }

    pub(crate) fn is_new(&self) -> bool {
        self.tally.is_new()
    }

    /// The node becomes part of a set with this configuration. `ramp`: if it is new, it starts slowly.
    pub(crate) fn enlist(&self, config: &BreakerConfig, ramp: bool) {
        let new = self.tally.reshape(config);
        if new && !ramp {
            self.load.stop_ramp();
        }
    }
}
