//! How many sidecars run with an object, as it is now.
//!
//! It decides whom an object concerns: who holds what it was made into, and, while a sidecar has not looked at the newest
//! configuration yet, that sidecar too. It deliberately counts what sidecars acknowledged, not what they were sent; and a
//! replica counts its own.
//!
//! Invariant: an object is never said to be enforced because nobody has looked at it yet.

use super::Standing;
use crate::replicas;
use crate::shared::Shared;
use crate::sidecars::State;
use fusewire_api::v1;
use fusewire_kubernetes::crd::{ObjectId, Sidecars};
use std::collections::BTreeMap;

/// Of every object, at this replica.
pub(crate) fn here(shared: &Shared) -> v1::EnforcementResponse {
    let standing = shared.in_force.borrow().standing.clone();
    let states: Vec<State> = shared.sidecars.list().iter().map(|sidecar| sidecar.state()).collect();
    let one = |(id, told): (&ObjectId, &fusewire_kubernetes::Told)| {
        let Sidecars { enforcing, connected } = count(&standing, id, &states);
        v1::ObjectEnforcement { object: id.to_string(), generation: told.generation, enforcing, connected }
    };
    let sidecars = u32::try_from(states.len()).unwrap_or(u32::MAX);
    v1::EnforcementResponse { objects: standing.declared.objects.iter().map(one).collect(), sidecars }
}

fn count(standing: &Standing, id: &ObjectId, states: &[State]) -> Sidecars {
    let mut all = Sidecars::default();
    let (Some(told), Some(since)) = (standing.declared.objects.get(id), standing.since.get(id)) else { return all };
    for state in states {
        let is_concerned = state.aimed < *since || told.keys.iter().any(|key| state.concerns.contains(key));
        if is_concerned {
            all.connected += 1;
            let refuses = || told.keys.iter().any(|key| state.nacks.contains_key(key));
            all.enforcing += u32::from(state.runs >= *since && !refuses());
        }
    }
    all
}

/// Of every object, at all replicas. `None`: a replica did not answer, and may have any.
pub(super) async fn everywhere(shared: &Shared, standing: &Standing) -> Option<BTreeMap<ObjectId, Sidecars>> {
    let (answers, replicas) =
        replicas::ask_all(shared, |mut client| async move { client.enforcement(v1::EnforcementRequest {}).await })
            .await;
    if replicas.iter().any(|replica| !replica.answered) {
        return None;
    }
    let mut answers: Vec<v1::EnforcementResponse> = answers.into_iter().map(|(_, answer)| answer).collect();
    answers.push(here(shared));
    Some(together(standing, &answers))
}

fn together(standing: &Standing, answers: &[v1::EnforcementResponse]) -> BTreeMap<ObjectId, Sidecars> {
    let mut all: BTreeMap<ObjectId, Sidecars> = BTreeMap::new();
    for answer in answers {
        let counts: BTreeMap<(&str, i64), (u32, u32)> =
            answer.objects.iter().map(|o| ((o.object.as_str(), o.generation), (o.enforcing, o.connected))).collect();
        for (id, told) in &standing.declared.objects {
            // a replica that does not know this generation yet may have it for any of its sidecars
            let known = counts.get(&(id.to_string().as_str(), told.generation)).copied();
            let (enforcing, connected) = known.unwrap_or((0, answer.sidecars));
            let sum = all.entry(id.clone()).or_default();
            (sum.enforcing, sum.connected) = (sum.enforcing + enforcing, sum.connected + connected);
        }
    }
    all
}
