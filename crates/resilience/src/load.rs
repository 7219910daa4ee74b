//! How busy and how slow an instance is, and how much of its share it may have yet.
//!
//! Peak EWMA: the estimate jumps up to a slow answer at once and forgets it over ten seconds, so that one stall is
//! believed before its queue is long. One that nothing has renewed for twenty seconds is none: it was a timeout, most
//! likely, that would starve the instance for most of a minute, however well it is by then.
//!
//! The cost of an instance is `max(ewma, silence) x (in flight + 1) / weight`, where silence is how long it has let requests
//! wait without answering any: a lower bound for the wait of the oldest, known long before its timeout is, so that an
//! instance that hangs is avoided within milliseconds instead of after the first second of timeouts. An instance that answers others meanwhile is not silent. It deliberately knows nothing of failures:
//! the caller passes a failed attempt's sample already raised, because an instance that fails fast must not look attractive.
//!
//! An attempt costs three atomic additions, at its begin, its answer and its end: both counts share a word.

use std::f32::consts::LN_2;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::time::{Time, nanos};

const TAU_MS: f32 = 10_000.0;
/// What is older says nothing.
const MAX_AGE_MS: i32 = 20_000;
const MIN_WEIGHT: f64 = 0.1;
const NEVER: u64 = u64::MAX;
/// One attempt in flight, and one without an answer yet, as `attempts` counts them.
const IN_FLIGHT: u64 = 1 << 32;
const WAITING: u64 = 1;

pub(crate) struct Load {
    /// `in flight : 32 | without an answer yet : 32`
    attempts: AtomicU64,
    /// The last answer, or when the first of those that wait began, whichever is later.
    silent_from: AtomicU64,
    /// `nanoseconds as f32 : 32 | millisecond of the last update : 32`; 0 while nothing has been measured.
    ewma: AtomicU64,
    /// When the slow start began.
    ramp_from: AtomicU64,
}

impl Load {
    /// Of an instance in its slow start, which began when it was born.
    pub(crate) fn new(born: Time) -> Load {
        Load {
            attempts: AtomicU64::new(0),
            silent_from: AtomicU64::new(0),
            ewma: AtomicU64::new(0),
            ramp_from: AtomicU64::new(born.0),
        }
    }

    pub(crate) fn enter(&self, now: Time) {
        let before = self.attempts.fetch_add(IN_FLIGHT + WAITING, Relaxed);
        if before as u32 == 0 {
            self.silent_from.store(now.0, Relaxed);
        }
    }

    /// An attempt was answered.
    pub(crate) fn heard(&self, now: Time) {
        self.attempts.fetch_sub(WAITING, Relaxed);
        self.silent_from.store(now.0, Relaxed);
    }

    /// An attempt is over; `heard`: it had been answered.
    pub(crate) fn leave(&self, heard: bool) {
        self.attempts.fetch_sub(if heard { IN_FLIGHT } else { IN_FLIGHT + WAITING }, Relaxed);
    }

    /// How long requests have waited here without any of them being answered, in nanoseconds.
    pub(crate) fn silence(&self, now: Time) -> f32 {
        if self.attempts.load(Relaxed) as u32 == 0 {
            return 0.0;
        }
        nanos(now.since(Time(self.silent_from.load(Relaxed)))) as f32
    }

    pub(crate) fn inflight(&self) -> u32 {
        (self.attempts.load(Relaxed) / IN_FLIGHT) as u32
    }

    pub(crate) fn sample(&self, rtt: Duration, now: Time) {
        let sample = (nanos(rtt) as f32).max(1.0);
        // One failed swap loses one sample among many; a loop here would be contention for nothing.
        let seen = self.ewma.load(Relaxed);
        let (value, stamp) = unpack(seen);
        let now_ms = now.millis() as u32;
        let elapsed = now_ms.wrapping_sub(stamp) as i32;
        let next = if seen == 0 || sample >= value || elapsed > MAX_AGE_MS {
            pack(sample, now_ms)
        } else {
            if elapsed <= 0 {
                // Under a millisecond: leave the stamp, so that time adds up until the next sample.
                return;
            }
            let keep = decay(elapsed as f32);
            pack(value * keep + sample * (1.0 - keep), now_ms)
        };
        let _ = self.ewma.compare_exchange(seen, next, Relaxed, Relaxed);
    }

    /// The estimate as of now, in nanoseconds; `None` while nothing has been measured that still counts.
    pub(crate) fn estimate(&self, now: Time) -> Option<f32> {
        let seen = self.ewma.load(Relaxed);
        if seen == 0 {
            return None;
        }
        let (value, stamp) = unpack(seen);
        let elapsed = (now.millis() as u32).wrapping_sub(stamp) as i32;
        if elapsed > MAX_AGE_MS {
            return None;
        }
        Some((value * decay(elapsed.max(0) as f32)).max(1.0))
    }

    /// Forgets what was measured. An instance that comes back is often another process, and the estimate of the one
    /// that timed out would starve it long after its slow start.
    pub(crate) fn reset_estimate(&self) {
        self.ewma.store(0, Relaxed);
    }

    pub(crate) fn start_ramp(&self, from: Time) {
        self.ramp_from.store(from.0, Relaxed);
    }

    pub(crate) fn stop_ramp(&self) {
        self.ramp_from.store(NEVER, Relaxed);
    }

    /// The slow-start factor, 0.1..1.
    pub(crate) fn ramp(&self, slow_start: Duration, now: Time) -> f32 {
        let from = self.ramp_from.load(Relaxed);
        if from == NEVER {
            return 1.0;
        }
        slow_start_factor(now.since(Time(from)), slow_start) as f32
    }
}

/// Envoy's slow start with aggression 1 and a floor of 10 %.
pub(crate) fn slow_start_factor(age: Duration, window: Duration) -> f64 {
    if age >= window { 1.0 } else { (age.as_secs_f64() / window.as_secs_f64()).max(MIN_WEIGHT) }
}

/// `e^(-elapsed / tau)` within 0.03 %: a power of two by its bits, and a cubic between it and the next one. Each pick asks
/// for two of these, and an exact exponential was half of its cost.
fn decay(elapsed_ms: f32) -> f32 {
    const HALVINGS: f32 = 1.0 / (TAU_MS * LN_2);
    let halvings = (elapsed_ms * HALVINGS).min(126.0);
    let whole = halvings as u32;
    let part = halvings - whole as f32;
    let power = f32::from_bits((127 - whole) << 23);
    power * (1.0 - part * (LN_2 - part * (0.235 - part * 0.041_85)))
}

fn pack(value: f32, stamp: u32) -> u64 {
    u64::from(value.to_bits()) << 32 | u64::from(stamp)
}

fn unpack(bits: u64) -> (f32, u32) {
    (f32::from_bits((bits >> 32) as u32), bits as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    fn at(n: u64) -> Time {
        Time(n * 1_000_000)
    }

    #[test]
    fn slow_start_follows_envoys_formula() {
        for (age, factor) in [(0, 0.1), (1, 0.1), (2, 0.2), (5, 0.5), (9, 0.9), (10, 1.0)] {
            let got = slow_start_factor(Duration::from_secs(age), Duration::from_secs(10));
            assert!((got - factor).abs() < 1e-12, "age {age}: {got}");
        }
        assert_eq!(slow_start_factor(Duration::ZERO, Duration::ZERO), 1.0);
    }

    #[test]
    fn the_estimate_jumps_to_a_peak_and_forgets_it_by_time() {
        let load = Load::new(Time(0));
        assert_eq!(load.estimate(at(0)), None);
        load.sample(ms(10), at(0));
        load.sample(ms(100), at(1));
        assert_eq!(load.estimate(at(1)), Some(100e6));
        let later = load.estimate(at(10_001)).unwrap_or_default();
        assert!((later / 100e6 - 0.3679).abs() < 0.001, "{later}");
        load.sample(ms(10), at(10_001));
        let mixed = load.estimate(at(10_001)).unwrap_or_default();
        assert!((mixed / 1e6 - (36.79 + 6.32)).abs() < 0.1, "{mixed}");
    }

    #[test]
    fn the_decay_is_an_exponential() {
        for elapsed_ms in (0..400_000).step_by(7) {
            let exact = (-f64::from(elapsed_ms) / f64::from(TAU_MS)).exp();
            let got = f64::from(decay(elapsed_ms as f32));
            assert!((got / exact - 1.0).abs() < 3e-4, "{elapsed_ms}: {got} {exact}");
        }
        assert!(decay(f32::MAX) < 1e-30);
    }

    #[test]
    fn silence_counts_from_the_last_answer_while_somebody_waits() {
        let load = Load::new(Time(0));
        assert_eq!(load.silence(at(50)), 0.0);
        load.enter(at(10));
        load.enter(at(15));
        assert_eq!(load.silence(at(30)), 20e6);
        load.heard(at(40));
        load.leave(true);
        assert_eq!(load.silence(at(45)), 5e6, "the other still waits");
        load.leave(false);
        assert_eq!(load.silence(at(60)), 0.0);
        load.enter(at(70));
        assert_eq!(load.silence(at(71)), 1e6, "a quiet hour is no silence");
    }

    #[test]
    fn samples_within_one_millisecond_do_not_stop_the_forgetting() {
        let load = Load::new(Time(0));
        load.sample(ms(100), Time(0));
        for i in 0..1_000_000_u64 {
            load.sample(ms(1), Time(i * 50_000));
        }
        let after = load.estimate(at(50_000)).unwrap_or_default();
        assert!(after < 2e6, "{after}");
    }
}
