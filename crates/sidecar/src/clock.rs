//! The process's monotonic clock, as `resilience` counts time, and wall time for logs.

use fusewire_resilience::Time;
use fusewire_resilience::hint::Wall;
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::time::Instant; // the standard one, which tests can hold still

#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock(Instant);

impl Clock {
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }
    pub(crate) fn now(&self) -> Time {
        Time(u64::try_from(self.0.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }
}

pub(crate) fn unix_micros() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

/// As fields that name a date want it.
pub(crate) fn wall() -> Wall {
    Wall(unix_micros() / 1000)
}

pub(crate) fn unix_nanos() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

pub(crate) fn unix_seconds() -> u64 {
    unix_micros() / 1_000_000
}

/// 0..1, of the wall clock's microseconds: enough to spread sidecars that do the same at the same time.
pub(crate) fn fraction() -> f64 {
    (unix_micros() % 1000) as f64 / 1000.0
}
