//! A service as requests see it: its settings and the set of its instances, immutable between two snapshots.

use super::instance::Instance;
use crate::fault::Fault;
use fusewire_model::ServiceName;
use fusewire_model::policy::Policy;
use fusewire_model::service::Protocol;
use fusewire_resilience::{Ask, Attempt, ExhaustedCause, InstanceSet, Time};
use fusewire_telemetry::metrics::ServiceMetrics;
use std::sync::Arc;

pub(crate) struct Upstream {
    pub(crate) name: ServiceName,
    pub(crate) protocol: Protocol,
    pub(crate) policy: Arc<Policy>,
    pub(crate) set: Arc<InstanceSet<Instance>>,
    pub(crate) metrics: Arc<ServiceMetrics>,
    /// The hashes of everything it was made from: the same again means the same object again.
    pub(crate) fingerprint: String,
}

/// What an exchange brings to the balancer.
pub(crate) struct Wish<'a> {
    pub(crate) random: u64,
    /// The request could be sent again to another instance, so it may serve as a probe.
    pub(crate) replayable: bool,
    pub(crate) tried: &'a [usize],
}

impl Upstream {
    /// The balancer proposes, the breaker disposes, a permit comes out.
    pub(crate) fn admit(&self, wish: &Wish<'_>, now: Time) -> Result<Attempt<Instance>, Fault> {
        let ask = Ask { random: wish.random, replayable: wish.replayable, tried: wish.tried };
        self.set.pick(ask, now).map_err(|exhausted| match exhausted.cause {
            ExhaustedCause::Empty => Fault::NoInstance,
            ExhaustedCause::AllOpen => {
                self.metrics.rejected.inc();
                Fault::CircuitOpen { retry_after: exhausted.retry_after }
            }
            ExhaustedCause::AllTried => Fault::AllTried,
        })
    }
}
