//! The immutable view that a request is served by, folded from resources (see `config::fold`).
//!
//! Invariant 2: a request loads exactly one.

use crate::fault::{Fault, Preflight, Redirected, Scope};
use crate::http::cors;
use crate::http::filters::Filters;
use crate::upstream::service::Upstream;
use fusewire_model::ServiceName;
use fusewire_model::health::HealthCheck;
use fusewire_model::policy::{Plain, Policy};
use fusewire_model::route::{self, Backend, Cors, Match, Redirect, Request, RouteTable, Rule};
use fusewire_model::service::Allow;
use fusewire_resilience::{Outcome, Refusal, RefusalCause, ServicePass, ServiceScope, Time};
use fusewire_telemetry::metrics::{Direction, RouteMetrics};
use http::{HeaderValue, StatusCode};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The services that policies fall back to; `None`: no policy does.
pub(crate) type Others = Option<Arc<HashMap<ServiceName, Arc<Upstream>>>>;

#[derive(Default)]
pub(crate) struct Snapshot {
    /// The configuration's version, as the control plane names it; empty before the first.
    pub(crate) version: String,
    pub(crate) authorities: HashMap<Box<str>, Arc<Known<Route>>>,
    pub(crate) services: HashMap<ServiceName, Arc<Known<Upstream>>>,
    /// For requests to an instance's own address: everything to the service that it belongs to.
    pub(crate) addresses: HashMap<SocketAddr, Arc<Known<Route>>>,
    pub(crate) others: Others,
    /// `None` until the inbound resource has come: nobody is let in before.
    pub(crate) inbound: Option<HashMap<u16, InboundPort>>,
    /// Every service above, for those who watch over circuits and connections.
    pub(crate) upstreams: Vec<(Direction, Arc<Upstream>)>,
    /// The circuits before services and routes as a whole.
    pub(crate) scopes: Vec<(Whole, Arc<ServiceScope>)>,
}

/// What a circuit stands before as a whole.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Whole {
    Service,
    /// A rule of a route, by its name.
    Route,
}

impl Whole {
    /// As events, metrics and paths name it.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Whole::Service => "service",
            Whole::Route => "route",
        }
    }
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
    /// Where what is no HTTP goes.
    service: Option<Arc<Upstream>>,
    pub(crate) rules: Vec<RouteRule>,
    pub(crate) others: Others,
}

pub(crate) struct RouteRule {
    pub(crate) rule: Rule,
    /// In the order of `rule.backends`; `None` where the service is not held (its resource was refused), or there is none.
    pub(crate) upstreams: Vec<Option<Arc<Upstream>>>,
    /// In the same order; `None` where the rule changes nothing.
    pub(crate) filters: Option<Box<[Option<Arc<Filters>>]>>,
    /// The rule's own policy, over that of the backend's service.
    pub(crate) policy: Option<Arc<Policy>>,
    /// A circuit of its own, where its policy says so.
    pub(crate) scope: Option<Arc<ServiceScope>>,
    pub(crate) metrics: Arc<RouteMetrics>,
}

pub(crate) struct InboundPort {
    pub(crate) allow: Allow,
    /// How the application is asked whether it is well; `None`: its service does not say.
    pub(crate) health: Option<HealthCheck>,
    /// Whose port it is, where this sidecar named its instance.
    pub(crate) instance: Option<String>,
    /// The application, as a service of one plain instance without a breaker.
    pub(crate) upstream: Arc<Upstream>,
}

/// Where a request goes, and under which settings.
pub(crate) struct Target {
    pub(crate) upstream: Arc<Upstream>,
    pub(crate) policy: Arc<Policy>,
    /// Where requests that a route's rule brought here count besides.
    pub(crate) route: Option<Arc<RouteMetrics>>,
    /// Of the route's rule, where it has one.
    pub(crate) scope: Option<Arc<ServiceScope>>,
    /// Whether what failed may be made again. A fallback's request is not: it stands in for one that was.
    pub(crate) retries: bool,
    pub(crate) others: Others,
    /// What the route's rule changes on the way, if anything.
    pub(crate) filters: Option<Arc<Filters>>,
    /// It is what a policy falls back to.
    pub(crate) stands_in: bool,
}

impl Target {
    /// An application is always spoken to in clear by its own sidecar; others only where the policy says so.
    pub(crate) fn allows_plain(&self, direction: Direction) -> bool {
        direction == Direction::Inbound || self.policy.plain.instances(self.upstream.plain) == Plain::Allow
    }
    pub(crate) fn service(upstream: &Arc<Upstream>, others: Others) -> Self {
        let (upstream, policy) = (upstream.clone(), upstream.policy.clone());
        Self { upstream, policy, route: None, scope: None, retries: true, others, filters: None, stands_in: false }
    }

    /// What `service` is to a request that this target failed: its circuits, and no further attempt.
    pub(crate) fn other(&self, service: &ServiceName) -> Option<Self> {
        let upstream = self.others.as_ref()?.get(service)?;
        Some(Self { retries: false, stands_in: true, ..Self::service(upstream, None) })
    }
}

/// The leave to send one logical request, from each scope that it passes.
#[derive(Default)]
pub(crate) struct Passes([Option<ServicePass>; 2]);

impl Passes {
    /// The answer's head has come, and its trailers have the last word: it was accepted, and a probe has passed.
    pub(crate) fn heard(&mut self, now: Time) {
        for pass in &mut self.0 {
            *pass = pass.take().and_then(|pass| pass.heard(now));
        }
    }

    /// How the last attempt went; `IGNORED` where none was made.
    pub(crate) fn settle(self, last: Outcome, now: Time) {
        for pass in self.0.into_iter().flatten() {
            pass.settle(last, now);
        }
    }
}

impl Target {
    /// Asks the route's scope and the service's, in this order: what a route's stops is not the service's business.
    pub(crate) fn admit(&self, random: u64, now: Time) -> Result<Passes, Fault> {
        let ask = |scope: &Option<Arc<ServiceScope>>, which: Scope| {
            let Some(scope) = scope else { return Ok(None) };
            scope
                .admit(self.policy.priority, random, now)
                .map(Some)
                .map_err(|refusal| refused(refusal, which, &self.upstream.name))
        };
        Ok(Passes([ask(&self.scope, Scope::Route)?, ask(&self.upstream.scope, Scope::Service)?]))
    }
    /// Whether the scopes bear that what failed is tried again.
    pub(crate) fn allows_retry(&self, now: Time) -> bool {
        [&self.scope, &self.upstream.scope].into_iter().flatten().all(|scope| scope.allows_retry(now))
    }
}

fn refused(Refusal { cause, retry_after }: Refusal, scope: Scope, service: &ServiceName) -> Fault {
    let service = service.clone();
    match cause {
        RefusalCause::Throttled { probability } => Fault::Throttled { probability },
        RefusalCause::Open => Fault::CircuitOpen { scope, service, retry_after },
        RefusalCause::Ramp { .. } => Fault::CircuitOpen { scope: Scope::Ramp, service, retry_after },
    }
}

impl Route {
    /// Everything to one service.
    pub(crate) fn to(upstream: Arc<Upstream>, metrics: Arc<RouteMetrics>, others: Others) -> Self {
        let backends = vec![Backend::to(upstream.name.clone(), 1)];
        let name = upstream.name.to_string();
        let rule = Rule { name, matches: Match::default(), backends, policy: None, filters: None };
        let service = Some(upstream.clone());
        let upstreams = vec![Some(upstream)];
        let rule = RouteRule { rule, upstreams, filters: None, policy: None, scope: None, metrics };
        Self { service, rules: vec![rule], others }
    }

    /// By `table`, of which these are the rules. `found`: a service that is held.
    pub(crate) fn of(
        table: &RouteTable,
        rules: Vec<RouteRule>,
        others: Others,
        found: impl Fn(&ServiceName) -> Option<Arc<Upstream>>,
    ) -> Self {
        let service = table.service.as_ref().or(table.only()).and_then(found);
        Self { service, rules, others }
    }

    /// Where what is no HTTP goes, which rules do not look at.
    pub(crate) fn of_bytes(&self) -> Option<&Arc<Upstream>> {
        self.service.as_ref()
    }

    /// The first rule that matches, and the backend that `random` falls on.
    pub(crate) fn target(&self, request: &impl Request, random: u64) -> Result<Target, Fault> {
        let asked = route::Preflight::of(request);
        let found = self.rules.iter().find(|r| r.rule.is_for(request, asked.as_ref())).ok_or(Fault::NoRoute)?;
        if let (Some(asked), Some(cors)) = (&asked, found.rule.cors()) {
            return Err(found.preflight(asked, cors));
        }
        if let Some(redirect) = found.rule.redirect() {
            return Err(found.redirected(redirect, request));
        }
        let chosen = found.rule.backend(random).ok_or(Fault::NoRoute)?;
        if found.rule.backends.get(chosen).is_some_and(|backend| backend.service.is_none()) {
            return Err(Fault::NoBackend);
        }
        // its share is not shifted to the others: that would send all of the traffic to a canary
        let upstream = found.upstreams.get(chosen).and_then(Option::as_ref).ok_or(Fault::NoInstance)?;
        let policy = found.policy.as_ref().unwrap_or(&upstream.policy).clone();
        let (route, others) = (Some(found.metrics.clone()), self.others.clone());
        let filters = found.filters.as_ref().and_then(|each| each.get(chosen)?.clone());
        let (upstream, scope) = (upstream.clone(), found.scope.clone());
        Ok(Target { upstream, policy, route, scope, retries: true, others, filters, stands_in: false })
    }
}

impl RouteRule {
    fn preflight(&self, asked: &route::Preflight, cors: &Cors) -> Fault {
        let fields = cors.preflight(asked).map(cors::fields);
        Fault::Preflight(Box::new(Preflight { fields, route: self.metrics.clone() }))
    }

    fn redirected(&self, redirect: &Redirect, request: &impl Request) -> Fault {
        let Ok(location) = HeaderValue::try_from(redirect.location(request, &self.rule.matches.path)) else {
            return Fault::BadRequest("the target is not ASCII".into());
        };
        let status = StatusCode::from_u16(redirect.status).unwrap_or(StatusCode::FOUND);
        Fault::Redirected(Box::new(Redirected { status, location, route: self.metrics.clone() }))
    }
}
