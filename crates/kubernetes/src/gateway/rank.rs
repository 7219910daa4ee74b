//! Which rule is tried before which, of all objects of one port: Gateway API's order.

use super::object::Metadata;
use fusewire_model::route::{Match, PathMatch};
use std::cmp::Reverse;

/// The smaller goes first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rank {
    specific: Specific,
    /// The oldest object first. One without a time, which an API server never gives out, goes before all.
    created: String,
    /// Then by `NAMESPACE/NAME`.
    object: String,
    /// Then as they were written: the rule, and its match.
    at: (usize, usize),
}

/// More of each goes first, in this order.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Specific(u8, Reverse<[usize; 4]>);

impl Specific {
    /// An exact path, a pattern (where that stands is ours to choose), a prefix; the characters of a path that is not exact; a
    /// method; the number of headers; that of query parameters.
    pub(super) fn http(matches: &Match) -> Self {
        let (class, length) = match &matches.path {
            PathMatch::Exact(_) => (0, 0),
            PathMatch::Regex(pattern) => (1, pattern.as_str().len()),
            // `/a/` matches what `/a` does
            PathMatch::Prefix(prefix) => (2, prefix.strip_suffix('/').unwrap_or(prefix).len()),
            PathMatch::Any => (2, 0),
        };
        let method = usize::from(!matches.methods.is_empty());
        Self(class, Reverse([length, method, matches.headers.len(), matches.query.len()]))
    }

    /// The characters of the service, those of the method; the number of headers.
    pub(super) fn grpc(service: &str, method: &str, headers: usize) -> Self {
        Self(0, Reverse([service.len(), method.len(), headers, 0]))
    }
}

impl Rank {
    pub(super) fn new(specific: Specific, of: &Metadata, at: (usize, usize)) -> Self {
        let object = format!("{}/{}", of.namespace, of.name);
        Self { specific, created: of.creation_timestamp.clone(), object, at }
    }
}
