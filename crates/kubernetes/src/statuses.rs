//! Writes what is to be said of objects into their statuses, where that is another than what they say.
//!
//! It decides how: of our kinds by server-side apply, so that conditions of other writers stay; of routes by a replacement that
//! fails where somebody else wrote in between, since their list of parents belongs to all controllers together. It
//! deliberately writes one after the other, and asks nobody who leads: whoever calls does.
//!
//! Invariants: what is there already is not written again; a parent of another controller is never touched; an object that cannot
//! be written keeps no other from it.

use crate::cluster::{Call, ClusterError, call};
use crate::crd::{self, Condition, Kind, ObjectId, Sidecars};
use crate::declarations::{Declarations, Watched};
use crate::declared::{Declared, Told};
use crate::gateway::{ParentStatus, RouteStatus};
use crate::known::RouteKind;
use jiff::Timestamp;
use kube::api::{Api, DynamicObject, Patch, PatchParams, PostParams};
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::time::Instant;

/// Whose parents in a route's status are ours.
pub const CONTROLLER: &str = "fusewire.io/mesh";
/// Whose fields in statuses of our kinds are ours.
const MANAGER: &str = "fusewire-control";

/// The same is not written again before, where what is there is another thing: an API server may keep a part for itself.
const AGAIN: Duration = Duration::from_secs(60);

/// Of an object of ours, or a route.
type Key = (Watched, String, String);

/// A pass ends after so many failures.
const FAILURES: usize = 3;

/// Writes statuses; remembers what it wrote last.
#[derive(Debug, Default)]
pub struct StatusWriter {
    last: BTreeMap<Key, (Value, Instant)>,
    failures: usize,
}

impl StatusWriter {
    /// Brings statuses up to date. `sidecars`: who runs with an object; `None` while that is not known.
    ///
    /// # Errors
    /// The API server failed three times; nothing more is tried then. What it refuses is logged, and tried again a minute later.
    pub async fn write(
        &mut self,
        declarations: &Declarations,
        declared: &Declared,
        sidecars: impl Fn(&ObjectId) -> Option<Sidecars>,
        now: Timestamp,
    ) -> Result<(), ClusterError> {
        self.last.retain(|(kind, namespace, name), _| declarations.status(*kind, namespace, name).is_some());
        self.failures = 0;
        let text = format!("{now:.0}");
        for (id, told) in &declared.objects {
            let kind = Watched::Ours(id.kind);
            let Some(there) = declarations.status(kind, &id.namespace, &id.name) else { continue };
            let wanted = of_ours(told, sidecars(id), &there, &text);
            let is_there = holds(&there, &wanted);
            let key = (kind, id.namespace.clone(), id.name.clone());
            if self.is_due(key, (&wanted, is_there)) {
                let written = apply(declarations, (id, &told.uid), wanted).await;
                self.wrote(&(kind, id.namespace.clone(), id.name.clone()), written)?;
            }
        }
        for kind in [RouteKind::Http, RouteKind::Grpc] {
            let of = Watched::Route(kind);
            let told = declared.route_statuses.iter().filter(|status| status.kind == kind);
            let told: BTreeMap<(&str, &str), &RouteStatus> =
                told.map(|status| ((status.namespace.as_str(), status.name.as_str()), status)).collect();
            // those with parents of ours that have none any more, too
            let stale = declarations.with_status(of, has_ours);
            let all: BTreeSet<(&str, &str)> =
                told.keys().copied().chain(stale.iter().map(|(ns, name)| (ns.as_str(), name.as_str()))).collect();
            for (namespace, name) in all {
                let Some(there) = declarations.status(of, namespace, name) else { continue };
                let status = told.get(&(namespace, name)).copied();
                let wanted = parents(&there, status, &text);
                let is_there = wanted == there["parents"] || (status.is_none() && !has_ours(&there));
                if self.is_due((of, namespace.into(), name.into()), (&wanted, is_there)) {
                    let written = replace(declarations, (kind, namespace, name), status, &text).await;
                    self.wrote(&(of, namespace.into(), name.into()), written)?;
                }
            }
        }
        Ok(())
    }

    /// Whether it is to be written now.
    fn is_due(&mut self, key: Key, (wanted, is_there): (&Value, bool)) -> bool {
        if is_there {
            self.last.remove(&key);
            return false;
        }
        let now = Instant::now();
        let is_same = |(last, at): &&(Value, Instant)| same_words(last, wanted) && now.duration_since(*at) < AGAIN;
        if self.last.get(&key).filter(is_same).is_some() {
            return false;
        }
        self.last.insert(key, (wanted.clone(), now));
        true
    }

    /// What is gone meanwhile, or was written by somebody else, is looked at again; what is refused keeps no other waiting.
    fn wrote(&mut self, key: &Key, written: Result<(), ClusterError>) -> Result<(), ClusterError> {
        let (kind, namespace, name) = key;
        match written {
            Ok(()) => {}
            Err(error @ ClusterError::Refused(_)) => {
                tracing::warn!(kind = kind.name(), namespace, name, %error, "its status is not written");
            }
            Err(ClusterError::Absent(_) | ClusterError::Conflict(_)) => drop(self.last.remove(key)),
            Err(error) => {
                self.last.remove(key);
                self.failures += 1;
                if self.failures >= FAILURES {
                    return Err(error);
                }
            }
        }
        Ok(())
    }
}

/// Whether both say the same, whenever it began.
fn same_words(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Object(a), Value::Object(b)) => {
            let timeless = |(key, _): &(&String, &Value)| *key != "lastTransitionTime";
            a.len() == b.len()
                && a.iter()
                    .filter(timeless)
                    .all(|(key, value)| b.get(key).is_some_and(|other| same_words(value, other)))
        }
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same_words(a, b)),
        (a, b) => a == b,
    }
}

fn of_ours(told: &Told, sidecars: Option<Sidecars>, there: &Value, now: &str) -> Value {
    let before = there["conditions"].as_array().into_iter().flatten();
    let before: Vec<Condition> = before.filter_map(|one| Condition::deserialize(one).ok()).collect();
    let conditions = crd::conditions(&told.verdict, sidecars, told.generation, &before, now);
    crd::status(&told.verdict, sidecars, &conditions)
}

/// Whether a status says what is wanted, and nothing else of ours.
fn holds(there: &Value, wanted: &Value) -> bool {
    let conditions = |status: &Value| status["conditions"].as_array().cloned().unwrap_or_default();
    let (have, want) = (conditions(there), conditions(wanted));
    let ours = have.iter().filter(|one| crd::CONDITIONS.iter().any(|kind| one["type"] == *kind)).count();
    ours == want.len()
        && want.iter().all(|one| have.contains(one))
        && ["targets", "sidecars"].iter().all(|field| there[field] == wanted[field])
}

async fn apply(declarations: &Declarations, (id, uid): (&ObjectId, &str), status: Value) -> Result<(), ClusterError> {
    let ObjectId { kind, namespace, name } = id;
    let api = api(declarations, Watched::Ours(*kind), namespace);
    let body = json!({
        "apiVersion": format!("{}/{}", crd::GROUP, crd::VERSION), "kind": Kind::as_str(*kind),
        "metadata": {"namespace": namespace, "name": name, "uid": uid}, "status": status,
    });
    let params = PatchParams::apply(MANAGER).force();
    call(Call::Write, api.patch_status(name, &params, &Patch::Apply(body))).await.map(drop)
}

async fn replace(
    declarations: &Declarations,
    (kind, namespace, name): (RouteKind, &str, &str),
    wanted: Option<&RouteStatus>,
    now: &str,
) -> Result<(), ClusterError> {
    let api = api(declarations, Watched::Route(kind), namespace);
    let mut object = call(Call::Read, api.get(name)).await?;
    if wanted.is_some_and(|wanted| object.metadata.generation != Some(wanted.generation)) {
        return Ok(()); // what is to be said of the newest is not known yet
    }
    let parents = parents(&object.data["status"], wanted, now);
    object.data["status"]["parents"] = parents;
    call(Call::Write, api.replace_status(name, &PostParams::default(), &object)).await.map(drop)
}

fn api(declarations: &Declarations, kind: Watched, namespace: &str) -> Api<DynamicObject> {
    Api::namespaced_with(declarations.cluster.client.clone(), namespace, &kind.resource())
}

fn has_ours(status: &Value) -> bool {
    status["parents"].as_array().is_some_and(|all| all.iter().any(is_ours))
}

fn is_ours(parent: &Value) -> bool {
    parent["controllerName"] == CONTROLLER
}

/// All parents of a route as its status should have them: ours where they are, so that nobody has to write them back.
fn parents(there: &Value, wanted: Option<&RouteStatus>, now: &str) -> Value {
    let before: Vec<&Value> = there["parents"].as_array().into_iter().flatten().collect();
    let ours: Vec<&Value> = before.iter().copied().filter(|one| is_ours(one)).collect();
    let wanted = wanted.iter().flat_map(|w| w.parents.iter().map(|parent| of_parent(parent, w.generation, &ours, now)));
    let mut wanted: Vec<Value> = wanted.collect();
    let mut all: Vec<Value> = Vec::new();
    for one in before {
        let place = wanted.iter().position(|new| new["parentRef"] == one["parentRef"]);
        match (is_ours(one), place) {
            (false, _) => all.push(one.clone()),
            (true, Some(place)) => all.push(wanted.remove(place)),
            (true, None) => {}
        }
    }
    all.extend(wanted);
    all.into()
}

fn of_parent(parent: &ParentStatus, generation: i64, before: &[&Value], now: &str) -> Value {
    let reference = json!(parent.parent);
    let same = before.iter().find(|one| one["parentRef"] == reference);
    let old = same.and_then(|one| one["conditions"].as_array()).cloned().unwrap_or_default();
    let conditions = parent.conditions.iter().map(|condition| {
        let status = if condition.is_true { "True" } else { "False" };
        let since = old.iter().find(|one| one["type"] == condition.kind && one["status"] == status);
        let since = since.and_then(|one| one["lastTransitionTime"].as_str()).unwrap_or(now);
        json!({
            "type": condition.kind, "status": status, "observedGeneration": generation, "reason": condition.reason,
            "message": condition.message, "lastTransitionTime": since,
        })
    });
    let conditions: Vec<Value> = conditions.collect();
    json!({"parentRef": reference, "controllerName": CONTROLLER, "conditions": conditions})
}
