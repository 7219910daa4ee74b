//! Instances, times and outcomes that the tests share.

use std::sync::Arc;
use std::time::Duration;

use fusewire_resilience::{
    Ask, Attempt, BreakerConfig, Happening, InstanceSet, Member, Node, Outcome, Prober, Slot, State, Time, classify,
};

pub(crate) struct Instance {
    pub(crate) id: usize,
    node: Node,
}

impl Instance {
    pub(crate) fn seeded(seed: u64) -> Instance {
        Instance { id: 0, node: Node::new(seed, Time(0)) }
    }
}

impl Member for Instance {
    fn node(&self) -> &Node {
        &self.node
    }
}

pub(crate) fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

pub(crate) fn at(ms: u64) -> Time {
    Time(ms * 1_000_000)
}

pub(crate) fn refused() -> Outcome {
    classify(Happening::ConnectRefused)
}

pub(crate) fn status(code: u16) -> Outcome {
    classify(Happening::Status(code))
}

pub(crate) fn slots(n: usize, config: &BreakerConfig) -> Vec<Slot<Instance>> {
    let config = Arc::new(config.clone());
    let member = |id| Arc::new(Instance { id, node: Node::new(id as u64 + 1, Time(0)) });
    (0..n).map(|id| Slot { member: member(id), config: config.clone(), weight: 1, prober: Prober::Request }).collect()
}

pub(crate) fn service(n: usize, config: &BreakerConfig) -> Arc<InstanceSet<Instance>> {
    Arc::new(InstanceSet::new(slots(n, config)))
}

/// A replayable request's pick.
pub(crate) fn pick(
    set: &Arc<InstanceSet<Instance>>,
    random: u64,
    now: Time,
) -> Result<Attempt<Instance>, fusewire_resilience::Exhausted> {
    set.pick(Ask { random, replayable: true, tried: &[], key: None }, now)
}

/// An attempt at one given instance, by naming the others as tried.
pub(crate) fn pick_at(set: &Arc<InstanceSet<Instance>>, index: usize, now: Time) -> Option<Attempt<Instance>> {
    let others: Vec<usize> = (0..set.len()).filter(|other| *other != index).collect();
    set.pick(Ask { random: 1, replayable: true, tried: &others, key: None }, now).ok()
}

pub(crate) fn states(set: &InstanceSet<Instance>) -> Vec<State> {
    set.members().map(|member| member.node().state()).collect()
}

pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn bits(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
}
