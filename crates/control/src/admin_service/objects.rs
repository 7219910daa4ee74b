//! Apply, Get, Delete, History, Rollback: between the messages and [`crate::objects`].
//!
//! It decides what is shown of what: of an object its owner, and whether a file's word counts instead. It deliberately
//! answers a change only once this control plane has it in force, or after a moment without that: who asks for the status
//! next should find it there.

use super::Caller;
use super::details::status;
use crate::objects::{Changed, Outcome, Past, Snapshot, Terms, Wish};
use crate::shared::{Shared, lock};
use fusewire_api::v1;
use fusewire_model::yaml::{Definition, MAX_SIZE, ObjectKind, ObjectName, Source, definitions};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tonic::Status;

/// Files of one request.
const MAX_SOURCES: usize = 10_000;
/// Objects named in one request.
const MAX_NAMES: usize = 10_000;
const MAX_NAME: usize = 1_024;
const USUAL_HISTORY: u32 = 20;
/// How long a change waits to be in force here.
const IN_FORCE: Duration = Duration::from_secs(2);
/// One answer; below what gRPC clients of this project take.
const MAX_ANSWER: usize = 14 << 20;

pub(super) async fn apply(
    shared: &Shared,
    caller: Caller,
    request: v1::ApplyRequest,
    room: usize,
) -> Result<v1::ApplyResponse, Status> {
    let v1::ApplyRequest { sources, dry_run, if_revision, message } = request;
    if sources.is_empty() || sources.len() > MAX_SOURCES {
        return Err(Status::invalid_argument(format!(
            "1..{MAX_SOURCES} sources can be applied, got {}",
            sources.len()
        )));
    }
    let source = |v1::SourceText { name, text }| Source { name: name.chars().take(MAX_NAME).collect(), text };
    let wish = Wish::Apply(sources.into_iter().map(source).collect());
    let terms = Terms { dry_run, if_revision, message, author: caller.author };
    let outcome = shared.objects.change(&good(shared), &wish, &terms).await.map_err(|e| status(e, room))?;
    Ok(changed(shared, outcome, &terms).await)
}

pub(super) async fn delete(
    shared: &Shared,
    caller: Caller,
    request: v1::DeleteRequest,
    room: usize,
) -> Result<v1::ApplyResponse, Status> {
    let v1::DeleteRequest { objects, dry_run, if_revision, message } = request;
    let mut names = Vec::new();
    for wanted in wanted(&objects)? {
        match wanted {
            (kind, Some(name)) => names.push(ObjectName { kind, name }),
            (kind, None) => {
                let said = format!("which {} is to be deleted? name it", kind.word());
                return Err(Status::invalid_argument(said));
            }
        }
    }
    if names.is_empty() {
        return Err(Status::invalid_argument("nothing was named that should be deleted"));
    }
    names.sort();
    names.dedup();
    let terms = Terms { dry_run, if_revision, message, author: caller.author };
    let done = shared.objects.change(&good(shared), &Wish::Delete(names), &terms).await;
    Ok(changed(shared, done.map_err(|e| status(e, room))?, &terms).await)
}

pub(super) async fn roll_back(
    shared: &Shared,
    caller: Caller,
    request: v1::RollbackRequest,
    room: usize,
) -> Result<v1::ApplyResponse, Status> {
    let v1::RollbackRequest { revision, dry_run, if_revision, mut message } = request;
    if message.is_empty() {
        message = format!("rollback to revision {revision}");
    }
    let terms = Terms { dry_run, if_revision, message, author: caller.author };
    let done = shared.objects.roll_back(&good(shared), revision, &terms).await;
    Ok(changed(shared, done.map_err(|e| status(e, room))?, &terms).await)
}

pub(super) async fn get(shared: &Shared, request: v1::GetRequest) -> Result<v1::GetResponse, Status> {
    let wanted = wanted(&request.objects)?;
    let snapshot = shared.objects.read().await.map_err(|e| status(e, 0))?;
    let files = good(shared);
    let defined = tokio::task::spawn_blocking(move || definitions(&files)).await;
    let defined = defined.map_err(|_| Status::internal("the files could not be read"))?;
    let objects = shown(&snapshot, defined, &wanted);
    for (kind, name) in &wanted {
        let Some(name) = name else { continue };
        let found = objects.iter().filter_map(|object| object.object.as_ref());
        if !found.into_iter().any(|object| object.kind == kind.word() && object.name == *name) {
            return Err(Status::not_found(format!("there is no {}/{name}", kind.word())));
        }
    }
    let bytes: usize = objects.iter().map(|object| object.yaml.len() + 256).sum();
    if bytes > MAX_ANSWER {
        let said = format!("{} objects are too many for one answer; ask for one kind, or by name", objects.len());
        return Err(Status::resource_exhausted(said));
    }
    Ok(v1::GetResponse { revision: snapshot.revision, objects })
}

pub(super) async fn history(shared: &Shared, request: &v1::HistoryRequest) -> Result<v1::HistoryResponse, Status> {
    let revisions = match request.revision {
        Some(revision) => vec![shared.objects.revision(revision).await.map_err(|e| status(e, 0))?],
        None => {
            let limit = if request.limit == 0 { USUAL_HISTORY } else { request.limit };
            let limit = usize::try_from(limit).unwrap_or(usize::MAX);
            shared.objects.history(limit).await.map_err(|e| status(e, 0))?
        }
    };
    Ok(v1::HistoryResponse { revisions: revisions.into_iter().map(past).collect() })
}

fn good(shared: &Shared) -> Arc<[Source]> {
    lock(&shared.written).files.clone()
}

/// The answer to a change, once it is in force here. Another replica's change may be in force instead: that is newer.
async fn changed(shared: &Shared, outcome: Outcome, terms: &Terms) -> v1::ApplyResponse {
    let Outcome { revision, mut version, changes } = outcome;
    if !terms.dry_run {
        let mut in_force = shared.in_force.subscribe();
        let waited = tokio::time::timeout(IN_FORCE, in_force.wait_for(|now| now.revision >= revision)).await;
        if let Ok(Ok(now)) = waited
            && now.revision == revision
        {
            version = now.world.version().to_owned();
        }
        if !changes.is_empty() {
            let objects: Vec<String> = changes.iter().take(20).map(|change| change.name.to_string()).collect();
            tracing::info!(
                author = terms.author,
                revision,
                objects = changes.len(),
                "configuration changed: {}",
                objects.join(", ")
            );
        }
    }
    v1::ApplyResponse { revision, version, changes: changes.into_iter().map(change).collect() }
}

/// Kinds, and names where they were given.
fn wanted(names: &[v1::ObjectName]) -> Result<Vec<(ObjectKind, Option<String>)>, Status> {
    if names.len() > MAX_NAMES {
        return Err(Status::invalid_argument(format!("at most {MAX_NAMES} objects can be named, got {}", names.len())));
    }
    let one = |v1::ObjectName { kind, name }: &v1::ObjectName| {
        let Some(kind) = ObjectKind::parse(kind) else {
            let kinds: Vec<&str> = ObjectKind::ALL.iter().map(|kind| kind.word()).collect();
            let kind: String = kind.chars().take(80).collect();
            return Err(Status::invalid_argument(format!("{kind:?} is no kind; there are {}", kinds.join(", "))));
        };
        if name.len() > MAX_NAME {
            return Err(Status::invalid_argument(format!("a name is at most {MAX_NAME} bytes long")));
        }
        Ok((kind, Some(name.clone()).filter(|name| !name.is_empty())))
    };
    names.iter().map(one).collect()
}

/// Files' objects and applied ones, in the order of names. What is both is shown as applied, and whose word counts.
fn shown(
    snapshot: &Snapshot,
    mut defined: BTreeMap<ObjectName, Definition>,
    wanted: &[(ObjectKind, Option<String>)],
) -> Vec<v1::StoredObject> {
    let asked = |name: &ObjectName| {
        let fits = |(kind, wanted): &(ObjectKind, Option<String>)| {
            *kind == name.kind && wanted.as_ref().is_none_or(|wanted| *wanted == name.name)
        };
        wanted.is_empty() || wanted.iter().any(fits)
    };
    let mut all = BTreeMap::new();
    for (name, yaml) in &snapshot.objects {
        let shadow = defined.remove(name).map(|d| format!("{}:{}", d.file, d.line));
        let object = v1::StoredObject {
            object: Some(object_name(name)),
            yaml: yaml.to_string(),
            revision: snapshot.about.get(name).map_or(0, |about| about.revision),
            owner: "api".into(),
            shadowed_by: shadow.unwrap_or_default(),
        };
        all.insert(name.clone(), object);
    }
    for (name, Definition { file, line, yaml }) in defined {
        let object = v1::StoredObject {
            object: Some(object_name(&name)),
            yaml,
            revision: 0,
            owner: format!("{file}:{line}"),
            shadowed_by: String::new(),
        };
        all.insert(name, object);
    }
    all.into_iter().filter(|(name, _)| asked(name)).map(|(_, object)| object).collect()
}

fn object_name(name: &ObjectName) -> v1::ObjectName {
    v1::ObjectName { kind: name.kind.word().into(), name: name.name.clone() }
}

fn change(Changed { name, before, after }: Changed) -> v1::ObjectChange {
    let text = |yaml: Option<Arc<str>>| yaml.as_deref().unwrap_or_default().to_owned();
    v1::ObjectChange { object: Some(object_name(&name)), before: text(before), after: text(after) }
}

fn past(Past { revision, about, message, changes }: Past) -> v1::Revision {
    let changes = changes.into_iter().map(change).collect();
    v1::Revision { revision, time: about.time, author: about.author, message, changes }
}

const _: () = assert!(MAX_SIZE < super::MAX_REQUEST, "a file of the largest size can be applied");
