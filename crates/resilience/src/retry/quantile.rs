//! A quantile of a stream of latencies in one word.
//!
//! Each sample moves the estimate up by the quantile's share of a step, or down by the rest, relative to itself; it rests
//! where the quantile's share of the samples lies below. A step is 5 %, more for the first twenty samples. It forgets
//! by samples, not by time: hedging and the time that a retry needs are both asked per request. Ten times slower is
//! believed after some sixty samples above it; ten times faster after some thousand (p95) or a hundred (p50).
//!
//! Shared between threads; a sample that loses a race is lost, like any single sample.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::time::nanos;

/// Below this many samples the estimate says nothing.
const ENOUGH: u32 = 20;
const STEP: f32 = 0.05;

pub struct Quantile {
    /// 0..1.
    share: f32,
    /// `nanoseconds as f32 : 32 | samples : 32`.
    word: AtomicU64,
}

impl Quantile {
    /// `percent`: 1..99, clamped.
    pub fn new(percent: u8) -> Quantile {
        Quantile { share: f32::from(percent.clamp(1, 99)) / 100.0, word: AtomicU64::new(0) }
    }

    pub fn sample(&self, latency: Duration) {
        let sample = (nanos(latency) as f32).max(1.0);
        let seen = self.word.load(Relaxed);
        let (value, count) = (f32::from_bits((seen >> 32) as u32), seen as u32);
        let step = STEP.max(1.0 / (count as f32 + 1.0));
        let next = match count {
            0 => sample,
            _ if sample > value => value * (1.0 + step * self.share),
            _ => (value * (1.0 - step * (1.0 - self.share))).max(1.0),
        };
        let word = u64::from(next.to_bits()) << 32 | u64::from(count.saturating_add(1));
        let _ = self.word.compare_exchange(seen, word, Relaxed, Relaxed);
    }

    /// `None` below twenty samples.
    pub fn estimate(&self) -> Option<Duration> {
        let seen = self.word.load(Relaxed);
        (seen as u32 >= ENOUGH).then(|| Duration::from_nanos(f32::from_bits((seen >> 32) as u32) as u64))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::time::mix;

    fn ms(n: f64) -> Duration {
        Duration::from_secs_f64(n / 1000.0)
    }

    /// Exponential with mean 10 ms: its median is 6.93 ms, its 95th percentile 29.96 ms.
    fn exponential(seed: u64) -> Duration {
        let unit = (mix(seed) >> 11) as f64 / (1u64 << 53) as f64;
        ms(-10.0 * (1.0 - unit).ln())
    }

    /// Mean of the estimate over many moments, in milliseconds.
    fn settles_at(percent: u8) -> f64 {
        let quantile = Quantile::new(percent);
        let mut sum = 0.0;
        for seed in 0..50_000 {
            quantile.sample(exponential(seed));
            if seed >= 10_000 {
                sum += quantile.estimate().unwrap().as_secs_f64() * 1000.0;
            }
        }
        sum / 40_000.0
    }

    #[test]
    fn the_estimate_rests_at_the_quantile() {
        let (p50, p95) = (settles_at(50), settles_at(95));
        assert!((p50 / 6.93 - 1.0).abs() < 0.05, "p50 {p50}");
        assert!((p95 / 29.96 - 1.0).abs() < 0.05, "p95 {p95}");
    }

    #[test]
    fn twenty_samples_are_asked_for() {
        let quantile = Quantile::new(95);
        for _ in 0..19 {
            quantile.sample(ms(5.0));
        }
        assert_eq!(quantile.estimate(), None);
        quantile.sample(ms(5.0));
        assert!(quantile.estimate().is_some());
    }

    #[test]
    fn ten_times_slower_is_believed_within_sixty_samples() {
        let quantile = Quantile::new(95);
        (0..1000).for_each(|_| quantile.sample(ms(10.0)));
        (0..60).for_each(|_| quantile.sample(ms(100.0)));
        let after = quantile.estimate().unwrap();
        assert!(after > ms(90.0) && after < ms(110.0), "{after:?}");
    }

    proptest! {
        #[test]
        fn no_sample_breaks_it(samples in prop::collection::vec(any::<u64>(), 20..200)) {
            let quantile = Quantile::new(95);
            let most = samples.iter().max().copied().unwrap_or(0);
            samples.iter().for_each(|nanos| quantile.sample(Duration::from_nanos(*nanos)));
            let estimate = quantile.estimate().unwrap();
            prop_assert!(estimate <= Duration::from_nanos(most).saturating_mul(2).max(Duration::from_nanos(2)));
        }
    }
}
