//! A service that refuses gets less to refuse.
//!
//! Client-side throttling as the SRE book has it (chapter 21, "Handling Overload"): with `requests` sent and `accepts` of
//! them accepted over the last 30 seconds, a new one is rejected here with probability
//! `max(0, (requests - K x accepts) / (requests + 1))`, K = 2, at most 0.9, so that a service that recovers is noticed.
//! Gradual and self-healing: what is rejected here still counts as a request and never as accepted. Counted are
//! logical requests, after their retries.
//!
//! Not accepted is only what a peer's sidecar refused before its application saw it because of load. A timeout, an error,
//! an application's own 429 were accepted: they cost the service work. So was a dead application: its circuit says so, and
//! a throttle's memory would keep half its traffic away after it is back.
//!
//! Shared between threads: the counts are atomics. An admission is one load while nothing was refused for 30 s, and one walk
//! over 30 words otherwise.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::outcome::Happening;
use crate::span::Span;
use crate::time::{Time, mix};

/// Of fewer requests nothing can be said: one refusal of one would be half of a service.
const FEW: u64 = 10;
/// Some requests always pass, so that recovery is seen.
const MOST: f64 = 0.9;
/// Nothing is tried again while this share is rejected.
const RETRIED: f64 = 0.1;
/// How far back it looks.
const SECONDS: usize = 30;

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct ThrottleConfig {
    /// K in hundredths: how many requests are sent for each that is accepted before any is rejected here. 110..1000,
    /// default 200. Lower is stricter; 110 leaves a tenth of the service's work to refusals.
    pub k_percent: u16,
}

impl Default for ThrottleConfig {
    fn default() -> Self {
        ThrottleConfig { k_percent: 200 }
    }
}

impl ThrottleConfig {
    /// Every bound that is broken, as `(field, message)`.
    pub fn validate(&self) -> Result<(), Vec<(&'static str, String)>> {
        let k = 110..=1000;
        if k.contains(&self.k_percent) {
            return Ok(());
        }
        Err(vec![("k", format!("must be 1.1..10, got {}", f64::from(self.k_percent) / 100.0))])
    }
}

/// What a request is worth.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Priority {
    #[default]
    Normal,
    /// Passes until the formula, before its cap, asks for more than 0.9.
    Critical,
}

#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Throttled {
    Pass,
    /// Answer 503 `overloaded` here; `probability` is for the log.
    Reject {
        probability: f64,
    },
}

/// One service's throttle in one sidecar, under one configuration; [`Throttle::reconfigured`] gives the same one under
/// another.
#[derive(Default)]
pub struct Throttle {
    config: ThrottleConfig,
    counts: Arc<Counts>,
}

#[derive(Default)]
struct Counts {
    /// Requests, accepts.
    recent: Span<SECONDS>,
    /// When something was last refused, there or here, plus one; 0 for never. While that is long ago there is nothing to add up.
    refused: AtomicU64,
}

impl Throttle {
    pub fn new(config: ThrottleConfig) -> Throttle {
        Throttle { config, counts: Arc::default() }
    }

    /// The same counts under another configuration.
    #[must_use]
    pub fn reconfigured(&self, config: ThrottleConfig) -> Throttle {
        Throttle { config, counts: self.counts.clone() }
    }

    /// Whether a logical request may be sent. `random`: 64 random bits, fresh for each call. A request counts once it is
    /// over, or is rejected here: those that are still under way say nothing yet, or five hundred long polls at once would
    /// look like five hundred refusals.
    pub fn admit(&self, priority: Priority, random: u64, now: Time) -> Throttled {
        self.admit_under(self.pressure(now), priority, random, now)
    }

    /// The same for whoever has asked for the pressure already, which is what costs.
    pub(crate) fn admit_under(&self, pressure: f64, priority: Priority, random: u64, now: Time) -> Throttled {
        if pressure == 0.0 {
            return Throttled::Pass;
        }
        let probability = pressure.min(MOST);
        let exempt = priority == Priority::Critical && pressure <= MOST;
        if exempt || unit(random) >= probability {
            return Throttled::Pass;
        }
        self.counts.refuse(now);
        Throttled::Reject { probability }
    }

    /// A logical request that was sent is over. Those that were rejected here are not settled.
    pub fn settle(&self, last: Happening, now: Time) {
        self.settle_as(was_accepted(last), now);
    }

    pub(crate) fn settle_as(&self, accepted: bool, now: Time) {
        match accepted {
            true => self.counts.recent.add(now, 1, 1),
            false => self.counts.refuse(now),
        }
    }

    /// The probability that a normal request is rejected now, 0..0.9.
    pub fn probability(&self, now: Time) -> f64 {
        self.pressure(now).min(MOST)
    }

    /// Whether failed attempts may be tried again: a service that refuses needs fewer requests, not more.
    pub fn allows_retry(&self, now: Time) -> bool {
        self.pressure(now) < RETRIED
    }

    /// `(requests, accepted)` of the last 30 s.
    pub fn recent(&self, now: Time) -> (u64, u64) {
        self.counts.recent.sum(now)
    }

    /// What the formula asks for, before its cap; 0 while nothing has been refused.
    pub(crate) fn pressure(&self, now: Time) -> f64 {
        let refused = self.counts.refused.load(Relaxed);
        if refused == 0 || now.since(Time(refused)) > Duration::from_secs(SECONDS as u64) {
            return 0.0;
        }
        let (requests, accepts) = self.counts.recent.sum(now);
        if requests < FEW {
            return 0.0;
        }
        rejection_probability(requests, accepts, f64::from(self.config.k_percent) / 100.0)
    }
}

impl Counts {
    fn refuse(&self, now: Time) {
        self.recent.add(now, 1, 0);
        self.refused.fetch_max(now.0.saturating_add(1), Relaxed);
    }
}

/// Uniform in 0..1, of 53 bits: every double that a sidecar will ever draw.
pub(crate) fn unit(random: u64) -> f64 {
    (mix(random) >> 11) as f64 / (1u64 << 53) as f64
}

/// The SRE book's formula, without a cap.
pub fn rejection_probability(requests: u64, accepts: u64, k: f64) -> f64 {
    ((requests as f64 - k * accepts as f64) / (requests as f64 + 1.0)).max(0.0)
}

/// Whether the service took the request on, whatever became of it.
pub fn was_accepted(last: Happening) -> bool {
    !matches!(last, Happening::Overloaded | Happening::DeadlineExceeded)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(ms: u64) -> Time {
        Time(ms * 1_000_000)
    }

    /// The table of `sre_adaptive_throttle.cases`.
    #[test]
    fn the_formula_is_the_sre_books() {
        let table = [
            (0, 0, 2.0, 0.0),
            (100, 100, 2.0, 0.0),
            (100, 50, 2.0, 0.0),
            (100, 49, 2.0, 0.01980198),
            (100, 25, 2.0, 0.495049505),
            (100, 0, 2.0, 0.99009901),
            (1000, 900, 1.1, 0.00999001),
            (1000, 500, 1.1, 0.44955045),
            (10, 0, 1.1, 0.909090909),
        ];
        for (requests, accepts, k, p) in table {
            let got = rejection_probability(requests, accepts, k);
            assert!((got - p).abs() < 1e-8, "{requests} {accepts} {k}: {got}");
        }
    }

    #[test]
    fn only_refusals_because_of_load_are_not_accepted() {
        for refused in [Happening::Overloaded, Happening::DeadlineExceeded] {
            assert!(!was_accepted(refused));
        }
        let accepted = [
            Happening::Complete,
            Happening::Status(429),
            Happening::Status(503),
            Happening::Grpc(8),
            Happening::Timeout,
            Happening::Reset,
            Happening::AppUnreachable,
            Happening::ConnectRefused,
            Happening::ClientGone { waited: Duration::ZERO, limit: None },
        ];
        assert!(accepted.into_iter().all(was_accepted));
    }

    /// Sends `n` requests, all of them answered the same way; how many were rejected here.
    fn send(throttle: &Throttle, n: u64, priority: Priority, last: Happening, ms: u64) -> u64 {
        let one = |seed: u64| match throttle.admit(priority, seed + ms * 1_000_003, at(ms)) {
            Throttled::Pass => {
                throttle.settle(last, at(ms));
                0
            }
            Throttled::Reject { .. } => 1,
        };
        (0..n).map(one).sum()
    }

    #[test]
    fn a_service_that_accepts_half_is_not_throttled_and_one_that_accepts_none_gets_a_tenth() {
        let throttle = Throttle::default();
        for i in 0..100 {
            let last = if i % 2 == 0 { Happening::Complete } else { Happening::Overloaded };
            assert_eq!(send(&throttle, 1, Priority::Normal, last, i), 0);
        }
        let dead = Throttle::default();
        send(&dead, 1000, Priority::Normal, Happening::Overloaded, 1000);
        assert_eq!(dead.probability(at(1000)), 0.9);
        let rejected = send(&dead, 10_000, Priority::Normal, Happening::Overloaded, 1001);
        assert!((8_800..9_200).contains(&rejected), "{rejected}");
    }

    #[test]
    fn requests_that_are_still_under_way_are_no_refusals() {
        let throttle = Throttle::default();
        throttle.settle(Happening::Overloaded, at(0));
        for seed in 0..512 {
            throttle.settle(Happening::Complete, at(1));
            assert_eq!(throttle.admit(Priority::Normal, seed, at(2)), Throttled::Pass);
        }
        let idle = Throttle::default();
        assert!((0..512).all(|seed| idle.admit(Priority::Normal, seed, at(0)) == Throttled::Pass));
    }

    #[test]
    fn what_it_counted_survives_another_configuration() {
        let throttle = Throttle::default();
        send(&throttle, 100, Priority::Normal, Happening::Overloaded, 0);
        let stricter = throttle.reconfigured(ThrottleConfig { k_percent: 110 });
        assert_eq!(stricter.recent(at(1)), throttle.recent(at(1)));
        assert_eq!(stricter.probability(at(1)), 0.9);
    }

    #[test]
    fn nothing_is_tried_again_from_a_tenth_on() {
        let throttle = Throttle::default();
        // (100 - 2 x 46) / 101 is 8 %, (103 - 2 x 46) / 104 is 10.6 %.
        send(&throttle, 46, Priority::Normal, Happening::Complete, 0);
        (0..54).for_each(|_| throttle.settle(Happening::Overloaded, at(0)));
        assert!(throttle.allows_retry(at(0)));
        (0..3).for_each(|_| throttle.settle(Happening::Overloaded, at(0)));
        assert!(throttle.probability(at(0)) > 0.1 && !throttle.allows_retry(at(0)));
    }

    #[test]
    fn a_single_refusal_throttles_nobody() {
        let throttle = Throttle::default();
        assert_eq!(send(&throttle, 9, Priority::Normal, Happening::Overloaded, 0), 0);
        assert_eq!(throttle.probability(at(0)), 0.0);
    }

    #[test]
    fn it_heals_by_itself_and_forgets_in_thirty_seconds() {
        let throttle = Throttle::default();
        send(&throttle, 1000, Priority::Normal, Happening::Overloaded, 0);
        for ms in (0..20_000).step_by(10) {
            send(&throttle, 1, Priority::Normal, Happening::Complete, ms);
        }
        assert!(throttle.probability(at(20_000)) < 0.86, "{}", throttle.probability(at(20_000)));
        for ms in (20_000..60_000).step_by(10) {
            send(&throttle, 1, Priority::Normal, Happening::Complete, ms);
        }
        assert_eq!(throttle.probability(at(60_000)), 0.0);
    }

    #[test]
    fn critical_requests_pass_until_the_formula_says_more_than_nine_tenths() {
        let throttle = Throttle::default();
        send(&throttle, 1, Priority::Critical, Happening::Complete, 0);
        send(&throttle, 19, Priority::Critical, Happening::Overloaded, 0);
        assert!(throttle.probability(at(0)) > 0.85);
        assert_eq!(throttle.admit(Priority::Critical, 1, at(0)), Throttled::Pass, "18/21");
        let rejected = send(&throttle, 1000, Priority::Critical, Happening::Overloaded, 1);
        assert!(rejected > 800, "{rejected}");
    }

    #[test]
    fn settings_out_of_bounds_are_named() {
        assert_eq!(ThrottleConfig::default().validate(), Ok(()));
        for k_percent in [109, 1001] {
            let fault = ThrottleConfig { k_percent }.validate().err().unwrap_or_default();
            assert_eq!(fault.first().map(|(field, _)| *field), Some("k"));
        }
    }

    proptest! {
        #[test]
        fn a_probability_is_a_probability(requests: u32, accepts: u32, k in 1.1f64..10.0) {
            let p = rejection_probability(u64::from(requests), u64::from(accepts), k);
            prop_assert!((0.0..1.0).contains(&p));
        }
    }
}
