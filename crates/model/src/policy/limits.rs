//! `limit`: how much of something there may be at once, or in a time.

use super::balancing::RequestKey;
use fusewire_resilience::bulkhead::BulkheadConfig;
use fusewire_resilience::limit::{AimdConfig, Gradient2Config, GuardConfig};
use fusewire_resilience::rate::RateConfig;

#[derive(Clone, Debug, PartialEq, Default)]
pub struct Limits {
    /// `limit.inbound`: by the service's own sidecar, in front of the application.
    pub inbound: InboundLimits,
    /// `limit.connections`, `pending`, `requests`: what one caller's sidecar may use of the service at once.
    pub bulkhead: BulkheadConfig,
    /// `limit.rate`: what one caller's sidecar sends. Default none.
    pub rate: Option<RateLimit>,
}

#[derive(Clone, Debug, PartialEq, Default)]
pub struct InboundLimits {
    pub concurrency: Concurrency,
    /// `limit.inbound.rate`: what is let in from all callers together, or by key. Default none.
    pub rate: Option<RateLimit>,
}

/// How many requests the application may have at once.
#[derive(Clone, Debug, PartialEq)]
pub enum Concurrency {
    Off,
    /// No limit until requests are seen to queue inside the application. The default.
    QueueGuard(GuardConfig),
    Gradient2(Gradient2Config),
    Aimd(AimdConfig),
}

impl Default for Concurrency {
    fn default() -> Self {
        Self::QueueGuard(GuardConfig::default())
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct RateLimit {
    pub rate: RateConfig,
    /// Each value has a limit of its own; `None`: one for all requests.
    pub key: Option<RequestKey>,
}
