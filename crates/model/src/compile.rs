//! What one sidecar needs for what it asked: pure, and exactly the closure of it.
//!
//! It decides which resources a sidecar is given: for each subscription the route or service that it names, and whatever
//! those refer to; and always the sidecar's own [`Inbound`]. It deliberately does not know what the sidecar already
//! holds (whoever sends compares hashes) and never makes a [`Resource::Trust`], which whoever holds the certificate
//! authority adds.
//!
//! Invariant: the cost is that of the answer, never of the mesh, and what two sidecars are given alike is one allocation.

use crate::name::{PolicyName, ServiceName};
use crate::node::Node;
use crate::policy::Fallback;
use crate::resource::{Answer, Inbound, Key, Kind, Resource, Subscription};
use crate::route::{Authority, RouteTable};
use crate::world::{Ports, World, merge_port};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The answers, in the order they were asked, and the resources in the order in which they are to be sent: what
/// something refers to goes before it.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Compiled {
    pub answers: Vec<(Subscription, Answer)>,
    pub resources: BTreeMap<Key, Resource>,
}

/// The closure of `wanted` for `node` in `world`.
pub fn compile(world: &World, node: &Node, wanted: &[Subscription]) -> Compiled {
    let mut closure = Closure { world, node, resources: BTreeMap::new() };
    let answers = wanted.iter().map(|subscription| (subscription.clone(), closure.answer(subscription))).collect();
    let inbound = inbound(world, node);
    for policy in inbound.ports.iter().filter_map(|port| port.policy.as_ref()) {
        // what it falls back to is its callers' business
        closure.extend(world.policy(policy).map(|p| Resource::Policy(p.clone())));
    }
    closure.add(Resource::Inbound(inbound));
    Compiled { answers, resources: closure.resources }
}

/// The services that a node's own sidecar stands before, of its instance, or of its whole workload where it gives none.
pub fn served<'a>(world: &'a World, node: &Node) -> Vec<&'a ServiceName> {
    match (world.workload(&node.workload), &node.instance) {
        (None, _) => Vec::new(),
        (Some(workload), None) => workload.services.iter().collect(),
        (Some(workload), Some(id)) => workload.instances.get(id).into_iter().flatten().map(|(name, _)| name).collect(),
    }
}

struct Closure<'a> {
    world: &'a World,
    node: &'a Node,
    resources: BTreeMap<Key, Resource>,
}

impl Closure<'_> {
    fn answer(&mut self, subscription: &Subscription) -> Answer {
        let found = match subscription {
            Subscription::Service(name) => self.service(name),
            Subscription::Address(address) => {
                let world = self.world;
                match world.route_at(*address) {
                    Some(table) => Some(self.route(table)),
                    None => world.service_at(*address).and_then(|name| self.service(name)),
                }
            }
            Subscription::Authority(authority) => {
                let world = self.world;
                let here = || world.route(&in_namespace(self.node, authority)?);
                world.route(authority).or_else(here).map(|table| self.route(table))
            }
        };
        found.map_or(Answer::NotFound, Answer::Found)
    }

    fn add(&mut self, resource: Resource) -> Key {
        let key = resource.key();
        self.resources.entry(key.clone()).or_insert(resource);
        key
    }

    fn extend(&mut self, resource: Option<Resource>) {
        resource.map(|resource| self.add(resource));
    }

    fn route(&mut self, table: &Arc<RouteTable>) -> Key {
        if let Some(service) = &table.service {
            self.service(service);
        }
        for rule in &table.rules {
            let backends = rule.backends.iter().filter_map(|backend| backend.service.as_ref());
            for service in backends.chain(rule.mirrors().iter().map(|mirror| &mirror.service)) {
                self.service(service);
            }
            if let Some(policy) = &rule.policy {
                self.policy(policy);
            }
        }
        self.add(Resource::Route(table.clone()))
    }

    fn service(&mut self, name: &ServiceName) -> Option<Key> {
        let parts = self.world.service(name)?;
        let key = Key { kind: Kind::Service, name: name.to_string() };
        if self.resources.contains_key(&key) {
            return Some(key);
        }
        let named = parts.settings.subsets.iter().map(|subset| &subset.policy).chain(&parts.settings.policy);
        for policy in named {
            self.policy(policy);
        }
        self.add(Resource::Endpoints(parts.endpoints.clone()));
        if let Some(overrides) = &parts.overrides {
            self.add(Resource::Override(overrides.clone()));
        }
        Some(self.add(Resource::Service(parts.settings.clone())))
    }

    /// With the services that it falls back to.
    fn policy(&mut self, name: &PolicyName) {
        let world = self.world;
        let Some(policy) = world.policy(name) else { return };
        let key = Key { kind: Kind::Policy, name: name.to_string() };
        // two services may fall back to each other
        if self.resources.insert(key, Resource::Policy(policy.clone())).is_some() {
            return;
        }
        for fallback in &policy.fallback {
            if let Fallback::Service(service) = fallback {
                self.service(service);
            }
        }
    }
}

/// What a name without dots means to a workload of a Kubernetes namespace, whose identity is `ns/NAMESPACE/sa/ACCOUNT`.
fn in_namespace(node: &Node, authority: &Authority) -> Option<Authority> {
    let host = authority.host();
    let namespace = match *node.workload.path().split('/').collect::<Vec<_>>() {
        ["ns", namespace, "sa", _] if !host.contains(['.', ':', '[']) => namespace,
        _ => return None,
    };
    let port = authority.port().map(|port| format!(":{port}")).unwrap_or_default();
    Authority::parse(&format!("{host}.{namespace}{port}"))
}

/// What the node's own sidecar lets in. A workload that serves nothing is given a map without ports, which lets nobody
/// in, rather than no map, for which a sidecar would wait.
fn inbound(world: &World, node: &Node) -> Arc<Inbound> {
    let workload = world.workload(&node.workload);
    let mut ports = Ports::new();
    match (workload, &node.instance) {
        (None, _) => {}
        (Some(workload), None) => return workload.inbound.clone(),
        (Some(workload), Some(id)) => {
            for (name, port) in workload.instances.get(id).map_or(&[][..], Vec::as_slice) {
                if let Some(parts) = world.service(name) {
                    merge_port(&mut ports, name, parts, *port, id, world.trust_domain());
                }
            }
        }
    }
    Arc::new(Inbound { workload: node.workload.clone(), ports: ports.into_values().collect() })
}
