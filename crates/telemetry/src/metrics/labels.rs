//! The labels of each family. Values come from the configuration, or are one of a few words.

use super::Direction;
use prometheus_client::encoding::EncodeLabelSet;
use std::sync::Arc;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ServiceLabels {
    pub(super) direction: Direction,
    pub(super) service: Arc<str>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ResponseLabels {
    pub(super) direction: Direction,
    pub(super) service: Arc<str>,
    /// `1xx` to `5xx`.
    pub(super) class: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ReasonLabels {
    pub(super) direction: Direction,
    pub(super) service: Arc<str>,
    pub(super) reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct RetryLabels {
    pub(super) service: Arc<str>,
    pub(super) cause: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct DeniedLabels {
    pub(super) service: Arc<str>,
    pub(super) reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct FallbackLabels {
    pub(super) service: Arc<str>,
    pub(super) r#type: &'static str,
    /// A reason, or `status` where the service itself had answered.
    pub(super) cause: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct SkippedLabels {
    pub(super) service: Arc<str>,
    pub(super) cause: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct LimitLabels {
    pub(super) direction: Direction,
    pub(super) service: Arc<str>,
    pub(super) limit: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct RouteLabels {
    pub(super) route: Arc<str>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct RouteResponseLabels {
    pub(super) route: Arc<str>,
    pub(super) class: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct InstanceLabels {
    pub(super) service: Arc<str>,
    pub(super) instance: Arc<str>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct OutcomeLabels {
    pub(super) service: Arc<str>,
    pub(super) instance: Arc<str>,
    pub(super) outcome: &'static str,
}

impl InstanceLabels {
    pub(super) fn with(&self, outcome: &'static str) -> OutcomeLabels {
        OutcomeLabels { service: self.service.clone(), instance: self.instance.clone(), outcome }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct KindLabels {
    pub(super) kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct BreakerLabels {
    pub(super) scope: &'static str,
    pub(super) service: Arc<str>,
    pub(super) instance: Arc<str>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ProbeLabels {
    pub(super) direction: Direction,
    pub(super) service: Arc<str>,
    pub(super) result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct DroppedLabels {
    pub(super) at: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct TransitionLabels {
    pub(super) scope: &'static str,
    pub(super) service: Arc<str>,
    pub(super) from: &'static str,
    pub(super) to: &'static str,
    pub(super) reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct PortLabels {
    pub(super) service: Arc<str>,
    pub(super) port: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct CauseLabels {
    pub(super) direction: Direction,
    pub(super) cause: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ResultLabels {
    pub(super) result: &'static str,
}
