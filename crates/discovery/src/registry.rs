//! The registry: who says that it exists, and for how long that is believed.
//!
//! It decides when a registration is *fresh*, *late* (no heartbeat within its TTL; still offered), *kept* (its TTL and
//! grace are over, but too many fell silent together, see [`preserve`]) or gone. It deliberately does no I/O and reads no
//! clock: every call is given the time since some start, never less than before, and answers with what changed. It does
//! not decide who may register what; whoever knows the peer does.
//!
//! The end of a connection means nothing by itself: sidecars reconnect, control planes restart. Only time and
//! [`Registry::deregister`] take a registration out. Time in which this control plane itself stood still does not count.
//!
//! Invariants: at most [`Limits::registrations`] in all; an id is in a service once; the cost of a call is that of its
//! answer, never of the registry (but for the end of a preservation, and after a standstill).

mod entry;
pub mod preserve;
mod registration;
mod replicas;
mod scopes;
#[cfg(test)]
mod tests;

pub use entry::{Lease, Registered, State};
pub use preserve::Preservation;
pub use registration::{Key, Registration};
pub use replicas::Stored;

use entry::{Entry, Home, Serial, states};
use fusewire_model::health::Health;
use fusewire_model::{ServiceName, SpiffeId};
use preserve::Scope;
use registration::Address;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

/// Longer without a [`Registry::tick`] is a standstill of our own. Call it at least each second.
pub const STANDSTILL: Duration = Duration::from_secs(3);

#[derive(Clone, Debug)]
pub struct Limits {
    /// In all. Default 100,000.
    pub registrations: usize,
    /// Of one identity: one service's instances share theirs. Default 20,000.
    pub of_one_identity: usize,
    /// How long self-preservation may last. Default 30 min.
    pub self_preservation: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { registrations: 100_000, of_one_identity: 20_000, self_preservation: Duration::from_secs(30 * 60) }
    }
}

/// Why a registration is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("the registry is full: {0} registrations; deregister some, or wait for those that are gone to end")]
    Full(usize),
    #[error(
        "{identity} has {limit} registrations already, which is as many as one identity may have; do instances register under a new id each time they start?"
    )]
    FullOfIdentity { identity: SpiffeId, limit: usize },
    #[error("service {service} has an instance {id} already, registered by {by}; choose another id")]
    IdTaken { service: ServiceName, id: String, by: SpiffeId },
}

/// What a call changed, in order.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// It was made or replaced, or its health changed: to be stored, and told to whoever watches `services`.
    Put {
        key: Key,
        services: Vec<ServiceName>,
    },
    /// Only its lease changed: told, not stored.
    Lease {
        key: Key,
        services: Vec<ServiceName>,
    },
    Gone {
        key: Key,
        registration: Arc<Registration>,
        why: Gone,
    },
    Preserving(Preservation),
    /// `recovered`: false where it lasted for as long as it may.
    Preserved {
        service: Option<ServiceName>,
        recovered: bool,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gone {
    Deregistered,
    /// TTL and grace are over.
    Expired,
    /// Its identity registered the same address under another id.
    Replaced,
}

impl Gone {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Deregistered => "deregistered",
            Self::Expired => "expired",
            Self::Replaced => "replaced",
        }
    }
}

#[derive(Debug, Default)]
struct Members {
    ids: BTreeMap<String, Serial>,
    scope: Scope,
}

/// All registrations.
#[derive(Debug)]
pub struct Registry {
    limits: Limits,
    entries: HashMap<Serial, Entry>,
    keys: BTreeMap<Key, Serial>,
    of_identity: HashMap<SpiffeId, usize>,
    addresses: HashMap<Address, Serial>,
    services: BTreeMap<ServiceName, Members>,
    all: Scope,
    /// Scopes that are preserved; `None`: everything.
    preserved: BTreeSet<Option<ServiceName>>,
    /// When each is to be looked at, not later than its lease demands.
    due: BTreeSet<(Duration, Serial)>,
    next: Serial,
    ticked: Duration,
}

impl Registry {
    /// `now`: the start of this control plane, as all later calls count.
    pub fn new(limits: Limits, now: Duration) -> Self {
        Self {
            limits,
            entries: HashMap::new(),
            keys: BTreeMap::new(),
            of_identity: HashMap::new(),
            addresses: HashMap::new(),
            services: BTreeMap::new(),
            all: Scope::default(),
            preserved: BTreeSet::new(),
            due: BTreeSet::new(),
            next: 0,
            ticked: now,
        }
    }

    /// Makes or replaces a registration. The same again is a heartbeat. `starting`: it is not to be offered before a
    /// [`report`](Self::report) says that it is up, whatever was known before.
    pub fn register(
        &mut self,
        key: &Key,
        registration: Registration,
        starting: bool,
        now: Duration,
    ) -> Result<Vec<Change>, Refusal> {
        self.check(key, &registration)?;
        let mut changes = Vec::new();
        self.supersede(key, &registration, now, &mut changes);
        match self.keys.get(key).copied() {
            Some(serial) => self.replace(serial, registration, starting, now, &mut changes),
            None => {
                let health = states(&registration, starting, &BTreeMap::new());
                let serial = self.insert(key, registration, health, Home::Here, now);
                changes.push(self.put(serial));
            }
        }
        self.recover(now, &mut changes);
        Ok(changes)
    }

    /// Renews; `None`: not known, it must be registered again.
    pub fn heartbeat(&mut self, key: &Key, now: Duration) -> Option<Vec<Change>> {
        let serial = *self.keys.get(key)?;
        let mut changes = Vec::new();
        if self.hear(serial, now) {
            let entry = &self.entries[&serial];
            changes.push(Change::Lease { key: entry.key.clone(), services: entry.services() });
        }
        if self.take_home(serial) {
            changes.push(self.put(serial));
        }
        self.recover(now, &mut changes);
        Some(changes)
    }

    /// Ends it at once; nothing happens where it is not known.
    pub fn deregister(&mut self, key: &Key, now: Duration) -> Vec<Change> {
        let mut changes = Vec::new();
        if let Some(serial) = self.keys.get(key).copied() {
            changes.extend(self.remove(serial, Gone::Deregistered));
            self.recover(now, &mut changes);
        }
        changes
    }

    /// What its sidecar says of its instance of `service`; the words are kept up to 256 characters. `None`: not known.
    pub fn report(&mut self, key: &Key, service: &ServiceName, health: Health, detail: &str) -> Option<Vec<Change>> {
        let entry = self.entries.get_mut(self.keys.get(key)?)?;
        let state = entry.health.get_mut(service)?;
        let new = State { health, detail: detail.chars().take(256).collect() };
        if *state == new {
            return Some(Vec::new());
        }
        *state = new;
        Some(vec![Change::Put { key: key.clone(), services: vec![service.clone()] }])
    }

    /// Everything that is due by `now`.
    pub fn tick(&mut self, now: Duration) -> Vec<Change> {
        self.skip_standstill(now);
        let mut changes = Vec::new();
        while let Some((at, serial)) = self.due.first().copied().filter(|(at, _)| *at <= now) {
            self.due.remove(&(at, serial));
            let Some(entry) = self.entries.get_mut(&serial) else { continue };
            entry.queued = None;
            match entry.due() {
                Some(due) if due > now => self.queue(serial),
                Some(_) => self.overdue(serial, now, &mut changes),
                None => {}
            }
        }
        let over = |since: Duration| now >= since + self.limits.self_preservation;
        let over: Vec<_> = self.preserved.iter().filter(|s| self.scope(s).since.is_some_and(over)).cloned().collect();
        for scope in over {
            self.end(&scope, false, now, &mut changes);
        }
        self.recover(now, &mut changes);
        changes
    }

    /// When [`tick`](Self::tick) has something to do next, at the latest.
    pub fn next_due(&self) -> Option<Duration> {
        self.due.first().map(|(at, _)| *at)
    }

    pub fn get(&self, key: &Key) -> Option<Registered<'_>> {
        self.keys.get(key).map(|serial| self.entries[serial].view())
    }

    /// The instances of a service, in the order of their ids, each with its port.
    pub fn service(&self, name: &ServiceName) -> impl Iterator<Item = (Registered<'_>, u16)> {
        let ids = self.services.get(name).into_iter().flat_map(|members| members.ids.values());
        let entries = ids.filter_map(|serial| self.entries.get(serial));
        entries.filter_map(move |entry| Some((entry.view(), *entry.registration.ports.get(name)?)))
    }

    /// One instance of a service.
    pub fn instance(&self, name: &ServiceName, id: &str) -> Option<(Registered<'_>, u16)> {
        let entry = self.entries.get(self.services.get(name)?.ids.get(id)?)?;
        Some((entry.view(), *entry.registration.ports.get(name)?))
    }

    /// Every service that somebody registered for.
    pub fn services(&self) -> impl Iterator<Item = &ServiceName> {
        self.services.keys()
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Of those that beat here: how many are late or kept.
    pub fn silent(&self) -> usize {
        self.all.silent
    }

    /// What is preserved now, the whole registry first.
    pub fn preservations(&self) -> impl Iterator<Item = Preservation> {
        self.preserved.iter().filter_map(|service| self.preservation(service))
    }

    fn check(&self, key: &Key, new: &Registration) -> Result<(), Refusal> {
        if !self.keys.contains_key(key) {
            if self.entries.len() >= self.limits.registrations {
                return Err(Refusal::Full(self.limits.registrations));
            }
            let limit = self.limits.of_one_identity;
            if self.of_identity.get(&key.identity).is_some_and(|count| *count >= limit) {
                return Err(Refusal::FullOfIdentity { identity: key.identity.clone(), limit });
            }
        }
        for service in new.ports.keys() {
            if let Some((taken, _)) = self.instance(service, &key.id)
                && taken.key.identity != key.identity
            {
                let by = taken.key.identity.clone();
                return Err(Refusal::IdTaken { service: service.clone(), id: key.id.clone(), by });
            }
        }
        Ok(())
    }
}
