//! One limit in one word.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::time::Time;

/// What an operator writes: `requests` in each `per`, of which `burst` at once.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct RateConfig {
    /// 1 to 1,000,000.
    pub requests: u32,
    /// 1 ms to 24 h.
    pub per: Duration,
    /// 1 to 1,000,000; what may come at once after a quiet time. As much as `requests` makes it "so many in any `per`,
    /// twice that at worst".
    pub burst: u32,
}

impl RateConfig {
    /// Every bound that is broken, as `(field, message)`.
    pub fn validate(&self) -> Result<(), Vec<(&'static str, String)>> {
        let mut faults = Vec::new();
        let count = 1..=1_000_000;
        if !count.contains(&self.requests) {
            faults.push(("requests", format!("must be 1..1000000, got {}", self.requests)));
        }
        if !count.contains(&self.burst) {
            faults.push(("burst", format!("must be 1..1000000, got {}", self.burst)));
        }
        if !(Duration::from_millis(1)..=Duration::from_secs(86_400)).contains(&self.per) {
            faults.push(("per", format!("must be 1ms..24h, got {:?}", self.per)));
        }
        if faults.is_empty() { Ok(()) } else { Err(faults) }
    }
}

/// A limit ready for use: nanoseconds from one request to the next, and how far ahead of them a caller may be.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Rate {
    each: u64,
    burst: u32,
}

/// What became of a request, and where its caller stands.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Standing {
    /// Pass; `left` more would pass right now, and after `full_in` without any all of them.
    Within { left: u32, full_in: Duration },
    /// 429; one would pass after `retry_after`.
    Over { retry_after: Duration, full_in: Duration },
}

impl Rate {
    /// Settings out of bounds are taken to the nearest bound.
    pub fn of(config: &RateConfig) -> Rate {
        let per = config.per.clamp(Duration::from_millis(1), Duration::from_secs(86_400));
        let each = per.as_nanos() as u64 / u64::from(config.requests.clamp(1, 1_000_000));
        Rate { each: each.max(1), burst: config.burst.clamp(1, 1_000_000) }
    }

    pub fn burst(self) -> u32 {
        self.burst
    }

    /// From empty to full.
    pub fn window(self) -> Duration {
        Duration::from_nanos(self.ahead())
    }

    /// A day times a million are more nanoseconds than 64 bits hold; a limit that slow never fills up anyway.
    fn ahead(self) -> u64 {
        self.each.saturating_mul(u64::from(self.burst))
    }

    /// The arrival time after this request, and its standing. `full_at`: when the bucket is full, as the request before
    /// left it; this one's does not change it if it is over.
    pub(super) fn step(self, full_at: u64, now: u64) -> (u64, Standing) {
        // A bucket cannot be more than empty: whatever says so was written by a clock that ran ahead.
        let base = full_at.clamp(now, now.saturating_add(self.ahead()));
        let next = base.saturating_add(self.each);
        let ahead = next - now;
        match self.ahead().checked_sub(ahead) {
            Some(slack) => {
                let left = (slack / self.each).min(u64::from(self.burst)) as u32;
                (next, Standing::Within { left, full_in: Duration::from_nanos(ahead) })
            }
            None => {
                let retry_after = Duration::from_nanos(ahead - self.ahead());
                (base, Standing::Over { retry_after, full_in: Duration::from_nanos(base - now) })
            }
        }
    }
}

/// One limit without keys. Shared between threads: one load and one compare-and-swap.
#[derive(Default)]
pub struct Gcra {
    full_at: AtomicU64,
}

impl Gcra {
    /// Whether a request passes; takes its place if so.
    pub fn ask(&self, rate: Rate, now: Time) -> Standing {
        let mut seen = self.full_at.load(Relaxed);
        loop {
            let (next, standing) = rate.step(seen, now.0);
            if next == seen {
                return standing;
            }
            match self.full_at.compare_exchange_weak(seen, next, Relaxed, Relaxed) {
                Ok(_) => return standing,
                Err(other) => seen = other,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rate(requests: u32, ms: u64, burst: u32) -> Rate {
        Rate::of(&RateConfig { requests, per: Duration::from_millis(ms), burst })
    }

    fn at(ms: u64) -> Time {
        Time(ms * 1_000_000)
    }

    fn passes(gcra: &Gcra, rate: Rate, now: Time) -> bool {
        matches!(gcra.ask(rate, now), Standing::Within { .. })
    }

    #[test]
    fn a_burst_passes_at_once_and_then_one_each_interval() {
        let (gcra, rate) = (Gcra::default(), rate(10, 1000, 5));
        let lefts: Vec<_> = (0..5).map(|_| gcra.ask(rate, at(1000))).collect();
        for (i, standing) in lefts.into_iter().enumerate() {
            let full_in = Duration::from_millis(100 * (i as u64 + 1));
            assert_eq!(standing, Standing::Within { left: 4 - i as u32, full_in });
        }
        let over = Standing::Over { retry_after: Duration::from_millis(100), full_in: Duration::from_millis(500) };
        assert_eq!(gcra.ask(rate, at(1000)), over);
        assert_eq!(gcra.ask(rate, at(1000)), over, "who is refused does not wait longer for having asked");
        assert!(!passes(&gcra, rate, at(1099)));
        assert!(passes(&gcra, rate, at(1100)) && !passes(&gcra, rate, at(1100)));
    }

    #[test]
    fn a_quiet_time_saves_no_more_than_the_burst() {
        let (gcra, rate) = (Gcra::default(), rate(10, 1000, 5));
        for second in [0, 1000, 1_000_000] {
            assert_eq!((0..100).filter(|_| passes(&gcra, rate, at(second * 1000))).count(), 5);
        }
    }

    #[test]
    fn a_clock_that_ran_ahead_costs_one_window_at_most() {
        let (gcra, rate) = (Gcra::default(), rate(10, 1000, 5));
        assert!(passes(&gcra, rate, at(1_000_000)));
        let Standing::Over { retry_after, full_in } = gcra.ask(rate, at(0)) else { panic!("empty") };
        assert!(retry_after <= rate.window() && full_in <= rate.window());
        assert!(passes(&gcra, rate, at(100)));
    }

    #[test]
    fn threads_together_get_the_burst_and_not_one_more() {
        let (gcra, rate) = (Gcra::default(), rate(1, 60_000, 1000));
        let passed: usize = std::thread::scope(|scope| {
            let work = || (0..1000).filter(|_| passes(&gcra, rate, at(5))).count();
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(work)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(passed, 1000);
    }

    #[test]
    fn every_broken_bound_is_named_at_once() {
        let bad = RateConfig { requests: 0, per: Duration::ZERO, burst: 0 };
        let fields: Vec<_> = bad.validate().err().unwrap_or_default().into_iter().map(|fault| fault.0).collect();
        assert_eq!(fields, ["requests", "burst", "per"]);
    }

    proptest! {
        #[test]
        fn no_window_passes_more_than_the_burst_and_its_share(
            requests in 1u32..50, burst in 1u32..20, steps in prop::collection::vec(0u64..400, 1..200),
        ) {
            let (gcra, rate) = (Gcra::default(), rate(requests, 1000, burst));
            let mut now = 0;
            let mut passed = Vec::new();
            for step in steps {
                now += step;
                if passes(&gcra, rate, at(now)) {
                    passed.push(now);
                }
            }
            for (i, from) in passed.iter().enumerate() {
                for (n, to) in passed[i..].iter().enumerate() {
                    // `each` is rounded down to a nanosecond, hence the one.
                    let most = u64::from(burst) + (to - from) * u64::from(requests) / 1000 + 1;
                    prop_assert!((n as u64) < most, "{} in {} ms", n + 1, to - from);
                }
            }
        }

        #[test]
        fn any_state_and_any_time_is_survived(full_at: u64, now: u64, requests: u32, ms: u64, burst: u32) {
            let rate = rate(requests, ms, burst);
            let (next, standing) = rate.step(full_at, now);
            prop_assert!(next >= now);
            if let Standing::Over { retry_after, .. } = standing {
                prop_assert!(retry_after <= rate.window());
            }
        }
    }
}
