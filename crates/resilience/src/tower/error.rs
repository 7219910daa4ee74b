//! What a guarded call ends with when it ends badly.

use std::fmt;
use std::time::Duration;

/// The service's own error, or ours.
#[derive(Clone, PartialEq, Debug)]
pub enum Error<E> {
    /// The call was not made.
    Rejected(Rejected),
    /// It was made, and this is what came of it.
    Service(E),
}

/// Who refused a call.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Rejected {
    /// The circuit is open. `retry_after` is zero if time alone does not close it.
    Open { retry_after: Duration },
    /// As many calls are in flight as there may be.
    Full,
    /// More calls than the rate allows.
    RateLimited { retry_after: Duration },
    /// The service refuses so many that it is spared this share of them, 0..0.9.
    Throttled { probability: f64 },
}

impl Rejected {
    /// When to come back; `None` where nobody knows.
    pub fn retry_after(self) -> Option<Duration> {
        match self {
            Rejected::Open { retry_after } | Rejected::RateLimited { retry_after } => {
                Some(retry_after).filter(|after| !after.is_zero())
            }
            Rejected::Full | Rejected::Throttled { .. } => None,
        }
    }
}

impl fmt::Display for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Rejected::Open { retry_after } if retry_after.is_zero() => f.write_str("the circuit is open"),
            Rejected::Open { retry_after } => write!(f, "the circuit is open for another {retry_after:?}"),
            Rejected::Full => f.write_str("too many calls are in flight"),
            Rejected::RateLimited { retry_after } => write!(f, "over the rate limit for another {retry_after:?}"),
            Rejected::Throttled { probability } => {
                write!(f, "the service is overloaded, {:.0} % of its calls are not made", probability * 100.0)
            }
        }
    }
}

impl std::error::Error for Rejected {}

impl<E: fmt::Display> fmt::Display for Error<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Rejected(rejected) => write!(f, "not called: {rejected}"),
            Error::Service(error) => error.fmt(f),
        }
    }
}

impl<E: std::error::Error + 'static> std::error::Error for Error<E> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Rejected(rejected) => Some(rejected),
            Error::Service(error) => error.source(),
        }
    }
}
