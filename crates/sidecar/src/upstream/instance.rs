//! One instance: its breaker and load estimate, shared by all workers, and each worker's own connections to it.
//!
//! Invariant 5: it survives every snapshot that still holds its key; dropping the last reference closes its connections.

use super::pool::Pool;
use fusewire_model::service::Sidecar;
use fusewire_resilience::{Member, Node, Time};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::SocketAddr;

/// Address, proven identity and unique id: a reused address is a new instance.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct InstanceKey {
    pub(crate) id: String,
    pub(crate) address: SocketAddr,
    /// `None`: plain, spoken to in clear.
    pub(crate) sidecar: Option<Sidecar>,
}

pub(crate) struct Instance {
    pub(crate) key: InstanceKey,
    node: Node,
    pools: Box<[Pool]>,
}

impl Instance {
    pub(crate) fn new(key: InstanceKey, workers: usize, now: Time) -> Self {
        let mut hasher = DefaultHasher::new();
        key.hash(&mut hasher);
        std::process::id().hash(&mut hasher); // so that sidecars do not probe in step
        let pools = (0..workers).map(|_| Pool::default()).collect();
        Self { key, node: Node::new(hasher.finish(), now), pools }
    }

    /// The connections of one worker; a worker never touches another's.
    pub(crate) fn pool(&self, worker: usize) -> &Pool {
        &self.pools[worker]
    }

    /// The address to dial.
    pub(crate) fn dial_address(&self) -> SocketAddr {
        self.key.sidecar.as_ref().map_or(self.key.address, |s| s.inbound)
    }

    /// Lets go of connections that are closed or were idle for long.
    pub(crate) fn tidy(&self, now: Time) {
        for pool in &self.pools {
            pool.tidy(now);
        }
    }

    pub(crate) fn connections(&self) -> usize {
        self.pools.iter().map(Pool::len).sum()
    }
}

impl Member for Instance {
    fn node(&self) -> &Node {
        &self.node
    }
}
