//! What was written and what is found, made into what is in force.
//!
//! It decides when: at once after a quiet time, and at most every [`PACE`] while changes keep coming, so that a hundred
//! instances that start together are a few worlds and not a hundred. It deliberately keeps no source's data: those who have
//! it are asked for the services that changed ([`Marks`]), and nothing else is gone through.
//!
//! Invariant: what is in force is derived from what the sources say at that moment, never from an earlier derivation.

use crate::configuration::Written;
use crate::shared::{InForce, Shared, lock};
use crate::view::{self, Said, Seen, Source};
use fusewire_api::v1;
use fusewire_model::ServiceName;
use fusewire_model::health::Health;
use fusewire_model::service::Instance;
use fusewire_model::world::{Found, Mesh};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::Notify;

const PACE: Duration = Duration::from_millis(50);

/// Which services are to be looked at again.
#[derive(Debug, Default)]
pub(crate) struct Marks {
    marked: Mutex<Marked>,
    woken: Notify,
}

#[derive(Debug, Default)]
struct Marked {
    all: bool,
    /// What objects of the cluster declare changed.
    declared: bool,
    services: BTreeSet<ServiceName>,
}

impl Marks {
    pub(crate) fn mark(&self, services: impl IntoIterator<Item = ServiceName>) {
        lock(&self.marked).services.extend(services);
        self.woken.notify_one();
    }

    /// What was written changed, or something that concerns every service.
    pub(crate) fn mark_all(&self) {
        lock(&self.marked).all = true;
        self.woken.notify_one();
    }

    /// What objects of the cluster declare changed: instances of services that none of them declares are as before.
    pub(crate) fn mark_declared(&self) {
        lock(&self.marked).declared = true;
        self.woken.notify_one();
    }

    #[cfg(test)]
    pub(crate) async fn take_services(&self) -> Vec<ServiceName> {
        self.take().await.services.into_iter().collect()
    }

    /// Waits for marks, and takes them. Cancel safe. For one caller.
    async fn take(&self) -> Marked {
        loop {
            let woken = self.woken.notified();
            let marked = std::mem::take(&mut *lock(&self.marked));
            if marked.all || marked.declared || !marked.services.is_empty() {
                return marked;
            }
            woken.await;
        }
    }
}

/// The one who puts together.
#[derive(Debug, Default)]
pub(crate) struct Assembly {
    /// Of each service whose instances are not just those written.
    found: BTreeMap<ServiceName, Found>,
}

impl Assembly {
    /// Everything, for the first time.
    pub(crate) fn first(shared: &Shared) -> Self {
        let mut assembly = Self::default();
        assembly.put_together(shared, Marked { all: true, ..Marked::default() });
        assembly
    }

    /// Follows the marks until dropped.
    pub(crate) async fn run(mut self, shared: &Shared) {
        loop {
            let marked = shared.marks.take().await;
            let began = tokio::time::Instant::now();
            self.put_together(shared, marked);
            // a large service takes its time, and this thread has others to serve
            tokio::time::sleep(PACE.max(began.elapsed() * 4)).await;
        }
    }

    fn put_together(&mut self, shared: &Shared, marked: Marked) {
        let written = shared.written_now();
        let (mesh, standing) = &shared.mesh_with(&written);
        let before = shared.in_force.borrow().clone();
        let mut names = marked.services;
        if !Arc::ptr_eq(&before.standing, standing) {
            let both = [&before.standing, standing];
            names.extend(both.iter().flat_map(|standing| standing.declared.services.keys().cloned()));
        }
        if marked.all {
            names.extend(mesh.services.keys().chain(self.found.keys()).cloned());
            names.extend(shared.registrations.services());
        }
        let names = match &shared.kubernetes {
            Some(kubernetes) => kubernetes.grouped(names),
            None => names.into_iter().collect(),
        };
        let mut changes = BTreeMap::new();
        for name in names {
            let seen = seen(shared, &written, mesh, &name);
            let found = view::found(&seen);
            if is_as_written(mesh, &name, &found) {
                self.found.remove(&name);
            } else {
                self.found.insert(name.clone(), found.clone());
            }
            shared.feeds.publish(&name, seen.iter().filter(|seen| seen.offered).map(told).collect());
            changes.insert(name, found);
        }
        let world = if Arc::ptr_eq(before.world.mesh(), mesh) {
            let world = before.world.with_found(changes.clone());
            if Arc::ptr_eq(&before.standing, standing)
                && changes.keys().all(|name| world.is_same_service(&before.world, name))
            {
                return; // ages and words, which sidecars are not told
            }
            world
        } else {
            before.world.after(mesh.clone(), &self.found)
        };
        let world = Arc::new(world);
        shared.in_force.send_modify(|now| {
            let (trust, standing) = (now.trust.clone(), standing.clone());
            *now = Arc::new(InForce { world, trust, revision: written.revision, standing });
        });
        shared.encoded.prune();
    }
}

fn is_as_written(written: &Mesh, name: &ServiceName, found: &Found) -> bool {
    let instances = written.services.get(name).map(|service| service.instances.as_slice()).unwrap_or_default();
    let by_id: HashMap<&str, &Instance> = instances.iter().map(|instance| (instance.id.as_str(), instance)).collect();
    found.hidden.is_empty()
        && found.offered.len() == by_id.len()
        && found.offered.iter().all(|found| by_id.get(found.id.as_str()) == Some(&&**found))
}

/// The instances of a service as all sources together have them now. `mesh`: with what was found.
pub(crate) fn seen(shared: &Shared, written: &Written, mesh: &Mesh, name: &ServiceName) -> Vec<Seen> {
    let registrations = &shared.registrations;
    let service = mesh.services.get(name);
    let instances = service.map(|service| service.instances.as_slice()).unwrap_or_default();
    let source = match written.mesh.services.contains_key(name) {
        _ if written.applied.contains(name.as_str()) => Source::Api,
        true => Source::File,
        false => Source::Kubernetes,
    };
    let in_writing = instances.iter().map(|instance| {
        let identity = instance.sidecar.as_ref().map(|sidecar| &sidecar.identity);
        let said = identity.and_then(|identity| registrations.reported(name, &instance.id, identity));
        let (health, detail) = said.unwrap_or_default();
        Said { source, instance: instance.clone(), owner: None, health, detail, age: None }
    });
    let registered = registrations.found(name).into_iter().map(|found| Said {
        source: Source::Registry,
        owner: Some(found.owner),
        instance: found.instance,
        health: found.health,
        detail: found.detail,
        age: found.age,
    });
    // what is kept of a name counts only while the service has one
    let answer = service.and_then(|service| service.dns.as_ref()).and_then(|_| shared.names.get(name));
    let age = answer.as_ref().map(|answer| shared.names.age(answer));
    let resolved = answer.into_iter().flat_map(|answer| answer.instances).map(|instance| Said {
        source: Source::Dns,
        owner: None,
        instance,
        health: Health::Unchecked,
        detail: String::new(),
        age,
    });
    // an instance's own sidecar speaks for it above
    let checked = |instance: &Instance| instance.sidecar.is_none().then(|| shared.verdicts.get(name, instance))?;
    let in_cluster = shared.kubernetes.iter().flat_map(|kubernetes| kubernetes.said(name));
    view::merge(in_writing.chain(in_cluster).chain(registered).chain(resolved), checked, &shared.trust.denied())
}

pub(crate) fn told(seen: &Seen) -> v1::Found {
    v1::Found {
        instance: Some(fusewire_api::instance_to_wire(&seen.instance)),
        sources: seen.sources.iter().map(|source| source.as_str().to_owned()).collect(),
        health: crate::registry::health_to_wire(seen.health).into(),
        detail: seen.detail.clone(),
        age_ms: None, // it would change with every look
    }
}
