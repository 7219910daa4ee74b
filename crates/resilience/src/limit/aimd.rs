//! Netflix concurrency-limits' AIMD: one more while it is needed, a tenth less at every drop. Worker-owned; an option.

use std::time::Duration;

use super::Served;

#[derive(Clone, PartialEq, Debug)]
pub struct AimdConfig {
    /// Default 20.
    pub initial: u32,
    /// Default 20.
    pub min: u32,
    /// Default 200.
    pub max: u32,
    /// What a drop leaves, 0.5..1. Default 0.9.
    pub backoff: f64,
    /// An answer slower than this is a drop. Default 5 s.
    pub timeout: Duration,
}

impl Default for AimdConfig {
    fn default() -> Self {
        AimdConfig { initial: 20, min: 20, max: 200, backoff: 0.9, timeout: Duration::from_secs(5) }
    }
}

#[derive(Clone, Debug)]
pub struct Aimd {
    config: AimdConfig,
    limit: u32,
}

impl Aimd {
    pub fn new(config: AimdConfig) -> Aimd {
        let limit = config.initial.min(config.max).max(config.min);
        Aimd { config, limit }
    }

    /// Goes on under other settings with what it has learnt, within their bounds.
    pub fn reconfigure(&mut self, config: AimdConfig) {
        self.limit = self.limit.min(config.max).max(config.min);
        self.config = config;
    }

    /// One request that is over; `inflight`: how many there were when it was sent. The limit after it.
    pub fn sample(&mut self, latency: Duration, inflight: u32, served: Served) -> u32 {
        let next = if served == Served::Dropped || latency > self.config.timeout {
            (f64::from(self.limit) * self.config.backoff) as u32
        } else if inflight.saturating_mul(2) >= self.limit {
            self.limit.saturating_add(1)
        } else {
            self.limit
        };
        self.limit = next.min(self.config.max).max(self.config.min);
        self.limit
    }

    pub fn limit(&self) -> u32 {
        self.limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn it_adds_one_while_needed_and_takes_a_tenth_at_a_drop() {
        let mut limit = Aimd::new(AimdConfig::default());
        assert_eq!(limit.sample(MS, 9, Served::InTime), 20, "half is not needed");
        assert_eq!(limit.sample(MS, 10, Served::InTime), 21);
        for _ in 0..200 {
            limit.sample(MS, 200, Served::InTime);
        }
        assert_eq!(limit.limit(), 200);
        assert_eq!(limit.sample(MS, 200, Served::Dropped), 180);
        assert_eq!(limit.sample(Duration::from_secs(6), 200, Served::InTime), 162, "slower than the timeout");
        for _ in 0..100 {
            limit.sample(MS, 200, Served::Dropped);
        }
        assert_eq!(limit.limit(), 20);
    }
}
