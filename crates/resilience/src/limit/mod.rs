//! How many requests an application may have at once: adaptive concurrency.
//!
//! The guard against overload stands in front of the application, in the inbound sidecar, because only there all callers
//! are seen: [`QueueGuard`], on by default in the design. [`Gradient2`] and [`Aimd`] are options for who knows them from
//! elsewhere. Neither breakers nor a limit at the callers survive what the guard survives: with many callers theirs never
//! binds, and with one it costs goodput.
//!
//! Reading order: `guard`, `window`, `baseline`, then `gradient2`, `aimd`.

mod aimd;
mod baseline;
mod gradient2;
mod guard;
mod window;

pub use aimd::{Aimd, AimdConfig};
pub use gradient2::{Gradient2, Gradient2Config};
pub use guard::{Admission, GuardConfig, Phase, QueueGuard, Ticket};

/// Whether a request was served or turned away.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Served {
    InTime,
    /// Refused, timed out, or given up.
    Dropped,
}
