//! A root's rotation, step by step, and what each step waits for.
//!
//! It decides when a step may be taken: what the identity crate demands of time and order, and of sidecars that those which
//! are connected, to any replica, know the bundle before the new root signs, and have left the old root before it goes.
//! It deliberately waits for nobody itself: a step that has to wait is refused with the names, and asked for again.
//!
//! Invariant: a step is in the store before anything is signed by it; of two operators' steps one is taken.

use super::{STATE, Trust, TrustError};
use crate::alerts::Alerts;
use crate::fleet::Fleet;
use crate::store::{Change, Entry, StoreError};
use fusewire_identity::{Plan, RotateError, Stage, Step, TrustState, UnixTime};

/// What became of a step, or would.
#[derive(Debug)]
pub(crate) struct Taken {
    pub(crate) stage: String,
    pub(crate) did: String,
    pub(crate) waiting_for: Vec<String>,
    pub(crate) done: bool,
}

/// The word of the wire for where a rotation stands.
pub(crate) fn stage_word(state: &TrustState) -> String {
    if state.is_external() { "external".into() } else { state.stage().to_string() }
}

/// `next`, or nothing, is the step forward.
pub(crate) fn parse(step: &str, state: &TrustState) -> Result<Step, RotateError> {
    match step {
        "" | "next" => Ok(state.next_step()),
        step => step.parse(),
    }
}

impl Trust {
    /// Takes a step.
    pub(crate) async fn step(
        &self,
        step: &str,
        force: bool,
        who: &str,
        fleet: &Fleet,
        alerts: &Alerts,
    ) -> Result<Taken, TrustError> {
        let entry = self.stored(alerts).await?;
        let state = TrustState::from_json(&entry.value)?;
        let step = parse(step, &state)?;
        let now = UnixTime::now();
        let next = state.step(step, now, force)?;
        let waiting = self.waiting_for(step, fleet);
        if !force && !waiting.is_empty() {
            return Err(TrustError::Waiting(waiting));
        }
        // the same change: nothing is signed by the new root before it is known for how long
        let next = next.with_lifetime(self.leaf_lifetime).unwrap_or(next);
        match self.store.commit(Change::default().replace(&entry, next.to_json()?)).await {
            Ok(_) => {}
            Err(StoreError::Conflict { .. }) => return Err(TrustError::Changed),
            Err(error) => return Err(error.into()),
        }
        let standing = self.refresh(alerts).await?;
        tracing::warn!(%step, who, force, stage = %next.stage(), root_hash = next.root_hash(), "a step of the root's rotation was taken");
        let state = standing.authority.state();
        let done = next.stage() == Stage::Stable;
        let waiting_for = if done { Vec::new() } else { self.all_that_waits(state, state.next_step(), fleet) };
        Ok(Taken { stage: stage_word(&next), did: told(step).into(), waiting_for, done })
    }

    /// What a step would do, and what it waits for still.
    pub(crate) async fn rehearse(
        &self,
        step: &str,
        force: bool,
        fleet: &Fleet,
        alerts: &Alerts,
    ) -> Result<Taken, TrustError> {
        let entry = self.stored(alerts).await?;
        let state = TrustState::from_json(&entry.value)?;
        let step = parse(step, &state)?;
        let plan = state.plan(step, UnixTime::now(), force);
        if plan.refused.is_some() && plan.allowed_at.is_none() {
            state.step(step, UnixTime::now(), force)?;
        }
        let waiting_for = if force { Vec::new() } else { self.all_that_waits(&state, step, fleet) };
        let stage = stage_word(&state);
        Ok(Taken { stage, did: foretold(&plan), waiting_for, done: false })
    }

    /// The entry of the state, which is also what is in force here.
    async fn stored(&self, alerts: &Alerts) -> Result<Entry, TrustError> {
        let entry = self.store.get(STATE).await?.ok_or(TrustError::Vanished)?;
        if self.refresh(alerts).await?.authority.state().is_external() {
            return Err(RotateError::External.into());
        }
        Ok(entry)
    }

    /// Time first, then sidecars.
    pub(crate) fn all_that_waits(&self, state: &TrustState, step: Step, fleet: &Fleet) -> Vec<String> {
        let early = match state.plan(step, UnixTime::now(), false) {
            Plan { refused: Some(why), allowed_at: Some(_), .. } => Some(why),
            _ => None,
        };
        early.into_iter().chain(self.waiting_for(step, fleet)).collect()
    }

    /// The sidecars, by name, without which a step is not taken.
    fn waiting_for(&self, step: Step, fleet: &Fleet) -> Vec<String> {
        let standing = self.now();
        let mut waiting = match step {
            Step::Prepare | Step::Abort => return Vec::new(),
            Step::Switch => fleet.without_trust(&standing.told()),
            Step::Retire => fleet.outside_root(standing.authority.root_hash()),
        };
        waiting.extend(fleet.unanswered.iter().map(|replica| format!("replica {replica} does not answer")));
        waiting
    }
}

fn told(step: Step) -> &'static str {
    match step {
        Step::Prepare => "a new root is in the bundle; the old one still signs",
        Step::Switch => "the new root signs; the old one is still believed",
        Step::Retire => "the old root is no longer believed",
        Step::Abort => "one stage back",
    }
}

fn foretold(plan: &Plan) -> String {
    let mut lines = vec![format!("{}: the root that signs will be {}", plan.step, plan.signer_after)];
    lines.push(format!("believed will be {}", plan.bundle_after.join(", ")));
    lines.extend(plan.notes.iter().cloned());
    lines.join("\n")
}
