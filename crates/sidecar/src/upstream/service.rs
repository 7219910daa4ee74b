//! A service as requests see it: its settings and the set of its instances, immutable between two snapshots.

use super::instance::Instance;
use super::ledger::Ledger;
use crate::bounds::Bounds;
use crate::fault::{Fault, Scope};
use fusewire_model::ServiceName;
use fusewire_model::health::HealthCheck;
use fusewire_model::policy::{Algorithm, PlainDefaults, Policy, RequestKey};
use fusewire_model::service::Protocol;
use fusewire_resilience::retry::{Broke, RetryToken, Untried};
use fusewire_resilience::{Ask, Attempt, ExhaustedCause, InstanceSet, ServiceScope, Time};
use fusewire_telemetry::metrics::ServiceMetrics;
use std::sync::Arc;

#[derive(Clone)]
pub(crate) struct Upstream {
    pub(crate) name: ServiceName,
    pub(crate) protocol: Protocol,
    pub(crate) policy: Arc<Policy>,
    /// Where the policy, or that of a route's rule, does not say.
    pub(crate) plain: PlainDefaults,
    pub(crate) set: Arc<InstanceSet<Instance>>,
    /// Whose callers have chosen one of the set by its address: that one.
    pub(crate) only: Option<usize>,
    /// Before the service as a whole. `None`: each route has its own, or it is the application beside us.
    pub(crate) scope: Option<Arc<ServiceScope>>,
    /// Down by their health check, and left out of the set while there are others.
    pub(crate) resting: Vec<Arc<Instance>>,
    /// All are, and so all are in the set.
    pub(crate) all_down: bool,
    /// What tests an open circuit, where the policy says so.
    pub(crate) health: Option<HealthCheck>,
    pub(crate) ledger: Ledger,
    pub(crate) metrics: Arc<ServiceMetrics>,
    /// What its requests must pass; the same object for as long as the service is known.
    pub(crate) bounds: Arc<Bounds>,
    /// The hashes of everything it was made from: the same again means the same object again.
    pub(crate) fingerprint: String,
}

/// What an exchange brings to the balancer.
pub(crate) struct Wish<'a> {
    pub(crate) random: u64,
    /// The request could be sent again to another instance, so it may serve as a probe.
    pub(crate) replayable: bool,
    pub(crate) tried: &'a [usize],
    /// What the policy hashes by.
    pub(crate) key: Option<u64>,
}

impl Upstream {
    /// What its balancer hashes by.
    pub(crate) fn hashes_by(&self) -> Option<&RequestKey> {
        match &self.policy.balancing.algorithm {
            Algorithm::RingHash(key) | Algorithm::Maglev(key) => Some(key),
            Algorithm::PeakEwma | Algorithm::LeastRequest | Algorithm::RoundRobin => None,
        }
    }

    /// The balancer proposes, the breaker disposes, a permit comes out.
    pub(crate) fn admit(&self, wish: &Wish<'_>, now: Time) -> Result<Attempt<Instance>, Fault> {
        let ask = Ask { random: wish.random, replayable: wish.replayable, tried: wish.tried, key: wish.key };
        let picked = match self.only {
            Some(index) => self.set.pick_only(index, ask, now),
            None => self.set.pick(ask, now),
        };
        picked.map_err(|exhausted| match exhausted.cause {
            ExhaustedCause::Empty => Fault::NoInstance,
            ExhaustedCause::AllOpen => {
                self.metrics.rejected.inc();
                Fault::CircuitOpen {
                    scope: Scope::Instances(self.choices()),
                    service: self.name.clone(),
                    retry_after: exhausted.retry_after,
                }
            }
            ExhaustedCause::AllTried => Fault::AllTried,
        })
    }

    /// How many instances may serve a request.
    pub(crate) fn choices(&self) -> usize {
        if self.only.is_some() { 1 } else { self.set.len() }
    }

    pub(crate) fn untried(&self, tried: &[usize]) -> Untried {
        match self.set.len() {
            _ if self.only.is_some_and(|index| tried.contains(&index)) => Untried::OnlyOne,
            _ if self.only.is_some() => Untried::Some,
            1 if tried.contains(&0) => Untried::OnlyOne,
            _ if self.set.has_untried(tried) => Untried::Some,
            _ => Untried::None,
        }
    }

    /// What one retry or hedge is paid with; held until it was answered.
    pub(crate) fn token(&self, now: Time) -> Result<RetryToken, Broke> {
        let active = u32::try_from(self.metrics.in_flight.get()).unwrap_or(0);
        self.ledger.budget.take(active, now)
    }
}
