//! How many sidecars run with an object, as it is now.
//!
//! It decides whom an object concerns: who holds what it was made into, and, while a sidecar has not been compared with the
//! newest yet, that sidecar too. It deliberately counts what sidecars acknowledged, not what they were sent; and a replica
//! counts its own.
//!
//! Invariant: an object is never said to be enforced because nobody has looked at it yet.

use super::Standing;
use crate::replicas;
use crate::shared::Shared;
use crate::sidecars::{Stance, State};
use fusewire_api::v1;
use fusewire_kubernetes::Told;
use fusewire_kubernetes::crd::{ObjectId, Sidecars};
use std::collections::BTreeMap;

/// Of every object, at this replica.
pub(crate) fn here(shared: &Shared) -> v1::EnforcementResponse {
    let standing = shared.in_force.borrow().standing.clone();
    let sidecars = shared.sidecars.list();
    let mut counts = Counts::default();
    sidecars.iter().for_each(|sidecar| sidecar.with(|state| count(&standing, state, &mut counts)));
    let one = |(id, told): (&ObjectId, &Told)| {
        let Sidecars { enforcing, connected } = counts.get(id).copied().unwrap_or_default();
        let (object, uid, made) = (id.to_string(), told.uid.clone(), told.made.clone());
        v1::ObjectEnforcement { object, uid, generation: told.generation, made, enforcing, connected }
    };
    let objects = standing.declared.objects.iter().map(one).collect();
    v1::EnforcementResponse { objects, sidecars: u32::try_from(sidecars.len()).unwrap_or(u32::MAX) }
}

type Counts<'a> = BTreeMap<&'a ObjectId, Sidecars>;

/// Adds one sidecar.
fn count<'a>(standing: &'a Standing, state: &State, counts: &mut Counts<'a>) {
    let is_newer = |id: &ObjectId, than: u64| standing.since.get(id).is_some_and(|since| *since > than);
    // whether it has the object, of those that concern it
    let mut concerned: BTreeMap<&ObjectId, bool> = BTreeMap::new();
    for (concern, stance) in &state.concerns {
        for id in standing.concerns.get(concern).into_iter().flatten() {
            let has = *stance == Stance::Held && !is_newer(id, state.runs);
            *concerned.entry(id).or_insert(true) &= has;
        }
    }
    if state.aimed < standing.number {
        concerned.extend(standing.since.keys().filter(|id| is_newer(id, state.aimed)).map(|id| (id, false)));
    }
    for (id, has) in concerned {
        let all = counts.entry(id).or_default();
        all.connected += 1;
        all.enforcing += u32::from(has);
    }
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
        let key = |o: &v1::ObjectEnforcement| (o.object.clone(), o.uid.clone(), o.generation, o.made.clone());
        let counts: BTreeMap<_, _> = answer.objects.iter().map(|o| (key(o), (o.enforcing, o.connected))).collect();
        for (id, told) in &standing.declared.objects {
            // a replica that does not know this one yet, or in another way, may have it for any of its sidecars
            let key = (id.to_string(), told.uid.clone(), told.generation, told.made.clone());
            let known = counts.get(&key).copied();
            let (enforcing, connected) = known.unwrap_or((0, answer.sidecars));
            let sum = all.entry(id.clone()).or_default();
            (sum.enforcing, sum.connected) = (sum.enforcing + enforcing, sum.connected + connected);
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use fusewire_kubernetes::crd::{Kind, Said, Verdict};
    use fusewire_kubernetes::{Concern, Declared};
    use fusewire_model::resource::{self, Key};
    use std::collections::BTreeSet;

    fn id() -> ObjectId {
        ObjectId { kind: Kind::ResiliencePolicy, namespace: "shop".into(), name: "web".into() }
    }

    fn policy(name: &str) -> Concern {
        Concern::Holds(Key { kind: resource::Kind::Policy, name: name.into() })
    }

    /// One object, since the fifth change of seven, in force by two policies.
    fn standing() -> Standing {
        let said = |reason| Said { is_true: true, reason, message: String::new() };
        let verdict = Verdict {
            accepted: said("Accepted"),
            resolved: said("ResolvedRefs"),
            conflicted: None,
            targets: String::new(),
            services: BTreeSet::new(),
            routes: BTreeSet::new(),
            policies: BTreeSet::new(),
            hosts: BTreeSet::new(),
        };
        let concerns = BTreeSet::from([policy("a"), policy("b")]);
        let told = Told { uid: "u".into(), generation: 2, verdict, made: "m".into(), concerns };
        let mut declared = Declared::default();
        declared.objects = BTreeMap::from([(id(), told)]);
        let concerns = BTreeMap::from([(policy("a"), vec![id()]), (policy("b"), vec![id()])]);
        Standing { declared, number: 7, since: BTreeMap::from([(id(), 5)]), concerns }
    }

    fn counted(aimed: u64, runs: u64, concerns: &[(&str, Stance)]) -> (u32, u32) {
        let standing = standing();
        let concerns = concerns.iter().map(|(name, stance)| (policy(name), *stance)).collect();
        let mut counts = Counts::new();
        count(&standing, &State { aimed, runs, concerns, ..State::default() }, &mut counts);
        let all = counts.get(&id()).copied().unwrap_or_default();
        (all.enforcing, all.connected)
    }

    #[test]
    fn a_sidecar_runs_with_an_object_once_it_has_acknowledged_all_that_the_object_is_there() {
        use Stance::{Held, New, Refused};
        assert_eq!(counted(7, 7, &[]), (0, 0), "it has nothing of it");
        assert_eq!(counted(7, 5, &[("a", Held)]), (1, 1));
        assert_eq!(counted(7, 4, &[("a", Held)]), (0, 1), "as it was before");
        assert_eq!(counted(7, 7, &[("a", New)]), (0, 1), "asked for, and not acknowledged");
        assert_eq!(counted(7, 7, &[("a", Held), ("b", Refused)]), (0, 1));
        assert_eq!(counted(7, 7, &[("a", Held), ("c", Refused)]), (1, 1), "what it refuses is another's");
        assert_eq!(counted(4, 4, &[]), (0, 1), "not compared with the newest, it may be concerned");
        assert_eq!(counted(4, 4, &[("a", Held)]), (0, 1));
        assert_eq!(counted(5, 5, &[]), (0, 0), "later changes are about other objects");
    }

    #[test]
    fn a_sidecar_that_held_something_holds_it_on_while_more_is_asked_for() {
        let some = |names: &[(&str, bool)]| names.iter().map(|(name, refuses)| (policy(name), *refuses)).collect();
        let mut state = State::default();
        let mut stances = |concerns, settled| {
            state.concerned(concerns, settled);
            state.concerns.values().copied().collect::<Vec<_>>()
        };
        stances(some(&[("a", false)]), true);
        let more = || some(&[("a", false), ("b", false), ("c", true)]);
        assert_eq!(stances(more(), false), [Stance::Held, Stance::New, Stance::Refused]);
        assert_eq!(stances(more(), true), [Stance::Held, Stance::Held, Stance::Refused]);
    }

    #[test]
    fn a_replica_that_knows_another_version_may_have_it_for_any_sidecar() {
        let standing = standing();
        let answer_of = |uid: &str, generation, made: &str| v1::EnforcementResponse {
            objects: vec![v1::ObjectEnforcement {
                object: "ResiliencePolicy shop/web".into(),
                uid: uid.into(),
                generation,
                made: made.into(),
                enforcing: 3,
                connected: 3,
            }],
            sidecars: 10,
        };
        let answer = |uid: &str, generation| answer_of(uid, generation, "m");
        let sum = |answers: &[v1::EnforcementResponse]| {
            let all = together(&standing, answers)[&id()];
            (all.enforcing, all.connected)
        };
        assert_eq!(sum(&[answer("u", 2), answer("u", 2)]), (6, 6));
        assert_eq!(sum(&[answer("u", 2), answer("u", 1)]), (3, 13));
        assert_eq!(sum(&[answer("u", 2), answer("before", 2)]), (3, 13), "one that was made anew is another");
        assert_eq!(sum(&[answer("u", 2), answer_of("u", 2, "other")]), (3, 13), "what it names is not there yet");
        assert_eq!(sum(&[answer("u", 2), v1::EnforcementResponse { objects: Vec::new(), sidecars: 1 }]), (3, 4));
    }
}
