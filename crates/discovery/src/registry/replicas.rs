//! Registrations that come from the store instead of a peer: after a restart, and from other replicas.
//!
//! It decides that a replica judges only the silence of what beats at itself. When a replica is gone, the others adopt
//! what beat there, each with a full TTL and grace; whoever then hears it first is its new home, and says so in the store.

use super::entry::{Home, State};
use super::registration::{Key, Registration};
use super::{Change, Registry};
use fusewire_model::ServiceName;
use std::collections::BTreeMap;
use std::time::Duration;

/// A registration as the store has it.
#[derive(Clone, Debug, PartialEq)]
pub struct Stored {
    pub key: Key,
    pub registration: Registration,
    /// Of each of its services; what is missing is not checked.
    pub health: BTreeMap<ServiceName, State>,
}

impl Registry {
    /// From the store. `home`: the replica that it beats at, `None` where that is this one (or nobody: after a restart
    /// each has a full TTL and grace to come back). Limits do not count: what was taken once stays taken.
    pub fn learn(&mut self, stored: Stored, home: Option<&str>, now: Duration) -> Vec<Change> {
        let Stored { key, registration, mut health } = stored;
        health.retain(|service, _| registration.ports.contains_key(service));
        for service in registration.ports.keys() {
            health.entry(service.clone()).or_default();
        }
        let home = home.map_or(Home::Adopted, |name| Home::Elsewhere(name.to_owned()));
        let mut changes = Vec::new();
        self.supersede(&key, &registration, now, &mut changes);
        let serial = match self.keys.get(&key).copied() {
            None => self.insert(&key, registration, health, home, now),
            // what the store says is newer than what we heard
            Some(serial) => {
                self.replace(serial, registration, false, now, &mut changes);
                if let Some(entry) = self.entries.get_mut(&serial) {
                    entry.health = health;
                }
                self.set_home(serial, home);
                serial
            }
        };
        self.recover(now, &mut changes);
        // it is in the store already
        let told = |change| match change {
            Change::Put { key, services } => Change::Lease { key, services },
            other => other,
        };
        changes.into_iter().map(told).chain([self.told(serial)]).collect()
    }

    /// Another replica took it out of the store.
    pub fn forget(&mut self, key: &Key, now: Duration) -> Vec<Change> {
        match self.keys.get(key).map(|serial| &self.entries[serial].home) {
            Some(Home::Elsewhere(_) | Home::Adopted) => self.deregister(key, now),
            // we hear it, and will say so
            Some(Home::Here) | None => Vec::new(),
        }
    }

    /// The replica `home` is gone: what beat there is judged here from now on.
    pub fn adopt(&mut self, home: &str, now: Duration) -> Vec<Change> {
        let theirs = |h: &Home| matches!(h, Home::Elsewhere(name) if name == home);
        let mut serials: Vec<_> = self.entries.iter().filter(|(_, e)| theirs(&e.home)).map(|(s, _)| *s).collect();
        serials.sort_unstable();
        for serial in &serials {
            self.hear(*serial, now);
            self.set_home(*serial, Home::Adopted);
        }
        serials.into_iter().map(|serial| self.told(serial)).collect()
    }

    /// What beats here.
    pub fn here(&self) -> Vec<Key> {
        self.entries.values().filter(|entry| entry.home == Home::Here).map(|entry| entry.key.clone()).collect()
    }

    fn told(&self, serial: u64) -> Change {
        let entry = &self.entries[&serial];
        Change::Lease { key: entry.key.clone(), services: entry.services() }
    }
}
