//! The world: everything that was written, folded once into what sidecars ask by.
//!
//! It decides which policy a service has, which rules an authority has, which service an address belongs to, which ports
//! a workload's sidecar lets in, and the version of it all. It deliberately does not decide who is given what
//! ([`crate::compile`]) and does not check what was written: a [`Mesh`] from [`crate::yaml`] has been checked, and of any
//! other, a name that refers to nothing means nothing.
//!
//! Invariant: a world never changes. A change is a new world, and two worlds have one version exactly when they mean
//! the same, however their files were split or their keys ordered. No lookup is linear in the mesh.

use crate::name::{PolicyName, ServiceName, SpiffeId, TrustDomain};
use crate::policy::Policy;
use crate::resource::{Endpoints, Inbound, InboundPort, Overrides, ServiceSettings, Subset};
use crate::route::{Authority, Route, RouteTable};
use crate::service::{Allow, Override, Service};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::SocketAddr;
use std::sync::Arc;

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

/// A mesh with its indexes and its version.
#[derive(Debug)]
pub struct World {
    mesh: Mesh,
    version: String,
    services: BTreeMap<ServiceName, ServiceParts>,
    routes: BTreeMap<Authority, Arc<RouteTable>>,
    policies: BTreeMap<PolicyName, Arc<Policy>>,
    addresses: BTreeMap<SocketAddr, ServiceName>,
    inbound: BTreeMap<SpiffeId, Workload>,
}

/// A service as the resources that carry it, built once for all sidecars.
#[derive(Debug)]
pub struct ServiceParts {
    pub settings: Arc<ServiceSettings>,
    pub endpoints: Arc<Endpoints>,
    /// `None`: nobody holds a breaker of this service.
    pub overrides: Option<Arc<Overrides>>,
    /// What the service's name means as an authority while no route names it: everything goes to the service.
    pub implicit_route: Arc<RouteTable>,
}

/// Which ports the sidecars of one identity stand before.
#[derive(Debug)]
pub(crate) struct Workload {
    /// Over all instances.
    pub(crate) inbound: Arc<Inbound>,
    /// The services and ports of each instance id. An id is unique only within a service, so one may be in several.
    pub(crate) instances: BTreeMap<String, Vec<(ServiceName, u16)>>,
}

impl World {
    /// Folds what was written. Never fails: what refers to nothing is left out.
    pub fn new(mesh: Mesh) -> Self {
        let policies: BTreeMap<_, _> =
            mesh.policies.iter().map(|(name, policy)| (name.clone(), Arc::new(policy.clone()))).collect();
        let services = fold_services(&mesh);
        let routes = fold_routes(&mesh.routes);
        let mut addresses = BTreeMap::new();
        for service in mesh.services.values() {
            for instance in &service.instances {
                // an address in two services: the first by name, so that the answer does not depend on the writing order
                addresses.entry(instance.address).or_insert_with(|| service.name.clone());
            }
        }
        let inbound = fold_inbound(&mesh);
        let mut world = Self { version: String::new(), mesh, services, routes, policies, addresses, inbound };
        world.version = world.hash();
        world
    }

    pub fn empty(trust_domain: TrustDomain) -> Self {
        Self::new(Mesh::empty(trust_domain))
    }

    /// What it was folded from.
    pub fn mesh(&self) -> &Mesh {
        &self.mesh
    }
    /// 32 hexadecimal digits of a hash over the meaning, never a counter: equal content is an equal version on every
    /// replica and after every restart.
    pub fn version(&self) -> &str {
        &self.version
    }
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.mesh.trust_domain
    }
    pub fn service(&self, name: &ServiceName) -> Option<&ServiceParts> {
        self.services.get(name)
    }
    pub fn services(&self) -> impl ExactSizeIterator<Item = (&ServiceName, &ServiceParts)> {
        self.services.iter()
    }
    pub fn policy(&self, name: &PolicyName) -> Option<&Arc<Policy>> {
        self.policies.get(name)
    }
    /// The service that has an instance at `address`.
    pub fn service_at(&self, address: SocketAddr) -> Option<&ServiceName> {
        self.addresses.get(&address)
    }
    /// The table for `host:port`, else for `host`, else the implicit one of the service that `host` names.
    pub fn route(&self, authority: &Authority) -> Option<&Arc<RouteTable>> {
        let host = authority.without_port();
        self.routes.get(authority).or_else(|| self.routes.get(&host)).or_else(|| {
            let name = ServiceName::parse(host.as_str()).ok()?;
            Some(&self.services.get(&name)?.implicit_route)
        })
    }
    pub(crate) fn workload(&self, identity: &SpiffeId) -> Option<&Workload> {
        self.inbound.get(identity)
    }

    /// Over the folded form, whose maps are sorted, so that only meaning counts. `Debug` of these types is unambiguous:
    /// derived, every text quoted, every field named.
    fn hash(&self) -> String {
        let mut hasher = Feed(Sha256::new());
        // writing to a hasher cannot fail
        let _ = write!(hasher, "{:?}\n{:?}\n{:?}\n", self.mesh.trust_domain, self.routes, self.policies);
        for parts in self.services.values() {
            let _ = writeln!(hasher, "{:?} {:?} {:?}", parts.settings, parts.endpoints, parts.overrides);
        }
        let _ = write!(hasher, "{:?}", self.inbound);
        let mut version = String::with_capacity(32);
        for byte in hasher.0.finalize().iter().take(16) {
            let _ = write!(version, "{byte:02x}");
        }
        version
    }
}

struct Feed(Sha256);

impl Write for Feed {
    fn write_str(&mut self, s: &str) -> std::fmt::Result {
        self.0.update(s.as_bytes());
        Ok(())
    }
}

fn fold_services(mesh: &Mesh) -> BTreeMap<ServiceName, ServiceParts> {
    let mut by_target: BTreeMap<&ServiceName, Vec<&Policy>> = BTreeMap::new();
    for policy in mesh.policies.values() {
        if let Some(target) = &policy.target {
            by_target.entry(&target.service).or_default().push(policy);
        }
    }
    let mut overrides: BTreeMap<&ServiceName, Vec<Override>> = BTreeMap::new();
    for held in &mesh.overrides {
        overrides.entry(&held.service).or_default().push(held.clone());
    }
    let default = mesh.policies.values().find(|p| p.name.as_str() == DEFAULT_POLICY).map(|p| &p.name);
    let fold = |service: &Service| {
        let targeting = by_target.get(&service.name).map_or(&[][..], Vec::as_slice);
        let settings = Arc::new(settings(service, targeting, default));
        let mut instances: Vec<_> = service.instances.iter().cloned().map(Arc::new).collect();
        instances.sort_by(|a, b| a.id.cmp(&b.id));
        let endpoints = Arc::new(Endpoints { service: service.name.clone(), instances });
        let overrides = overrides.remove(&service.name).map(|mut overrides| {
            overrides.sort_by(|a, b| a.instance.cmp(&b.instance));
            Arc::new(Overrides { service: service.name.clone(), overrides })
        });
        let implicit_route = Arc::new(RouteTable::implicit(&service.name));
        (service.name.clone(), ServiceParts { settings, endpoints, overrides, implicit_route })
    };
    mesh.services.values().map(fold).collect()
}

/// The policy: what the service names, else one without labels that targets it, else `default`, else built in.
fn settings(service: &Service, targeting: &[&Policy], default: Option<&PolicyName>) -> ServiceSettings {
    let labels = |p: &Policy| p.target.as_ref().map(|t| t.labels.clone()).unwrap_or_default();
    let whole = targeting.iter().find(|p| labels(p).is_empty()).map(|p| &p.name);
    let mut subsets: Vec<Subset> = targeting
        .iter()
        .map(|p| Subset { labels: labels(p), policy: p.name.clone() })
        .filter(|s| !s.labels.is_empty())
        .collect();
    // The first that matches applies, so the narrower goes first; by name where that does not decide, never by the
    // order of writing, which several files do not have.
    subsets.sort_by(|a, b| b.labels.len().cmp(&a.labels.len()).then_with(|| a.policy.cmp(&b.policy)));
    ServiceSettings {
        name: service.name.clone(),
        protocol: service.protocol,
        policy: service.policy.as_ref().or(whole).or(default).cloned(),
        subsets,
    }
}

fn fold_routes(routes: &[Route]) -> BTreeMap<Authority, Arc<RouteTable>> {
    let mut tables: BTreeMap<Authority, RouteTable> = BTreeMap::new();
    for route in routes {
        for authority in &route.authorities {
            let table = tables
                .entry(authority.clone())
                .or_insert_with(|| RouteTable { authority: authority.clone(), rules: Vec::new() });
            table.rules.extend(route.rules.iter().cloned());
        }
    }
    tables.into_iter().map(|(authority, table)| (authority, Arc::new(table))).collect()
}

fn fold_inbound(mesh: &Mesh) -> BTreeMap<SpiffeId, Workload> {
    type Found = (Ports, BTreeMap<String, Vec<(ServiceName, u16)>>);
    let mut workloads: BTreeMap<SpiffeId, Found> = BTreeMap::new();
    for service in mesh.services.values() {
        for instance in &service.instances {
            // a plain instance has no sidecar that could ask
            let Some(sidecar) = &instance.sidecar else { continue };
            let (ports, instances) = workloads.entry(sidecar.identity.clone()).or_default();
            let port = instance.address.port();
            instances.entry(instance.id.clone()).or_default().push((service.name.clone(), port));
            merge_port(ports, service, port, &mesh.trust_domain);
        }
    }
    let fold = |(identity, (ports, instances)): (SpiffeId, Found)| {
        let inbound = Arc::new(Inbound { workload: identity.clone(), ports: ports.into_values().collect() });
        (identity, Workload { inbound, instances })
    };
    workloads.into_iter().map(fold).collect()
}

/// By port.
pub(crate) type Ports = BTreeMap<u16, InboundPort>;

/// Adds a service's port to a port map. Where two services share an identity and a port (on different hosts, as an old and
/// a new version do), the port alone cannot tell them apart: it then lets in only who may call both, so that no caller
/// gets further than either service allows.
pub(crate) fn merge_port(ports: &mut Ports, service: &Service, port: u16, trust_domain: &TrustDomain) {
    match ports.get_mut(&port) {
        None => {
            let entry = InboundPort {
                port,
                service: service.name.clone(),
                protocol: service.protocol,
                allow: service.allow.clone(),
            };
            ports.insert(port, entry);
        }
        Some(entry) if entry.service == service.name => {}
        Some(entry) => entry.allow = both(&entry.allow, &service.allow, trust_domain),
    }
}

fn both(a: &Allow, b: &Allow, trust_domain: &TrustDomain) -> Allow {
    match (a, b) {
        (Allow::Mesh, Allow::Mesh) => Allow::Mesh,
        (Allow::Only(list), other) | (other, Allow::Only(list)) => {
            Allow::Only(list.iter().filter(|id| other.admits(trust_domain.as_str(), id)).cloned().collect())
        }
    }
}
