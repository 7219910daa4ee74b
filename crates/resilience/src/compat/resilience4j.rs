//! Resilience4j's properties, translated into a [`BreakerConfig`].
//!
//! The names are those of its configuration, near enough to be found; the defaults are its defaults. Rates are whole
//! percents here.

use std::sync::Arc;
use std::time::Duration;

use super::states::{Resilience4jBreaker, Resilience4jState};
use crate::circuit::Circuit;
use crate::config::{AfterWait, BreakerConfig, HalfOpen, PeerOutlier, Round, SlowCalls, Unresponsive};
use crate::ring::Shape;
use crate::time::Time;

const SECOND: Duration = Duration::from_secs(1);

/// `slidingWindowType` and `slidingWindowSize`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Sliding {
    /// The last calls. 1..256.
    Calls(u16),
    /// The last whole seconds. 1..3600.
    Seconds(u16),
}

/// `waitDurationInOpenState`, or an exponential interval function in its place.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum OpenWait {
    Fixed(Duration),
    /// Each opening without a close between waits `factor` thousandths of the one before, in whole milliseconds. 1000..10000.
    Exponential {
        initial: Duration,
        factor: u16,
        max: Option<Duration>,
    },
}

/// `automaticTransitionFromOpenToHalfOpenEnabled`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum ToHalfOpen {
    /// By the first call after the wait.
    #[default]
    OnCall,
    /// By time alone, at [`Resilience4jBreaker::poll`].
    OnTime,
}

/// The properties of one Resilience4j circuit breaker.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Resilience4j {
    /// Default the last 100 calls.
    pub sliding_window: Sliding,
    /// `minimumNumberOfCalls`. 1..65000, default 100; a window of calls asks for no more than its size.
    pub minimum_calls: u16,
    /// `failureRateThreshold`, percent. 1..100, default 50.
    pub failure_rate: u8,
    /// `slowCallRateThreshold`, percent. 1..100, default 100.
    pub slow_call_rate: u8,
    /// `slowCallDurationThreshold`: slow is what took longer. Default 60 s.
    pub slow_call_duration: Duration,
    /// Default 60 s. At least 1 ms.
    pub wait_in_open: OpenWait,
    /// `permittedNumberOfCallsInHalfOpenState`. 1..200, default 10.
    pub permitted_in_half_open: u8,
    /// `maxWaitDurationInHalfOpenState`. Default `None`, which waits for ever: a permit that is never given back then
    /// blocks the circuit until somebody resets it.
    pub max_wait_in_half_open: Option<Duration>,
    /// `transitionToStateAfterWaitDuration`. Default open.
    pub after_max_wait: AfterWait,
    /// Default by the next call.
    pub to_half_open: ToHalfOpen,
    /// `initialState`. Default closed.
    pub initial_state: Resilience4jState,
}

impl Default for Resilience4j {
    fn default() -> Self {
        Resilience4j {
            sliding_window: Sliding::Calls(100),
            minimum_calls: 100,
            failure_rate: 50,
            slow_call_rate: 100,
            slow_call_duration: Duration::from_secs(60),
            wait_in_open: OpenWait::Fixed(Duration::from_secs(60)),
            permitted_in_half_open: 10,
            max_wait_in_half_open: None,
            after_max_wait: AfterWait::Open,
            to_half_open: ToHalfOpen::OnCall,
            initial_state: Resilience4jState::Closed,
        }
    }
}

impl Resilience4j {
    /// Every bound that is broken, as `(property, message)`.
    pub fn validate(&self) -> Result<(), Vec<(&'static str, String)>> {
        let mut faults = Vec::new();
        let mut within = |property: &'static str, range: std::ops::RangeInclusive<u16>, value: u16| {
            if !range.contains(&value) {
                let (low, high) = range.into_inner();
                faults.push((property, format!("must be {low}..{high}, got {value}")));
            }
        };
        match self.sliding_window {
            Sliding::Calls(calls) => within("slidingWindowSize", 1..=256, calls),
            Sliding::Seconds(seconds) => within("slidingWindowSize", 1..=3600, seconds),
        }
        within("minimumNumberOfCalls", 1..=65_000, self.minimum_calls);
        within("failureRateThreshold", 1..=100, self.failure_rate.into());
        within("slowCallRateThreshold", 1..=100, self.slow_call_rate.into());
        within("permittedNumberOfCallsInHalfOpenState", 1..=200, self.permitted_in_half_open.into());
        let (first, longest) = self.open_times();
        if let OpenWait::Exponential { factor, .. } = self.wait_in_open {
            within("waitDurationInOpenState", 1000..=10_000, factor);
        }
        if first < Duration::from_millis(1) || longest < first {
            faults
                .push(("waitDurationInOpenState", format!("must be at least 1ms, at most {longest:?}, got {first:?}")));
        }
        if faults.is_empty() { Ok(()) } else { Err(faults) }
    }

    /// The same rules in this crate's words.
    pub fn breaker_config(&self) -> BreakerConfig {
        let (open_base, open_max) = self.open_times();
        let (window_calls, window) = match self.sliding_window {
            Sliding::Calls(calls) => (calls, SECOND),
            Sliding::Seconds(seconds) => (0, SECOND * u32::from(seconds)),
        };
        BreakerConfig {
            window,
            window_calls,
            consecutive: 0,
            min_calls: self.minimum_calls,
            failure_rate: self.failure_rate,
            open_base,
            open_factor: match self.wait_in_open {
                OpenWait::Fixed(_) => 1000,
                OpenWait::Exponential { factor, .. } => factor,
            },
            open_max,
            stable: Duration::ZERO,
            jitter_percent: 0,
            // A permit that is never given back stays out, as there; the limit of the whole round is what ends it.
            probe_timeout: Duration::MAX,
            half_open: HalfOpen::Rate(Round {
                permits: self.permitted_in_half_open,
                concurrency: self.permitted_in_half_open,
                max_wait: self.max_wait_in_half_open,
                then: self.after_max_wait,
            }),
            unresponsive: Unresponsive { timeouts: 0, ..Unresponsive::default() },
            slow: Some(SlowCalls { over: self.slow_call_duration, rate: self.slow_call_rate }),
            peer: PeerOutlier { delta: 0, ..PeerOutlier::default() },
            ..BreakerConfig::default()
        }
    }

    /// A breaker with these properties, or every bound that they break.
    pub fn build(self, name: &str, now: Time) -> Result<Resilience4jBreaker, Vec<(&'static str, String)>> {
        self.validate()?;
        Ok(Resilience4jBreaker::new(self.circuit(name), self, now))
    }

    fn circuit(&self, name: &str) -> Arc<Circuit> {
        let config = self.breaker_config();
        let shape = match self.sliding_window {
            Sliding::Calls(_) => (Shape::of(&config), 1),
            // One bucket for each second, as there: a call counts until the second that it was made in has left.
            Sliding::Seconds(seconds) => (Shape::new(1_000_000_000, seconds.into()), usize::from(seconds)),
        };
        Circuit::with_shape(name, 0, config, shape)
    }

    fn open_times(&self) -> (Duration, Duration) {
        match self.wait_in_open {
            OpenWait::Fixed(wait) => (wait, wait),
            OpenWait::Exponential { initial, max, .. } => (initial, max.unwrap_or(Duration::MAX)),
        }
    }
}
