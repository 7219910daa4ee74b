//! What requests and attempts add to: handles to the series of a service, a route, an instance, resolved when
//! configuration arrives.
//!
//! It decides what counts as an error. Requests are counted by the class of their status, and a gRPC status counts as the
//! HTTP status that it stands for, so that one query finds the errors of both. Attempts are counted by what they told the
//! instance's breaker.

use super::labels::{
    DeniedLabels, FallbackLabels, InstanceLabels, LimitLabels, ReasonLabels, RetryLabels, SkippedLabels,
};
use super::places::Place;
use super::{Direction, Limit};
use crate::Reason;
use fusewire_resilience::Class;
use fusewire_resilience::retry::Cause;
use prometheus_client::encoding::{EncodeLabelSet, LabelSetEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::exemplar::HistogramWithExemplars;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, SystemTime};

/// Seconds; from a loopback answer to a report that takes half a minute.
const LATENCY_BUCKETS: [f64; 12] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0];
/// The same for each instance, where there are many more series: enough to tell a slow one from its peers.
const INSTANCE_BUCKETS: [f64; 5] = [0.001, 0.005, 0.025, 0.1, 1.0];

pub(super) const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];
/// The cause of a retry that did not wait for a failure.
pub const HEDGE: &str = "hedge";
/// The kinds of answers that stand in for others.
pub const FALLBACKS: [&str; 5] = ["static", "stale", "service", "empty", "fail"];
/// The cause of a fallback where the service itself had answered.
pub const BY_STATUS: &str = "status";
/// Why a copy was not sent: the request's body did not come whole, or is more than is kept of one; or too many are on their way.
pub const NOT_MIRRORED: [&str; 2] = ["body", "busy"];
pub(super) const OUTCOMES: [&str; 4] = ["ok", "hard", "soft", "ignored"];

/// The trace that an exemplar leads to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Trace(u128);

impl EncodeLabelSet for Trace {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> std::fmt::Result {
        [("trace_id", format!("{:032x}", self.0))].encode(encoder)
    }
}

pub(super) type Seconds = HistogramWithExemplars<Trace>;

pub(super) fn latency() -> Seconds {
    Seconds::new(LATENCY_BUCKETS.into_iter())
}

pub(super) fn instance_latency() -> Histogram {
    Histogram::new(INSTANCE_BUCKETS)
}

/// How a request ended.
#[derive(Clone, Copy, Debug)]
pub struct Ended {
    pub took: Duration,
    /// `None`: the caller left before there was an answer.
    pub status: Option<u16>,
    pub grpc_status: Option<u8>,
    /// The trace that it belongs to, if that one is kept.
    pub trace_id: Option<u128>,
}

/// Rate, errors and duration of one kind of requests.
#[derive(Debug)]
pub struct Requests {
    pub(super) responses: [Counter; 5],
    pub(super) seconds: Seconds,
}

impl Requests {
    /// Answered so far.
    pub fn answered(&self) -> u64 {
        self.responses.iter().map(|counter| counter.get()).sum()
    }

    pub fn ended(&self, ended: &Ended) {
        let exemplar = ended.trace_id.map(Trace);
        let at = exemplar.is_some().then(SystemTime::now);
        self.seconds.observe(ended.took.as_secs_f64(), exemplar, at);
        if let Some(status) = ended.status {
            self.responses[class(status, ended.grpc_status)].inc();
        }
    }
}

/// Index in [`CLASSES`]. What gRPC says in a trailer stands for an HTTP status, as its gateways translate it.
fn class(status: u16, grpc_status: Option<u8>) -> usize {
    match grpc_status {
        // unknown, deadline exceeded, unimplemented, internal, unavailable, data loss
        Some(2 | 4 | 12 | 13 | 14 | 15) => 4,
        Some(1..) => 3,
        Some(0) | None => usize::from(status / 100).clamp(1, 5) - 1,
    }
}

/// What one service's requests add to, in one direction.
#[derive(Debug)]
pub struct ServiceMetrics {
    pub(super) direction: Direction,
    /// As it stands in the labels.
    pub(super) service: Arc<str>,
    pub(super) own: Place,
    pub requests: Requests,
    pub in_flight: Gauge,
    pub bytes_received: Counter,
    pub bytes_sent: Counter,
    pub connections: Counter,
    /// Requests that no instance was left for.
    pub rejected: Counter,
    pub would_reject: Counter,
    pub stale_results: Counter,
    /// By `ProbeResult::ALL`.
    pub probes: [Counter; 4],
    /// Added up over the instances.
    pub open_seconds: Counter<f64, AtomicU64>,
    pub redials: Counter,
    /// Retries that the budget would pay for now.
    pub retry_budget: Gauge,
    pub(super) reasons: Family<ReasonLabels, Counter>,
    pub(super) retries: Family<RetryLabels, Counter>,
    pub(super) denied: Family<DeniedLabels, Counter>,
    pub(super) fallbacks: Family<FallbackLabels, Counter>,
    pub(super) mirror_skipped: Family<SkippedLabels, Counter>,
    pub(super) refused: Family<LimitLabels, Counter>,
}

impl ServiceMetrics {
    /// An answer, or the lack of one, that was ours.
    pub fn reason(&self, reason: Reason) {
        let labels = ReasonLabels { direction: self.direction, service: self.service.clone(), reason: reason.word() };
        self.reasons.get_or_create(&labels).inc();
    }

    /// A failed attempt is made again.
    pub fn retried(&self, cause: Cause) {
        let labels = RetryLabels { service: self.service.clone(), cause: cause.as_str() };
        self.retries.get_or_create(&labels).inc();
    }

    /// A copy was sent before the first attempt had failed.
    pub fn hedged(&self) {
        self.retries.get_or_create(&RetryLabels { service: self.service.clone(), cause: HEDGE }).inc();
    }

    /// One that could have been is not. `reason`: a word of [`Denied`](fusewire_resilience::retry::Denied) or
    /// [`Broke`](fusewire_resilience::retry::Broke).
    pub fn retry_denied(&self, reason: &'static str) {
        self.denied.get_or_create(&DeniedLabels { service: self.service.clone(), reason }).inc();
    }

    /// Another answer stood in. `of`: a word of [`FALLBACKS`]; `cause`: a reason's, or [`BY_STATUS`].
    pub fn fallback(&self, of: &'static str, cause: &'static str) {
        let labels = FallbackLabels { service: self.service.clone(), r#type: of, cause };
        self.fallbacks.get_or_create(&labels).inc();
    }
}

impl ServiceMetrics {
    /// A copy of a request was not sent here. `cause`: a word of [`NOT_MIRRORED`].
    pub fn mirror_skipped(&self, cause: &'static str) {
        self.mirror_skipped.get_or_create(&SkippedLabels { service: self.service.clone(), cause }).inc();
    }

    /// A limit of ours kept a request from every instance.
    pub fn refused(&self, limit: Limit) {
        let labels = LimitLabels { direction: self.direction, service: self.service.clone(), limit: limit.word() };
        self.refused.get_or_create(&labels).inc();
    }
}

/// What the requests that take one rule of a route add to.
#[derive(Debug)]
pub struct RouteMetrics {
    pub(super) route: Arc<str>,
    pub(super) own: Place,
    pub requests: Requests,
}

/// What the attempts at one instance add to.
#[derive(Debug)]
pub struct InstanceMetrics {
    pub(super) labels: InstanceLabels,
    pub(super) own: Place,
    pub(super) attempts: [Counter; 4],
    pub(super) seconds: Histogram,
}

impl InstanceMetrics {
    /// `took`: to the response headers, or to the failure; `None` where there was neither.
    pub fn ended(&self, class: Class, took: Option<Duration>) {
        let index = match class {
            Class::Ok => 0,
            Class::Hard => 1,
            Class::Soft => 2,
            Class::Ignored => 3,
        };
        self.attempts[index].inc();
        if let Some(took) = took {
            self.seconds.observe(took.as_secs_f64());
        }
    }
}
