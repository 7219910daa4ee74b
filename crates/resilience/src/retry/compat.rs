//! Other systems' rules, for who brings their settings along.

use super::decision::MAX_ATTEMPTS;

/// Envoy's bound on retries at once: so many percent of the active requests, but at least `min`.
pub fn max_active_retries(active: u32, percent: u32, min: u32) -> u32 {
    let share = u64::from(active) * u64::from(percent) / 100;
    u32::try_from(share).unwrap_or(u32::MAX).max(min)
}

/// How many attempts a gRPC service config's `maxAttempts` means: `None` below 2, which A6 calls invalid, and 5 at most.
pub fn a6_attempts(configured: u32) -> Option<u8> {
    (configured >= 2).then(|| configured.min(u32::from(MAX_ATTEMPTS)) as u8)
}

/// gRPC's retry throttle (gRFC A6): failures cost one token, successes pay a part of one, and more than half of the
/// tokens must be there. Worker-owned. Our own rule is [`Budget`](super::Budget).
#[derive(Clone, Debug)]
pub struct A6Throttle {
    /// Thousandths, as A6 keeps them.
    tokens: u32,
    max: u32,
    ratio: u32,
}

impl A6Throttle {
    /// `max_tokens` 1..1000 tokens, `ratio_milli` thousandths of a token for each success; both clamped.
    pub fn new(max_tokens: u32, ratio_milli: u32) -> A6Throttle {
        let max = max_tokens.clamp(1, 1000) * 1000;
        A6Throttle { tokens: max, max, ratio: ratio_milli.clamp(1, 1_000_000) }
    }

    pub fn succeeded(&mut self) {
        self.tokens = (self.tokens + self.ratio).min(self.max);
    }

    pub fn failed(&mut self) {
        self.tokens = self.tokens.saturating_sub(1000);
    }

    pub fn allows_retries(&self) -> bool {
        self.tokens > self.max / 2
    }

    /// Thousandths of a token.
    pub fn tokens(&self) -> u32 {
        self.tokens
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table of `envoy.retry_budget`; pending requests are none in it.
    #[test]
    fn envoys_bound_is_met() {
        let table = [(0, 3), (5, 3), (15, 3), (16, 3), (20, 4), (100, 20), (1000, 200)];
        for (active, most) in table {
            assert_eq!(max_active_retries(active, 20, 3), most, "{active} active");
        }
        assert_eq!(max_active_retries(u32::MAX, u32::MAX, 3), u32::MAX);
    }

    /// The table of `grpc_a6_retry.max_attempts`.
    #[test]
    fn a6s_attempts_are_two_to_five() {
        for (configured, attempts) in [(0, None), (1, None), (2, Some(2)), (5, Some(5)), (6, Some(5)), (100, Some(5))] {
            assert_eq!(a6_attempts(configured), attempts);
        }
    }

    fn run(ratio_milli: u32, steps: &str, tokens: &[u32], allowed: &str) {
        let mut throttle = A6Throttle::new(10, ratio_milli);
        for (i, step) in steps.bytes().enumerate() {
            if step == b'F' {
                throttle.failed()
            } else {
                throttle.succeeded()
            }
            assert_eq!(throttle.tokens(), tokens[i], "step {i}");
            assert_eq!(throttle.allows_retries(), allowed.as_bytes()[i] == b'y', "step {i}");
        }
    }

    /// The first sequence of `grpc_a6_retry.throttle`: ten tokens, a tenth for each success.
    #[test]
    fn a6s_throttle_closes_at_half_and_opens_above_it() {
        let tokens =
            [9000, 8000, 7000, 6000, 5000, 5100, 5200, 5300, 5400, 5500, 5600, 5700, 5800, 5900, 6000, 6100, 5100];
        run(100, "FFFFFSSSSSSSSSSSF", &tokens, "yyyynyyyyyyyyyyyy");
    }

    /// The second: half a token for each success.
    #[test]
    fn a6s_throttle_neither_falls_below_nothing_nor_forgets_how_deep_it_was() {
        let tokens = [
            9000, 9500, 8500, 9000, 8000, 8500, 7500, 8000, 7000, 6000, 5000, 4000, 3000, 2000, 1000, 0, 0, 0, 0, 0,
            500, 1000, 1500, 2000, 2500, 3000, 3500, 4000, 4500, 5000, 5500, 6000,
        ];
        run(500, "FSFSFSFSFFFFFFFFFFFFSSSSSSSSSSSS", &tokens, "yyyyyyyyyynnnnnnnnnnnnnnnnnnnnyy");
    }
}
