//! Our own kinds of objects in Kubernetes: their definitions, and what objects of them mean.
//!
//! It decides what may be written ([`Kind::definition`]: structural schemas with rules), what that means in the mesh
//! ([`translate()`], a function of its arguments), and what an object's status says ([`conditions`]). It deliberately watches
//! nothing and writes nothing.
//!
//! An object's `spec` is read by the parser that reads YAML files, so that one text means one thing in both, and faults have
//! the path of the field and what to do. Tests walk the schemas and hold every field, word and bound against that parser.
//!
//! Names: an object NAME in NAMESPACE is `NAME.NAMESPACE` in the mesh; both are DNS labels.
//!
//! Invariant: nothing that is wrong with one object keeps another from being in force.

mod authorization;
mod definition;
#[cfg(test)]
mod drift;
mod external;
mod hold;
mod object;
mod policy;
mod schema;
mod status;
mod target;
#[cfg(test)]
mod tests;
mod translate;

use crate::yaml;

pub use object::{Meta, Object, ObjectId};
pub use status::{CONDITIONS, Condition, Sidecars, Truth, conditions, status};
pub use target::{TargetKind, TargetRef};
pub use translate::{INVALID, Objects, Output, RouteTarget, Said, Verdict, translate};

/// Of every kind of ours.
pub const GROUP: &str = "fusewire.io";
pub const VERSION: &str = "v1alpha1";

/// A kind of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    ResiliencePolicy,
    ExternalService,
    AuthorizationPolicy,
    BreakerOverride,
}

impl Kind {
    pub const ALL: [Self; 4] =
        [Self::ResiliencePolicy, Self::ExternalService, Self::AuthorizationPolicy, Self::BreakerOverride];

    /// As `kind` has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ResiliencePolicy => "ResiliencePolicy",
            Self::ExternalService => "ExternalService",
            Self::AuthorizationPolicy => "AuthorizationPolicy",
            Self::BreakerOverride => "BreakerOverride",
        }
    }

    /// As URLs have it.
    pub fn plural(self) -> &'static str {
        match self {
            Self::ResiliencePolicy => "resiliencepolicies",
            Self::ExternalService => "externalservices",
            Self::AuthorizationPolicy => "authorizationpolicies",
            Self::BreakerOverride => "breakeroverrides",
        }
    }

    /// As people type it.
    pub fn short(self) -> &'static str {
        match self {
            Self::ResiliencePolicy => "rp",
            Self::ExternalService => "exsvc",
            Self::AuthorizationPolicy => "authz",
            Self::BreakerOverride => "bo",
        }
    }
}

/// The files of `deploy/kubernetes/base/crds`, by name.
pub fn manifests() -> Vec<(String, String)> {
    let file = |kind: Kind| {
        let text = format!("# Made by `cargo xtask crds`.\n{}", yaml::write(&[kind.definition()]));
        (format!("{}.yaml", kind.plural()), text)
    };
    Kind::ALL.into_iter().map(file).collect()
}
