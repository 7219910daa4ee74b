//! Self-preservation: when most heartbeats vanish at once, the fault is more likely ours than theirs.
//!
//! It decides for a *scope*, which is the whole registry or one service, when silence stops to count. It begins when a
//! registration would be taken out while more than half of its scope, and at least two, are silent (have missed their
//! TTL). A registration is silent for at most its grace before it is taken out, so they fell silent together, within TTL
//! plus grace. While it lasts nothing of the scope is taken out for silence; whoever deregisters still goes at once.
//! It ends when at least 85 % of the scope are heard again, or all but one (which is what 85 % means for fewer than seven);
//! the rest then have another TTL and grace. Else it ends after [`super::Limits::self_preservation`], and the silent go.
//!
//! Eureka compares heartbeats a minute of the whole registry; a service of its own scope is kept from being emptied too.
//! A single instance is no evidence of anything but itself: a service of one loses it after TTL and grace.

use fusewire_model::ServiceName;
use std::fmt;
use std::time::Duration;

/// The least number of silent registrations that count as "at once".
pub const MIN_SILENT: usize = 2;
/// Percentage of a scope that must be heard again.
pub const RECOVERED: usize = 85;

/// How many registrations of a scope beat here, how many of those are silent, and since when it is preserved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Scope {
    pub(super) here: usize,
    pub(super) silent: usize,
    pub(super) since: Option<Duration>,
}

impl Scope {
    pub(super) fn suspicious(&self) -> bool {
        self.silent >= MIN_SILENT && self.silent * 2 > self.here
    }

    pub(super) fn recovered(&self) -> bool {
        self.silent < MIN_SILENT || (self.here - self.silent) * 100 >= self.here * RECOVERED
    }
}

/// A scope that is being preserved, in words by its `Display`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Preservation {
    /// `None`: the whole registry.
    pub service: Option<ServiceName>,
    pub registrations: usize,
    pub silent: usize,
    pub since: Duration,
    /// When it ends at the latest.
    pub until: Duration,
}

impl fmt::Display for Preservation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { registrations, silent, since, until, .. } = self;
        match &self.service {
            Some(service) => write!(f, "service {service}: ")?,
            None => write!(f, "the whole registry: ")?,
        }
        write!(
            f,
            "{silent} of {registrations} registrations fell silent together, which looks like a fault of the network or of \
             this control plane; they are still offered until {RECOVERED} % are heard again, at most for {} s",
            (*until - *since).as_secs()
        )
    }
}
