//! What many streams send alike, worked out once: the hash of a resource, and the change between two sets of endpoints.
//!
//! It decides nothing. With a thousand sidecars that call a service of ten thousand instances, one change would otherwise
//! be a thousand encodings of a megabyte, and a thousand comparisons. It deliberately knows resources by their allocation: a
//! world shares what has not changed with the world before, so that the same resource is the same allocation.
//!
//! Invariant: what nobody else holds any more is let go of when a new world comes, and changes are bounded in number.

use crate::shared::lock;
use fusewire_api::{change_between, resource_to_wire, v1};
use fusewire_model::resource::{Endpoints, Key, Resource};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};

/// Changes that are kept: those of the last few worlds, for streams that are a little behind.
const MAX_CHANGES: usize = 1_024;

#[derive(Debug, Default)]
pub(crate) struct Encoded(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    hashes: HashMap<Key, Vec<(Resource, Arc<str>)>>,
    changes: HashMap<(Arc<str>, Arc<str>), Arc<v1::EndpointsChange>>,
}

impl Encoded {
    /// The content hash of `resource`, as the wire has it.
    pub(crate) fn hash(&self, key: &Key, resource: &Resource) -> Arc<str> {
        let found = |kept: &Kept| {
            let of = kept.hashes.get(key)?;
            of.iter().find(|(known, _)| known.is_same(resource)).map(|(_, hash)| hash.clone())
        };
        if let Some(hash) = found(&lock(&self.0)) {
            return hash;
        }
        // outside the lock: two may do it at once, which costs time and harms nothing
        let hash: Arc<str> = resource_to_wire(resource).hash.into();
        let mut kept = lock(&self.0);
        let known = kept.hashes.entry(key.clone()).or_default();
        known.retain(|(resource, _)| !is_last(resource));
        known.push((resource.clone(), hash.clone()));
        hash
    }

    /// What turns `old` into `new`.
    pub(crate) fn change(
        &self,
        (old, old_hash): (&Endpoints, &Arc<str>),
        (new, new_hash): (&Endpoints, &Arc<str>),
    ) -> Arc<v1::EndpointsChange> {
        let between = (old_hash.clone(), new_hash.clone());
        // equal content of two services has one hash, but each its own name
        let of_this = |c: &&Arc<v1::EndpointsChange>| c.service == new.service.as_str();
        if let Some(change) = lock(&self.0).changes.get(&between).filter(of_this) {
            return change.clone();
        }
        let change = Arc::new(change_between(old, old_hash, new, new_hash));
        let mut kept = lock(&self.0);
        if kept.changes.len() >= MAX_CHANGES {
            kept.changes.clear();
        }
        kept.changes.insert(between, change.clone());
        change
    }

    /// How many sets of endpoints have a hash, and how many changes there are.
    #[cfg(test)]
    pub(crate) fn counts(&self) -> (usize, usize) {
        let kept = lock(&self.0);
        let endpoints = |(resource, _): &&(Resource, Arc<str>)| matches!(resource, Resource::Endpoints(_));
        (kept.hashes.values().flatten().filter(endpoints).count(), kept.changes.len())
    }

    /// Lets go of what only this holds.
    pub(crate) fn prune(&self) {
        lock(&self.0).hashes.retain(|_, known| {
            known.retain(|(resource, _)| !is_last(resource));
            !known.is_empty()
        });
    }
}

fn is_last(resource: &Resource) -> bool {
    let holders = match resource {
        Resource::Trust(a) => Arc::strong_count(a),
        Resource::Policy(a) => Arc::strong_count(a),
        Resource::Service(a) => Arc::strong_count(a),
        Resource::Endpoints(a) => Arc::strong_count(a),
        Resource::Override(a) => Arc::strong_count(a),
        Resource::Inbound(a) => Arc::strong_count(a),
        Resource::Route(a) => Arc::strong_count(a),
    };
    holders == 1
}
