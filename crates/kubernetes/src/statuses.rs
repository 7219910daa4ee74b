//! Writes what is to be said of objects into their statuses, where that is another than what they say.
//!
//! It decides how: of our kinds by server-side apply, so that conditions of other writers stay; of routes by a replacement that
//! fails where somebody else wrote in between, since their list of parents belongs to all controllers together. It
//! deliberately writes one after the other, and asks nobody who leads: whoever calls does.
//!
//! Invariant: what is there already is not written again; a parent of another controller is never touched.

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
use std::collections::BTreeSet;

/// Whose parents in a route's status are ours.
pub const CONTROLLER: &str = "fusewire.io/mesh";
/// Whose fields in statuses of our kinds are ours.
const MANAGER: &str = "fusewire-control";

/// Brings statuses up to date. `sidecars`: who runs with an object; `None` while that is not known.
///
/// # Errors
/// The first failure of the API server, after which nothing more is tried: it can be asked again.
pub async fn write_statuses(
    declarations: &Declarations,
    declared: &Declared,
    sidecars: impl Fn(&ObjectId) -> Option<Sidecars>,
    now: Timestamp,
) -> Result<(), ClusterError> {
    let now = format!("{now:.0}");
    for (id, told) in &declared.objects {
        let Some(there) = declarations.status(Watched::Ours(id.kind), &id.namespace, &id.name) else { continue };
        let wanted = of_ours(told, sidecars(id), &there, &now);
        if !holds(&there, &wanted) {
            skipping_gone(apply(declarations, id, wanted).await)?;
        }
    }
    for kind in [RouteKind::Http, RouteKind::Grpc] {
        let mut told = BTreeSet::new();
        for status in declared.route_statuses.iter().filter(|status| status.kind == kind) {
            told.insert((status.namespace.as_str(), status.name.as_str()));
            let there = declarations.status(Watched::Route(kind), &status.namespace, &status.name);
            let Some(there) = there else { continue };
            if parents(&there, Some(status), &now) != there["parents"] {
                let at = (kind, status.namespace.as_str(), status.name.as_str());
                skipping_gone(replace(declarations, at, Some(status), &now).await)?;
            }
        }
        // routes that have no Service as a parent any more
        for (namespace, name) in declarations.with_status(Watched::Route(kind), has_ours) {
            if !told.contains(&(namespace.as_str(), name.as_str())) {
                skipping_gone(replace(declarations, (kind, &namespace, &name), None, &now).await)?;
            }
        }
    }
    Ok(())
}

/// One that is gone meanwhile, or that somebody else wrote, is looked at again when the watch tells of it.
fn skipping_gone(written: Result<(), ClusterError>) -> Result<(), ClusterError> {
    match written {
        Err(ClusterError::Absent(_) | ClusterError::Conflict(_)) => Ok(()),
        written => written,
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

async fn apply(declarations: &Declarations, id: &ObjectId, status: Value) -> Result<(), ClusterError> {
    let ObjectId { kind, namespace, name } = id;
    let api = api(declarations, Watched::Ours(*kind), namespace);
    let body = json!({
        "apiVersion": format!("{}/{}", crd::GROUP, crd::VERSION), "kind": Kind::as_str(*kind),
        "metadata": {"namespace": namespace, "name": name}, "status": status,
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

/// All parents of a route as its status should have them.
fn parents(there: &Value, wanted: Option<&RouteStatus>, now: &str) -> Value {
    let before: Vec<&Value> = there["parents"].as_array().into_iter().flatten().collect();
    let mut all: Vec<Value> = before.iter().filter(|one| !is_ours(one)).map(|one| (*one).clone()).collect();
    if let Some(wanted) = wanted {
        let ours: Vec<&Value> = before.into_iter().filter(|one| is_ours(one)).collect();
        all.extend(wanted.parents.iter().map(|parent| of_parent(parent, wanted.generation, &ours, now)));
    }
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
