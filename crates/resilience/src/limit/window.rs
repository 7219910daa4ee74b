//! What the guard measures between two decisions: latencies, completions, how many were in flight.

use std::time::Duration;

use crate::time::{Time, nanos};

/// Latencies kept for the quantile. Beyond that every second one is kept, then every fourth: still spread evenly over
/// the window, and still no memory.
const KEPT: usize = 256;

pub(super) struct Window {
    kept: [u64; KEPT],
    len: usize,
    /// Every so many-th sample is kept.
    stride: u64,
    pub(super) samples: u64,
    sum: u128,
    /// Answers, whether they are samples or not.
    pub(super) completed: u64,
    /// Of those: nobody waited for them any more.
    pub(super) in_vain: u64,
    /// How long those stayed, nanoseconds in all.
    stayed: u128,
    pub(super) began: Time,
    /// Most in flight.
    pub(super) peak: u32,
    /// Somebody was queued or refused: the limit was in the way.
    pub(super) limit_hit: bool,
}

/// A window that is over.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct Measured {
    /// Lower quartile: what a request costs when it does not wait, even while most do.
    pub(super) low: u64,
    pub(super) mean: u64,
    /// Completions in a second.
    pub(super) rate: f64,
}

impl Window {
    pub(super) fn new(now: Time, inflight: u32) -> Window {
        Window {
            kept: [0; KEPT],
            len: 0,
            stride: 1,
            samples: 0,
            sum: 0,
            completed: 0,
            in_vain: 0,
            stayed: 0,
            began: now,
            peak: inflight,
            limit_hit: false,
        }
    }

    pub(super) fn restart(&mut self, now: Time, inflight: u32) {
        (self.len, self.stride, self.samples, self.sum, self.completed) = (0, 1, 0, 0, 0);
        (self.in_vain, self.stayed) = (0, 0);
        (self.began, self.peak, self.limit_hit) = (now, inflight, false);
    }

    pub(super) fn sample(&mut self, latency: Duration) {
        let latency = nanos(latency);
        if self.samples.is_multiple_of(self.stride) {
            if self.len == KEPT {
                (0..KEPT / 2).for_each(|i| self.kept[i] = self.kept[2 * i]);
                self.len = KEPT / 2;
                self.stride *= 2;
            }
            // The halving may have made this one no longer due.
            if self.samples.is_multiple_of(self.stride) {
                self.kept[self.len] = latency;
                self.len += 1;
            }
        }
        self.samples += 1;
        self.sum += u128::from(latency);
    }

    /// An answer, whether it is a sample or not.
    pub(super) fn complete(&mut self, stayed: Duration, in_vain: u64) {
        self.completed += 1;
        self.in_vain += in_vain;
        self.stayed += u128::from(nanos(stayed));
    }

    /// How long those that were answered stayed on average, also those that are no samples.
    pub(super) fn mean_stay(&self) -> u64 {
        (self.stayed / u128::from(self.completed.max(1))) as u64
    }

    /// `None` without a sample.
    pub(super) fn measure(&mut self, now: Time) -> Option<Measured> {
        if self.len == 0 {
            return None;
        }
        let quarter = self.len / 4;
        let (_, low, _) = self.kept[..self.len].select_nth_unstable(quarter);
        let mean = (self.sum / u128::from(self.samples)) as u64;
        Some(Measured { low: *low, mean, rate: self.rate(now) })
    }

    pub(super) fn rate(&self, now: Time) -> f64 {
        self.completed as f64 / now.since(self.began).as_secs_f64().max(1e-3)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(n: u64) -> Window {
        let mut window = Window::new(Time(0), 0);
        // Spread the order, so that keeping the first of them would be noticed.
        (0..n).for_each(|i| window.sample(Duration::from_nanos((i * 7919) % n)));
        window.completed = n;
        window
    }

    #[test]
    fn the_lower_quartile_is_exact_while_all_samples_fit() {
        let measured = filled(200).measure(Time(2_000_000_000)).unwrap();
        assert_eq!(measured, Measured { low: 50, mean: 99, rate: 100.0 });
    }

    #[test]
    fn beyond_that_it_is_near_and_the_mean_still_exact() {
        for n in [257, 1000, 65_537, 1_000_003] {
            let measured = filled(n).measure(Time(1_000_000_000)).unwrap();
            assert_eq!(measured.mean, (n - 1) / 2);
            let off = measured.low.abs_diff(n / 4) as f64 / n as f64;
            assert!(off < 0.08, "{n}: {}", measured.low);
        }
    }

    #[test]
    fn an_empty_window_measures_nothing() {
        assert_eq!(Window::new(Time(0), 3).measure(Time(1)), None);
    }
}
