//! What an operator sees of a service's scope. Read without stopping anything, so the fields may be an instant apart.

use std::sync::atomic::Ordering::Relaxed;

use super::{OpenStage, ServiceScope};
use crate::circuit::CircuitView;
use crate::time::Time;

/// One scope at one moment.
#[derive(Clone, PartialEq, Debug)]
pub struct ServiceView {
    pub name: String,
    /// The state machine. Its window counts logical requests with all their failures, whichever of them may open it.
    pub circuit: CircuitView,
    /// Which failures open the circuit.
    pub open: OpenStage,
    /// `None` where the throttle is off.
    pub throttle: Option<ThrottleView>,
    /// What the ramp after a closing lets pass, 0.1..1.
    pub admitted_share: f64,
    /// Requests refused by the throttle and by the ramp since the scope was made; the circuit has its own count. In observe
    /// mode, those that would have been.
    pub throttled: u64,
    pub ramped: u64,
    /// Requests that passed throttle and ramp only because the mode is observe.
    pub would_reject: u64,
}

/// The throttle at one moment.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct ThrottleView {
    /// The probability that a normal request is rejected now, 0..0.9.
    pub probability: f64,
    /// K in hundredths.
    pub k_percent: u16,
    /// Logical requests that ended or were rejected here in the last 30 s, and those of them that the service accepted.
    pub requests: u64,
    pub accepts: u64,
}

impl ServiceScope {
    pub fn inspect(&self, now: Time) -> ServiceView {
        let throttle = self.throttle.as_ref().zip(self.config.throttle.as_ref()).map(|(throttle, settings)| {
            let (requests, accepts) = throttle.recent(now);
            ThrottleView { probability: throttle.probability(now), k_percent: settings.k_percent, requests, accepts }
        });
        ServiceView {
            name: self.name().to_owned(),
            circuit: self.circuit.inspect(now),
            open: self.config.open,
            throttle,
            admitted_share: self.admitted_share(now),
            throttled: self.shared.throttled.load(Relaxed),
            ramped: self.shared.ramped.load(Relaxed),
            would_reject: self.shared.would_reject.load(Relaxed),
        }
    }
}
