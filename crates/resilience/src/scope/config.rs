//! The settings of a service's scope, with their bounds.
//!
//! As for the instance, each comment is that setting's page in the manual. Invariant: a config that
//! [`ServiceConfig::validate`] accepts makes a [`BreakerConfig`] that is valid too.

use std::time::Duration;

use crate::circuit::Counted;
use crate::config::{AfterWait, BreakerConfig, HalfOpen, Mode, Round};
use crate::ring::MAX_BUCKETS;
use crate::throttle::ThrottleConfig;

/// Which failures open the circuit of a whole service.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum OpenStage {
    /// None: only an operator opens it.
    Off,
    /// Connections that cannot be had: refused, no route, failed handshakes, an application that its sidecar cannot reach.
    /// Nothing that a service under load shows.
    #[default]
    Connect,
    /// Every failure, hard and soft.
    Any,
}

/// One service's or route's settings.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct ServiceConfig {
    /// Enforce, observe or disabled. Default enforce.
    pub mode: Mode,
    /// The throttle in front; `None` turns it off. Default on, K = 2.
    pub throttle: Option<ThrottleConfig>,
    /// Which failures open the circuit. Default those of connections.
    pub open: OpenStage,
    /// Percent of logical requests in the window that failed so, which opens the circuit. 1..100, default 50.
    pub failure_rate: u8,
    /// The rate is not looked at below this many requests in the window. 1..65000, default 20.
    pub min_calls: u16,
    /// How far back the rate looks. 1 s to 10 min, default 10 s.
    pub window: Duration,
    /// Percent of the requests of the last two seconds that must have failed too: a service is not opened on history that
    /// is already mended. 0..100, default 25; 0 does not look.
    pub recent_rate: u8,
    /// How long the first opening lasts. At least 100 ms, default 5 s. Doubles with every opening within `stable`.
    pub open_base: Duration,
    /// The longest opening, before jitter. At least `open_base`, default 30 s.
    pub open_max: Duration,
    /// A circuit that stays closed this long starts again at `open_base`. Default 30 s.
    pub stable: Duration,
    /// Openings are lengthened or shortened by up to this percentage. 0..50, default 25.
    pub jitter_percent: u8,
    /// Requests that one half-open round admits; it is decided by the rates above once they are in. 1..200, default 10.
    pub permits: u8,
    /// Of those, so many at once. 1..permits, default 3.
    pub concurrency: u8,
    /// A probe that has not ended after this long is lost and counts as failed. At least 10 ms, default 10 s.
    pub probe_timeout: Duration,
    /// After closing, the admitted share grows from a tenth to all over this time. 0 turns it off, default 10 s.
    pub ramp: Duration,
}

impl Default for ServiceConfig {
    fn default() -> Self {
        ServiceConfig {
            mode: Mode::Enforce,
            throttle: Some(ThrottleConfig::default()),
            open: OpenStage::Connect,
            failure_rate: 50,
            min_calls: 20,
            window: Duration::from_secs(10),
            recent_rate: 25,
            open_base: Duration::from_secs(5),
            open_max: Duration::from_secs(30),
            stable: Duration::from_secs(30),
            jitter_percent: 25,
            permits: 10,
            concurrency: 3,
            probe_timeout: Duration::from_secs(10),
            ramp: Duration::from_secs(10),
        }
    }
}

const RECENTLY: Duration = Duration::from_secs(2);

impl ServiceConfig {
    /// Every bound that is broken, as `(field, message)`; the caller puts the path to the object in front.
    pub fn validate(&self) -> Result<(), Vec<(&'static str, String)>> {
        let mut faults = self.breaker().validate().err().unwrap_or_default();
        for (field, message) in &mut faults {
            // The round's fields stand in an object of their own there.
            if *field == "half_open" {
                *field = if message.starts_with("permits") { "permits" } else { "concurrency" };
                *message = message.split_once(' ').map_or(message.clone(), |(_, rest)| rest.to_owned());
            }
        }
        let window = Duration::from_secs(1)..=Duration::from_secs(600);
        if !window.contains(&self.window) {
            faults.retain(|(field, _)| *field != "window" && *field != "buckets");
            faults.push(("window", format!("must be 1s..10m, got {:?}", self.window)));
        }
        if self.recent_rate > 100 {
            faults.push(("recent_rate", format!("must be 0..100, got {}", self.recent_rate)));
        }
        if self.ramp > Duration::from_secs(3600) {
            faults.push(("ramp", format!("must be at most 1h, got {:?}", self.ramp)));
        }
        if let Some(Err(throttle)) = self.throttle.as_ref().map(ThrottleConfig::validate) {
            faults.extend(throttle.into_iter().map(|(_, message)| ("throttle", format!("k {message}"))));
        }
        if faults.is_empty() { Ok(()) } else { Err(faults) }
    }

    /// The same for the state machine.
    pub(super) fn breaker(&self) -> BreakerConfig {
        let (permits, concurrency) = (self.permits, self.concurrency);
        BreakerConfig {
            mode: self.mode,
            window: self.window,
            buckets: MAX_BUCKETS as u8,
            consecutive: 0,
            min_calls: self.min_calls,
            failure_rate: self.failure_rate,
            open_base: self.open_base,
            open_max: self.open_max,
            stable: self.stable,
            jitter_percent: self.jitter_percent,
            probe_timeout: self.probe_timeout,
            half_open: HalfOpen::Rate(Round { permits, concurrency, max_wait: None, then: AfterWait::Open }),
            slow_start: Duration::ZERO,
            ..BreakerConfig::default()
        }
    }

    pub(super) fn counted(&self) -> Counted {
        let recently = (self.recent_rate > 0).then_some((RECENTLY, self.recent_rate));
        Counted { which: self.open.counts(), recently }
    }
}
