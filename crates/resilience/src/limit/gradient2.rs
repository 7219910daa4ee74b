//! Netflix concurrency-limits' `Gradient2`: the limit follows the ratio of the long-term to the present latency.
//!
//! Worker-owned. As an option only: in simulation it fell to 4 % goodput where six of ten instances had died (O2, one
//! caller) and the queue guard kept 39 of a possible 40.

use std::time::Duration;

#[derive(Clone, PartialEq, Debug)]
pub struct Gradient2Config {
    /// Default 20.
    pub initial: f64,
    /// Default 20.
    pub min: f64,
    /// Default 200.
    pub max: f64,
    /// Weight of a new limit, 0..1. Default 0.2.
    pub smoothing: f64,
    /// Requests that may queue. Default 4.
    pub queue: f64,
    /// Samples that the long-term latency looks back. Default 600.
    pub long_window: u32,
    /// The long-term latency is a plain mean up to so many samples. Default 10.
    pub warmup: u32,
    /// The present latency may be so many times the long-term one before the limit falls. Default 1.5.
    pub tolerance: f64,
}

impl Default for Gradient2Config {
    fn default() -> Self {
        let (initial, min, max, smoothing, queue) = (20.0, 20.0, 200.0, 0.2, 4.0);
        Gradient2Config { initial, min, max, smoothing, queue, long_window: 600, warmup: 10, tolerance: 1.5 }
    }
}

#[derive(Clone, Debug)]
pub struct Gradient2 {
    config: Gradient2Config,
    limit: f64,
    long: f64,
    sum: f64,
    samples: u32,
}

impl Gradient2 {
    pub fn new(config: Gradient2Config) -> Gradient2 {
        let limit = config.initial;
        Gradient2 { config, limit, long: 0.0, sum: 0.0, samples: 0 }
    }

    /// Goes on under other settings with what it has learnt, within their bounds.
    pub fn reconfigure(&mut self, config: Gradient2Config) {
        self.limit = self.limit.min(config.max).max(config.min);
        self.config = config;
    }

    /// One answer; `inflight`: how many there were when it was sent. The limit after it.
    pub fn sample(&mut self, latency: Duration, inflight: u32) -> u32 {
        let short = (latency.as_nanos() as f64).max(1.0);
        let long = self.remember(short);
        // A long-term latency from a bad time must not excuse the next one.
        if long / short > 2.0 {
            self.long *= 0.95;
        }
        let c = &self.config;
        if f64::from(inflight) >= self.limit / 2.0 {
            let gradient = (c.tolerance * long / short).clamp(0.5, 1.0);
            let next = self.limit * gradient + c.queue;
            let smooth = self.limit * (1.0 - c.smoothing) + next * c.smoothing;
            self.limit = smooth.min(c.max).max(c.min);
        }
        self.limit()
    }

    pub fn limit(&self) -> u32 {
        self.limit as u32
    }

    fn remember(&mut self, sample: f64) -> f64 {
        if self.samples < self.config.warmup {
            self.samples += 1;
            self.sum += sample;
            self.long = self.sum / f64::from(self.samples);
        } else {
            let weight = 2.0 / (f64::from(self.config.long_window) + 1.0);
            self.long = self.long * (1.0 - weight) + sample * weight;
        }
        self.long
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(samples: impl IntoIterator<Item = (u64, u32)>) -> Vec<u32> {
        let mut limit = Gradient2::new(Gradient2Config::default());
        samples.into_iter().map(|(ms, inflight)| limit.sample(Duration::from_millis(ms), inflight)).collect()
    }

    /// The three sequences of `concurrency_limits.gradient2`.
    #[test]
    fn a_steady_latency_lets_the_limit_grow() {
        let expected = [20, 21, 22, 23, 24, 24, 25, 26, 27, 28, 28, 29, 30, 31, 32, 32, 33, 34, 35, 36];
        assert_eq!(limits([(10, 20); 20]), expected);
    }

    #[test]
    fn four_times_the_latency_makes_it_shrink() {
        let expected = [
            20, 21, 22, 23, 24, 24, 25, 26, 27, 28, 28, 29, 30, 31, 32, 29, 27, 25, 23, 22, 20, 20, 20, 20, 20, 20, 20,
            20, 20, 20,
        ];
        assert_eq!(limits([(10, 50); 15].into_iter().chain([(40, 100); 15])), expected);
    }

    #[test]
    fn a_caller_that_needs_less_does_not_make_it_grow() {
        assert_eq!(limits([(10, 5); 5]), [20; 5]);
    }

    #[test]
    fn a_bad_time_is_forgotten_fast() {
        let mut limit = Gradient2::new(Gradient2Config::default());
        for ms in [1000; 20].into_iter().chain([10; 100]) {
            limit.sample(Duration::from_millis(ms), 100);
        }
        // By the window of 600 samples alone it would still be some 700.
        assert!(limit.long < 50e6, "{}", limit.long);
    }

    #[test]
    fn no_latency_takes_it_out_of_its_bounds() {
        let mut limit = Gradient2::new(Gradient2Config::default());
        for (nanos, inflight) in [(0, 1000), (u64::MAX, 1000), (1, 1000), (u64::MAX, 0)] {
            for _ in 0..200 {
                assert!((20..=200).contains(&limit.sample(Duration::from_nanos(nanos), inflight)));
            }
        }
    }
}
