//! The time that a layer lives by. The one place in the crate that reads a clock, and only where nobody brings another.

use std::time::Instant;

use crate::time::{Time, nanos};

/// A monotonic clock; a test brings its own.
pub trait Clock: Send + Sync + 'static {
    fn now(&self) -> Time;
}

/// The system's monotonic clock, from the moment it was made.
#[derive(Clone, Copy, Debug)]
pub struct Monotonic(Instant);

impl Default for Monotonic {
    fn default() -> Self {
        Monotonic(Instant::now())
    }
}

impl Clock for Monotonic {
    fn now(&self) -> Time {
        Time(nanos(self.0.elapsed()))
    }
}

impl<F: Fn() -> Time + Send + Sync + 'static> Clock for F {
    fn now(&self) -> Time {
        self()
    }
}
