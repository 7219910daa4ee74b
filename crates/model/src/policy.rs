//! A policy: the operator's resilience settings for one service, route, or labelled subset of instances, in ONE object.

use crate::name::{PolicyName, ServiceName};
use fusewire_resilience::BreakerConfig;
use std::collections::BTreeMap;
use std::time::Duration;

#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    pub name: PolicyName,
    /// What it applies to besides whoever names it; `None`: only where a service or route names it.
    pub target: Option<Target>,
    pub breaker: BreakerConfig,
    pub timeout: Timeouts,
    pub plain: Plain,
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
    /// To the response headers. Default none: a total limit would cut server-sent events and large transfers. A request
    /// that tested an open circuit and got no answer may take as long once more, on another instance.
    pub request: Option<Duration>,
    /// Without a byte in either direction, for streams, uploads, downloads, upgrades and opaque TCP. Default none.
    pub idle: Option<Duration>,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self { connect: Duration::from_secs(1), request: None, idle: None }
    }
}

/// Whether an instance that has no identity may be talked to in clear. Default: deny.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Plain {
    #[default]
    Deny,
    Allow,
}

impl Policy {
    /// What applies where nobody wrote a policy.
    pub fn built_in(name: PolicyName) -> Self {
        Self { name, target: None, breaker: BreakerConfig::default(), timeout: Timeouts::default(), plain: Plain::Deny }
    }
}
