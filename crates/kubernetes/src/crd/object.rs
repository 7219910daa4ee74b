//! An object as it came, taken apart as far as all kinds are alike.

use super::{GROUP, Kind, VERSION};
use serde_json::Value;
use std::fmt;

/// Of one object among all.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ObjectId {
    pub kind: Kind,
    pub namespace: String,
    pub name: String,
}

impl ObjectId {
    /// What it is called in the mesh.
    pub(super) fn mesh_name(&self) -> String {
        format!("{}.{}", self.name, self.namespace)
    }
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}/{}", self.kind.as_str(), self.namespace, self.name)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meta {
    pub id: ObjectId,
    /// Of this object alone: one that is made anew under the same name has another.
    pub uid: String,
    /// What conditions are about.
    pub generation: i64,
    /// RFC 3339, in UTC and whole seconds, as API servers write it: in the order of time as text.
    pub created: String,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Object {
    pub meta: Meta,
    /// As it was written.
    pub spec: Value,
}

impl Object {
    /// `None`: it is not of a kind of ours, or has no name.
    pub fn of(document: &Value) -> Option<Self> {
        let kind = Kind::ALL.into_iter().find(|kind| document["kind"] == kind.as_str())?;
        if document["apiVersion"].as_str()? != format!("{GROUP}/{VERSION}") {
            return None;
        }
        let metadata = &document["metadata"];
        let text = |key: &str| metadata[key].as_str().map(str::to_owned);
        let id = ObjectId { kind, namespace: text("namespace")?, name: text("name")? };
        let generation = metadata["generation"].as_i64().unwrap_or_default();
        let created = text("creationTimestamp").unwrap_or_default();
        let uid = text("uid").unwrap_or_default();
        Some(Self { meta: Meta { id, uid, generation, created }, spec: document["spec"].clone() })
    }

    /// The oldest first, then by namespace and name (GEP-713).
    pub(super) fn age(&self) -> (&str, &str, &str) {
        (&self.meta.created, &self.meta.id.namespace, &self.meta.id.name)
    }
}
