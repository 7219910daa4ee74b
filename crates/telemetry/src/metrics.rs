//! The sidecar's metrics: names and labels in one place, in OpenMetrics form.
//!
//! Handles are resolved once (a service's when its configuration arrives, an instance's when it appears) so that a request
//! touches only atomics and one histogram. Series of a service that is forgotten are removed: cardinality follows
//! what the sidecar calls, and labels never come from what a client sends.

use crate::Reason;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use std::fmt::Write as _;
use std::sync::Arc;

/// Seconds; from a loopback answer to a report that takes half a minute.
const LATENCY_BUCKETS: [f64; 12] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0];

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

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ServiceLabels {
    direction: Direction,
    service: Arc<str>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResponseLabels {
    direction: Direction,
    service: Arc<str>,
    /// `1xx` to `5xx`.
    class: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabels {
    direction: Direction,
    service: Arc<str>,
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BreakerLabels {
    scope: &'static str,
    service: Arc<str>,
    instance: Arc<str>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TransitionLabels {
    service: Arc<str>,
    from: &'static str,
    to: &'static str,
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CauseLabels {
    direction: Direction,
    cause: &'static str,
}

const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

/// What one service's requests add to, in one direction.
#[derive(Debug)]
pub struct ServiceMetrics {
    direction: Direction,
    service: Arc<str>,
    responses: [Counter; 5],
    pub seconds: Histogram,
    pub in_flight: Gauge,
    pub bytes_received: Counter,
    pub bytes_sent: Counter,
    pub connections: Counter,
    /// Requests that no instance was left for.
    pub rejected: Counter,
    pub would_reject: Counter,
    pub probes: Counter,
    pub redials: Counter,
    reasons: Family<ReasonLabels, Counter>,
}

impl ServiceMetrics {
    pub fn response(&self, status: u16) {
        self.responses[usize::from(status / 100).clamp(1, 5) - 1].inc();
    }
    /// An answer, or the lack of one, that was ours.
    pub fn reason(&self, reason: Reason) {
        let labels = ReasonLabels { direction: self.direction, service: self.service.clone(), reason: reason.word() };
        self.reasons.get_or_create(&labels).inc();
    }
}

/// All of one process.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    responses: Family<ResponseLabels, Counter>,
    seconds: Family<ServiceLabels, Histogram>,
    in_flight: Family<ServiceLabels, Gauge>,
    bytes_received: Family<ServiceLabels, Counter>,
    bytes_sent: Family<ServiceLabels, Counter>,
    connections: Family<ServiceLabels, Counter>,
    rejected: Family<ServiceLabels, Counter>,
    would_reject: Family<ServiceLabels, Counter>,
    probes: Family<ServiceLabels, Counter>,
    redials: Family<ServiceLabels, Counter>,
    reasons: Family<ReasonLabels, Counter>,
    breaker_state: Family<BreakerLabels, Gauge>,
    transitions: Family<TransitionLabels, Counter>,
    tls_refused: Family<CauseLabels, Counter>,
    pub downstream_connections: Gauge,
    pub config_connected: Gauge,
    pub config_nacks: Counter,
    /// Seconds of Unix time at which the certificate ends.
    pub identity_expires: Gauge,
    pub access_log_dropped: Counter,
}

fn latency() -> Histogram {
    Histogram::new(LATENCY_BUCKETS)
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("fusewire");
        let mut m = Self {
            responses: Family::default(),
            seconds: Family::new_with_constructor(latency),
            in_flight: Family::default(),
            bytes_received: Family::default(),
            bytes_sent: Family::default(),
            connections: Family::default(),
            rejected: Family::default(),
            would_reject: Family::default(),
            probes: Family::default(),
            redials: Family::default(),
            reasons: Family::default(),
            breaker_state: Family::default(),
            transitions: Family::default(),
            tls_refused: Family::default(),
            downstream_connections: Gauge::default(),
            config_connected: Gauge::default(),
            config_nacks: Counter::default(),
            identity_expires: Gauge::default(),
            access_log_dropped: Counter::default(),
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
        r.register("requests_in_flight", "Requests without an end yet", m.in_flight.clone());
        r.register_with_unit("received", "Body bytes from the caller", Unit::Bytes, m.bytes_received.clone());
        r.register_with_unit("sent", "Body bytes to the caller", Unit::Bytes, m.bytes_sent.clone());
        r.register("upstream_connections", "Connections dialled", m.connections.clone());
        r.register("breaker_rejected", "Requests that found no closed circuit", m.rejected.clone());
        r.register("breaker_would_reject", "The same in observe mode: nothing was rejected", m.would_reject.clone());
        r.register("breaker_probes", "Requests that tested an open circuit", m.probes.clone());
        r.register("redials", "Provably unsent requests that were sent again", m.redials.clone());
        r.register("request_errors", "Answers that the mesh originated, by reason", m.reasons.clone());
        r.register(
            "breaker_state",
            "0 closed, 1 open, 2 half-open; instances that are not closed",
            m.breaker_state.clone(),
        );
        r.register("breaker_transitions", "Changes of circuits", m.transitions.clone());
        r.register("tls_refused", "Handshakes that failed, by cause", m.tls_refused.clone());
        r.register("downstream_connections", "Connections accepted and open", m.downstream_connections.clone());
        r.register("config_connected", "1 while the control plane's stream is up", m.config_connected.clone());
        r.register("config_nacks", "Resources refused", m.config_nacks.clone());
        r.register(
            "identity_expires",
            "Unix time in seconds at which the certificate ends",
            m.identity_expires.clone(),
        );
        r.register("access_log_dropped", "Log lines lost to a slow reader", m.access_log_dropped.clone());
        m.registry = registry;
        m
    }

    pub fn service(&self, direction: Direction, service: &str) -> ServiceMetrics {
        let service: Arc<str> = service.into();
        let l = ServiceLabels { direction, service: service.clone() };
        ServiceMetrics {
            direction,
            responses: CLASSES.map(|class| {
                self.responses.get_or_create_owned(&ResponseLabels { direction, service: service.clone(), class })
            }),
            seconds: self.seconds.get_or_create_owned(&l),
            in_flight: self.in_flight.get_or_create_owned(&l),
            bytes_received: self.bytes_received.get_or_create_owned(&l),
            bytes_sent: self.bytes_sent.get_or_create_owned(&l),
            connections: self.connections.get_or_create_owned(&l),
            rejected: self.rejected.get_or_create_owned(&l),
            would_reject: self.would_reject.get_or_create_owned(&l),
            probes: self.probes.get_or_create_owned(&l),
            redials: self.redials.get_or_create_owned(&l),
            reasons: self.reasons.clone(),
            service,
        }
    }

    /// Takes a forgotten service's series out.
    pub fn forget_service(&self, direction: Direction, service: &str) {
        let service: Arc<str> = service.into();
        let l = ServiceLabels { direction, service: service.clone() };
        for class in CLASSES {
            self.responses.remove(&ResponseLabels { direction, service: service.clone(), class });
        }
        self.seconds.remove(&l);
        self.in_flight.remove(&l);
        let counters = [
            &self.bytes_received,
            &self.bytes_sent,
            &self.connections,
            &self.rejected,
            &self.would_reject,
            &self.probes,
            &self.redials,
        ];
        for family in counters {
            family.remove(&l);
        }
        for reason in Reason::ALL {
            self.reasons.remove(&ReasonLabels { direction, service: service.clone(), reason: reason.word() });
        }
    }

    /// Sets or removes (`None`: closed) an instance's circuit.
    pub fn breaker_state(&self, service: &str, instance: &str, state: Option<i64>) {
        let labels = BreakerLabels { scope: "instance", service: service.into(), instance: instance.into() };
        match state {
            Some(value) => {
                self.breaker_state.get_or_create(&labels).set(value);
            }
            None => {
                self.breaker_state.remove(&labels);
            }
        }
    }

    pub fn transition(&self, service: &str, from: &'static str, to: &'static str, reason: &'static str) {
        self.transitions.get_or_create(&TransitionLabels { service: service.into(), from, to, reason }).inc();
    }

    pub fn tls_refused(&self, direction: Direction, cause: &'static str) {
        self.tls_refused.get_or_create(&CauseLabels { direction, cause }).inc();
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
