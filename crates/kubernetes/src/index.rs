//! The facts, and which Services a change of one of them is about.
//!
//! It decides what has to be looked at again ([`Facts::dirty`]). It deliberately does not look: translation is
//! [`crate::translate`]'s. A change costs a look at the slices of its namespace at most.

use crate::facts::{Id, NamespaceFacts, PodFacts, ServiceFacts, SliceFacts};
use crate::follow::Told;
use fusewire_model::ServiceName;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

#[derive(Default)]
pub(crate) struct Facts {
    pub(crate) services: BTreeMap<Id, ServiceFacts>,
    /// By namespace, Service and name of the slice.
    pub(crate) slices: BTreeMap<(Id, Box<str>), SliceFacts>,
    /// What was told of slices, and is not to be believed before the pods are known.
    pub(crate) waiting: Waiting,
    /// Which Service a slice is of.
    slice_of: BTreeMap<Id, Box<str>>,
    /// By UID.
    pub(crate) pods: BTreeMap<Box<str>, (Id, PodFacts)>,
    uids: BTreeMap<Id, Box<str>>,
    /// Pods that are gone while a slice still has them: their sidecars' identities are believed for as long.
    orphans: BTreeMap<Box<str>, Id>,
    pub(crate) namespaces: BTreeMap<Box<str>, NamespaceFacts>,
    /// Which of the mesh's services each Service is.
    pub(crate) names: BTreeMap<Id, Vec<ServiceName>>,
    pub(crate) owner: BTreeMap<ServiceName, Id>,
    pub(crate) dirty: BTreeSet<Id>,
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
    /// Those of a Service.
    pub(crate) fn slices_of<'a>(&'a self, id: &'a Id) -> impl Iterator<Item = &'a SliceFacts> {
        let from = (id.clone(), Box::from(""));
        let slices = self.slices.range((Bound::Included(from), Bound::Unbounded));
        slices.take_while(move |((of, _), _)| of == id).map(|(_, slice)| slice)
    }

    pub(crate) fn service(&mut self, told: Told<ServiceFacts>) {
        match told {
            Told::All(all) => {
                let now: BTreeMap<Id, ServiceFacts> = all.into_iter().collect();
                let other = self.services.iter().filter(|(id, facts)| now.get(id) != Some(facts)).map(|(id, _)| id);
                let new = now.keys().filter(|id| !self.services.contains_key(id));
                self.dirty.extend(other.chain(new).cloned());
                self.services = now;
            }
            Told::Put(id, facts) => {
                if self.services.get(&id) != Some(&facts) {
                    self.services.insert(id.clone(), facts);
                    self.dirty.insert(id);
                }
            }
            Told::Gone(id) => {
                if self.services.remove(&id).is_some() {
                    self.dirty.insert(id);
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
                    self.dirty.insert(of);
                }
            }
            Told::Gone(id) => {
                let Some(service) = self.slice_of.remove(&id) else { return };
                let of = Id::new(&id.namespace, &service);
                self.slices.remove(&(of.clone(), id.name));
                self.dirty.insert(of);
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
                let is_news = self.pods.get(&pod.uid).is_none_or(|(_, before)| before.account != pod.account);
                let uid = pod.uid.clone();
                self.orphans.remove(&uid);
                self.uids.insert(id.clone(), uid.clone());
                self.pods.insert(uid.clone(), (id.clone(), pod));
                if is_news {
                    self.touch(&id.namespace, &uid);
                }
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
        self.dirty.extend(touched);
    }

    fn services_with(&self, namespace: &str, uid: &str) -> Vec<Id> {
        let from = (Id::new(namespace, ""), Box::from(""));
        let slices = self.slices.range((Bound::Included(from), Bound::Unbounded));
        let slices = slices.take_while(|((of, _), _)| &*of.namespace == namespace);
        let has = |slice: &SliceFacts| slice.endpoints.iter().any(|e| e.pod.as_deref() == Some(uid));
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
        self.dirty.extend(dirty);
    }
}
