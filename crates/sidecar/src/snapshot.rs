//! The immutable view that a request is served by, folded from resources (see `config::fold`).
//!
//! Invariant 2: a request loads exactly one.

use crate::fault::Fault;
use crate::upstream::service::Upstream;
use fusewire_model::ServiceName;
use fusewire_model::policy::{Plain, Policy};
use fusewire_model::route::{Backend, Match, Rule};
use fusewire_model::service::Allow;
use fusewire_resilience::Time;
use fusewire_telemetry::metrics::Direction;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

#[derive(Default)]
pub(crate) struct Snapshot {
    /// The configuration's version, as the control plane names it; empty before the first.
    pub(crate) version: String,
    pub(crate) authorities: HashMap<Box<str>, Arc<Known<Route>>>,
    pub(crate) services: HashMap<ServiceName, Arc<Known<Upstream>>>,
    /// For requests to an instance's own address: everything to the service that it belongs to.
    pub(crate) addresses: HashMap<SocketAddr, Arc<Known<Route>>>,
    /// `None` until the inbound resource has come: nobody is let in before.
    pub(crate) inbound: Option<HashMap<u16, InboundPort>>,
    /// Every service above, for those who watch over circuits and connections.
    pub(crate) upstreams: Vec<(Direction, Arc<Upstream>)>,
}

/// What is known of a subscription: what it names, or that there is no such thing.
pub(crate) struct Known<T> {
    pub(crate) found: Option<Arc<T>>,
    used: Arc<AtomicU64>,
}

impl<T> Known<T> {
    pub(crate) fn new(found: Option<Arc<T>>, used: Arc<AtomicU64>) -> Self {
        Self { found, used }
    }
    /// What is idle is forgotten; this says that it is not.
    pub(crate) fn touch(&self, now: Time) -> Option<&Arc<T>> {
        // to the second is enough, and spares workers a cache line that all of them write
        if now.0.saturating_sub(self.used.load(Ordering::Relaxed)) > 1_000_000_000 {
            self.used.store(now.0, Ordering::Relaxed);
        }
        self.found.as_ref()
    }
}

pub(crate) struct Route {
    pub(crate) rules: Vec<RouteRule>,
}

pub(crate) struct RouteRule {
    pub(crate) rule: Rule,
    /// In the order of `rule.backends`; `None` where the service is not held (its resource was refused).
    pub(crate) upstreams: Vec<Option<Arc<Upstream>>>,
    /// The rule's own policy, over that of the backend's service.
    pub(crate) policy: Option<Arc<Policy>>,
}

pub(crate) struct InboundPort {
    pub(crate) allow: Allow,
    /// The application, as a service of one plain instance without a breaker.
    pub(crate) upstream: Arc<Upstream>,
}

/// Where a request goes, and under which settings.
pub(crate) struct Target {
    pub(crate) upstream: Arc<Upstream>,
    pub(crate) policy: Arc<Policy>,
}

impl Target {
    /// An application is always spoken to in clear by its own sidecar; others only where the policy says so.
    pub(crate) fn allows_plain(&self, direction: Direction) -> bool {
        direction == Direction::Inbound || self.policy.plain == Plain::Allow
    }
    pub(crate) fn service(upstream: &Arc<Upstream>) -> Self {
        Self { upstream: upstream.clone(), policy: upstream.policy.clone() }
    }
}

impl Route {
    /// Everything to one service.
    pub(crate) fn to(upstream: Arc<Upstream>) -> Self {
        let backend = Backend { service: upstream.name.clone(), weight: 1 };
        let name = upstream.name.to_string();
        let rule = Rule { name, matches: Match::default(), backends: vec![backend], policy: None };
        Self { rules: vec![RouteRule { rule, upstreams: vec![Some(upstream)], policy: None }] }
    }

    /// The first rule that matches, and the backend that `random` falls on.
    pub(crate) fn target(&self, request: &impl fusewire_model::route::Request, random: u64) -> Result<Target, Fault> {
        let found = self.rules.iter().find(|r| r.rule.matches.matches(request)).ok_or(Fault::NoRoute)?;
        let chosen = found.rule.backend(random).ok_or(Fault::NoRoute)?;
        // its share is not shifted to the others: that would send all of the traffic to a canary
        let upstream = found.upstreams.get(chosen).and_then(Option::as_ref).ok_or(Fault::NoInstance)?;
        let policy = found.policy.as_ref().unwrap_or(&upstream.policy).clone();
        Ok(Target { upstream: upstream.clone(), policy })
    }
}
