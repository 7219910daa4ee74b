//! What was found in the cluster and what was written, as one mesh.
//!
//! It decides whose word counts: a file's or an applied object's about a service, a policy, who may call and what is held; what it
//! does not say is as an object of the cluster declares it, and then as found. It deliberately does nothing where nothing
//! changed.
//!
//! Invariant: of what objects declare, each has the number of the last change that concerned it.

use fusewire_kubernetes::crd::ObjectId;
use fusewire_kubernetes::{Around, Concern, Declared, Discovery, ServiceId, Snapshot, declared};
use fusewire_model::ServiceName;
use fusewire_model::service::{Allow, Protocol, Service, UnixTime};
use fusewire_model::world::Mesh;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What objects of the cluster declare, as it is in force.
#[derive(Clone, Debug, Default)]
pub(crate) struct Standing {
    pub(crate) declared: Declared,
    /// Counts the changes.
    pub(crate) number: u64,
    /// The change that last concerned each object.
    pub(crate) since: BTreeMap<ObjectId, u64>,
    /// Which objects concern a sidecar by what.
    pub(crate) concerns: BTreeMap<Concern, Vec<ObjectId>>,
}

/// What all is made of.
#[derive(Debug)]
struct Inputs {
    written: Arc<Mesh>,
    found: Arc<BTreeMap<ServiceName, Service>>,
    objects: Arc<Snapshot>,
    services_version: u64,
    /// Of Services of which an object holds a single instance.
    pods: BTreeMap<ServiceId, BTreeMap<String, String>>,
}

impl Inputs {
    fn now(discovery: &Discovery, written: &Arc<Mesh>) -> Self {
        // before the services, so that a change between the two is seen again
        let services_version = discovery.services_version();
        let objects = discovery.declarations().now();
        let pods = discovery.pods(&objects.held_instances());
        Self { written: written.clone(), found: discovery.services(), objects, services_version, pods }
    }

    fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.written, &other.written)
            && Arc::ptr_eq(&self.found, &other.found)
            && Arc::ptr_eq(&self.objects, &other.objects)
            && (self.services_version, &self.pods) == (other.services_version, &other.pods)
    }
}

/// What is in force, and what it was made of.
#[derive(Debug)]
pub(super) struct Merged {
    inputs: Inputs,
    /// Then objects mean something else.
    until: Option<UnixTime>,
    pub(super) standing: Arc<Standing>,
    pub(super) mesh: Arc<Mesh>,
}

impl Merged {
    pub(super) fn of(discovery: &Discovery, written: &Arc<Mesh>, now: UnixTime, before: Option<Self>) -> Self {
        let inputs = Inputs::now(discovery, written);
        let before = match before {
            Some(before) if before.inputs.is_same(&inputs) && before.until.is_none_or(|until| now < until) => {
                return before;
            }
            before => before.map(|before| before.standing).unwrap_or_default(),
        };
        let standing = stand(discovery, &inputs, now, &before);
        let mesh = match inputs.found.is_empty() && standing.declared.is_empty() {
            true => written.clone(),
            false => Arc::new(together(written, &inputs.found, &standing.declared)),
        };
        Self { until: inputs.objects.next_end(now), inputs, standing, mesh }
    }
}

/// What is declared now; the same allocation as before where that means and says the same.
fn stand(discovery: &Discovery, inputs: &Inputs, now: UnixTime, before: &Arc<Standing>) -> Arc<Standing> {
    let known = discovery.known(&inputs.pods);
    let around = Around { known: &known, found: &inputs.found, written: &inputs.written, now };
    let declared = declared(discovery.setting(), &inputs.objects, &around, &before.declared);
    if declared == before.declared {
        return before.clone();
    }
    let number = before.number + 1;
    let since = declared.objects.iter().map(|(id, told)| {
        let same = before.declared.objects.get(id).is_some_and(|before| before == told);
        (id.clone(), before.since.get(id).copied().filter(|_| same).unwrap_or(number))
    });
    let since = since.collect();
    let mut concerns: BTreeMap<Concern, Vec<ObjectId>> = BTreeMap::new();
    for (id, told) in &declared.objects {
        for concern in &told.concerns {
            concerns.entry(concern.clone()).or_default().push(id.clone());
        }
    }
    Arc::new(Standing { declared, number, since, concerns })
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
    (written.plain, written.direct) = (found.plain, found.direct);
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
