//! What a wish makes of the objects there are: pure, so that it can be asked again when somebody else was first.
//!
//! It decides whether a change may happen (the whole configuration must be without a fault after it, and none of its
//! objects may be a file's) and which objects it changes. It deliberately knows no store.
//!
//! Invariant: what is planned is valid together with the files it was planned with.

use super::error::ObjectsError;
use super::{MAX_OBJECTS, MAX_TEXT};
use fusewire_model::yaml::{self, Applied, ObjectName, Objects, Source};
use fusewire_model::{TrustDomain, World};
use std::sync::Arc;

/// What is asked for.
#[derive(Clone, Debug)]
pub(crate) enum Wish {
    Apply(Vec<Source>),
    Delete(Vec<ObjectName>),
    /// Exactly these objects.
    Restore(Objects),
}

/// One object's change. Never from nothing to nothing, nor to the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Changed {
    pub(crate) name: ObjectName,
    pub(crate) before: Option<Arc<str>>,
    pub(crate) after: Option<Arc<str>>,
}

#[derive(Debug)]
pub(super) struct Planned {
    pub(super) changes: Vec<Changed>,
    /// What the wish is about, changed or not.
    pub(super) touched: Vec<ObjectName>,
    /// Of the files and objects alone.
    pub(super) version: String,
}

pub(super) fn plan(
    files: &[Source],
    before: &Objects,
    wish: &Wish,
    domain: &TrustDomain,
) -> Result<Planned, ObjectsError> {
    let applied = match wish {
        Wish::Apply(sources) => yaml::apply(files, before, sources, domain).map_err(ObjectsError::Faults)?,
        Wish::Delete(names) => {
            deletable(files, before, names)?;
            let mut objects = before.clone();
            objects.retain(|name, _| !names.contains(name));
            whole(files, objects, names.clone())?
        }
        Wish::Restore(objects) => {
            let changed = |name: &&ObjectName| before.get(*name) != objects.get(*name);
            let mut touched: Vec<ObjectName> = before.keys().chain(objects.keys()).filter(changed).cloned().collect();
            touched.sort();
            touched.dedup();
            whole(files, objects.clone(), touched)?
        }
    };
    bounded(&applied.objects)?;
    let change = |name: &ObjectName| {
        let (before, after) = (before.get(name).cloned(), applied.objects.get(name).cloned());
        (before != after).then(|| Changed { name: name.clone(), before, after })
    };
    let changes = applied.touched.iter().filter_map(change).collect();
    Ok(Planned { changes, touched: applied.touched, version: World::new(applied.merged.mesh).version().to_owned() })
}

fn whole(files: &[Source], objects: Objects, touched: Vec<ObjectName>) -> Result<Applied, ObjectsError> {
    let merged = yaml::merge(files, &objects).map_err(ObjectsError::Faults)?;
    Ok(Applied { objects, touched, merged })
}

fn deletable(files: &[Source], before: &Objects, names: &[ObjectName]) -> Result<(), ObjectsError> {
    let missing: Vec<&ObjectName> = names.iter().filter(|name| !before.contains_key(*name)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let defined = yaml::definitions(files);
    let of_files: Vec<String> = missing
        .iter()
        .filter_map(|name| defined.get(*name).map(|d| format!("{name} is defined by {}:{}", d.file, d.line)))
        .collect();
    if !of_files.is_empty() {
        return Err(ObjectsError::OfAFile(format!("{}: take it out there; nothing was deleted", of_files.join(", "))));
    }
    let missing: Vec<String> = missing.iter().map(ToString::to_string).collect();
    Err(ObjectsError::NotFound(format!("there is no {}; nothing was deleted", missing.join(", "))))
}

/// All objects are held in memory, and shown in one answer.
fn bounded(objects: &Objects) -> Result<(), ObjectsError> {
    let bytes: usize = objects.values().map(|yaml| yaml.len()).sum();
    if objects.len() > MAX_OBJECTS || bytes > MAX_TEXT {
        return Err(ObjectsError::TooLarge(format!(
            "that would be {} objects of {bytes} bytes, where the API keeps {MAX_OBJECTS} of {MAX_TEXT} bytes together: \
             write large parts to files, or let instances register",
            objects.len()
        )));
    }
    Ok(())
}
