//! Gateway API for the mesh (GAMMA): HTTPRoutes and GRPCRoutes whose parents are Services, as routes of ours.
//!
//! It decides what each object means, by Gateway API v1.6's rules (standard channel, and `retry` of the experimental one), and
//! what its status says of each parent. All is a function of its arguments: who watches the objects and writes their status
//! is elsewhere. Parents that are no Services are somebody else's, and are not mentioned.
//!
//! How it maps:
//! - all routes of one port of a Service are merged into one route of ours, for the authority
//!   `NAME.NAMESPACE.svc.DOMAIN:PORT`: the most specific match first, then the oldest object, then by name (`rank`). Where a
//!   GRPCRoute has the port, HTTPRoutes there are in conflict, and not used (GEP-1426);
//! - a backend is the service `NAME.NAMESPACE` (the Service's first TCP port) or `NAME.NAMESPACE.PORT` (any other). One that is
//!   not there or may not be used is answered with 500 for its share;
//! - what all routes of one port make together is bounded (`Size`): those that would make it too much, the newest, are not used;
//! - a redirect that names neither scheme nor port leads to the parent's port;
//! - timeouts and retries are a policy of their own, a copy of the one that targets the rule, else of the first backend's
//!   service's, with these on top. What that policy counts by name, such as a rate, is then counted for the rule alone;
//! - hostnames of the route are not looked at (GEP-1426: they mean nothing for Services).
//!
//! Not carried out, and said in the status: routes in another namespace than their Service (consumer routes), filters of kind
//! `ExtensionRef`, `RequestRedirect` beside a filter that is not `RequestHeaderModifier`, filters of backends other than header
//! edits, edits of headers that frame a message or name the host, retries of statuses below 500, and every field that this build
//! does not know (of the experimental channel: `externalAuth`, `sessionPersistence`, `useDefaultGateways`). A rule that wants
//! any of it is answered with 500, and `PartiallyInvalid` says so; a route that has no other rule is not used at all, unless a filter
//! of somebody else's is among what it wants (`guards`).
//!
//! Invariant: nothing that an object says is left out in silence, and no object can make the whole fail.

mod filter;
mod grpc;
mod http;
mod matching;
mod object;
mod parents;
mod policy;
mod rank;
mod refs;
mod status;
#[cfg(test)]
mod tests;
mod translated;

use crate::known::{KnownService, RouteId, RouteKind, ServiceId};
use fusewire_model::policy::Policy;
use fusewire_model::route::{Authority, Route, Rule, Size};
use fusewire_model::{PolicyName, ServiceName};
pub use object::{GrpcRoute, HttpRoute, Metadata, ParentRef, ReferenceGrant};
pub use policy::policy_prefix;
use rank::Rank;
pub use status::{Condition, ParentStatus, RouteStatus};
use std::collections::{BTreeMap, BTreeSet};
use translated::{Dropped, Translated};

/// What is in the cluster.
pub struct Input<'a> {
    pub http: &'a [HttpRoute],
    pub grpc: &'a [GrpcRoute],
    pub grants: &'a [ReferenceGrant],
    /// Each Service that exists.
    pub services: &'a BTreeMap<ServiceId, KnownService>,
    /// The policy in force for a service of the mesh.
    pub policy: &'a dyn Fn(&ServiceName) -> Policy,
    /// Whether a route was written elsewhere for a service of the mesh, which goes before.
    pub is_routed: &'a dyn Fn(&ServiceName) -> bool,
    /// The policy that targets a rule of a route, by the rule's name, or its route.
    pub rule_policy: &'a dyn Fn(&RouteId, Option<&str>) -> Option<Policy>,
    /// Such as `cluster.local`.
    pub cluster_domain: &'a str,
}

/// What it means.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Output {
    /// One for each port of a Service that has routes, in the order of their authorities.
    pub routes: Vec<Route>,
    /// Copies that the rules name, in the order of their names.
    pub policies: Vec<Policy>,
    /// Of each route object that has a Service for a parent, HTTPRoutes first, in their order.
    pub statuses: Vec<RouteStatus>,
}

/// What is to be said of an object.
#[derive(Default)]
struct Told {
    /// Where, and why that cannot be had: of the whole object, or of the rule that is being read.
    unsupported: Vec<String>,
    /// Rules that are not in force, by their indices, and why.
    dropped: BTreeMap<usize, (Dropped, Vec<String>)>,
    /// References that lead nowhere: the reason, and what was meant.
    unresolved: Vec<(&'static str, String)>,
}

impl Told {
    fn unsupported(&mut self, path: impl std::fmt::Display, why: impl std::fmt::Display) {
        self.unsupported.push(format!("{path}: {why}"));
    }

    /// Fields that this build does not know.
    fn unknown(&mut self, path: &str, fields: &object::Rest) {
        for name in fields.keys() {
            self.unsupported(format_args!("{path}.{name}"), "is not supported");
        }
    }
}

/// A port of a Service, and the objects that have it: indices, each once.
type Attached = BTreeMap<(ServiceId, u16), BTreeSet<usize>>;

/// Those that there is no room for, and why.
type Full = BTreeMap<usize, String>;

/// What the objects mean together, and what is to be said of each.
pub fn translate(input: &Input<'_>) -> Output {
    let http = input.http.iter().map(|route| http::translated(input, route));
    let all: Vec<Translated<'_>> = http.chain(input.grpc.iter().map(|route| grpc::translated(input, route))).collect();
    let mut attached = Attached::new();
    for (index, one) in all.iter().enumerate().filter(|(_, one)| one.is_usable()) {
        for parent in one.parents.iter().filter(|parent| parent.is_service()) {
            let (id, ports) = parents::ports(input, one, parent).unwrap_or_default();
            for port in ports.into_iter().filter(|port| !parents::is_routed(input, &id, *port)) {
                attached.entry((id.clone(), port)).or_default().insert(index);
            }
        }
    }
    for objects in attached.values_mut() {
        if objects.iter().any(|index| all[*index].kind == RouteKind::Grpc) {
            objects.retain(|index| all[*index].kind == RouteKind::Grpc);
        }
    }
    let full = bound(&mut attached, &all);
    let said = |(index, one)| status::of(input, (index, one), (&attached, &full));
    let statuses = all.iter().enumerate().filter_map(said).collect();
    let used: BTreeSet<usize> = attached.values().flatten().copied().collect();
    let routes = attached.iter().filter_map(|(at, objects)| merged(input, at, objects, &all)).collect();
    let policies = used.iter().flat_map(|index| &all[*index].policies);
    let policies: BTreeMap<&PolicyName, &Policy> = policies.map(|policy| (&policy.name, policy)).collect();
    Output { routes, policies: policies.into_values().cloned().collect(), statuses }
}

/// Takes out what makes the rules of a port more than a sidecar takes: the newest objects, each from all its ports.
fn bound(attached: &mut Attached, all: &[Translated<'_>]) -> Full {
    let mut ports: BTreeMap<usize, Vec<&(ServiceId, u16)>> = BTreeMap::new();
    for (at, objects) in attached.iter() {
        objects.iter().for_each(|index| ports.entry(*index).or_default().push(at));
    }
    let age = |index: &usize| {
        let Metadata { creation_timestamp, namespace, name, .. } = all[*index].metadata;
        (creation_timestamp, namespace, name, *index)
    };
    let mut oldest_first: Vec<usize> = ports.keys().copied().collect();
    oldest_first.sort_by(|a, b| age(a).cmp(&age(b)));
    let (mut sizes, mut full) = (BTreeMap::<&(ServiceId, u16), Size>::new(), Full::new());
    for index in oldest_first {
        let mut own = Size::default();
        all[index].rules.iter().for_each(|(_, rule)| own += Size::of(rule));
        let grown = ports[&index].iter().map(|at| {
            let mut size = sizes.get(at).copied().unwrap_or_default();
            size += own;
            (*at, size)
        });
        let grown: Vec<_> = grown.collect();
        let excess = grown.iter().find_map(|(((namespace, name), port), size)| {
            let excess = size.excess()?;
            Some(format!("with the older routes of port {port} of Service {namespace}/{name} there are {excess}"))
        });
        match excess {
            Some(excess) => drop(full.insert(index, excess)),
            None => sizes.extend(grown),
        }
    }
    attached.values_mut().for_each(|objects| objects.retain(|index| !full.contains_key(index)));
    attached.retain(|_, objects| !objects.is_empty());
    full
}

/// All rules for one port, the most specific first.
fn merged(
    input: &Input<'_>,
    at: &(ServiceId, u16),
    objects: &BTreeSet<usize>,
    all: &[Translated<'_>],
) -> Option<Route> {
    let ((namespace, name), port) = at;
    let authority = Authority::parse(&format!("{name}.{namespace}.svc.{}:{port}", input.cluster_domain))?;
    let mut rules: Vec<&(Rank, Rule)> = objects.iter().flat_map(|index| &all[*index].rules).collect();
    rules.sort_by(|a, b| a.0.cmp(&b.0));
    let rules = rules.into_iter().map(|(_, rule)| at_port(rule.clone(), *port)).collect();
    let service = input.services.get(&at.0).and_then(|known| known.name_of(&at.0, *port));
    Some(Route { name: authority.to_string(), authorities: vec![authority], service, rules })
}

/// A redirect without scheme and port leads to the port that was asked for, which not every request says.
fn at_port(mut rule: Rule, port: u16) -> Rule {
    let redirect = rule.filters.as_mut().and_then(|filters| filters.redirect.as_mut());
    if let Some(redirect) = redirect.filter(|redirect| redirect.scheme.is_none()) {
        redirect.port.get_or_insert(port);
    }
    rule
}
