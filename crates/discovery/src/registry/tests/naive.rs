//! The registry as one would explain it: a list, gone through from the start for every question.

use super::super::{Key, Lease, Limits, Registration};
use fusewire_model::ServiceName;
use std::collections::BTreeMap;
use std::time::Duration;

struct One {
    key: Key,
    registration: Registration,
    lease: Lease,
    from: Duration,
    order: u64,
}

pub(super) struct Naive {
    limits: Limits,
    all: Vec<One>,
    preserved: BTreeMap<Option<ServiceName>, Duration>,
    next: u64,
}

impl Naive {
    pub(super) fn new(limits: Limits) -> Self {
        Self { limits, all: Vec::new(), preserved: BTreeMap::new(), next: 0 }
    }

    fn of<'a>(&'a self, scope: &'a Option<ServiceName>) -> impl Iterator<Item = &'a One> {
        self.all.iter().filter(move |one| scope.as_ref().is_none_or(|s| one.registration.ports.contains_key(s)))
    }

    fn counts(&self, scope: &Option<ServiceName>) -> (usize, usize) {
        (self.of(scope).count(), self.of(scope).filter(|one| one.lease != Lease::Fresh).count())
    }

    fn scopes(one: &One) -> Vec<Option<ServiceName>> {
        [None].into_iter().chain(one.registration.ports.keys().cloned().map(Some)).collect()
    }

    fn at(&mut self, key: &Key) -> Option<&mut One> {
        self.all.iter_mut().find(|one| one.key == *key)
    }

    pub(super) fn register(&mut self, key: &Key, registration: Registration, now: Duration) -> bool {
        if self.at(key).is_none() {
            let of_identity = self.all.iter().filter(|one| one.key.identity == key.identity).count();
            if self.all.len() >= self.limits.registrations || of_identity >= self.limits.of_one_identity {
                return false;
            }
            let order = self.next;
            self.next += 1;
            self.all.push(One { key: key.clone(), registration, lease: Lease::Fresh, from: now, order });
        } else if let Some(one) = self.at(key) {
            (one.registration, one.lease, one.from) = (registration, Lease::Fresh, now);
        }
        self.recover(now);
        true
    }

    pub(super) fn heartbeat(&mut self, key: &Key, now: Duration) -> bool {
        let known = self.at(key).map(|one| (one.lease, one.from) = (Lease::Fresh, now)).is_some();
        self.recover(now);
        known
    }

    pub(super) fn deregister(&mut self, key: &Key, now: Duration) {
        self.all.retain(|one| one.key != *key);
        self.recover(now);
    }

    pub(super) fn tick(&mut self, now: Duration) {
        loop {
            let due = |one: &One| match one.lease {
                Lease::Fresh => Some(one.from + one.registration.ttl),
                Lease::Late => Some(one.from + one.registration.ttl * 2),
                Lease::Kept => None,
            };
            let next = self.all.iter().filter_map(|one| Some((due(one)?, one.order))).min();
            let Some((_, order)) = next.filter(|(at, _)| *at <= now) else { break };
            let index = self.all.iter().position(|one| one.order == order).unwrap();
            if self.all[index].lease == Lease::Fresh {
                self.all[index].lease = Lease::Late;
            } else if self.protected(index, now) {
                self.all[index].lease = Lease::Kept;
            } else {
                self.all.remove(index);
            }
        }
        let over = self.preserved.iter().filter(|(_, since)| now >= **since + self.limits.self_preservation);
        let over: Vec<_> = over.map(|(scope, _)| scope.clone()).collect();
        over.iter().for_each(|scope| self.end(scope, false, now));
        self.recover(now);
    }

    fn protected(&mut self, index: usize, now: Duration) -> bool {
        let scopes = Self::scopes(&self.all[index]);
        if scopes.iter().any(|scope| self.preserved.contains_key(scope)) {
            return true;
        }
        let suspicious = |scope: &&Option<ServiceName>| {
            let (here, silent) = self.counts(scope);
            silent >= 2 && silent * 2 > here
        };
        let found = scopes.iter().find(suspicious).cloned();
        found.is_some_and(|scope| {
            self.preserved.insert(scope, now);
            true
        })
    }

    fn recover(&mut self, now: Duration) {
        let well = |scope: &&Option<ServiceName>| {
            let (here, silent) = self.counts(scope);
            silent <= 1 || (here - silent) * 100 >= here * 85
        };
        let well: Vec<_> = self.preserved.keys().filter(well).cloned().collect();
        well.iter().for_each(|scope| self.end(scope, true, now));
    }

    fn end(&mut self, scope: &Option<ServiceName>, recovered: bool, now: Duration) {
        self.preserved.remove(scope);
        let preserved = self.preserved.clone();
        let concerned = |one: &One| {
            Self::scopes(one).contains(scope) && !Self::scopes(one).iter().any(|s| preserved.contains_key(s))
        };
        if !recovered {
            self.all.retain(|one| !(concerned(one) && one.lease == Lease::Kept));
            return;
        }
        for one in self.all.iter_mut().filter(|one| concerned(one) && one.lease != Lease::Fresh) {
            (one.lease, one.from) = (Lease::Late, now);
        }
    }

    pub(super) fn leases(&self) -> Vec<(Key, Lease)> {
        let mut leases: Vec<_> = self.all.iter().map(|one| (one.key.clone(), one.lease)).collect();
        leases.sort_by(|a, b| a.0.cmp(&b.0));
        leases
    }

    pub(super) fn preservations(&self) -> Vec<(Option<ServiceName>, usize, Duration)> {
        self.preserved.iter().map(|(scope, since)| (scope.clone(), self.counts(scope).1, *since)).collect()
    }

    pub(super) fn ids(&self, service: &ServiceName) -> Vec<String> {
        let mut ids: Vec<_> = self.of(&Some(service.clone())).map(|one| one.key.id.clone()).collect();
        ids.sort();
        ids
    }
}
