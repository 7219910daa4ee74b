//! How many clean probes an instance owes before it is trusted again.
//!
//! Decides from the evidence that opened the circuit: an instance that failed half its calls passes three probes by
//! luck one time in eight, and five one time in thirty-two, so it owes more. It deliberately knows nothing of time or
//! of permits. Invariant: a round ends after at most [`MAX_PROBES`] results.
//!
//! Two hypotheses are compared: *still as bad as at the trip* (failure rate `f`) and *as good as its peers* (`m`).

/// A round is decided by this many results at the latest.
pub(crate) const MAX_PROBES: u8 = 20;
const MIN_PROBES: u8 = 3;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Verdict {
    Pass,
    Fail,
    Undecided,
}

/// Clean probes that close the circuit if none fails: `ceil(ln 0.05 / ln(1 - rate))` within 3..20.
pub(crate) fn need(rate: f64) -> u8 {
    if rate >= 1.0 {
        return MIN_PROBES;
    }
    if rate <= 0.0 {
        return MAX_PROBES;
    }
    let exact = (0.05_f64.ln() / (1.0 - rate).ln()).ceil();
    exact.clamp(f64::from(MIN_PROBES), f64::from(MAX_PROBES)) as u8
}

/// The verdict after `ok + fail` probes, the last of which was a failure or not.
///
/// `tripped_at` is the failure rate that opened the circuit, `peers` the lower median of the closed peers' rates.
pub(crate) fn verdict(ok: u8, fail: u8, last_failed: bool, tripped_at: f64, peers: f64) -> Verdict {
    let n = ok + fail;
    let m = peers.clamp(0.005, 0.9);
    let f = tripped_at.min(0.95).max(m + 0.1).min(0.99);
    if n >= MIN_PROBES && at_most(fail, n, f) <= 0.05 {
        return Verdict::Pass;
    }
    if last_failed && at_least(fail, n, m) <= 0.01 {
        return Verdict::Fail;
    }
    if n < MAX_PROBES {
        return Verdict::Undecided;
    }
    // The geometric mean of the two rates is where the likelihoods cross, near enough.
    if f64::from(fail) < f64::from(n) * (f * m).sqrt() { Verdict::Pass } else { Verdict::Fail }
}

/// P(X <= c) for X binomial (n, p).
fn at_most(c: u8, n: u8, p: f64) -> f64 {
    let (mut term, mut sum) = ((1.0 - p).powi(i32::from(n)), 0.0);
    for i in 0..=c {
        sum += term;
        term *= f64::from(n - i.min(n)) / f64::from(i + 1) * p / (1.0 - p);
    }
    sum
}

/// P(X >= c) for X binomial (n, p).
fn at_least(c: u8, n: u8, p: f64) -> f64 {
    if c == 0 { 1.0 } else { 1.0 - at_most(c - 1, n, p) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEED: [(f64, u8); 12] = [
        (1.0, 3),
        (0.9, 3),
        (0.75, 3),
        (0.63, 4),
        (0.5, 5),
        (0.4, 6),
        (0.3, 9),
        (0.25, 11),
        (0.2, 14),
        (0.15, 19),
        (0.1, 20),
        (0.05, 20),
    ];

    #[test]
    fn clean_probes_needed_follow_the_failure_rate_at_the_trip() {
        for (rate, expected) in NEED {
            assert_eq!(need(rate), expected, "{rate}");
        }
    }

    #[test]
    fn a_round_without_failures_passes_after_exactly_the_probes_needed() {
        for (rate, expected) in NEED {
            for n in 1..expected {
                assert_eq!(verdict(n, 0, false, rate, 0.0), Verdict::Undecided, "{rate} {n}");
            }
            assert_eq!(verdict(expected, 0, false, rate, 0.0), Verdict::Pass, "{rate}");
        }
    }

    #[test]
    fn one_failed_probe_ends_the_round_where_peers_do_not_fail() {
        assert_eq!(verdict(0, 1, true, 1.0, 0.0), Verdict::Fail);
        assert_eq!(verdict(1, 1, true, 0.5, 0.0), Verdict::Fail);
    }

    #[test]
    fn one_failed_probe_is_forgiven_where_peers_fail_too() {
        assert_eq!(verdict(1, 1, true, 0.5, 0.05), Verdict::Undecided);
    }

    #[test]
    fn every_round_is_decided_at_twenty() {
        for fail in 0..=20 {
            for rate in [0.05, 0.15, 0.5, 1.0] {
                for peers in [0.0, 0.05, 0.5, 1.0] {
                    assert_ne!(verdict(20 - fail, fail, fail > 0, rate, peers), Verdict::Undecided);
                }
            }
        }
    }

    /// Exact chance of passing a round, by following every path.
    fn pass_chance(truth: f64, tripped_at: f64, peers: f64) -> f64 {
        let mut alive = vec![vec![0.0; 22]; 22];
        alive[0][0] = 1.0;
        let mut passed = 0.0;
        for n in 0..20_u8 {
            for fail in 0..=n {
                let mass = alive[usize::from(n - fail)][usize::from(fail)];
                for (failed, share) in [(true, truth), (false, 1.0 - truth)] {
                    let (ok, fail) = (n - fail + u8::from(!failed), fail + u8::from(failed));
                    match verdict(ok, fail, failed, tripped_at, peers) {
                        Verdict::Pass => passed += mass * share,
                        Verdict::Fail => {}
                        Verdict::Undecided => alive[usize::from(ok)][usize::from(fail)] += mass * share,
                    }
                }
            }
        }
        passed
    }

    #[test]
    fn with_five_percent_errors_everywhere_the_healthy_pass_and_the_half_broken_do_not() {
        for tripped_at in [0.3, 0.5, 0.75, 1.0] {
            let healthy = pass_chance(0.05, tripped_at, 0.05);
            assert!(healthy > 0.9, "healthy at {tripped_at}: {healthy}");
        }
        let broken = pass_chance(0.5, 0.5, 0.05);
        assert!(broken < 0.07, "half-broken: {broken}");
    }
}
