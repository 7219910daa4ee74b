//! Whether to send a second copy before the first has failed.
//!
//! Opt-in: after the service's 95th percentile, at least 10 ms, one copy more goes to another instance; a failure that
//! is not final sends it at once (gRFC A6, "Hedging Policy"). Each copy costs a token of the retry budget, and the slower
//! one is cancelled and counts as ignored. Only what may be repeated and is still whole is hedged.
//!
//! Owned by the exchange. It says when a copy is due; it sets no timer.

use std::time::Duration;

use super::repeat::Repeat;
use crate::hint::Pushback;
use crate::time::Time;

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct HedgePolicy {
    /// Copies beside the first. 0..4, default 0: off. More than one is gRPC's, not ours.
    pub extra: u8,
    /// No copy earlier than this, whatever the percentile. At least 1 ms, default 10 ms.
    pub min_delay: Duration,
}

impl Default for HedgePolicy {
    fn default() -> Self {
        HedgePolicy { extra: 0, min_delay: Duration::from_millis(10) }
    }
}

impl HedgePolicy {
    /// Every bound that is broken, as `(field, message)`.
    pub fn validate(&self) -> Result<(), Vec<(&'static str, String)>> {
        let mut faults = Vec::new();
        if self.extra > 4 {
            faults.push(("extra", format!("must be 0..4, got {}", self.extra)));
        }
        if self.min_delay < Duration::from_millis(1) {
            faults.push(("min_delay", format!("must be at least 1ms, got {:?}", self.min_delay)));
        }
        if faults.is_empty() { Ok(()) } else { Err(faults) }
    }
}

/// One exchange that may be hedged.
#[derive(Clone, Copy, Debug)]
pub struct Hedge {
    delay: Duration,
    left: u8,
    due: Time,
}

impl Hedge {
    /// For a whole request whose first copy was sent at `now`. `None`: not to be hedged, because it is off, not
    /// repeatable, or the percentile is not known yet.
    pub fn new(policy: &HedgePolicy, repeat: Repeat, p95: Option<Duration>, now: Time) -> Option<Hedge> {
        if policy.extra == 0 || repeat != Repeat::Idempotent {
            return None;
        }
        let delay = p95?.max(policy.min_delay);
        Some(Hedge { delay, left: policy.extra, due: now + delay })
    }

    /// When the next copy is to be sent; `None` if none is.
    pub fn due(&self) -> Option<Time> {
        (self.left > 0).then_some(self.due)
    }

    /// A copy was sent.
    pub fn sent(&mut self, now: Time) {
        self.left = self.left.saturating_sub(1);
        self.due = now + self.delay;
    }

    /// A copy failed in a way that another may mend: the next is due at once, or when the server says.
    pub fn failed(&mut self, pushback: Option<Pushback>, now: Time) {
        match pushback {
            None => self.due = now,
            Some(Pushback::After(span)) => self.due = now + span,
            Some(Pushback::DoNotRetry) => self.stop(),
        }
    }

    /// No further copy: an answer came, the budget is empty, or no other instance is left.
    pub fn stop(&mut self) {
        self.left = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Time {
        Time(ms * 1_000_000)
    }

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    fn begin(extra: u8) -> Hedge {
        let policy = HedgePolicy { extra, ..HedgePolicy::default() };
        Hedge::new(&policy, Repeat::Idempotent, Some(ms(500)), at(0)).unwrap()
    }

    /// Sends every copy when it is due, up to one that fails at `failure`.
    fn sent_at(mut hedge: Hedge, failure: Option<u64>) -> Vec<u64> {
        let mut sent = vec![0];
        let mut failure = failure.map(at);
        while let Some(due) = hedge.due() {
            match failure.take() {
                Some(failed) if failed < due => hedge.failed(None, failed),
                other => {
                    failure = other;
                    hedge.sent(due);
                    sent.push(due.millis());
                }
            }
        }
        sent
    }

    /// The two cases of `grpc_a6_retry.hedging`.
    #[test]
    fn copies_are_due_as_a6_says() {
        assert_eq!(sent_at(begin(3), None), [0, 500, 1000, 1500]);
        assert_eq!(sent_at(begin(3), Some(100)), [0, 100, 600, 1100]);
    }

    #[test]
    fn ours_sends_one_copy_more() {
        assert_eq!(sent_at(begin(1), None), [0, 500]);
    }

    #[test]
    fn pushback_delays_the_next_copy_or_stops_them() {
        let mut hedge = begin(3);
        hedge.failed(Some(Pushback::After(ms(250))), at(100));
        assert_eq!(hedge.due(), Some(at(350)));
        hedge.failed(Some(Pushback::DoNotRetry), at(200));
        assert_eq!(hedge.due(), None);
    }

    #[test]
    fn only_what_may_be_repeated_is_hedged_and_only_once_the_percentile_is_known() {
        let on = HedgePolicy { extra: 1, ..HedgePolicy::default() };
        assert!(Hedge::new(&HedgePolicy::default(), Repeat::Idempotent, Some(ms(5)), at(0)).is_none());
        assert!(Hedge::new(&on, Repeat::Unsafe, Some(ms(5)), at(0)).is_none());
        assert!(Hedge::new(&on, Repeat::Idempotent, None, at(0)).is_none());
        let hedge = Hedge::new(&on, Repeat::Idempotent, Some(ms(5)), at(0)).unwrap();
        assert_eq!(hedge.due(), Some(at(10)), "ten milliseconds at least");
    }

    #[test]
    fn every_broken_bound_is_named() {
        let bad = HedgePolicy { extra: 5, min_delay: Duration::ZERO };
        let fields: Vec<_> = bad.validate().err().unwrap_or_default().into_iter().map(|fault| fault.0).collect();
        assert_eq!(fields, ["extra", "min_delay"]);
        assert_eq!(HedgePolicy::default().validate(), Ok(()));
    }
}
