//! From what was written and found to the resources of one service, and to the table of each authority.

use super::{DEFAULT_POLICY, Found, Mesh, ServiceParts};
use crate::name::{PolicyName, ServiceName, SpiffeId, TrustDomain};
use crate::resource::{Endpoints, Overrides, ServiceSettings, Subset};
use crate::route::{Authority, Route, RouteTable};
use crate::service::{Override, Service};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

/// A service that nobody wrote, and that somebody registered: with every default.
pub(super) fn undefined(name: &ServiceName, domain: &TrustDomain) -> Option<Service> {
    Some(Service::new(name.clone(), SpiffeId::of(domain, name.as_str()).ok()?))
}

/// What was written elsewhere about each service.
#[derive(Debug)]
pub(super) struct Targets {
    /// The policy named [`DEFAULT_POLICY`], if there is one.
    default: Option<PolicyName>,
    services: BTreeMap<ServiceName, Target>,
}

#[derive(Debug, Default)]
struct Target {
    policy: Option<PolicyName>,
    subsets: Vec<Subset>,
    overrides: Vec<Override>,
}

impl Targets {
    pub(super) fn of(mesh: &Mesh) -> Self {
        let mut services: BTreeMap<ServiceName, Target> = BTreeMap::new();
        for policy in mesh.policies.values() {
            let Some(target) = &policy.target else { continue };
            let of = services.entry(target.service.clone()).or_default();
            if target.labels.is_empty() {
                of.policy.get_or_insert_with(|| policy.name.clone());
            } else {
                of.subsets.push(Subset { labels: target.labels.clone(), policy: policy.name.clone() });
            }
        }
        for held in &mesh.overrides {
            services.entry(held.service.clone()).or_default().overrides.push(held.clone());
        }
        for of in services.values_mut() {
            // The first that matches applies, so the narrower goes first; by name where that does not decide, never by
            // the order of writing, which several files do not have.
            of.subsets.sort_by(|a, b| b.labels.len().cmp(&a.labels.len()).then_with(|| a.policy.cmp(&b.policy)));
            of.overrides.sort_by(|a, b| a.instance.cmp(&b.instance));
        }
        let default = mesh.policies.keys().find(|name| name.as_str() == DEFAULT_POLICY).cloned();
        Self { default, services }
    }
}

/// What services are called by, beside their names. What two have is the first one's, by name.
#[derive(Debug, Default)]
pub(super) struct Names {
    pub(super) authorities: BTreeMap<Authority, ServiceName>,
    pub(super) addresses: BTreeMap<SocketAddr, ServiceName>,
}

impl Names {
    pub(super) fn of(mesh: &Mesh) -> Self {
        let mut names = Self::default();
        for (name, service) in &mesh.services {
            for authority in &service.authorities {
                names.authorities.entry(authority.clone()).or_insert_with(|| name.clone());
            }
            for address in &service.addresses {
                names.addresses.entry(*address).or_insert_with(|| name.clone());
            }
        }
        names
    }
}

/// `found`: its instances; `None`: those written.
pub(super) fn service(targets: &Targets, service: &Service, found: Option<&Found>) -> ServiceParts {
    let sorted = |mut instances: Vec<Arc<_>>| {
        instances.sort_by(|a: &Arc<crate::service::Instance>, b| a.id.cmp(&b.id));
        instances
    };
    let (offered, hidden) = match found {
        Some(found) => (found.offered.clone(), found.hidden.clone()),
        None => (service.instances.iter().cloned().map(Arc::new).collect(), Vec::new()),
    };
    let none = Target::default();
    let target = targets.services.get(&service.name).unwrap_or(&none);
    let held = Overrides { service: service.name.clone(), overrides: target.overrides.clone() };
    ServiceParts {
        settings: Arc::new(settings(service, target, targets.default.as_ref())),
        endpoints: Arc::new(Endpoints { service: service.name.clone(), instances: sorted(offered) }),
        hidden: sorted(hidden),
        overrides: if held.overrides.is_empty() { None } else { Some(Arc::new(held)) },
        implicit_route: Arc::new(RouteTable::implicit(&service.name)),
        allow: service.allow.clone(),
    }
}

/// The policy: what the service names, else one without labels that targets it, else `default`, else built in.
fn settings(service: &Service, target: &Target, default: Option<&PolicyName>) -> ServiceSettings {
    ServiceSettings {
        name: service.name.clone(),
        protocol: service.protocol,
        policy: service.policy.as_ref().or(target.policy.as_ref()).or(default).cloned(),
        subsets: target.subsets.clone(),
        health: service.health.clone(),
        plain: service.plain,
        direct: service.direct,
    }
}

pub(super) fn routes(routes: &[Route], names: &Names) -> BTreeMap<Authority, Arc<RouteTable>> {
    let mut tables: BTreeMap<Authority, RouteTable> = BTreeMap::new();
    for route in routes {
        for authority in &route.authorities {
            let table = tables.entry(authority.clone()).or_insert_with(|| RouteTable {
                authority: authority.clone(),
                service: None,
                rules: Vec::new(),
            });
            table.service = table.service.take().or_else(|| route.service.clone());
            table.rules.extend(route.rules.iter().cloned());
        }
    }
    for table in tables.values_mut().filter(|table| table.service.is_none() && table.only().is_none()) {
        let listed = names.authorities.get(&table.authority).cloned();
        table.service = listed.or_else(|| ServiceName::parse(table.authority.without_port().as_str()).ok());
    }
    tables.into_iter().map(|(authority, table)| (authority, Arc::new(table))).collect()
}

/// The same parts; what equals `before` is the same allocation, so that whoever compares the two need not look inside.
pub(super) fn shared(parts: ServiceParts, before: Option<&ServiceParts>) -> ServiceParts {
    let Some(before) = before else { return parts };
    ServiceParts {
        settings: same(parts.settings, &before.settings),
        endpoints: same_endpoints(parts.endpoints, &before.endpoints),
        hidden: parts.hidden,
        overrides: match (parts.overrides, &before.overrides) {
            (Some(new), Some(old)) => Some(same(new, old)),
            (new, _) => new,
        },
        implicit_route: before.implicit_route.clone(),
        allow: parts.allow,
    }
}

fn same<T: PartialEq>(new: Arc<T>, old: &Arc<T>) -> Arc<T> {
    if *new == **old { old.clone() } else { new }
}

/// Equal instances stay the same allocation too.
fn same_endpoints(mut new: Arc<Endpoints>, old: &Arc<Endpoints>) -> Arc<Endpoints> {
    let mut before = old.instances.iter().peekable();
    let mut all_same = new.instances.len() == old.instances.len();
    for instance in &mut Arc::make_mut(&mut new).instances {
        while before.next_if(|old| old.id < instance.id).is_some() {}
        match before.peek().filter(|old| old.id == instance.id && (Arc::ptr_eq(old, instance) || ***old == *instance)) {
            Some(old) => *instance = (*old).clone(),
            None => all_same = false,
        }
    }
    if all_same { old.clone() } else { new }
}

/// Values that equal those of `before` become the same allocations.
pub(super) fn share<K: Ord + Clone, V: PartialEq>(
    new: &mut Arc<BTreeMap<K, Arc<V>>>,
    before: &Arc<BTreeMap<K, Arc<V>>>,
) {
    for (key, value) in Arc::make_mut(new) {
        if let Some(old) = before.get(key)
            && **old == **value
        {
            *value = old.clone();
        }
    }
}
