//! The world: everything that was written and found, folded once into what sidecars ask by.
//!
//! It decides which policy a service has, which rules an authority has, which service an address belongs to, which ports
//! a workload's sidecar lets in, and the version of what was written. It deliberately does not decide who is given what
//! ([`crate::compile`]) and does not check what was written: a [`Mesh`] from [`crate::yaml`] has been checked, and of any
//! other, a name that refers to nothing means nothing.
//!
//! Instances come and go all day, and configuration does not: so a change of instances ([`World::with_found`]) costs what
//! changed, shares the rest with the world before, and leaves the version alone.
//!
//! Invariant: a world never changes. A change is a new world, and two worlds have one version exactly when what was
//! written means the same, however the files were split or their keys ordered. No lookup is linear in the mesh.

mod fold;
mod inbound;

use crate::name::{PolicyName, ServiceName, SpiffeId, TrustDomain};
use crate::policy::Policy;
use crate::resource::{Endpoints, Overrides, ServiceSettings};
use crate::route::{Authority, Route, RouteTable};
use crate::service::{Allow, Instance, Override, Service};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::net::SocketAddr;
use std::sync::Arc;

pub(crate) use inbound::{Ports, Workload, merge_port};

/// The policy of every service that has no other.
pub const DEFAULT_POLICY: &str = "default";

/// What was written, in all files together.
#[derive(Clone, Debug, PartialEq)]
pub struct Mesh {
    /// `trust_domain`: the name that this mesh's identities begin with. Default `fusewire.local`.
    pub trust_domain: TrustDomain,
    pub services: BTreeMap<ServiceName, Service>,
    /// In the order of files and of writing: the rules of one authority are concatenated in this order.
    pub routes: Vec<Route>,
    pub policies: BTreeMap<PolicyName, Policy>,
    pub overrides: Vec<Override>,
}

impl Mesh {
    pub fn empty(trust_domain: TrustDomain) -> Self {
        Self {
            trust_domain,
            services: BTreeMap::new(),
            routes: Vec::new(),
            policies: BTreeMap::new(),
            overrides: Vec::new(),
        }
    }
}

/// A service's instances from all sources together.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Found {
    /// What callers are told of.
    pub offered: Vec<Arc<Instance>>,
    /// What they are not told of, or not yet: starting, or shut out. Their own sidecars still get their ports, so that
    /// they let callers in by the time when callers come.
    pub hidden: Vec<Arc<Instance>>,
}

impl Found {
    pub fn is_empty(&self) -> bool {
        self.offered.is_empty() && self.hidden.is_empty()
    }
}

/// A mesh with its indexes and its version. Cloning shares everything.
#[derive(Clone, Debug)]
pub struct World {
    mesh: Arc<Mesh>,
    version: Arc<str>,
    services: Arc<BTreeMap<ServiceName, Arc<ServiceParts>>>,
    routes: Arc<BTreeMap<Authority, Arc<RouteTable>>>,
    policies: Arc<BTreeMap<PolicyName, Arc<Policy>>>,
    /// Where an instance is, whether in clear, and whose. An address in two services is the one's whose instance proves itself
    /// there: of others anybody may say that they are. Of several it is the first one's, by name.
    addresses: Arc<BTreeSet<(SocketAddr, bool, ServiceName)>>,
    names: Arc<fold::Names>,
    targets: Arc<fold::Targets>,
    inbound: Arc<BTreeMap<SpiffeId, Arc<Workload>>>,
}

/// A service as the resources that carry it, built once for all sidecars.
#[derive(Debug)]
pub struct ServiceParts {
    pub settings: Arc<ServiceSettings>,
    pub endpoints: Arc<Endpoints>,
    /// Instances that only their own sidecars are told of.
    pub hidden: Vec<Arc<Instance>>,
    /// `None`: nobody holds a breaker of this service.
    pub overrides: Option<Arc<Overrides>>,
    /// What the service's name means as an authority while no route names it: everything goes to the service.
    pub implicit_route: Arc<RouteTable>,
    pub allow: Allow,
}

impl ServiceParts {
    /// Offered and hidden.
    pub(crate) fn instances(&self) -> impl Iterator<Item = &Arc<Instance>> {
        self.endpoints.instances.iter().chain(&self.hidden)
    }
}

impl World {
    /// Folds what was written. Never fails: what refers to nothing is left out.
    pub fn new(mesh: Mesh) -> Self {
        Self::build(Arc::new(mesh), &BTreeMap::new(), None)
    }

    pub fn empty(trust_domain: TrustDomain) -> Self {
        Self::new(Mesh::empty(trust_domain))
    }

    /// The world after a change of what was written. `found`: the instances of each service that has others than those
    /// written, all sources together. What means the same as before stays the same allocation.
    pub fn after(&self, mesh: Arc<Mesh>, found: &BTreeMap<ServiceName, Found>) -> Self {
        Self::build(mesh, found, Some(self))
    }

    /// The world after a change of instances: of each service named, all sources together. A service that is defined
    /// nowhere exists, with every default, for as long as it has instances.
    pub fn with_found(&self, changes: impl IntoIterator<Item = (ServiceName, Found)>) -> Self {
        let mut world = self.clone();
        let mut touched = BTreeSet::new();
        for (name, found) in changes {
            let before = self.services.get(&name).cloned();
            let after = world.parts(&name, Some(&found)).map(|new| Arc::new(fold::shared(new, before.as_deref())));
            if inbound::differ(before.as_deref(), after.as_deref()) {
                touched.extend(before.iter().chain(&after).flat_map(|parts| inbound::identities(parts)));
            }
            if addresses(before.as_deref()).ne(addresses(after.as_deref())) {
                let index = Arc::make_mut(&mut world.addresses);
                index.retain(|(_, _, service)| *service != name);
                index.extend(addresses(after.as_deref()).map(|(at, in_clear)| (at, in_clear, name.clone())));
            }
            let services = Arc::make_mut(&mut world.services);
            match after {
                Some(parts) => drop(services.insert(name, parts)),
                None => drop(services.remove(&name)),
            }
        }
        if !touched.is_empty() {
            inbound::refold(&self.services, &mut world, touched);
        }
        world
    }

    fn build(mesh: Arc<Mesh>, found: &BTreeMap<ServiceName, Found>, before: Option<&Self>) -> Self {
        let policies = mesh
            .policies
            .iter()
            .map(|(name, policy)| (name.clone(), Arc::new(policy.clone())))
            .collect::<BTreeMap<_, _>>();
        let mut world = Self {
            version: "".into(),
            services: Arc::default(),
            routes: Arc::default(),
            policies: Arc::new(policies),
            addresses: Arc::default(),
            names: Arc::new(fold::Names::of(&mesh)),
            targets: Arc::new(fold::Targets::of(&mesh)),
            inbound: Arc::default(),
            mesh,
        };
        world.routes = Arc::new(fold::routes(&world.mesh.routes, &world.names));
        world.version = world.hash().into();
        let names: BTreeSet<&ServiceName> = world.mesh.services.keys().chain(found.keys()).collect();
        let mut services = BTreeMap::new();
        for name in names {
            let Some(parts) = world.parts(name, found.get(name)) else { continue };
            let old = before.and_then(|before| before.services.get(name));
            let parts = fold::shared(parts, old.map(|old| &**old));
            services.insert(name.clone(), Arc::new(parts));
        }
        let all = services
            .iter()
            .flat_map(|(name, parts)| addresses(Some(parts)).map(|(at, in_clear)| (at, in_clear, name.clone())));
        world.addresses = Arc::new(all.collect());
        world.inbound = Arc::new(inbound::fold(&services, world.trust_domain()));
        world.services = Arc::new(services);
        if let Some(before) = before {
            fold::share(&mut world.policies, &before.policies);
            fold::share(&mut world.routes, &before.routes);
        }
        world
    }

    /// `None`: it is defined nowhere and has no instances.
    fn parts(&self, name: &ServiceName, found: Option<&Found>) -> Option<ServiceParts> {
        let implicit;
        let service = match self.mesh.services.get(name) {
            Some(service) => service,
            None if found.is_none_or(Found::is_empty) => return None,
            None => {
                implicit = fold::undefined(name, &self.mesh.trust_domain)?;
                &implicit
            }
        };
        Some(fold::service(&self.targets, service, found))
    }

    /// Whether `other` means the same by this service's instances, without a look inside what both share.
    pub fn is_same_service(&self, other: &Self, name: &ServiceName) -> bool {
        match (self.services.get(name), other.services.get(name)) {
            (None, None) => true,
            (Some(a), Some(b)) => {
                Arc::ptr_eq(a, b) || (Arc::ptr_eq(&a.endpoints, &b.endpoints) && a.hidden == b.hidden)
            }
            _ => false,
        }
    }

    /// What was written.
    pub fn mesh(&self) -> &Arc<Mesh> {
        &self.mesh
    }
    /// 32 hexadecimal digits of a hash over the meaning of what was written, never a counter: equal content is an equal
    /// version on every replica and after every restart.
    pub fn version(&self) -> &str {
        &self.version
    }
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.mesh.trust_domain
    }
    pub fn service(&self, name: &ServiceName) -> Option<&Arc<ServiceParts>> {
        self.services.get(name)
    }
    pub fn services(&self) -> impl ExactSizeIterator<Item = (&ServiceName, &Arc<ServiceParts>)> {
        self.services.iter()
    }
    pub fn policy(&self, name: &PolicyName) -> Option<&Arc<Policy>> {
        self.policies.get(name)
    }
    /// The service that has an instance at `address`.
    pub fn service_at(&self, address: SocketAddr) -> Option<&ServiceName> {
        let after = self.addresses.range((address, false, ServiceName::least())..).next();
        after.filter(|(at, ..)| *at == address).map(|(.., name)| name)
    }
    /// The table for `host:port`, else that of the service that is called so, else the table for `host`, else the implicit one
    /// of the service that `host` names.
    pub fn route(&self, authority: &Authority) -> Option<&Arc<RouteTable>> {
        let called = || self.route_to(self.names.authorities.get(authority)?);
        self.routes.get(authority).or_else(called).or_else(|| {
            let host = authority.without_port();
            self.routes.get(&host).or_else(|| {
                let name = ServiceName::parse(host.as_str()).ok()?;
                // one that lists its authorities has them with each of its ports
                let listed = authority.port().is_some() && self.names.authorities.contains_key(&host);
                (!listed).then_some(&self.services.get(&name)?.implicit_route)
            })
        })
    }
    /// What a connection to a virtual address means: the routes of the service that has it.
    pub fn route_at(&self, address: SocketAddr) -> Option<&Arc<RouteTable>> {
        self.route_to(self.names.addresses.get(&address)?)
    }
    /// The table of the first of its authorities that has one, else that of its name, else the implicit one.
    fn route_to(&self, name: &ServiceName) -> Option<&Arc<RouteTable>> {
        let written = || {
            let called = self.mesh.services.get(name)?.authorities.iter().find_map(|a| self.routes.get(a));
            called.or_else(|| self.routes.get(&Authority::of_service(name)))
        };
        if !self.routes.is_empty()
            && let Some(table) = written()
        {
            return Some(table);
        }
        self.services.get(name).map(|parts| &parts.implicit_route)
    }
    pub(crate) fn workload(&self, identity: &SpiffeId) -> Option<&Arc<Workload>> {
        self.inbound.get(identity)
    }

    /// Over the folded form, whose maps are sorted, so that only meaning counts. `Debug` of these types is unambiguous:
    /// derived, every text quoted, every field named.
    fn hash(&self) -> String {
        let mut hasher = Feed(Sha256::new());
        // writing to a hasher cannot fail
        let _ = write!(hasher, "{:?}\n{:?}\n{:?}\n", self.mesh.trust_domain, self.routes, self.policies);
        for service in self.mesh.services.values() {
            let ServiceParts { settings, endpoints, overrides, allow, .. } =
                fold::service(&self.targets, service, None);
            let written = (&service.identity, allow, &service.dns, &service.authorities, &service.addresses);
            let _ = writeln!(hasher, "{settings:?} {endpoints:?} {overrides:?} {written:?}");
        }
        let mut version = String::with_capacity(32);
        for byte in hasher.0.finalize().iter().take(16) {
            let _ = write!(version, "{byte:02x}");
        }
        version
    }
}

fn addresses(parts: Option<&ServiceParts>) -> impl Iterator<Item = (SocketAddr, bool)> {
    let instances = parts.into_iter().flat_map(|parts| parts.endpoints.instances.iter());
    instances.map(|instance| (instance.address, instance.sidecar.is_none()))
}

struct Feed(Sha256);

impl Write for Feed {
    fn write_str(&mut self, s: &str) -> std::fmt::Result {
        self.0.update(s.as_bytes());
        Ok(())
    }
}
