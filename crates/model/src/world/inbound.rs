//! Which ports the sidecars of each identity stand before.
//!
//! It is folded again only for the identities of instances that came, went or moved: a change of health or weight
//! concerns callers alone.

use super::{ServiceParts, World};
use crate::name::{ServiceName, SpiffeId, TrustDomain};
use crate::resource::{Inbound, InboundPort};
use crate::service::{Allow, Instance};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What the sidecars of one identity are told.
#[derive(Debug)]
pub(crate) struct Workload {
    /// Over all instances.
    pub(crate) inbound: Arc<Inbound>,
    /// The services and ports of each instance id. An id is unique only within a service, so one may be in several.
    pub(crate) instances: BTreeMap<String, Vec<(ServiceName, u16)>>,
    /// Which services its instances are of.
    pub(crate) services: BTreeSet<ServiceName>,
}

type Services = BTreeMap<ServiceName, Arc<ServiceParts>>;

pub(super) fn fold(services: &Services, domain: &TrustDomain) -> BTreeMap<SpiffeId, Arc<Workload>> {
    let mut drafts: BTreeMap<SpiffeId, Draft> = BTreeMap::new();
    for (name, parts) in services {
        for instance in parts.instances() {
            // a plain instance has no sidecar that could ask
            if let Some(sidecar) = &instance.sidecar {
                drafts.entry(sidecar.identity.clone()).or_default().add(name, parts, instance, domain);
            }
        }
    }
    drafts.into_iter().map(|(identity, draft)| (identity.clone(), Arc::new(draft.finish(identity)))).collect()
}

/// Folds the workloads of `touched` again: over the services that they had instances of, and those that they have now.
pub(super) fn refold(before: &Services, world: &mut World, touched: BTreeSet<SpiffeId>) {
    let changed: Vec<&ServiceName> = world
        .services
        .iter()
        .filter(|(n, p)| before.get(*n).is_none_or(|old| !Arc::ptr_eq(old, p)))
        .map(|(n, _)| n)
        .collect();
    let mut inbound = (*world.inbound).clone();
    for identity in touched {
        let had = inbound.get(&identity).map(|workload| workload.services.clone()).unwrap_or_default();
        let mut draft = Draft::default();
        for name in had.iter().chain(changed.iter().copied()).collect::<BTreeSet<_>>() {
            let Some(parts) = world.services.get(name) else { continue };
            for instance in parts.instances().filter(|i| i.sidecar.as_ref().is_some_and(|s| s.identity == identity)) {
                draft.add(name, parts, instance, world.trust_domain());
            }
        }
        if draft.instances.is_empty() {
            inbound.remove(&identity);
        } else {
            inbound.insert(identity.clone(), Arc::new(draft.finish(identity)));
        }
    }
    world.inbound = Arc::new(inbound);
}

/// Whether a workload's sidecar could tell the difference.
pub(super) fn differ(before: Option<&ServiceParts>, after: Option<&ServiceParts>) -> bool {
    fn places(parts: &ServiceParts) -> BTreeSet<(&str, u16, Option<&SpiffeId>)> {
        parts.instances().map(|i| (i.id.as_str(), i.address.port(), i.sidecar.as_ref().map(|s| &s.identity))).collect()
    }
    match (before, after) {
        (None, None) => false,
        (Some(before), Some(after)) => places(before) != places(after),
        _ => true,
    }
}

pub(super) fn identities(parts: &ServiceParts) -> impl Iterator<Item = SpiffeId> {
    parts.instances().filter_map(|instance| Some(instance.sidecar.as_ref()?.identity.clone()))
}

#[derive(Default)]
struct Draft {
    ports: Ports,
    instances: BTreeMap<String, Vec<(ServiceName, u16)>>,
    services: BTreeSet<ServiceName>,
}

impl Draft {
    fn add(&mut self, name: &ServiceName, parts: &ServiceParts, instance: &Instance, domain: &TrustDomain) {
        let port = instance.address.port();
        self.instances.entry(instance.id.clone()).or_default().push((name.clone(), port));
        self.services.insert(name.clone());
        merge_port(&mut self.ports, name, parts, port, &instance.id, domain);
    }

    fn finish(self, identity: SpiffeId) -> Workload {
        let inbound = Arc::new(Inbound { workload: identity, ports: self.ports.into_values().collect() });
        Workload { inbound, instances: self.instances, services: self.services }
    }
}

/// By port.
pub(crate) type Ports = BTreeMap<u16, InboundPort>;

/// Adds a service's port to a port map. Where two services share an identity and a port (on different hosts, as an old and
/// a new version do), the port alone cannot tell them apart: it then lets in only who may call both, so that no caller
/// gets further than either service allows.
pub(crate) fn merge_port(
    ports: &mut Ports,
    name: &ServiceName,
    parts: &ServiceParts,
    port: u16,
    instance: &str,
    domain: &TrustDomain,
) {
    match ports.get_mut(&port) {
        None => {
            let entry = InboundPort {
                port,
                service: name.clone(),
                protocol: parts.settings.protocol,
                allow: parts.allow.clone(),
                health: parts.settings.health.clone(),
                instance: Some(instance.to_owned()),
                policy: parts.settings.policy.clone(),
                plain: parts.settings.plain.callers,
            };
            ports.insert(port, entry);
        }
        Some(entry) => {
            if entry.instance.as_deref() != Some(instance) {
                entry.instance = None; // one of several: the sidecar must say itself which it is
            }
            if entry.service != *name {
                entry.allow = both(&entry.allow, &parts.allow, domain);
                entry.plain = entry.plain.min(parts.settings.plain.callers);
            }
        }
    }
}

fn both(a: &Allow, b: &Allow, domain: &TrustDomain) -> Allow {
    match (a, b) {
        (Allow::Mesh, Allow::Mesh) => Allow::Mesh,
        (Allow::Only(list), other) | (other, Allow::Only(list)) => {
            Allow::Only(list.iter().filter(|id| other.admits(domain.as_str(), id)).cloned().collect())
        }
    }
}
