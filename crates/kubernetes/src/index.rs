//! The facts, and which Services a change of one of them is about.
//!
//! It decides what has to be looked at again ([`Facts::take_dirty`]). It deliberately does not look: that is
//! [`crate::settle`]'s. A change costs a look at the slices of its namespace at most.

use crate::facts::{EndpointFacts, Id, NamespaceFacts, PodFacts, ServiceFacts, SliceFacts};
use crate::follow::Told;
use crate::settle::Last;
use fusewire_model::ServiceName;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::ops::Bound;

#[derive(Default)]
pub(crate) struct Facts {
    pub(crate) services: BTreeMap<Id, ServiceFacts>,
    /// Counts the times that one of them, or what its namespace says of it, was another.
    pub(crate) services_version: u64,
    /// By namespace, Service and name of the slice.
    pub(crate) slices: BTreeMap<(Id, Box<str>), SliceFacts>,
    /// What was told of slices, and is not to be believed before the pods are known.
    pub(crate) waiting: Waiting,
    /// Which Service a slice is of.
    slice_of: BTreeMap<Id, Box<str>>,
    pub(crate) pods: Pods,
    uids: BTreeMap<Id, Box<str>>,
    /// Pods that are gone while a slice still has them: their sidecars' identities are believed for as long.
    orphans: BTreeMap<Box<str>, Id>,
    /// What is known of pods that are in slices and not among those with a sidecar.
    pub(crate) others: Others,
    pub(crate) namespaces: BTreeMap<Box<str>, NamespaceFacts>,
    /// Which of the mesh's services each Service is.
    pub(crate) names: BTreeMap<Id, BTreeSet<ServiceName>>,
    pub(crate) owner: BTreeMap<ServiceName, Id>,
    dirty: BTreeSet<Id>,
    pub(crate) last: Last,
}

/// Pods that have a sidecar.
#[derive(Debug, Default)]
pub(crate) struct Pods {
    by_uid: BTreeMap<Box<str>, (Id, PodFacts)>,
    /// By namespace and address: the UID.
    by_ip: BTreeMap<(Box<str>, IpAddr), Box<str>>,
}

impl Pods {
    pub(crate) fn get(&self, uid: &str) -> Option<&(Id, PodFacts)> {
        self.by_uid.get(uid)
    }

    pub(crate) fn at(&self, namespace: &str, ip: IpAddr) -> Option<&str> {
        self.by_ip.get(&(namespace.into(), ip)).map(|uid| &**uid)
    }

    pub(crate) fn put(&mut self, id: Id, pod: PodFacts) {
        self.remove(&pod.uid);
        for ip in &pod.ips {
            self.by_ip.insert((id.namespace.clone(), *ip), pod.uid.clone());
        }
        self.by_uid.insert(pod.uid.clone(), (id, pod));
    }

    fn remove(&mut self, uid: &str) {
        let Some((id, pod)) = self.by_uid.remove(uid) else { return };
        for ip in pod.ips {
            let key = (id.namespace.clone(), ip);
            if self.by_ip.get(&key).is_some_and(|of| **of == *uid) {
                self.by_ip.remove(&key);
            }
        }
    }
}

/// Pods that the watch of pods with a sidecar does not tell of. That alone proves nothing: it may be behind that of slices.
#[derive(Debug, Default)]
pub(crate) struct Others {
    /// To be asked for, by UID.
    pub(crate) unasked: BTreeMap<Box<str>, Id>,
    /// They were asked for, and have no sidecar: the addresses that they had then.
    pub(crate) plain: Plain,
    /// They were asked for, and are not there any more; what they had is not known.
    gone: BTreeSet<Box<str>>,
}

/// Addresses by UID.
pub(crate) type Plain = BTreeMap<Box<str>, Box<[IpAddr]>>;

/// What the API server says of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Other {
    Plain(Box<[IpAddr]>),
    Gone,
}

/// In order; what a later word is about is not kept of an earlier one, so that it is bounded by the slices there are.
#[derive(Default)]
pub(crate) struct Waiting(Vec<Told<SliceFacts>>);

impl Waiting {
    pub(crate) fn push(&mut self, told: Told<SliceFacts>) {
        match &told {
            Told::All(_) => self.0.clear(),
            Told::Put(id, _) | Told::Gone(id) => self.0.retain(|before| match before {
                Told::Put(other, _) | Told::Gone(other) => other != id,
                Told::All(_) => true,
            }),
        }
        self.0.push(told);
    }
}

impl IntoIterator for Waiting {
    type Item = Told<SliceFacts>;
    type IntoIter = std::vec::IntoIter<Self::Item>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl Facts {
    /// They are to be looked at again; what was kept of them is not what they are.
    fn soil(&mut self, all: impl IntoIterator<Item = Id>) {
        for id in all {
            self.last.forget(&id);
            self.dirty.insert(id);
        }
    }

    /// Services that are to be looked at again.
    pub(crate) fn take_dirty(&mut self) -> BTreeSet<Id> {
        std::mem::take(&mut self.dirty)
    }

    /// Those of a Service.
    pub(crate) fn slices_of<'a>(&'a self, id: &'a Id) -> impl Iterator<Item = &'a SliceFacts> {
        let from = (id.clone(), Box::from(""));
        let slices = self.slices.range((Bound::Included(from), Bound::Unbounded));
        slices.take_while(move |((of, _), _)| of == id).map(|(_, slice)| slice)
    }

    /// The ids of a Service's instances by the names of their pods.
    pub(crate) fn pods_of(&self, id: &Id) -> BTreeMap<String, String> {
        let endpoints = self.slices_of(id).flat_map(|slice| &slice.endpoints);
        endpoints.filter_map(|e| e.pod.as_ref()).map(|pod| (pod.name.to_string(), pod.uid.to_string())).collect()
    }

    pub(crate) fn service(&mut self, told: Told<ServiceFacts>) {
        match told {
            Told::All(all) => {
                let now: BTreeMap<Id, ServiceFacts> = all.into_iter().collect();
                let other = self.services.iter().filter(|(id, facts)| now.get(id) != Some(facts)).map(|(id, _)| id);
                let new = now.keys().filter(|id| !self.services.contains_key(id));
                let dirty: Vec<Id> = other.chain(new).cloned().collect();
                self.services_version += u64::from(!dirty.is_empty());
                self.soil(dirty);
                self.services = now;
            }
            Told::Put(id, facts) => {
                if self.services.get(&id) != Some(&facts) {
                    self.services.insert(id.clone(), facts);
                    self.services_version += 1;
                    self.soil([id]);
                }
            }
            Told::Gone(id) => {
                if self.services.remove(&id).is_some() {
                    self.services_version += 1;
                    self.soil([id]);
                }
            }
        }
    }

    pub(crate) fn slice(&mut self, told: Told<SliceFacts>) {
        match told {
            Told::All(all) => {
                let there: BTreeSet<&Id> = all.iter().map(|(id, _)| id).collect();
                let gone: Vec<Id> = self.slice_of.keys().filter(|id| !there.contains(id)).cloned().collect();
                gone.into_iter().for_each(|id| self.slice(Told::Gone(id)));
                all.into_iter().for_each(|(id, slice)| self.slice(Told::Put(id, slice)));
                return;
            }
            Told::Put(id, slice) => {
                let of = Id::new(&id.namespace, &slice.service);
                if self.slice_of.get(&id).is_some_and(|before| *before != slice.service) {
                    self.slice(Told::Gone(id.clone()));
                }
                let key = (of.clone(), id.name.clone());
                if self.slices.get(&key) != Some(&slice) {
                    self.slice_of.insert(id, slice.service.clone());
                    self.slices.insert(key, slice);
                    self.soil([of]);
                }
            }
            Told::Gone(id) => {
                let Some(service) = self.slice_of.remove(&id) else { return };
                let of = Id::new(&id.namespace, &service);
                self.slices.remove(&(of.clone(), id.name));
                self.soil([of]);
            }
        }
        for (uid, id) in std::mem::take(&mut self.orphans) {
            self.let_go(id, uid);
        }
    }

    pub(crate) fn pod(&mut self, told: Told<PodFacts>) {
        match told {
            Told::All(all) => {
                let there: BTreeSet<&Id> = all.iter().map(|(id, _)| id).collect();
                let gone: Vec<Id> = self.uids.keys().filter(|id| !there.contains(id)).cloned().collect();
                gone.into_iter().for_each(|id| self.pod(Told::Gone(id)));
                all.into_iter().for_each(|(id, pod)| self.pod(Told::Put(id, pod)));
            }
            Told::Put(id, pod) => {
                // a pod of the same name after it is another
                if self.uids.get(&id).is_some_and(|uid| *uid != pod.uid) {
                    self.pod(Told::Gone(id.clone()));
                }
                if self.pods.get(&pod.uid).is_some_and(|(_, before)| *before == pod)
                    && !self.orphans.contains_key(&pod.uid)
                {
                    return;
                }
                let uid = pod.uid.clone();
                self.orphans.remove(&uid);
                self.others.unasked.remove(&uid);
                self.uids.insert(id.clone(), uid.clone());
                // those that it had, and those that it has
                self.touch(&id.namespace, &uid);
                self.pods.put(id.clone(), pod);
                self.touch(&id.namespace, &uid);
            }
            Told::Gone(id) => {
                let Some(uid) = self.uids.remove(&id) else { return };
                self.let_go(id, uid);
            }
        }
    }

    /// The Services of `namespace` that have an endpoint of this pod.
    fn touch(&mut self, namespace: &str, uid: &str) {
        let touched = self.services_with(namespace, uid);
        self.soil(touched);
    }

    fn services_with(&self, namespace: &str, uid: &str) -> Vec<Id> {
        let from = (Id::new(namespace, ""), Box::from(""));
        let slices = self.slices.range((Bound::Included(from), Bound::Unbounded));
        let slices = slices.take_while(|((of, _), _)| &*of.namespace == namespace);
        let ips = self.pods.get(uid).map(|(_, pod)| &*pod.ips).unwrap_or_default();
        let is = |endpoint: &EndpointFacts| match &endpoint.pod {
            Some(pod) => *pod.uid == *uid,
            None => ips.contains(&endpoint.ip),
        };
        let has = |slice: &SliceFacts| slice.endpoints.iter().any(is);
        slices.filter(|(_, slice)| has(slice)).map(|((of, _), _)| of.clone()).collect()
    }

    /// Of a pod that is gone, once no slice has it: until then nobody may take it for one without a sidecar.
    fn let_go(&mut self, id: Id, uid: Box<str>) {
        if self.services_with(&id.namespace, &uid).is_empty() {
            self.pods.remove(&uid);
        } else {
            self.orphans.insert(uid, id);
        }
    }

    /// Notes the pods of a Service that have to be asked for.
    pub(crate) fn note_others(&mut self, of: &Id) {
        let endpoints = self.slices_of(of).flat_map(|slice| &slice.endpoints);
        let unknown = endpoints.filter_map(|endpoint| endpoint.pod.as_ref()).filter(|pod| {
            let Others { plain, gone, .. } = &self.others;
            self.pods.get(&pod.uid).is_none() && !plain.contains_key(&pod.uid) && !gone.contains(&pod.uid)
        });
        let unknown: Vec<_> = unknown.map(|pod| (pod.uid.clone(), Id::new(&of.namespace, &pod.name))).collect();
        self.others.unasked.extend(unknown);
    }

    /// Takes the answer about one.
    pub(crate) fn other(&mut self, id: &Id, uid: &str, is: Other) {
        self.others.unasked.remove(uid);
        match is {
            Other::Plain(ips) => drop(self.others.plain.insert(uid.into(), ips)),
            Other::Gone => drop(self.others.gone.insert(uid.into())),
        }
        self.touch(&id.namespace, uid);
    }

    /// Forgets those that no slice has any more.
    pub(crate) fn forget_others(&mut self) {
        let endpoints = self.slices.values().flat_map(|slice| &slice.endpoints);
        let there: BTreeSet<&str> = endpoints.filter_map(|e| e.pod.as_ref()).map(|pod| &*pod.uid).collect();
        let Others { unasked, plain, gone } = &mut self.others;
        unasked.retain(|uid, _| there.contains(&**uid));
        plain.retain(|uid, _| there.contains(&**uid));
        gone.retain(|uid| there.contains(&**uid));
    }

    pub(crate) fn namespace(&mut self, told: Told<NamespaceFacts>) {
        let mut touched: BTreeSet<Box<str>> = BTreeSet::new();
        match told {
            Told::All(all) => {
                let now: BTreeMap<Box<str>, NamespaceFacts> = all.into_iter().map(|(id, n)| (id.name, n)).collect();
                touched.extend(now.keys().chain(self.namespaces.keys()).cloned());
                touched.retain(|name| now.get(name) != self.namespaces.get(name));
                self.namespaces = now;
            }
            Told::Put(id, namespace) => {
                if self.namespaces.get(&id.name) != Some(&namespace) {
                    self.namespaces.insert(id.name.clone(), namespace);
                    touched.insert(id.name);
                }
            }
            Told::Gone(id) => {
                self.namespaces.remove(&id.name);
                touched.insert(id.name);
            }
        }
        let of = |id: &&Id| touched.contains(&id.namespace);
        let dirty: Vec<Id> = self.services.keys().filter(of).cloned().collect();
        self.services_version += u64::from(!dirty.is_empty());
        self.soil(dirty);
    }
}
