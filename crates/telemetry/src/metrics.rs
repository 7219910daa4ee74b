//! The sidecar's metrics: names and labels in one place, in OpenMetrics form.
//!
//! Handles are resolved once (a service's, a route's and an instance's when their configuration arrives) so that a request
//! touches only atomics and histograms. Series of what is forgotten are removed: cardinality follows what the sidecar
//! calls, and labels never come from what a client sends.
//!
//! Invariant: at most [`MAX_EACH`] services in each direction, routes and instances have series of their own; the others
//! share those labelled [`SHARED`], and are counted.

mod labels;
mod places;
mod series;

use crate::Reason;
use crate::trace::sink::ExportMetrics;
use fusewire_resilience::retry::{Broke, Cause, Denied};
use fusewire_resilience::{ProbeResult, Reason as Transition};
use labels::*;
use places::{Place, Places};
use prometheus_client::encoding::{EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
pub use series::{
    BY_STATUS, Ended, FALLBACKS, HEDGE, InstanceMetrics, NOT_MIRRORED, Requests, RouteMetrics, ServiceMetrics,
};
use series::{CLASSES, OUTCOMES, Seconds, instance_latency, latency};
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

/// Services, routes and instances that have series of their own, of each kind. An instance has 12, a route 20.
pub const MAX_EACH: usize = 2_000;
/// What the others are called together: no service, route or instance can have this name.
pub const SHARED: &str = "(other)";

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    Inbound,
    Outbound,
}

impl Direction {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Inbound => "inbound",
            Self::Outbound => "outbound",
        }
    }
}

impl EncodeLabelValue for Direction {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> std::fmt::Result {
        encoder.write_str(self.as_str())
    }
}

/// What a request can be refused by before any instance is asked, as `limit_refused` names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Limit {
    Requests,
    Pending,
    Connections,
    Rate,
    /// `limit.inbound`: the guard before the application.
    Concurrency,
}

impl Limit {
    pub const ALL: [Self; 5] = [Self::Requests, Self::Pending, Self::Connections, Self::Rate, Self::Concurrency];

    pub const fn word(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::Pending => "pending",
            Self::Connections => "connections",
            Self::Rate => "rate",
            Self::Concurrency => "concurrency",
        }
    }
}

/// How the guard before one port of the application stands.
#[derive(Clone, Copy, Debug)]
pub struct GateMetrics {
    /// `None`: there is no limit right now.
    pub limit: Option<i64>,
    pub in_flight: i64,
    pub queued: i64,
    /// 0 free, 1 test, 2 engaged.
    pub phase: i64,
}

/// Where events of circuits can be lost, as `breaker_events_dropped` names it.
const LOST_AT: [&str; 3] = ["journal", "kept", "reader"];
/// A circuit's, as `breaker_transitions` names them.
const STATES: [&str; 3] = ["closed", "open", "half-open"];

/// One change of a circuit, in words.
#[derive(Clone, Copy, Debug)]
pub struct Changed {
    pub from: &'static str,
    pub to: &'static str,
    pub reason: &'static str,
}

/// All of one process.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    responses: Family<ResponseLabels, Counter>,
    seconds: Family<ServiceLabels, Seconds>,
    route_responses: Family<RouteResponseLabels, Counter>,
    route_seconds: Family<RouteLabels, Seconds>,
    attempts: Family<OutcomeLabels, Counter>,
    attempt_seconds: Family<InstanceLabels, Histogram>,
    /// Inbound, outbound.
    services: [Places; 2],
    routes: Places,
    instances: Places,
    circuits: Places,
    changes: Places,
    shared: Family<KindLabels, Counter>,
    in_flight: Family<ServiceLabels, Gauge>,
    bytes_received: Family<ServiceLabels, Counter>,
    bytes_sent: Family<ServiceLabels, Counter>,
    connections: Family<ServiceLabels, Counter>,
    rejected: Family<ServiceLabels, Counter>,
    would_reject: Family<ServiceLabels, Counter>,
    stale_results: Family<ServiceLabels, Counter>,
    probes: Family<ProbeLabels, Counter>,
    open_seconds: Family<ServiceLabels, Counter<f64, AtomicU64>>,
    redials: Family<ServiceLabels, Counter>,
    retries: Family<RetryLabels, Counter>,
    retry_denied: Family<DeniedLabels, Counter>,
    retry_budget: Family<ServiceLabels, Gauge>,
    fallbacks: Family<FallbackLabels, Counter>,
    mirror_skipped: Family<SkippedLabels, Counter>,
    reasons: Family<ReasonLabels, Counter>,
    refused: Family<LimitLabels, Counter>,
    gate_limit: Family<PortLabels, Gauge>,
    gate_in_flight: Family<PortLabels, Gauge>,
    gate_queued: Family<PortLabels, Gauge>,
    gate_phase: Family<PortLabels, Gauge>,
    breaker_state: Family<BreakerLabels, Gauge>,
    transitions: Family<TransitionLabels, Counter>,
    events_dropped: Family<DroppedLabels, Counter>,
    tls_refused: Family<CauseLabels, Counter>,
    dns: Family<ResultLabels, Counter>,
    health: Family<PortLabels, Gauge>,
    pub downstream_connections: Gauge,
    pub intercept_refused: Counter,
    /// 1 while nearly nobody can be reached from here: rather this sidecar's fault than theirs.
    pub local_suspect: Gauge,
    pub config_connected: Gauge,
    pub config_nacks: Counter,
    /// Seconds of Unix time at which the certificate ends.
    pub identity_expiry: Gauge,
    pub identity_renewals_failed: Counter,
    /// Files of an identity that could not be used.
    pub identity_rejected: Counter,
    pub access_log_dropped: Counter,
    pub export: ExportMetrics,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("fusewire");
        let shared = Family::default();
        let mut m = Self {
            responses: Family::default(),
            seconds: Family::new_with_constructor(latency),
            route_responses: Family::default(),
            route_seconds: Family::new_with_constructor(latency),
            attempts: Family::default(),
            attempt_seconds: Family::new_with_constructor(instance_latency),
            services: [Places::new("service", &shared), Places::new("service", &shared)],
            routes: Places::new("route", &shared),
            instances: Places::new("instance", &shared),
            circuits: Places::new("circuit", &shared),
            changes: Places::new("transition", &shared),
            shared,
            in_flight: Family::default(),
            bytes_received: Family::default(),
            bytes_sent: Family::default(),
            connections: Family::default(),
            rejected: Family::default(),
            would_reject: Family::default(),
            stale_results: Family::default(),
            probes: Family::default(),
            open_seconds: Family::default(),
            redials: Family::default(),
            retries: Family::default(),
            retry_denied: Family::default(),
            retry_budget: Family::default(),
            fallbacks: Family::default(),
            mirror_skipped: Family::default(),
            reasons: Family::default(),
            refused: Family::default(),
            gate_limit: Family::default(),
            gate_in_flight: Family::default(),
            gate_queued: Family::default(),
            gate_phase: Family::default(),
            breaker_state: Family::default(),
            transitions: Family::default(),
            events_dropped: Family::default(),
            tls_refused: Family::default(),
            dns: Family::default(),
            health: Family::default(),
            downstream_connections: Gauge::default(),
            intercept_refused: Counter::default(),
            local_suspect: Gauge::default(),
            config_connected: Gauge::default(),
            config_nacks: Counter::default(),
            identity_expiry: Gauge::default(),
            identity_renewals_failed: Counter::default(),
            identity_rejected: Counter::default(),
            access_log_dropped: Counter::default(),
            export: ExportMetrics::register(&mut registry),
            registry: Registry::default(),
        };
        let r = &mut registry;
        r.register("responses", "Responses by class, ours included", m.responses.clone());
        r.register_with_unit(
            "request_duration",
            "Time to the end of the response body",
            Unit::Seconds,
            m.seconds.clone(),
        );
        r.register("route_responses", "Responses by route and class, ours included", m.route_responses.clone());
        r.register_with_unit(
            "route_request_duration",
            "Time to the end of the response body, by route",
            Unit::Seconds,
            m.route_seconds.clone(),
        );
        r.register("attempts", "Tries at an instance, by what they told its breaker", m.attempts.clone());
        r.register_with_unit(
            "attempt_duration",
            "Time to an instance's response headers, or to its failure",
            Unit::Seconds,
            m.attempt_seconds.clone(),
        );
        r.register("requests_in_flight", "Requests without an end yet", m.in_flight.clone());
        r.register_with_unit("received", "Body bytes from the caller", Unit::Bytes, m.bytes_received.clone());
        r.register_with_unit("sent", "Body bytes to the caller", Unit::Bytes, m.bytes_sent.clone());
        r.register("upstream_connections", "Connections dialled", m.connections.clone());
        r.register("breaker_rejected", "Requests that found no closed circuit", m.rejected.clone());
        r.register("breaker_would_reject", "The same in observe mode: nothing was rejected", m.would_reject.clone());
        r.register(
            "breaker_stale_results",
            "Answers that came after their circuit's period was over, and did not count",
            m.stale_results.clone(),
        );
        r.register("breaker_probes", "Tests of open circuits, by how they went", m.probes.clone());
        r.register_with_unit(
            "breaker_open",
            "Time for which circuits were open or half-open, added up over the instances",
            Unit::Seconds,
            m.open_seconds.clone(),
        );
        r.register("redials", "Provably unsent requests that were sent again", m.redials.clone());
        r.register("retries", "Failed attempts that were made again, by cause", m.retries.clone());
        r.register("retry_denied", "Failed attempts that were not, by reason", m.retry_denied.clone());
        r.register("retry_budget", "Retries that a service's successes have paid for", m.retry_budget.clone());
        r.register("fallback", "Answers that stood in for a service's, by type and cause", m.fallbacks.clone());
        r.register("mirror_skipped", "Copies that a route asked for and that were not sent", m.mirror_skipped.clone());
        r.register("request_errors", "Answers that the mesh originated, by reason", m.reasons.clone());
        r.register("limit_refused", "Requests that a limit of ours kept from every instance", m.refused.clone());
        r.register(
            "inbound_limit",
            "Requests that the guard lets the application have at once, while it limits; by port",
            m.gate_limit.clone(),
        );
        r.register(
            "inbound_in_flight",
            "Requests at the application without response headers yet; by port",
            m.gate_in_flight.clone(),
        );
        r.register(
            "inbound_queued",
            "Requests that wait for their turn at the application; by port",
            m.gate_queued.clone(),
        );
        r.register("inbound_phase", "The guard: 0 free, 1 tries a limit, 2 limits; by port", m.gate_phase.clone());
        r.register(
            "breaker_state",
            "0 closed, 1 open, 2 half-open; closed ones only with telemetry.per_instance_metrics",
            m.breaker_state.clone(),
        );
        r.register("breaker_transitions", "Changes of circuits", m.transitions.clone());
        r.register(
            "breaker_events_dropped",
            "Events of circuits that were lost: before they were told, kept, or read by a follower",
            m.events_dropped.clone(),
        );
        r.register("tls_refused", "Handshakes that failed, by cause", m.tls_refused.clone());
        r.register("dns_queries", "The application's questions: mesh, forwarded, failed", m.dns.clone());
        r.register("health", "1 while the application's health check finds it up, else 0; by port", m.health.clone());
        r.register("downstream_connections", "Connections accepted and open", m.downstream_connections.clone());
        r.register(
            "intercept_refused",
            "Connections at the listeners for redirected ones that lead back there, or were not redirected",
            m.intercept_refused.clone(),
        );
        r.register(
            "local_suspect",
            "1 while nearly no instance of several services can be reached from here",
            m.local_suspect.clone(),
        );
        r.register("config_connected", "1 while the control plane's stream is up", m.config_connected.clone());
        r.register("config_nacks", "Resources refused", m.config_nacks.clone());
        r.register_with_unit(
            "identity_expiry_timestamp",
            "Unix time at which the certificate ends",
            Unit::Seconds,
            m.identity_expiry.clone(),
        );
        r.register(
            "identity_renewals_failed",
            "Attempts to get a certificate that failed",
            m.identity_renewals_failed.clone(),
        );
        r.register("identity_rejected", "Identity files that could not be used", m.identity_rejected.clone());
        r.register(
            "series_shared",
            "Services, routes, instances, circuits and transitions that got no series of their own: too many",
            m.shared.clone(),
        );
        r.register("access_log_dropped", "Log lines lost to a slow reader", m.access_log_dropped.clone());
        m.registry = registry;
        for at in LOST_AT {
            m.events_dropped(at, 0); // 0 is something to know, and an alert needs it before the first
        }
        m
    }

    /// The series of a service; to be given back with [`Metrics::forget_service`], once.
    pub fn service(&self, direction: Direction, service: &str) -> ServiceMetrics {
        let own = self.places(direction).take(service);
        let service = own.name(service);
        let l = ServiceLabels { direction, service: service.clone() };
        let response =
            |class| self.responses.get_or_create_owned(&ResponseLabels { direction, service: service.clone(), class });
        ServiceMetrics {
            direction,
            own,
            requests: Requests { responses: CLASSES.map(response), seconds: self.seconds.get_or_create_owned(&l) },
            in_flight: self.in_flight.get_or_create_owned(&l),
            bytes_received: self.bytes_received.get_or_create_owned(&l),
            bytes_sent: self.bytes_sent.get_or_create_owned(&l),
            connections: self.connections.get_or_create_owned(&l),
            rejected: self.rejected.get_or_create_owned(&l),
            would_reject: self.would_reject.get_or_create_owned(&l),
            stale_results: self.stale_results.get_or_create_owned(&l),
            probes: ProbeResult::ALL.map(|result| {
                let result = result.as_str();
                self.probes.get_or_create_owned(&ProbeLabels { direction, service: service.clone(), result })
            }),
            open_seconds: self.open_seconds.get_or_create_owned(&l),
            redials: self.redials.get_or_create_owned(&l),
            retry_budget: self.retry_budget.get_or_create_owned(&l),
            reasons: self.reasons.clone(),
            retries: self.retries.clone(),
            denied: self.retry_denied.clone(),
            fallbacks: self.fallbacks.clone(),
            mirror_skipped: self.mirror_skipped.clone(),
            refused: self.refused.clone(),
            service,
        }
    }

    fn places(&self, direction: Direction) -> &Places {
        &self.services[usize::from(direction == Direction::Outbound)]
    }

    /// Takes a forgotten service's series out.
    pub fn forget_service(&self, gone: &ServiceMetrics) {
        self.places(gone.direction).give(gone.own);
        if gone.own == Place::Shared {
            return;
        }
        let (direction, service) = (gone.direction, &gone.service);
        let l = ServiceLabels { direction, service: service.clone() };
        for class in CLASSES {
            self.responses.remove(&ResponseLabels { direction, service: service.clone(), class });
        }
        self.seconds.remove(&l);
        self.in_flight.remove(&l);
        self.retry_budget.remove(&l);
        let counters = [
            &self.bytes_received,
            &self.bytes_sent,
            &self.connections,
            &self.rejected,
            &self.would_reject,
            &self.stale_results,
            &self.redials,
        ];
        for family in counters {
            family.remove(&l);
        }
        self.open_seconds.remove(&l);
        for result in ProbeResult::ALL.map(ProbeResult::as_str) {
            self.probes.remove(&ProbeLabels { direction, service: service.clone(), result });
        }
        for reason in Reason::ALL {
            self.reasons.remove(&ReasonLabels { direction, service: service.clone(), reason: reason.word() });
        }
        for limit in Limit::ALL {
            self.refused.remove(&LimitLabels { direction, service: service.clone(), limit: limit.word() });
        }
        if direction == Direction::Outbound {
            self.forget_retries(service);
        }
    }

    fn forget_retries(&self, service: &Arc<str>) {
        for cause in Cause::ALL.map(|(_, word)| word).into_iter().chain([HEDGE]) {
            self.retries.remove(&RetryLabels { service: service.clone(), cause });
        }
        let denied = Denied::ALL.map(Denied::as_str).into_iter().chain(Broke::ALL.map(Broke::as_str));
        for reason in denied {
            self.retry_denied.remove(&DeniedLabels { service: service.clone(), reason });
        }
        for cause in NOT_MIRRORED {
            self.mirror_skipped.remove(&SkippedLabels { service: service.clone(), cause });
        }
        for r#type in FALLBACKS {
            for cause in Reason::ALL.iter().map(|r| r.word()).chain([BY_STATUS]) {
                self.fallbacks.remove(&FallbackLabels { service: service.clone(), r#type, cause });
            }
        }
    }

    /// Takes out what [`Metrics::transition`] made of a service. Only who tells transitions knows that none comes after.
    pub fn forget_transitions(&self, scope: &'static str, service: &str) {
        let service: Arc<str> = service.into();
        for from in STATES {
            for to in STATES {
                for reason in Transition::ALL {
                    let reason = reason.as_str();
                    let labels = TransitionLabels { scope, service: service.clone(), from, to, reason };
                    if self.transitions.remove(&labels) {
                        self.changes.give(Place::Own);
                    }
                }
            }
        }
    }

    /// The series of one rule of a route; to be given back with [`Metrics::forget_route`], once.
    pub fn route(&self, route: &str) -> RouteMetrics {
        let own = self.routes.take(route);
        let route = own.name(route);
        let response =
            |class| self.route_responses.get_or_create_owned(&RouteResponseLabels { route: route.clone(), class });
        let requests = Requests {
            responses: CLASSES.map(response),
            seconds: self.route_seconds.get_or_create_owned(&RouteLabels { route: route.clone() }),
        };
        RouteMetrics { own, requests, route }
    }

    pub fn forget_route(&self, gone: &RouteMetrics) {
        self.routes.give(gone.own);
        if gone.own == Place::Own {
            self.route_seconds.remove(&RouteLabels { route: gone.route.clone() });
            for class in CLASSES {
                self.route_responses.remove(&RouteResponseLabels { route: gone.route.clone(), class });
            }
        }
    }

    /// The series of an instance that is called; to be given back with [`Metrics::forget_instance`], once.
    pub fn instance(&self, service: &str, instance: &str) -> InstanceMetrics {
        let own = self.instances.take(instance);
        let labels = InstanceLabels { service: own.name(service), instance: own.name(instance) };
        InstanceMetrics {
            attempts: OUTCOMES.map(|outcome| self.attempts.get_or_create_owned(&labels.with(outcome))),
            seconds: self.attempt_seconds.get_or_create_owned(&labels),
            labels,
            own,
        }
    }

    pub fn forget_instance(&self, gone: &InstanceMetrics) {
        self.instances.give(gone.own);
        if gone.own == Place::Own {
            self.attempt_seconds.remove(&gone.labels);
            for outcome in OUTCOMES {
                self.attempts.remove(&gone.labels.with(outcome));
            }
        }
    }

    /// Sets or removes (`None`) a circuit's state; `instance` is empty for a circuit of the service's own.
    pub fn breaker_state(&self, scope: &'static str, service: &str, instance: &str, state: Option<i64>) {
        let labels = BreakerLabels { scope, service: service.into(), instance: instance.into() };
        match state {
            Some(value) => {
                let known = self.breaker_state.get(&labels).is_some();
                // a state has no sum: of those above the limit only their number is told
                if known || self.circuits.take(instance) == Place::Own {
                    self.breaker_state.get_or_create(&labels).set(value);
                }
            }
            None => {
                if self.breaker_state.remove(&labels) {
                    self.circuits.give(Place::Own);
                }
            }
        }
    }

    pub fn transition(&self, scope: &'static str, service: &str, changed: Changed) {
        let Changed { from, to, reason } = changed;
        let mut labels = TransitionLabels { scope, service: service.into(), from, to, reason };
        if self.transitions.get(&labels).is_none() && self.changes.take(service) == Place::Shared {
            labels.service = SHARED.into();
        }
        self.transitions.get_or_create(&labels).inc();
    }

    /// `at`: journal (before they were told), kept (the oldest went for a new one), reader (a follower was too slow).
    pub fn events_dropped(&self, at: &'static str, count: u64) {
        self.events_dropped.get_or_create(&DroppedLabels { at }).inc_by(count);
    }

    /// Sets or removes (`None`: not checked) what the health check of an application's port says.
    pub fn health(&self, service: &str, port: u16, up: Option<i64>) {
        let labels = PortLabels { service: service.into(), port: port.into() };
        match up {
            Some(value) => {
                self.health.get_or_create(&labels).set(value);
            }
            None => {
                self.health.remove(&labels);
            }
        }
    }

    /// Sets or removes (`None`: the port is gone) how the guard before an application's port stands.
    pub fn gate(&self, service: &str, port: u16, now: Option<&GateMetrics>) {
        let labels = PortLabels { service: service.into(), port: port.into() };
        let set = |family: &Family<PortLabels, Gauge>, value: Option<i64>| match value {
            Some(value) => {
                family.get_or_create(&labels).set(value);
            }
            None => {
                family.remove(&labels);
            }
        };
        set(&self.gate_limit, now.and_then(|now| now.limit));
        set(&self.gate_in_flight, now.map(|now| now.in_flight));
        set(&self.gate_queued, now.map(|now| now.queued));
        set(&self.gate_phase, now.map(|now| now.phase));
    }

    pub fn tls_refused(&self, direction: Direction, cause: &'static str) {
        self.tls_refused.get_or_create(&CauseLabels { direction, cause }).inc();
    }

    /// A question of the application's was answered: `mesh`, `forwarded`, or `failed`.
    pub fn dns(&self, result: &'static str) {
        self.dns.get_or_create(&ResultLabels { result }).inc();
    }

    /// The text of `/metrics` (OpenMetrics 1.0).
    pub fn encode(&self) -> String {
        let mut out = String::new();
        if prometheus_client::encoding::text::encode(&mut out, &self.registry).is_err() {
            out.clear();
            let _ = writeln!(out, "# EOF");
        }
        out
    }
}

#[cfg(test)]
mod tests;
