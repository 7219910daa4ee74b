//! What was found in the cluster and what was written, as one mesh.
//!
//! It decides whose word counts: a file's or an applied object's about a service, a policy, who may call and what is held; what it
//! does not say is as an object of the cluster declares it, and then as found. It deliberately does nothing where nothing
//! changed.
//!
//! Invariant: of what objects declare, each has the number of the last change that concerned it.

use fusewire_kubernetes::crd::ObjectId;
use fusewire_kubernetes::{Declared, Discovery, KnownService, ServiceId, Snapshot, declared};
use fusewire_model::ServiceName;
use fusewire_model::resource::Key;
use fusewire_model::service::{Allow, Protocol, Service};
use fusewire_model::world::Mesh;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What objects of the cluster declare, as it is in force.
#[derive(Clone, Debug, Default)]
pub(crate) struct Standing {
    pub(crate) declared: Declared,
    /// Counts the changes.
    pub(crate) number: u64,
    /// The change that last concerned each object.
    pub(crate) since: BTreeMap<ObjectId, u64>,
    /// By which a sidecar is known to be concerned by some object.
    pub(crate) counted: BTreeSet<Key>,
}

/// What is in force, and what it was made of.
#[derive(Debug)]
pub(super) struct Merged {
    written: Arc<Mesh>,
    found: Arc<BTreeMap<ServiceName, Service>>,
    objects: Arc<Snapshot>,
    services_version: u64,
    known: BTreeMap<ServiceId, KnownService>,
    pub(super) standing: Arc<Standing>,
    pub(super) mesh: Arc<Mesh>,
}

impl Merged {
    pub(super) fn of(discovery: &Discovery, written: &Arc<Mesh>, before: Option<Self>) -> Self {
        let (services_version, found) = (discovery.services_version(), discovery.services());
        let objects = discovery.declarations().now();
        let needed = objects.held_instances();
        let is_as_before = |before: &Self| {
            Arc::ptr_eq(&before.written, written)
                && Arc::ptr_eq(&before.objects, &objects)
                && before.services_version == services_version
        };
        let (standing, known) = match before {
            Some(ref before) if is_as_before(before) && needed.is_empty() => (before.standing.clone(), None),
            Some(ref before) => {
                let known = discovery.known(&needed);
                let same = is_as_before(before) && before.known == known;
                let new = || stand(discovery, &objects, &known, written, &before.standing);
                (if same { before.standing.clone() } else { new() }, Some(known))
            }
            None => {
                let known = discovery.known(&needed);
                (stand(discovery, &objects, &known, written, &Arc::default()), Some(known))
            }
        };
        let mesh = before.as_ref().filter(|before| {
            Arc::ptr_eq(&before.written, written)
                && Arc::ptr_eq(&before.found, &found)
                && Arc::ptr_eq(&before.standing, &standing)
        });
        let mesh = match mesh {
            Some(before) => before.mesh.clone(),
            None if found.is_empty() && standing.declared.is_empty() => written.clone(),
            None => Arc::new(together(written, &found, &standing.declared)),
        };
        let known = known.or(before.map(|before| before.known)).unwrap_or_default();
        Self { written: written.clone(), found, objects, services_version, known, standing, mesh }
    }
}

/// What is declared now; the same allocation as before where that means and says the same.
fn stand(
    discovery: &Discovery,
    objects: &Snapshot,
    known: &BTreeMap<ServiceId, KnownService>,
    written: &Mesh,
    before: &Arc<Standing>,
) -> Arc<Standing> {
    let declared = declared(discovery.setting(), objects, known, written, &before.declared);
    if declared == before.declared {
        return before.clone();
    }
    let number = before.number + 1;
    let since = declared.objects.iter().map(|(id, told)| {
        let same = before.declared.objects.get(id).is_some_and(|before| before == told);
        (id.clone(), before.since.get(id).copied().filter(|_| same).unwrap_or(number))
    });
    let since = since.collect();
    let counted = declared.objects.values().flat_map(|told| told.keys.iter().cloned()).collect();
    Arc::new(Standing { declared, number, since, counted })
}

fn together(written: &Mesh, found: &BTreeMap<ServiceName, Service>, declared: &Declared) -> Mesh {
    let mut mesh = written.clone();
    for (name, found) in found.iter().chain(&declared.services) {
        match mesh.services.get_mut(name) {
            None => drop(mesh.services.insert(name.clone(), found.clone())),
            Some(written) => complete(written, found),
        }
    }
    for (name, allow) in &declared.allow {
        if let Some(service) = mesh.services.get_mut(name).filter(|service| service.allow == Allow::default()) {
            service.allow.clone_from(allow);
        }
    }
    mesh.routes.extend(declared.routes.iter().cloned());
    for (name, policy) in &declared.policies {
        mesh.policies.entry(name.clone()).or_insert_with(|| policy.clone());
    }
    mesh.overrides.extend(declared.overrides.iter().cloned());
    mesh
}

/// What was not written of a service is as found.
fn complete(written: &mut Service, found: &Service) {
    if written.protocol == Protocol::default() {
        written.protocol = found.protocol;
    }
    if written.authorities.is_empty() {
        written.authorities.clone_from(&found.authorities);
    }
    if written.addresses.is_empty() {
        written.addresses.clone_from(&found.addresses);
    }
    if written.dns.is_none() && written.instances.is_empty() {
        written.dns.clone_from(&found.dns);
    }
    written.plain = found.plain;
}

#[cfg(test)]
mod tests {
    use super::*;
    use fusewire_model::SpiffeId;
    use fusewire_model::policy::{Plain, PlainDefaults};
    use fusewire_model::yaml::{self, Source};

    #[test]
    fn what_is_written_of_a_service_counts_and_the_rest_is_as_found() {
        let source = Source { name: "mesh.yaml".into(), text: "services: {web.shop: {protocol: http2}, own: }".into() };
        let written = yaml::parse(&[source]).unwrap().mesh;
        let name = ServiceName::parse("web.shop").unwrap();
        let identity = SpiffeId::parse("spiffe://fusewire.local/ns/shop/svc/web").unwrap();
        let mut found = Service::new(name.clone(), identity);
        found.protocol = Protocol::Opaque;
        found.addresses = vec!["10.96.0.1:80".parse().unwrap()];
        found.plain = PlainDefaults { callers: Plain::Deny, instances: Plain::Allow };
        let mesh = together(&written, &BTreeMap::from([(name.clone(), found.clone())]), &Declared::default());
        let merged = &mesh.services[&name];
        assert_eq!(
            (merged.protocol, &merged.addresses, merged.plain),
            (Protocol::Http2, &found.addresses, found.plain)
        );
        assert_eq!(merged.identity.path(), "web.shop");
        assert_eq!(mesh.services.len(), 2);
    }
}
