//! What an object's status says: conditions, and how many sidecars run with it.
//!
//! It decides nothing about objects, only how a verdict is told. As Kubernetes has it, `lastTransitionTime` is when a
//! condition's status last changed: another reason or message leaves it alone.

use super::translate::{Said, Verdict};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Those that are ours.
pub const CONDITIONS: [&str; 4] = ["Accepted", "ResolvedRefs", "Enforced", "Conflicted"];

/// As `metav1.Condition`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    #[serde(rename = "type")]
    pub kind: String,
    pub status: Truth,
    #[serde(default)]
    pub observed_generation: i64,
    /// RFC 3339.
    pub last_transition_time: String,
    pub reason: String,
    #[serde(default)]
    pub message: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Truth {
    True,
    False,
    Unknown,
}

/// Connected sidecars that the object concerns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Sidecars {
    /// That have said that they run with it, as it is now.
    pub enforcing: u32,
    pub connected: u32,
}

/// The conditions of an object whose `metadata.generation` is `generation`, in the order `Accepted`, `ResolvedRefs`,
/// `Enforced`, and `Conflicted` where an older object has a target of its own.
///
/// `sidecars`: `None` while that is not known. `before`: those that its status has now. `now`: RFC 3339. Conditions of other
/// writers are not among them: they are theirs.
pub fn conditions(
    verdict: &Verdict,
    sidecars: Option<Sidecars>,
    generation: i64,
    before: &[Condition],
    now: &str,
) -> Vec<Condition> {
    let of = |said: &Said| (if said.is_true { Truth::True } else { Truth::False }, said.reason, said.message.clone());
    let mut all = vec![
        ("Accepted", of(&verdict.accepted)),
        ("ResolvedRefs", of(&verdict.resolved)),
        ("Enforced", enforced(verdict, sidecars)),
    ];
    if let Some(message) = &verdict.conflicted {
        all.push(("Conflicted", (Truth::True, "Conflicted", message.clone())));
    }
    let condition = |(kind, (status, reason, message)): (&str, (Truth, &str, String))| {
        let same = before.iter().find(|condition| condition.kind == kind && condition.status == status);
        Condition {
            kind: kind.to_owned(),
            status,
            observed_generation: generation,
            last_transition_time: same.map_or_else(|| now.to_owned(), |same| same.last_transition_time.clone()),
            reason: reason.to_owned(),
            message,
        }
    };
    all.into_iter().map(condition).collect()
}

fn enforced(verdict: &Verdict, sidecars: Option<Sidecars>) -> (Truth, &'static str, String) {
    if !verdict.accepted.is_true {
        return (Truth::False, "NotAccepted", "it is not in force: see Accepted".into());
    }
    match sidecars {
        None => (Truth::Unknown, "Pending", "not every control plane has said yet which sidecars run with it".into()),
        // as `fusewire wait --for=enforced` has it: nobody is left who lacks it
        Some(Sidecars { connected: 0, .. }) => (Truth::True, "NoSidecars", "no connected sidecar uses it".into()),
        Some(Sidecars { enforcing, connected }) if enforcing >= connected => {
            (Truth::True, "Enforced", format!("{connected} of {connected} sidecars run with it"))
        }
        Some(Sidecars { enforcing, connected }) => {
            (Truth::False, "Pending", format!("{enforcing} of {connected} sidecars run with it"))
        }
    }
}

/// The whole `status`, to be applied to the subresource.
pub fn status(verdict: &Verdict, sidecars: Option<Sidecars>, conditions: &[Condition]) -> Value {
    let mut status = json!({"conditions": conditions, "targets": verdict.targets});
    if let Some(sidecars) = sidecars {
        status["sidecars"] = json!(sidecars);
    }
    status
}
