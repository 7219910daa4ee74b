//! A policy: the operator's resilience settings for one service, route, or labelled subset of instances, in ONE object.

mod balancing;
mod fallback;
mod limits;
mod retry;

use crate::name::{PolicyName, ServiceName};
use fusewire_resilience::throttle::Priority;
use fusewire_resilience::{BreakerConfig, ClassRules, ServiceConfig, WhenFew};
use std::collections::BTreeMap;
use std::time::Duration;

pub use balancing::{Algorithm, Balancing, RequestKey, Subsetting, Zoning};
pub use fallback::{Fallback, MAX_BODY, MAX_CHAIN, MAX_FIELDS, StaticAnswer, is_field_name, is_field_value};
pub use limits::{Concurrency, InboundLimits, Limits, RateLimit};
pub use retry::Retry;

/// The words of gRPC's statuses, in the order of their numbers (google.rpc.Code).
pub const GRPC_CODES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    pub name: PolicyName,
    /// What it applies to besides whoever names it; `None`: only where a service or route names it.
    pub target: Option<Target>,
    /// `breaker.instance`.
    pub breaker: BreakerConfig,
    /// `breaker.service`: before the service as a whole.
    pub service: ServiceConfig,
    /// `breaker.service.scope`: what it stands before.
    pub scope: Scope,
    /// `breaker.exhausted`: what happens when few instances take traffic. Default their own limits shed what is too much.
    pub exhausted: WhenFew,
    /// `breaker.classify`: statuses that mean something else here.
    pub classify: ClassRules,
    pub balancing: Balancing,
    pub limits: Limits,
    /// `priority: critical` passes a throttle for longer. Default normal.
    pub priority: Priority,
    pub retry: Retry,
    /// At most [`MAX_CHAIN`]. Default none.
    pub fallback: Vec<Fallback>,
    pub timeout: Timeouts,
    pub plain: PlainRules,
    /// `breaker.instance.probe`: what tests an open circuit. Default `request`.
    pub probe: Probe,
    /// `trace.sample`: which share of the traces that begin here is recorded. Default 1 %.
    pub sample: Ratio,
}

/// What a circuit in front of a service counts together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Scope {
    /// All requests to the service.
    #[default]
    Service,
    /// Those of each route's rule by themselves, so that one that fails does not stop the others.
    Route,
}

/// A share, in millionths: 0 to 1,000,000.
///
/// Of traces: what a request's caller decided wins over it. Every sidecar decides from the trace id alone, so two that are given the
/// same share of the same trace come to the same answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ratio(u32);

impl Ratio {
    pub const WHOLE: u32 = 1_000_000;
    /// 1 %: some trace of whatever happens more than a few times a second, and a cost that disappears beside the requests'.
    pub const DEFAULT: Self = Self(10_000);

    /// `None`: more than all.
    pub fn from_millionths(millionths: u32) -> Option<Self> {
        (millionths <= Self::WHOLE).then_some(Self(millionths))
    }
    pub fn millionths(self) -> u32 {
        self.0
    }
}

/// What tests an open circuit that is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Probe {
    /// A caller's request, where it can be sent elsewhere if it fails.
    #[default]
    Request,
    /// The service's health check, asked through the mesh: no request is ever at risk. Needs `health` at the service.
    Check,
}

/// `target: {service: inventory}` or `target: {service: inventory, labels: {track: canary}}`.
///
/// With labels the policy applies to the instances that carry all of them, and then may set only what belongs to an
/// instance: `breaker.instance` and `timeout.connect`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    pub service: ServiceName,
    pub labels: BTreeMap<String, String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// TCP and TLS together, to the peer's first frame. Default 1 s; 1 ms to 60 s.
    pub connect: Duration,
    /// To the response headers, of all attempts together. Default none: a total limit would cut server-sent events and large
    /// transfers. A request that tested an open circuit and got no answer may take as long once more, on another instance.
    pub request: Option<Duration>,
    /// Without a byte in either direction, for streams, uploads, downloads, upgrades and opaque TCP. Default none.
    pub idle: Option<Duration>,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self { connect: Duration::from_secs(1), request: None, idle: None }
    }
}

/// Whether somebody without an identity is spoken to in clear. The stricter goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Plain {
    #[default]
    Deny,
    Allow,
}

/// `plain: allow`, or `plain: {callers: deny, instances: allow}`. What is not written is as the service has it
/// ([`crate::service::Service::plain`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct PlainRules {
    /// Where connections to the application are intercepted: whether callers without an identity are let in, to services that
    /// do not name theirs (`allow`).
    pub callers: Option<Plain>,
    /// Whether an instance that has no identity may be talked to in clear.
    pub instances: Option<Plain>,
}

impl PlainRules {
    /// The same for both.
    pub fn both(plain: Plain) -> Self {
        Self { callers: Some(plain), instances: Some(plain) }
    }

    pub fn callers(&self, service: PlainDefaults) -> Plain {
        self.callers.unwrap_or(service.callers)
    }

    pub fn instances(&self, service: PlainDefaults) -> Plain {
        self.instances.unwrap_or(service.instances)
    }
}

/// What applies to a service where its policy does not say: deny both, but for services that are found in Kubernetes, whose
/// instances need not be in the mesh yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct PlainDefaults {
    pub callers: Plain,
    pub instances: Plain,
}

impl Policy {
    /// What applies where nobody wrote a policy.
    pub fn built_in(name: PolicyName) -> Self {
        Self {
            name,
            target: None,
            breaker: BreakerConfig::default(),
            service: ServiceConfig::default(),
            scope: Scope::Service,
            exhausted: WhenFew::Limiter,
            classify: ClassRules::default(),
            balancing: Balancing::default(),
            limits: Limits::default(),
            priority: Priority::Normal,
            retry: Retry::default(),
            fallback: Vec::new(),
            timeout: Timeouts::default(),
            plain: PlainRules::default(),
            probe: Probe::Request,
            sample: Ratio::DEFAULT,
        }
    }
}
