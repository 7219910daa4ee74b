//! What objects mean together, and what is to be said of each.
//!
//! It decides which object is in force where several claim one thing (the oldest, GEP-713), and what of an object is used
//! while some of it leads nowhere. It deliberately knows no API server, no clock and no sidecar.
//!
//! Invariant: an object with a fault of its own never lets anybody in, holds nothing and displaces no other.

mod authorization;
mod external;
mod hold;
mod policy;
mod read;
mod refs;

use super::object::{Object, ObjectId};
use super::target::{TargetKind, TargetRef};
use super::{Kind, target};
use crate::known::{KnownService, RouteId, ServiceId};
use fusewire_model::policy::Policy;
use fusewire_model::route::{Authority, Route};
use fusewire_model::service::{Allow, Override, Service, UnixTime};
use fusewire_model::{PolicyName, ServiceName, TrustDomain};
use std::collections::{BTreeMap, BTreeSet};

/// A route, or one rule of it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RouteTarget {
    pub route: RouteId,
    pub rule: Option<String>,
}

/// What is in the cluster.
pub struct Objects<'a> {
    /// Of every kind, in any order.
    pub objects: &'a [Object],
    pub services: &'a BTreeMap<ServiceId, KnownService>,
    /// Each route that exists, with the names of its rules.
    pub routes: &'a BTreeMap<RouteId, Vec<String>>,
    pub trust_domain: &'a TrustDomain,
    /// Such as `cluster.local`.
    pub cluster_domain: &'a str,
    /// Whether callers mean something else by a host, that is no Service's or ExternalService's name.
    pub is_taken: &'a dyn Fn(&Authority) -> bool,
    pub now: UnixTime,
}

/// What it means.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Output {
    /// One for each ExternalService in force.
    pub services: Vec<Service>,
    /// By which their `hosts` lead to them.
    pub routes: Vec<Route>,
    /// Those of services have their target; the others are named by [`Output::route_policies`].
    pub policies: Vec<Policy>,
    /// Of a rule that has none of its own, its route's is in force.
    pub route_policies: BTreeMap<RouteTarget, PolicyName>,
    /// Who may call; a service that is not here is open to its mesh.
    pub allow: BTreeMap<ServiceName, Allow>,
    pub overrides: Vec<Override>,
    /// Of every object.
    pub verdicts: BTreeMap<ObjectId, Verdict>,
}

/// The reason of what has a fault of its own.
pub const INVALID: &str = "Invalid";

/// One condition of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    pub is_true: bool,
    pub reason: &'static str,
    /// Empty where there is nothing to say.
    pub message: String,
}

impl Said {
    fn yes(reason: &'static str) -> Self {
        Self { is_true: true, reason, message: String::new() }
    }

    fn no(reason: &'static str, message: impl Into<String>) -> Self {
        Self { is_true: false, reason, message: message.into() }
    }
}

/// What is to be said of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Whether it, or a part of it, is in force. Reasons: `Accepted`, `Invalid`, `TargetNotFound`, `Conflicted`,
    /// `Expired`.
    pub accepted: Said,
    /// Whether all that it names exists. Reasons: `ResolvedRefs`, `TargetNotFound`, `BackendNotFound`, `InstanceNotFound`.
    pub resolved: Said,
    /// Which of what it claims an older object has.
    pub conflicted: Option<String>,
    /// In few words, at most 1,000 characters.
    pub targets: String,
    /// The services that it is in force for: the sidecars that use them are those that it concerns.
    pub services: BTreeSet<ServiceName>,
    /// The same for routes.
    pub routes: BTreeSet<RouteTarget>,
    /// Those that an ExternalService has.
    pub hosts: BTreeSet<Authority>,
    /// What a ResiliencePolicy is called in the mesh: one for each of its services, and one for its routes.
    pub policies: BTreeSet<PolicyName>,
}

impl Verdict {
    /// In force, for nothing yet.
    fn accepted(targets: String) -> Self {
        Self {
            accepted: Said::yes("Accepted"),
            resolved: Said::yes("ResolvedRefs"),
            conflicted: None,
            targets,
            services: BTreeSet::new(),
            routes: BTreeSet::new(),
            hosts: BTreeSet::new(),
            policies: BTreeSet::new(),
        }
    }

    fn invalid(targets: String, message: String) -> Self {
        Self { accepted: Said::no(INVALID, message), ..Self::accepted(targets) }
    }
}

/// What objects are looked at with.
struct Setting<'a> {
    input: &'a Objects<'a>,
    /// The ExternalServices in force.
    externals: BTreeMap<ServiceName, Service>,
    /// Every service's name that there is in the cluster.
    names: BTreeSet<ServiceName>,
}

/// What the objects mean together, and what is to be said of each.
pub fn translate(input: &Objects<'_>) -> Output {
    let mut objects: Vec<&Object> = input.objects.iter().collect();
    objects.sort_by(|a, b| a.age().cmp(&b.age()));
    let of = |kind: Kind| objects.iter().copied().filter(move |object| object.meta.id.kind == kind);
    let ports = input.services.iter().flat_map(|(id, known)| known.names(id));
    let mut setting = Setting { input, externals: BTreeMap::new(), names: ports.collect() };
    let mut output = Output::default();
    let external: Vec<&Object> = of(Kind::ExternalService).collect();
    external::translate(&mut setting, &external, &mut output);
    let policies: Vec<&Object> = of(Kind::ResiliencePolicy).collect();
    policy::translate(&setting, &policies, &mut output);
    of(Kind::AuthorizationPolicy).for_each(|object| authorization::translate(&setting, object, &mut output));
    let mut held = BTreeMap::new();
    of(Kind::BreakerOverride).for_each(|object| hold::translate(&setting, object, &mut held, &mut output));
    output
}
