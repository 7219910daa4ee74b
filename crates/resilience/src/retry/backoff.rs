//! How long to wait before the next attempt.
//!
//! Exponential with full jitter: `min(25 ms x 2^(n-1), 250 ms) x U[0,1)`. Full jitter spreads callers that failed
//! together over the whole span instead of sending them back together. A hint of the server's is taken exactly, because
//! the server knows, and the retry after it begins anew. gRPC's jitter of a fifth is there for its settings (gRFC A6).

use std::time::Duration;

use crate::time::{mix, nanos};

/// A hint longer than this is an answer, not a wait.
const LONGEST_HINT: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Jitter {
    /// From nothing to the nominal span.
    Full,
    /// Within 20 % of the nominal span.
    Fifth,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct BackoffPolicy {
    /// Before the first retry; doubles with each. 1 ms to 10 s, default 25 ms.
    pub initial: Duration,
    /// At least `initial`, at most 1 min, default 250 ms.
    pub max: Duration,
    /// Default full.
    pub jitter: Jitter,
}

impl Default for BackoffPolicy {
    fn default() -> Self {
        let (initial, max) = (Duration::from_millis(25), Duration::from_millis(250));
        BackoffPolicy { initial, max, jitter: Jitter::Full }
    }
}

impl BackoffPolicy {
    /// Every bound that is broken, as `(field, message)`.
    pub fn validate(&self) -> Result<(), Vec<(&'static str, String)>> {
        let mut faults = Vec::new();
        let (least, most) = (Duration::from_millis(1), Duration::from_secs(10));
        if !(least..=most).contains(&self.initial) {
            faults.push(("initial", format!("must be 1ms..10s, got {:?}", self.initial)));
        }
        if self.max < self.initial || self.max > Duration::from_secs(60) {
            faults.push(("max", format!("must be initial {:?}..1m, got {:?}", self.initial, self.max)));
        }
        if faults.is_empty() { Ok(()) } else { Err(faults) }
    }

    /// Before retry `n`, from 1, without jitter.
    fn nominal(&self, n: u32) -> Duration {
        let doubled = 1u32.checked_shl(n.saturating_sub(1)).unwrap_or(u32::MAX);
        self.initial.saturating_mul(doubled).min(self.max)
    }

    /// Before retry `n`, from 1. `random`: 64 random bits, fresh for each call.
    pub fn span(&self, n: u32, random: u64) -> Duration {
        let nominal = nanos(self.nominal(n));
        let part = |of: u64| ((u128::from(mix(random)) * u128::from(of)) >> 64) as u64;
        match self.jitter {
            Jitter::Full => Duration::from_nanos(part(nominal)),
            Jitter::Fifth => Duration::from_nanos(nominal - nominal / 5 + part(nominal / 5 * 2)),
        }
    }
}

/// Where one exchange is in its backoff. Owned by the exchange.
#[derive(Clone, Copy, Default, Debug)]
pub struct Backoff {
    done: u32,
}

impl Backoff {
    /// The wait before the next retry.
    pub fn next(&mut self, policy: &BackoffPolicy, random: u64) -> Duration {
        self.done = self.done.saturating_add(1);
        policy.span(self.done, random)
    }

    /// The wait that the server asked for, exactly; `None` if it is longer than a second or than what is left, and the
    /// answer should go to the caller instead. The retry after this one waits as if it were the first.
    pub fn hinted(&mut self, hint: Duration, left: Option<Duration>) -> Option<Duration> {
        self.done = 0;
        let longest = left.map_or(LONGEST_HINT, |left| left.min(LONGEST_HINT));
        (hint <= longest).then_some(hint)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn the_span_doubles_to_the_maximum() {
        let policy = BackoffPolicy::default();
        assert_eq!(policy.validate(), Ok(()));
        for (n, span) in [(1, 25), (2, 50), (3, 100), (4, 200), (5, 250), (6, 250), (33, 250), (u32::MAX, 250)] {
            assert_eq!(policy.nominal(n), ms(span), "retry {n}");
        }
    }

    #[test]
    fn full_jitter_covers_everything_from_nothing_to_the_nominal_span() {
        let policy = BackoffPolicy::default();
        let spans: Vec<_> = (0..10_000).map(|seed| policy.span(3, seed)).collect();
        assert!(spans.iter().all(|span| *span < ms(100)));
        let mean = spans.iter().sum::<Duration>() / 10_000;
        assert!((ms(49)..ms(51)).contains(&mean), "{mean:?}");
        assert!(spans.iter().any(|span| *span < ms(1)) && spans.iter().any(|span| *span > ms(99)));
    }

    /// The table of `grpc_a6_retry.backoff`.
    #[test]
    fn grpcs_jitter_stays_within_a_fifth() {
        let policy = BackoffPolicy { initial: ms(100), max: ms(1000), jitter: Jitter::Fifth };
        for (n, least, most) in [(1, 80, 120), (2, 160, 240), (3, 320, 480), (4, 640, 960), (5, 800, 1200)] {
            let spans: Vec<_> = (0..10_000).map(|seed| policy.span(n, seed)).collect();
            assert!(spans.iter().all(|span| (ms(least)..=ms(most)).contains(span)), "retry {n}");
            let width = ms(most - least);
            assert!(*spans.iter().min().unwrap() < ms(least) + width / 100);
            assert!(*spans.iter().max().unwrap() > ms(most) - width / 100);
        }
    }

    #[test]
    fn a_hint_is_taken_exactly_or_not_at_all_and_begins_anew() {
        let policy = BackoffPolicy { initial: ms(100), max: ms(1000), jitter: Jitter::Fifth };
        let mut backoff = Backoff::default();
        for _ in 0..4 {
            backoff.next(&policy, 1);
        }
        assert_eq!(backoff.hinted(ms(300), Some(ms(500))), Some(ms(300)));
        assert!(backoff.next(&policy, 1) <= ms(120));
        assert_eq!(backoff.hinted(ms(501), Some(ms(500))), None);
        assert_eq!(backoff.hinted(ms(1000), None), Some(ms(1000)));
        assert_eq!(backoff.hinted(ms(1001), None), None);
    }

    #[test]
    fn every_broken_bound_is_named() {
        let bad = BackoffPolicy { initial: Duration::ZERO, max: ms(60_001), jitter: Jitter::Full };
        let fields: Vec<_> = bad.validate().err().unwrap_or_default().into_iter().map(|fault| fault.0).collect();
        assert_eq!(fields, ["initial", "max"]);
    }

    proptest! {
        #[test]
        fn no_span_exceeds_the_maximum_by_more_than_its_jitter(
            initial in 1u64..10_000, more in 0u64..50_000, n: u32, random: u64, fifth: bool,
        ) {
            let jitter = if fifth { Jitter::Fifth } else { Jitter::Full };
            let policy = BackoffPolicy { initial: ms(initial), max: ms(initial + more), jitter };
            prop_assert!(policy.span(n, random) <= policy.max.mul_f64(1.2));
        }
    }
}
