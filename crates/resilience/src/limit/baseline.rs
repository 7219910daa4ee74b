//! What the application does when nobody waits: the latencies of the last two minutes' good windows.

use std::time::Duration;

use super::window::Measured;
use crate::time::{Time, nanos};

const MEMORY: Duration = Duration::from_secs(120);
/// A window is at least half a second.
const WINDOWS: usize = 240;

pub(super) struct Baseline {
    /// No queue shorter than this is worth a limit.
    least_target: u64,
    /// `(ended, low, mean)`, in nanoseconds; a ring.
    seen: [(Time, u64, u64); WINDOWS],
    first: usize,
    len: usize,
    /// Least low.
    base: u64,
    /// Median mean.
    mean: u64,
}

impl Baseline {
    pub(super) fn new(least_target: Duration) -> Baseline {
        Baseline {
            least_target: nanos(least_target),
            seen: [(Time(0), 0, 0); WINDOWS],
            first: 0,
            len: 0,
            base: 0,
            mean: 0,
        }
    }

    pub(super) fn retarget(&mut self, least_target: Duration) {
        self.least_target = nanos(least_target);
    }

    /// How much longer than at its best the lower quartile of requests took; 0 while nothing is known.
    pub(super) fn queueing(&self, low: u64) -> u64 {
        if self.len == 0 { 0 } else { low.saturating_sub(self.base) }
    }

    /// How much longer than usual they took on average; 0 while nothing is known.
    pub(super) fn beyond_mean(&self, mean: u64) -> u64 {
        if self.len == 0 { 0 } else { mean.saturating_sub(self.mean) }
    }

    /// How much of that is too much.
    pub(super) fn target(&self) -> u64 {
        self.mean.max(self.least_target)
    }

    /// The mean time that a request takes when nobody waits.
    pub(super) fn mean(&self) -> u64 {
        self.mean
    }

    /// A window without a limit is over; `None` where it was over target, which teaches nothing. What is two minutes old is
    /// forgotten.
    pub(super) fn learn(&mut self, measured: Option<Measured>, now: Time) {
        while self.len > 0 && now.since(self.seen[self.first].0) > MEMORY {
            self.first = (self.first + 1) % WINDOWS;
            self.len -= 1;
        }
        if let Some(measured) = measured {
            if self.len == WINDOWS {
                self.first = (self.first + 1) % WINDOWS;
                self.len -= 1;
            }
            self.seen[(self.first + self.len) % WINDOWS] = (now, measured.low, measured.mean);
            self.len += 1;
        }
        self.weigh();
    }

    /// The application does other work now: begin anew.
    pub(super) fn forget(&mut self) {
        self.len = 0;
        self.weigh();
    }

    fn weigh(&mut self) {
        let mut means = [0; WINDOWS];
        let mut base = u64::MAX;
        for (i, mean) in means[..self.len].iter_mut().enumerate() {
            let (_, low, of_window) = self.seen[(self.first + i) % WINDOWS];
            (*mean, base) = (of_window, base.min(low));
        }
        if self.len == 0 {
            (self.base, self.mean) = (0, 0);
            return;
        }
        let middle = (self.len - 1) / 2;
        let (_, median, _) = means[..self.len].select_nth_unstable(middle);
        (self.base, self.mean) = (base, *median);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn window(low: u64, mean: u64) -> Measured {
        Measured { low: low * MS, mean: mean * MS, rate: 1.0 }
    }

    fn at(seconds: u64) -> Time {
        Time(seconds * 1000 * MS)
    }

    #[test]
    fn the_best_quartile_and_the_median_mean_are_the_baseline() {
        let mut baseline = Baseline::new(Duration::from_millis(100));
        assert_eq!((baseline.queueing(500 * MS), baseline.target()), (0, 100 * MS), "nothing is known yet");
        for (second, low, mean) in [(1, 20, 30), (2, 10, 300), (3, 30, 200)] {
            baseline.learn(Some(window(low, mean)), at(second));
        }
        assert_eq!((baseline.base, baseline.mean(), baseline.target()), (10 * MS, 200 * MS, 200 * MS));
        assert_eq!(baseline.queueing(25 * MS), 15 * MS);
    }

    #[test]
    fn a_window_over_target_teaches_nothing_and_yet_time_goes_on() {
        let mut baseline = Baseline::new(Duration::from_millis(100));
        baseline.learn(Some(window(10, 20)), at(1));
        baseline.learn(None, at(2));
        assert_eq!((baseline.base, baseline.mean(), baseline.beyond_mean(25 * MS)), (10 * MS, 20 * MS, 5 * MS));
        baseline.learn(None, at(200));
        assert_eq!((baseline.len, baseline.queueing(500 * MS), baseline.beyond_mean(500 * MS)), (0, 0, 0));
    }

    #[test]
    fn two_minutes_are_remembered() {
        let mut baseline = Baseline::new(Duration::from_millis(100));
        baseline.learn(Some(window(10, 20)), at(0));
        baseline.learn(Some(window(50, 60)), at(60));
        assert_eq!(baseline.base, 10 * MS);
        baseline.learn(Some(window(51, 61)), at(121));
        assert_eq!(baseline.base, 50 * MS);
        baseline.learn(Some(window(900, 950)), at(1000));
        assert_eq!(baseline.base, 900 * MS, "after a long silence it begins anew");
        for half in 0..10_000 {
            baseline.learn(Some(window(900, 950)), Time(at(1001).0 + half * 500 * MS));
        }
        assert!(baseline.len <= WINDOWS);
    }
}
