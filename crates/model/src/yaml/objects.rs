//! Objects: what files say, taken apart into pieces that can be applied, shown and taken back one by one.
//!
//! It decides what an object's name is, which text is kept of it (canonical YAML of just that object), and the one rule
//! of precedence: *a file's word counts*. An object that a file defines cannot be applied; one that was applied first
//! and is then defined by a file is shadowed: kept and shown, but not in force. It deliberately keeps nothing and knows no
//! revisions: `control` does.
//!
//! Invariant: what [`apply`] gives to be kept means, with the same files, what was applied.

use super::place::{Place, Sink};
use super::tree::{self, Node, Value};
use super::{Fault, Source, emit, mesh, refs};
use crate::name::TrustDomain;
use crate::world::Mesh;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// The kinds of objects; in this order they are kept and shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ObjectKind {
    Service,
    Route,
    Policy,
    Override,
}

impl ObjectKind {
    pub const ALL: [Self; 4] = [Self::Service, Self::Route, Self::Policy, Self::Override];

    /// `service`: as the API and the command line name it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Service => "service",
            Self::Route => "route",
            Self::Policy => "policy",
            Self::Override => "override",
        }
    }

    /// `services`: the key of a mesh file below which such objects stand.
    pub fn section(self) -> &'static str {
        match self {
            Self::Service => "services",
            Self::Route => "routes",
            Self::Policy => "policies",
            Self::Override => "overrides",
        }
    }

    /// By its word or its section.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.word() == text || kind.section() == text)
    }
}

/// What an object is called: `service/shop`; an override is `override/shop`, or `override/shop/shop-1` of one instance.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectName {
    pub kind: ObjectKind,
    /// Not empty; whether it is a name that the kind may have is found out when the object is read.
    pub name: String,
}

impl ObjectName {
    /// `service/shop`, as [`fmt::Display`] writes it. `None`: the kind is unknown or a part is empty.
    pub fn parse(text: &str) -> Option<Self> {
        let (kind, name) = text.split_once('/')?;
        let kind = ObjectKind::parse(kind)?;
        (!name.is_empty()).then(|| Self { kind, name: name.into() })
    }

    /// What faults call the text that is kept of it.
    fn source(&self) -> String {
        format!("api:{self}")
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.kind.word(), self.name)
    }
}

/// An object in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Definition {
    pub file: String,
    /// From 1.
    pub line: usize,
    /// A mesh file of just this object.
    pub yaml: String,
}

/// What files and objects say together.
#[derive(Clone, Debug, PartialEq)]
pub struct Merged {
    pub mesh: Mesh,
    /// Objects that were left out since a file defines them too, and where: `mesh.yaml:12`.
    pub shadowed: BTreeMap<ObjectName, String>,
}

/// What is to be kept, and what it then all means.
#[derive(Clone, Debug, PartialEq)]
pub struct Applied {
    /// Every object after the change, those that were there before it included.
    pub objects: Objects,
    /// The names of those that were applied, changed or not.
    pub touched: Vec<ObjectName>,
    pub merged: Merged,
}

/// The text of each object: a mesh file of just this object.
pub type Objects = BTreeMap<ObjectName, Arc<str>>;

/// Reads files and objects as one mesh; the files come first, then the objects in the order of their names.
///
/// # Errors
/// Every fault of every file and object at once; an object is named `api:service/shop`.
pub fn merge(files: &[Source], objects: &Objects) -> Result<Merged, Vec<Fault>> {
    let sink = Sink::default();
    let mut trees = read(files, &sink);
    let (mut shadowed, mut kept) = (BTreeMap::new(), Vec::new());
    let defined = by_name(&trees);
    for (name, yaml) in objects {
        match defined.get(name) {
            Some(file) => {
                shadowed.insert(name.clone(), file.place.line_text());
            }
            None => kept.push(Source { name: name.source(), text: yaml.to_string() }),
        }
    }
    trees.extend(read(&kept, &sink));
    Ok(Merged { mesh: together(&trees, sink)?, shadowed })
}

/// What would be if `sources` were applied over `objects`, each replacing what has its name.
///
/// # Errors
/// Every fault at once, those of `sources` where the operator wrote them: also what only a file may say (`sidecar`), a
/// trust domain that is not `domain`, and objects that a file defines.
pub fn apply(
    files: &[Source],
    objects: &Objects,
    sources: &[Source],
    domain: &TrustDomain,
) -> Result<Applied, Vec<Fault>> {
    let sink = Sink::default();
    let mut trees = read(files, &sink);
    let (defined, applied) = (by_name(&trees), read(sources, &sink));
    let mut owned = Vec::new();
    for found in applied.iter().flat_map(found) {
        if let Some(file) = defined.get(&found.name) {
            let message = format!("{} is defined by {}, and a file's word counts", found.name, file.place.line_text());
            sink.fault(&found.place, message, Some("change it there, or take it out of the file first".into()));
            owned.push((found.place.line, found.place.column));
        }
    }
    applied.iter().for_each(|file| only_objects(file, domain, &sink));
    let touched = by_name(&applied);
    let rest = objects.iter().filter(|(name, _)| !touched.contains_key(name) && !defined.contains_key(name));
    let rest: Vec<Source> = rest.map(|(name, yaml)| Source { name: name.source(), text: yaml.to_string() }).collect();
    let first = trees.len();
    trees.extend(applied);
    trees.extend(read(&rest, &sink));
    if let Err(mut faults) = together(&trees, sink) {
        // said already, in better words
        let said_twice = |fault: &Fault| {
            let again = fault.message.starts_with("is already defined in") || fault.message.starts_with("holds what");
            again && sources.iter().any(|s| s.name == fault.file) && owned.contains(&(fault.line, fault.column))
        };
        faults.retain(|fault| !said_twice(fault));
        return Err(faults);
    }
    // written only now: what is valid does not nest deep, and so does not grow
    let mut objects = objects.clone();
    let applied = trees[first..first + sources.len()].iter().flat_map(found);
    let applied: Objects = applied.map(|found| (found.name.clone(), found.yaml().into())).collect();
    let touched = applied.keys().cloned().collect();
    objects.extend(applied);
    // once more from what will be kept: what was applied must mean the same when it is read back
    let merged = merge(files, &objects)?;
    Ok(Applied { objects, touched, merged })
}

/// What `files`, which have no fault, define.
pub fn definitions(files: &[Source]) -> BTreeMap<ObjectName, Definition> {
    let trees = read(files, &Sink::default());
    let definition = |found: Found<'_>| Definition {
        yaml: found.yaml(),
        file: found.place.file.to_string(),
        line: found.place.line,
    };
    by_name(&trees).into_iter().map(|(name, found)| (name, definition(found))).collect()
}

fn read(sources: &[Source], sink: &Sink) -> Vec<tree::File> {
    sources.iter().map(|source| tree::read(source, sink)).collect()
}

/// An object and where it was written.
struct Found<'a> {
    name: ObjectName,
    place: Place,
    node: &'a Node,
}

impl Found<'_> {
    fn yaml(&self) -> String {
        match self.name.kind {
            ObjectKind::Override => emit::listed(self.name.kind.section(), self.node),
            kind => emit::named(kind.section(), &self.name.name, self.node),
        }
    }
}

/// By name; where one is written twice, which is a fault, the first.
fn by_name(files: &[tree::File]) -> BTreeMap<ObjectName, Found<'_>> {
    let mut all = BTreeMap::new();
    for found in files.iter().flat_map(found) {
        all.entry(found.name.clone()).or_insert(found);
    }
    all
}

/// The objects of a file. What has no name, or not the shape of an object, is left out: it has a fault once it is read.
fn found(file: &tree::File) -> Vec<Found<'_>> {
    let place = |line, column| Place { file: file.name.clone(), line, column, trail: None };
    let mut all = Vec::new();
    for (section, value) in sections(file) {
        let Some(kind) = ObjectKind::ALL.into_iter().find(|kind| kind.section() == section) else { continue };
        match &value.value {
            Value::Map(entries) if kind != ObjectKind::Override => all.extend(entries.iter().map(|(key, node)| {
                let name = ObjectName { kind, name: key.text.to_string() };
                Found { name, place: place(key.line, key.column), node }
            })),
            Value::List(items) if kind == ObjectKind::Override => all.extend(items.iter().filter_map(|node| {
                let name = ObjectName { kind, name: override_name(node)? };
                Some(Found { name, place: place(node.line, node.column), node })
            })),
            _ => {}
        }
    }
    all
}

fn override_name(node: &Node) -> Option<String> {
    let Value::Map(entries) = &node.value else { return None };
    let text = |wanted: &str| {
        let (_, node) = entries.iter().find(|(key, _)| *key.text == *wanted)?;
        if let Value::Text(text) = &node.value { Some(text) } else { None }
    };
    let service = text("service")?;
    Some(text("instance").map_or_else(|| service.to_string(), |instance| format!("{service}/{instance}")))
}

/// The keys at the top of each document.
fn sections(file: &tree::File) -> impl Iterator<Item = (&str, &Node)> {
    let entries = file.documents.iter().filter_map(|document| match &document.value {
        Value::Map(entries) => Some(entries),
        _ => None,
    });
    entries.flatten().map(|(key, node)| (&*key.text, node))
}

/// Faults for what is no object.
fn only_objects(file: &tree::File, domain: &TrustDomain, sink: &Sink) {
    let top = |node: &Node| Place { file: file.name.clone(), line: node.line, column: node.column, trail: None };
    for (section, node) in sections(file) {
        match (section, &node.value) {
            ("sidecar", _) => {
                let remedy = "give it to `fusewire sidecar --config`, and leave it out here";
                let message = "is a sidecar's own file, and no object that can be applied";
                sink.fault(&top(node).below("sidecar"), message.into(), Some(remedy.into()));
            }
            ("trust_domain", Value::Text(text)) if **text != *domain.as_str() => {
                let message = format!("must be {domain}, which this mesh's authority was made for");
                sink.fault(&top(node).below("trust_domain"), message, Some("leave it out".into()));
            }
            _ => {}
        }
    }
}

fn together(trees: &[tree::File], sink: Sink) -> Result<Mesh, Vec<Fault>> {
    let draft = mesh::draft(trees, &sink);
    // with a file or half of one unread, "not defined" would be a guess
    if trees.iter().all(|file| file.whole) {
        refs::check(&draft, &sink);
    }
    let order: Vec<&str> = trees.iter().map(|file| &*file.name).collect();
    let faults = sink.into_faults(&order);
    if faults.is_empty() { Ok(draft.finish().mesh) } else { Err(faults) }
}
