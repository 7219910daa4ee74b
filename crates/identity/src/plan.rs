//! What a step of a rotation would do, told before it is done.
//!
//! It decides the words and figures of `--dry-run`. It deliberately takes no step, and makes no key: a root that a
//! preparation would make has no hash yet.
//!
//! Invariant: `refused` is none exactly when [`TrustState::step`] with the same arguments would take the step.

use rustls_pki_types::UnixTime;
use serde::Serialize;

use crate::root::{Root, RootView};
use crate::rotation::Step;
use crate::trust_state::{Stage, StageTimes, TrustState};

/// Stands for the hash of a root that is not made yet.
pub const NEW_ROOT: &str = "(new)";

/// One step, foretold. Times are seconds since 1970, roots are named by the hash that join tokens pin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Plan {
    pub step: Step,
    pub stage: Stage,
    pub times: StageTimes,
    /// As they are now, the one that signs first.
    pub roots: Vec<RootView>,
    /// Why the step would be refused now.
    pub refused: Option<String>,
    /// From when on it is allowed; none when time alone will not allow it.
    pub allowed_at: Option<u64>,
    /// Which root signs after the step.
    pub signer_after: String,
    /// The bundle after the step.
    pub bundle_after: Vec<String>,
    /// Join tokens that pin one of these can no longer be used after the step.
    pub unusable_pins: Vec<String>,
    /// What happens, what is needed, and how to go back: sentences for an operator.
    pub notes: Vec<String>,
}

impl TrustState {
    /// What `step` would do at `now`.
    pub fn plan(&self, step: Step, now: UnixTime, force: bool) -> Plan {
        let refused = self.check(step, now, force).err().map(|e| e.to_string());
        let (stage, hash) = (self.stage(), |root: &Root| root.hash.clone());
        let (signer, other) = (hash(&self.signer), self.other.as_ref().map(hash));
        let (first, second, unusable) = match (step, stage, other) {
            (Step::Prepare, Stage::Stable, _) => (signer, Some(NEW_ROOT.to_owned()), Vec::new()),
            (Step::Switch, Stage::Prepared, Some(next)) => (next, Some(signer), Vec::new()),
            (Step::Retire, Stage::Switched, Some(old)) => (signer, None, vec![old]),
            (Step::Abort, Stage::Prepared, Some(next)) => (signer, None, vec![next]),
            (Step::Abort, Stage::Switched, Some(old)) => (old, Some(signer), Vec::new()),
            (_, _, other) => (signer, other, Vec::new()), // refused: nothing changes
        };
        let allowed_at = match (&refused, step) {
            (None, _) => Some(now.as_secs()),
            (Some(_), Step::Retire) => self.retire_allowed_at(),
            _ => None,
        };
        let kept = self.kept.iter().map(hash);
        Plan {
            step,
            stage,
            times: self.times,
            roots: self.roots(),
            refused,
            allowed_at,
            signer_after: first.clone(),
            bundle_after: std::iter::once(first).chain(second).chain(kept).collect(),
            unusable_pins: unusable,
            notes: self.notes(step, stage, force),
        }
    }

    fn notes(&self, step: Step, stage: Stage, force: bool) -> Vec<String> {
        let notes: &[&str] = match (step, stage) {
            (Step::Prepare, Stage::Stable) => &[
                "a new root with a key of its own is made and signed across by the present root; both are in the bundle",
                "the present root still signs, and new join tokens still pin it",
                "nothing needs to wait for sidecars: the cross certificate serves those that have not seen the new bundle",
                "abort takes the new root out again",
            ],
            (Step::Switch, Stage::Prepared) => &[
                "the new root signs; its leaves carry the cross certificate, so that peers which know only the old root accept them",
                "join tokens that pin the old root stay usable until it is retired; new ones pin the new root",
                "sidecars renew early, spread over time, once they see that their leaf is under the old root",
                "abort lets the old root sign again",
            ],
            (Step::Retire, Stage::Switched) => &[
                "the old root leaves the bundle, and its key is forgotten: this cannot be taken back",
                "join tokens that pin the old root stop working: make new ones first",
            ],
            (Step::Abort, Stage::Prepared) => &[
                "the new root leaves the bundle, and its key is forgotten; leaves that it signed hold until they end, by the cross certificate",
                "join tokens that pin the new root (made after a switch that was aborted) stop working",
            ],
            (Step::Abort, Stage::Switched) => &[
                "the old root signs again; the new one stays in the bundle, and leaves that it signed stay good",
                "join tokens that pin either root stay usable; new ones pin the old root",
            ],
            _ => &[],
        };
        let mut notes: Vec<String> = notes.iter().map(|note| (*note).to_owned()).collect();
        if let (Step::Retire, Some(at)) = (step, self.retire_allowed_at()) {
            notes.push(format!("leaves under the old root may hold until {at} s after 1970"));
            if force {
                notes.push(
                    "forced: workloads whose leaf is still under the old root are refused until they join again".into(),
                );
            }
        }
        notes
    }
}
