//! The settings of one instance's breaker, with their bounds.
//!
//! Reads nothing and defaults nothing in secret: what is here is what the operator can set, and each comment below is
//! that setting's page in the manual. Invariant: a config that [`BreakerConfig::validate`] accepts cannot make any
//! computation of this crate divide by zero, overflow or wait for ever.

use std::time::Duration;

use crate::calls::MAX_CALLS;
use crate::ring::MAX_BUCKETS;

/// Whether the breaker acts on what it sees.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Mode {
    /// Open circuits get no traffic but probes.
    #[default]
    Enforce,
    /// The machine runs as if it enforced and reports `observed` events, but every request passes. For trying a
    /// setting on live traffic.
    Observe,
    /// Every request passes and nothing is recorded.
    Disabled,
}

/// The trigger for an instance that takes requests and never answers.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Unresponsive {
    /// Timeouts in a row, without one response byte between them. 0 turns the trigger off. Default 5.
    pub timeouts: u8,
    /// The last of them at least this long after the first, so that one pause of the application does not count five
    /// times. Default 1 s.
    pub span: Duration,
}

impl Default for Unresponsive {
    fn default() -> Self {
        Unresponsive { timeouts: 5, span: Duration::from_secs(1) }
    }
}

/// The trigger for slow calls.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct SlowCalls {
    /// A call whose response headers took longer than this is slow. It counts as soft where instances are compared,
    /// and a slow probe has failed.
    pub over: Duration,
    /// Percent of slow calls in the window that opens the circuit. 1..100.
    pub rate: u8,
}

/// The trigger for an instance that fails more often than its peers without failing often: the gray one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct PeerOutlier {
    /// Percentage points above the median of the peers. 1..100, or 0, which turns the trigger off. Default 5; 20 if all
    /// that the instance shows is soft, and never less than that.
    pub delta: u8,
    /// Standard deviations above it, of a binomial draw as large as the instance's window. 1..20, default 4.
    pub z: u8,
}

impl Default for PeerOutlier {
    fn default() -> Self {
        PeerOutlier { delta: 5, z: 4 }
    }
}

/// How a half-open round is decided.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum HalfOpen {
    /// By as many probes as the evidence that opened the circuit asks for: 3 to 20 (see `probation`).
    #[default]
    Evidence,
    /// By a fixed number of calls, against the rates that open the circuit.
    Rate(Round),
}

/// A half-open round that is decided by rate: as soon as `min(min_calls, permits)` results are in.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Round {
    /// Calls that one round admits. 1..200.
    pub permits: u8,
    /// Of those, so many at once. 1..permits.
    pub concurrency: u8,
    /// The longest a round may last, from its first moment; `None` lets it wait for results for ever.
    pub max_wait: Option<Duration>,
    /// What follows a round that lasted that long.
    pub then: AfterWait,
}

/// What follows a half-open round that has found no verdict in time.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum AfterWait {
    #[default]
    Open,
    Closed,
}

/// One instance's breaker settings.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct BreakerConfig {
    /// Enforce, observe or disabled. Default enforce.
    pub mode: Mode,
    /// How far back the failure rate looks. 100 ms to 10 min, default 10 s: long enough to judge an instance that gets
    /// one call a second. A longer window notices a half-failing instance later, because healthy history dilutes it.
    pub window: Duration,
    /// How many buckets the window is cut into, 2..20, default 10. The window forgets one bucket at a time, so it
    /// really covers between `window - window/buckets` and `window`. A bucket must be at least 10 ms wide.
    pub buckets: u8,
    /// The window holds this many calls, however old, in place of a time: for less than a call a second. 0 means by
    /// time, the default; at most 256. `min_calls` then counts as no more than this.
    pub window_calls: u16,
    /// This many hard failures in a row open the circuit. 0 turns the trigger off, default 5: 30 ms at 100 calls a
    /// second. Failures by status count only if a peer answers cleanly at the same time.
    pub consecutive: u8,
    /// The failure rate is not looked at below this many calls in the window. 1..65000, default 10: five failures of
    /// ten happen by chance once in 16,000 windows when 5 % of all calls fail.
    pub min_calls: u16,
    /// Percent of hard failures in the window that opens the circuit. 1..100, default 50. Timeouts and 503s are not in
    /// it: under overload every instance has those, and opening them all would keep the overload alive.
    pub failure_rate: u8,
    /// How long the first opening lasts. At least 100 ms, default 5 s: a restart should not cost half a minute of
    /// capacity. Doubles with every opening that follows within `stable`.
    pub open_base: Duration,
    /// By how much each opening that follows within `stable` is longer than the one before, in thousandths.
    /// 1000..10000, default 2000: it doubles.
    pub open_factor: u16,
    /// The longest opening, before jitter. At least `open_base`, default 60 s.
    pub open_max: Duration,
    /// A circuit that stays closed this long (and twice its last opening) starts again at `open_base`. Default 30 s,
    /// so an instance that flaps keeps climbing: 5, 10, 20, 40, 60 s. 0: every closing starts again at `open_base`.
    pub stable: Duration,
    /// Openings are lengthened or shortened by up to this percentage, so that sidecars that saw the same fault do not
    /// probe in step. 0..50, default 25. The same instance and generation always get the same jitter.
    pub jitter_percent: u8,
    /// A probe without response headers after this long is lost and counts as failed. At least 10 ms, default 10 s;
    /// keep it above the per-try timeout.
    pub probe_timeout: Duration,
    /// How a half-open round is decided. Default by evidence.
    pub half_open: HalfOpen,
    /// Probes in flight at one instance, where the evidence decides. 1..20, default 1: an instance that just came back is not asked twice at once.
    pub probe_concurrency: u8,
    /// After closing, the instance's share of the traffic grows from a tenth to all of it over this time. 0 turns it
    /// off, default 10 s.
    pub slow_start: Duration,
    /// The trigger for instances that hang. Default 5 timeouts over 1 s.
    pub unresponsive: Unresponsive,
    /// The trigger for slow calls. Default off: an absolute limit that nobody tuned opens everything in a slow minute,
    /// and the balancer and the comparison with the peers see a slow instance without one.
    pub slow: Option<SlowCalls>,
    /// The trigger for gray instances, judged once a second. Default 5 points and 4 standard deviations.
    pub peer: PeerOutlier,
}

impl Default for BreakerConfig {
    fn default() -> Self {
        BreakerConfig {
            mode: Mode::Enforce,
            window: Duration::from_secs(10),
            buckets: 10,
            window_calls: 0,
            consecutive: 5,
            min_calls: 10,
            failure_rate: 50,
            open_base: Duration::from_secs(5),
            open_factor: 2000,
            open_max: Duration::from_secs(60),
            stable: Duration::from_secs(30),
            jitter_percent: 25,
            probe_timeout: Duration::from_secs(10),
            half_open: HalfOpen::Evidence,
            probe_concurrency: 1,
            slow_start: Duration::from_secs(10),
            unresponsive: Unresponsive::default(),
            slow: None,
            peer: PeerOutlier::default(),
        }
    }
}

const MIN_BUCKET: Duration = Duration::from_millis(10);

impl BreakerConfig {
    /// Every bound that is broken, as `(field, message)`; the caller puts the path to the object in front.
    pub fn validate(&self) -> Result<(), Vec<(&'static str, String)>> {
        let ms = Duration::from_millis;
        let mut faults = Vec::new();
        let mut check = |holds: bool, field: &'static str, message: String| {
            if !holds {
                faults.push((field, message));
            }
        };
        let window = ms(100)..=Duration::from_secs(600);
        check(window.contains(&self.window), "window", format!("must be 100ms..10m, got {:?}", self.window));
        let buckets = 2..=MAX_BUCKETS as u8;
        check(buckets.contains(&self.buckets), "buckets", format!("must be 2..{MAX_BUCKETS}, got {}", self.buckets));
        let wide = self.window >= MIN_BUCKET * u32::from(self.buckets);
        check(wide, "buckets", format!("{} buckets of {:?} are under 10ms each", self.buckets, self.window));
        let calls = 1..=65_000;
        check(calls.contains(&self.min_calls), "min_calls", format!("must be 1..65000, got {}", self.min_calls));
        let rate = 1..=100;
        check(rate.contains(&self.failure_rate), "failure_rate", format!("must be 1..100, got {}", self.failure_rate));
        check(self.open_base >= ms(100), "open_base", format!("must be at least 100ms, got {:?}", self.open_base));
        let ordered = self.open_max >= self.open_base;
        check(ordered, "open_max", format!("must be at least open_base {:?}, got {:?}", self.open_base, self.open_max));
        check(self.jitter_percent <= 50, "jitter_percent", format!("must be 0..50, got {}", self.jitter_percent));
        let patient = self.probe_timeout >= ms(10);
        check(patient, "probe_timeout", format!("must be at least 10ms, got {:?}", self.probe_timeout));
        let probes = 1..=20;
        let concurrency = self.probe_concurrency;
        check(probes.contains(&concurrency), "probe_concurrency", format!("must be 1..20, got {concurrency}"));
        self.validate_rules(&mut check);
        if faults.is_empty() { Ok(()) } else { Err(faults) }
    }

    fn validate_rules(&self, check: &mut impl FnMut(bool, &'static str, String)) {
        let calls = usize::from(self.window_calls);
        check(calls <= MAX_CALLS, "window_calls", format!("must be 0..{MAX_CALLS}, got {calls}"));
        let factor = self.open_factor;
        check((1000..=10_000).contains(&factor), "open_factor", format!("must be 1000..10000, got {factor}"));
        if let Some(slow) = self.slow {
            check((1..=100).contains(&slow.rate), "slow", format!("rate must be 1..100, got {}", slow.rate));
            check(!slow.over.is_zero(), "slow", "over must be longer than 0".into());
        }
        let PeerOutlier { delta, z } = self.peer;
        check(delta <= 100, "peer", format!("delta must be 0..100, got {delta}"));
        check((1..=20).contains(&z), "peer", format!("z must be 1..20, got {z}"));
        if let HalfOpen::Rate(Round { permits, concurrency, max_wait, .. }) = self.half_open {
            check((1..=200).contains(&permits), "half_open", format!("permits must be 1..200, got {permits}"));
            let within = (1..=permits).contains(&concurrency);
            check(within, "half_open", format!("concurrency must be 1..permits {permits}, got {concurrency}"));
            let waits = max_wait.is_none_or(|wait| !wait.is_zero());
            check(waits, "half_open", "max_wait must be longer than 0".into());
        }
    }

    /// Results after which a round by rate is decided.
    pub(crate) fn round_minimum(&self, round: Round) -> u8 {
        u8::try_from(self.min_calls).unwrap_or(u8::MAX).min(round.permits)
    }

    /// Calls in the window below which its rates say nothing. A count window can hold no more than its size.
    pub(crate) fn window_minimum(&self) -> u32 {
        let minimum = if self.window_calls == 0 { self.min_calls } else { self.min_calls.min(self.window_calls) };
        u32::from(minimum)
    }

    #[inline]
    pub(crate) fn is_slow(&self, elapsed: Duration) -> bool {
        self.slow.is_some_and(|slow| elapsed > slow.over)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(config: &BreakerConfig) -> Vec<&'static str> {
        config.validate().err().unwrap_or_default().into_iter().map(|(field, _)| field).collect()
    }

    #[test]
    fn the_defaults_are_valid() {
        assert_eq!(BreakerConfig::default().validate(), Ok(()));
    }

    #[test]
    fn every_broken_bound_is_named_at_once() {
        let bad = BreakerConfig {
            window: Duration::from_millis(99),
            buckets: 21,
            min_calls: 0,
            failure_rate: 0,
            open_base: Duration::from_millis(99),
            open_max: Duration::from_millis(98),
            jitter_percent: 51,
            probe_timeout: Duration::ZERO,
            probe_concurrency: 0,
            window_calls: 257,
            open_factor: 999,
            slow: Some(SlowCalls { over: Duration::ZERO, rate: 0 }),
            peer: PeerOutlier { delta: 101, z: 0 },
            half_open: HalfOpen::Rate(Round {
                permits: 2,
                concurrency: 3,
                max_wait: Some(Duration::ZERO),
                then: AfterWait::Open,
            }),
            ..BreakerConfig::default()
        };
        let expected = [
            "window",
            "buckets",
            "buckets",
            "min_calls",
            "failure_rate",
            "open_base",
            "open_max",
            "jitter_percent",
            "probe_timeout",
            "probe_concurrency",
            "window_calls",
            "open_factor",
            "slow",
            "slow",
            "peer",
            "peer",
            "half_open",
            "half_open",
        ];
        assert_eq!(fields(&bad), expected);
    }

    #[test]
    fn the_edges_of_the_bounds_are_valid() {
        let base = BreakerConfig::default();
        for (buckets, min_calls, failure_rate) in [(2, 1, 1), (20, 65_000, 100)] {
            let config = BreakerConfig { buckets, min_calls, failure_rate, consecutive: 0, ..base.clone() };
            assert_eq!(config.validate(), Ok(()));
        }
        let over = BreakerConfig { min_calls: 65_001, failure_rate: 101, buckets: 1, ..base };
        assert_eq!(fields(&over), ["buckets", "min_calls", "failure_rate"]);
    }
}
