//! Replacing the root: prepare, switch, retire; and back again with abort.
//!
//! It decides what each step changes and when it is allowed. Every step is a function from a state to the next one, so
//! that it is done when the store has taken it and not at all before; a rotation may rest at any stage for ever. It
//! deliberately waits for no sidecar: the cross certificate (the old root's signature under the new one's name and
//! key) lets a peer that still believes only the old root accept what the new one signed.
//!
//! Invariant: a leaf that has not ended is accepted by every peer whose bundle was given out while it held, unless a
//! retirement was forced.

use std::fmt;
use std::str::FromStr;

use rustls_pki_types::UnixTime;
use serde::{Deserialize, Serialize};

use crate::error::IdentityError;
use crate::root::Root;
use crate::trust_state::{Stage, StageTimes, TrustState};

/// After a switch another control plane of the same store may sign under the old root until it has seen the switch,
/// and clocks differ a little: so much longer the old root stays.
pub const SETTLE_SECONDS: u64 = 10;

/// One step of a rotation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Step {
    /// A new root enters the bundle; the old one still signs.
    Prepare,
    /// The new root signs.
    Switch,
    /// The old root leaves the bundle.
    Retire,
    /// One stage back.
    Abort,
}

impl Step {
    pub const ALL: [Self; 4] = [Self::Prepare, Self::Switch, Self::Retire, Self::Abort];

    pub fn word(self) -> &'static str {
        match self {
            Self::Prepare => "prepare",
            Self::Switch => "switch",
            Self::Retire => "retire",
            Self::Abort => "abort",
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

impl FromStr for Step {
    type Err = RotateError;

    fn from_str(text: &str) -> Result<Self, RotateError> {
        let known = Self::ALL.into_iter().find(|step| step.word() == text);
        known.ok_or_else(|| RotateError::NoSuchStep(text.chars().take(40).collect()))
    }
}

/// Why a step was not taken. Times are seconds since 1970.
#[derive(Debug, thiserror::Error)]
pub enum RotateError {
    #[error("{0:?} is not a step of a rotation: there are prepare, switch, retire and abort")]
    NoSuchStep(String),
    #[error("the root comes from an external authority's files: replace those, and the control plane follows")]
    External,
    #[error("{step} is not possible while the root is {stage}: {remedy}")]
    Stage { step: Step, stage: Stage, remedy: &'static str },
    #[error(
        "the old root cannot be retired yet: leaves under it may hold until {allowed_at} s after 1970, in {wait} s; wait, or force it and let their holders join again"
    )]
    TooEarly { allowed_at: u64, wait: u64 },
    #[error(
        "the root ended at {not_after} s after 1970, so nobody believes it any more: make a new authority, and let sidecars join again"
    )]
    Ended { not_after: u64 },
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

impl TrustState {
    /// The step forward from here.
    pub fn next_step(&self) -> Step {
        match self.stage() {
            Stage::Stable => Step::Prepare,
            Stage::Prepared => Step::Switch,
            Stage::Switched => Step::Retire,
        }
    }

    /// Takes one step; `force` matters to [`Step::Retire`] alone.
    pub fn step(&self, step: Step, now: UnixTime, force: bool) -> Result<Self, RotateError> {
        match step {
            Step::Prepare => self.prepare(now),
            Step::Switch => self.switch(now),
            Step::Retire => self.retire(now, force),
            Step::Abort => self.abort(now),
        }
    }

    /// A new root with a key of its own enters the bundle, vouched for by the old one, which still signs.
    pub fn prepare(&self, now: UnixTime) -> Result<Self, RotateError> {
        self.check(Step::Prepare, now, false)?;
        let mut next = Root::generate(&self.domain, now.as_secs())?;
        self.signer.vouch_for(&mut next, &self.domain)?;
        let times = StageTimes { prepared: Some(now.as_secs()), switched: None, ..self.times };
        Ok(Self { times, other: Some(next), ..self.clone() })
    }

    /// The new root signs. Its leaves carry the cross certificate.
    pub fn switch(&self, now: UnixTime) -> Result<Self, RotateError> {
        self.check(Step::Switch, now, false)?;
        let times = StageTimes { switched: Some(now.as_secs()), ..self.times };
        self.swapped(times)
    }

    /// The old root leaves the bundle, and the cross certificate is dropped. Unless forced, only when every leaf under
    /// the old root has ended ([`TrustState::retire_allowed_at`]).
    pub fn retire(&self, now: UnixTime, force: bool) -> Result<Self, RotateError> {
        self.check(Step::Retire, now, force)?;
        let times = StageTimes { stable: now.as_secs(), prepared: None, switched: None };
        let mut next = Self { times, other: None, ..self.clone() };
        next.signer.cross = None;
        Ok(next)
    }

    /// One stage back. From prepared, the new root leaves the bundle; from switched, the old root signs again and the
    /// new one stays in the bundle.
    pub fn abort(&self, now: UnixTime) -> Result<Self, RotateError> {
        self.check(Step::Abort, now, false)?;
        if self.stage() == Stage::Prepared {
            let times = StageTimes { stable: now.as_secs(), prepared: None, switched: None };
            return Ok(Self { times, other: None, ..self.clone() });
        }
        let times = StageTimes { prepared: Some(now.as_secs()), switched: None, ..self.times };
        let mut next = self.swapped(times)?;
        // Leaves of the new root lean on the old one from here on, by way of the cross certificate.
        if let Some(new) = &next.other {
            let both_noted = new.longest_leaf > 0 && next.signer.longest_leaf > 0;
            next.signer.longest_leaf = if both_noted { next.signer.longest_leaf.max(new.longest_leaf) } else { 0 };
        }
        Ok(next)
    }

    /// When the old root may be retired; `None` unless the new one signs.
    pub fn retire_allowed_at(&self) -> Option<u64> {
        let (old, switched) = (self.other.as_ref()?, self.times.switched?);
        // no leaf outlives its root
        Some(switched.saturating_add(old.longest_leaf()).saturating_add(SETTLE_SECONDS).min(old.not_after))
    }

    /// Whether a step is allowed now.
    pub(crate) fn check(&self, step: Step, now: UnixTime, force: bool) -> Result<(), RotateError> {
        if self.is_external() {
            return Err(RotateError::External);
        }
        let stage = self.stage();
        let refuse = |remedy| Err(RotateError::Stage { step, stage, remedy });
        match (step, stage) {
            (Step::Prepare, Stage::Stable) if self.signer.not_after <= now.as_secs() => {
                Err(RotateError::Ended { not_after: self.signer.not_after })
            }
            (Step::Retire, Stage::Switched) => match self.retire_allowed_at() {
                Some(allowed_at) if !force && now.as_secs() < allowed_at => {
                    Err(RotateError::TooEarly { allowed_at, wait: allowed_at - now.as_secs() })
                }
                _ => Ok(()),
            },
            (Step::Prepare, Stage::Stable)
            | (Step::Switch, Stage::Prepared)
            | (Step::Abort, Stage::Prepared | Stage::Switched) => Ok(()),
            (Step::Prepare, _) => refuse("a rotation is under way; finish it with its next step, or abort it"),
            (Step::Switch, Stage::Stable) => refuse("prepare a new root first"),
            (Step::Switch, Stage::Switched) => refuse("the new root signs already; retire the old one when it is time"),
            (Step::Retire, Stage::Stable) => refuse("there is no old root"),
            (Step::Retire, Stage::Prepared) => refuse("the old root still signs; switch first"),
            (Step::Abort, Stage::Stable) => refuse("no rotation is under way"),
        }
    }

    fn swapped(&self, times: StageTimes) -> Result<Self, RotateError> {
        let mut next = self.clone();
        next.times = times;
        match &mut next.other {
            Some(other) => std::mem::swap(&mut next.signer, other),
            None => return Err(IdentityError::State("there is no other root".into()).into()),
        }
        Ok(next)
    }
}
