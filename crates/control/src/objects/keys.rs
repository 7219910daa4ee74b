//! How objects and their history lie in the store.
//!
//! - `config/head`: the revision of all objects together. Every change expects it to be what it read, so that changes happen
//!   one after the other on all replicas.
//! - `config/objects/<kind>/<name>`: one object, its text and who changed it last.
//! - `config/history/<revision>`: who changed what, and when. Small, so that the whole history can be listed.
//! - `config/texts/<revision>`: the objects of that change before and after it.
//!
//! It decides keys and values only. Invariant: a name is kept as it is (kinds have no `/`), so no two objects share a key.

use bytes::Bytes;
use fusewire_model::yaml::ObjectName;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

pub(super) const HEAD: &str = "config/head";
pub(super) const OBJECTS: &str = "config/objects/";
pub(super) const HISTORY: &str = "config/history/";
const TEXTS: &str = "config/texts/";

pub(super) fn object(name: &ObjectName) -> String {
    format!("{OBJECTS}{name}")
}

/// `None` for a key that no version of this program has written.
pub(super) fn object_of(key: &str) -> Option<ObjectName> {
    ObjectName::parse(key.strip_prefix(OBJECTS)?)
}

/// Twenty digits, so that keys sort as revisions do.
pub(super) fn history(revision: u64) -> String {
    format!("{HISTORY}{revision:020}")
}

pub(super) fn revision_of(key: &str) -> Option<u64> {
    key.strip_prefix(HISTORY)?.parse().ok()
}

pub(super) fn texts(revision: u64) -> String {
    format!("{TEXTS}{revision:020}")
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Head {
    pub(super) revision: u64,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Stored {
    pub(super) yaml: String,
    pub(super) revision: u64,
    pub(super) author: String,
    pub(super) time: String,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Happened {
    /// Tells this change from another one that got the revision in its place, where the store could not say.
    pub(super) id: String,
    pub(super) time: String,
    pub(super) author: String,
    pub(super) message: String,
    pub(super) objects: Vec<String>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Texts {
    pub(super) changes: Vec<TextChange>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct TextChange {
    pub(super) object: String,
    pub(super) before: Option<String>,
    pub(super) after: Option<String>,
}

/// `None` for what no version of this program has written.
pub(super) fn decode<T: DeserializeOwned>(value: &Bytes) -> Option<T> {
    serde_json::from_slice(value).ok()
}

/// These types have neither maps with odd keys nor anything else that JSON cannot say.
pub(super) fn encode(value: &impl Serialize) -> Bytes {
    serde_json::to_vec(value).unwrap_or_default().into()
}
