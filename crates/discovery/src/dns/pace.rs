//! When a name is asked again. Pure: time is a duration from now, randomness a seed.
//!
//! Invariant: never sooner than half a second after an answer, and after a failure never later than `refresh` and a tenth.

use super::question::Round;
use std::time::Duration;

/// The soonest next question, however short the TTL: a TTL of 0 means "do not keep", not "ask without end".
const LEAST: Duration = Duration::from_secs(1);

pub(super) struct Pace {
    refresh: Duration,
    random: u64,
    /// Failures in a row.
    failures: u32,
}

impl Pace {
    pub(super) fn new(refresh: Duration, seed: u64) -> Self {
        Self { refresh, random: seed, failures: 0 }
    }

    /// After a good answer; one that lacks a part is asked for again as after a failure.
    pub(super) fn after(&mut self, round: &Round) -> Duration {
        if round.lacking.is_some() {
            return self.after_failure();
        }
        self.failures = 0;
        self.jittered(round.ttl.min(self.refresh).max(LEAST))
    }

    /// 1 s, 2 s, 4 s and so on up to `refresh`.
    pub(super) fn after_failure(&mut self) -> Duration {
        let backoff = LEAST.saturating_mul(1 << self.failures.min(12));
        self.failures = self.failures.saturating_add(1);
        self.jittered(backoff.min(self.refresh.max(LEAST)))
    }

    /// Within a tenth.
    fn jittered(&mut self, pause: Duration) -> Duration {
        // SplitMix64 (Steele, Lea, Flood 2014)
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        pause.mul_f64((900 + (z ^ (z >> 31)) % 201) as f64 / 1000.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn round(ttl: u64) -> Round {
        Round { found: BTreeMap::new(), ttl: Duration::from_secs(ttl), lacking: None }
    }

    #[track_caller]
    fn about(pause: Duration, seconds: f64) {
        let got = pause.as_secs_f64();
        assert!((seconds * 0.899..=seconds * 1.101).contains(&got), "{got} is not about {seconds}");
    }

    #[test]
    fn the_shorter_of_ttl_and_refresh_decides_and_a_second_is_the_least() {
        let mut pace = Pace::new(Duration::from_secs(30), 1);
        for (ttl, wanted) in [(5, 5.0), (300, 30.0), (0, 1.0)] {
            about(pace.after(&round(ttl)), wanted);
        }
    }

    #[test]
    fn failures_back_off_to_refresh_and_an_answer_forgets_them() {
        let mut pace = Pace::new(Duration::from_secs(10), 1);
        for wanted in [1.0, 2.0, 4.0, 8.0, 10.0, 10.0, 10.0] {
            about(pace.after_failure(), wanted);
        }
        about(pace.after(&round(60)), 10.0);
        about(pace.after_failure(), 1.0);
        // half an answer is asked for again as a failure is
        about(pace.after(&Round { lacking: Some("AAAA: SERVFAIL".into()), ..round(60) }), 2.0);
    }

    #[test]
    fn the_same_pause_is_jittered_differently_each_time() {
        let mut pace = Pace::new(Duration::from_secs(10), 1);
        let pauses: std::collections::BTreeSet<Duration> = (0..100).map(|_| pace.after(&round(60))).collect();
        assert!(pauses.len() > 50, "{} different", pauses.len());
    }
}
