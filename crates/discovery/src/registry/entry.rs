//! What is kept of each registration, and how the registry's indexes follow it.
//!
//! Invariant: every index and count says of an entry what the entry says; only [`Registry::link`] and
//! [`Registry::unlink`] write them.

use super::registration::{Key, Registration};
use super::{Change, Gone, Registry, STANDSTILL};
use fusewire_model::ServiceName;
use fusewire_model::health::Health;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// In the order of first registration; never used twice.
pub(super) type Serial = u64;

/// How long what was registered may still be believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lease {
    Fresh,
    /// The TTL is over without a heartbeat; still offered, until the grace is over too.
    Late,
    /// Grace is over as well, but too many fell silent together: still offered.
    Kept,
}

impl Lease {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Fresh => "fresh",
            Self::Late => "late",
            Self::Kept => "kept",
        }
    }
}

/// Which replica of the control plane hears its heartbeats, and so judges its silence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Home {
    Here,
    /// That replica judges.
    Elsewhere(String),
    /// That replica is gone: we judge until it beats somewhere.
    Adopted,
}

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) key: Key,
    pub(super) registration: Arc<Registration>,
    /// Of each of its services.
    pub(super) health: BTreeMap<ServiceName, State>,
    pub(super) home: Home,
    pub(super) lease: Lease,
    /// The last heartbeat.
    pub(super) heard: Duration,
    /// What TTL and grace are counted from.
    pub(super) from: Duration,
    /// Its place in `Registry::due`.
    pub(super) queued: Option<Duration>,
}

/// How an instance is, and why, in words.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    pub health: Health,
    pub detail: String,
}

/// A registration as it is now.
#[derive(Clone, Copy, Debug)]
pub struct Registered<'a> {
    pub key: &'a Key,
    pub registration: &'a Arc<Registration>,
    /// Of each of its services.
    pub health: &'a BTreeMap<ServiceName, State>,
    pub lease: Lease,
    /// When it was last heard; none where another replica hears it.
    pub heard: Option<Duration>,
}

impl Entry {
    pub(super) fn services(&self) -> Vec<ServiceName> {
        self.registration.ports.keys().cloned().collect()
    }

    /// When its lease changes next.
    pub(super) fn due(&self) -> Option<Duration> {
        match (&self.home, self.lease) {
            (Home::Elsewhere(_), _) | (_, Lease::Kept) => None,
            (_, Lease::Fresh) => Some(self.from + self.registration.ttl),
            (_, Lease::Late) => Some(self.from + self.registration.ttl + self.registration.grace()),
        }
    }

    pub(super) fn view(&self) -> Registered<'_> {
        Registered {
            key: &self.key,
            registration: &self.registration,
            health: &self.health,
            lease: self.lease,
            heard: (!matches!(self.home, Home::Elsewhere(_))).then_some(self.heard),
        }
    }
}

impl Registry {
    pub(super) fn insert(
        &mut self,
        key: &Key,
        registration: Registration,
        health: BTreeMap<ServiceName, State>,
        home: Home,
        now: Duration,
    ) -> Serial {
        let serial = self.next;
        self.next += 1;
        let registration = Arc::new(registration);
        let (lease, key) = (Lease::Fresh, key.clone());
        *self.of_identity.entry(key.identity.clone()).or_default() += 1;
        self.keys.insert(key.clone(), serial);
        let entry = Entry { key, registration, health, home, lease, heard: now, from: now, queued: None };
        self.entries.insert(serial, entry);
        self.link(serial);
        self.queue(serial);
        serial
    }

    pub(super) fn remove(&mut self, serial: Serial, why: Gone) -> Option<Change> {
        self.unlink(serial);
        let entry = self.entries.remove(&serial)?;
        if let Some(at) = entry.queued {
            self.due.remove(&(at, serial));
        }
        self.keys.remove(&entry.key);
        if let Some(count) = self.of_identity.get_mut(&entry.key.identity) {
            *count -= 1;
            if *count == 0 {
                self.of_identity.remove(&entry.key.identity);
            }
        }
        Some(Change::Gone { key: entry.key, registration: entry.registration, why })
    }

    /// Other content under the same key.
    pub(super) fn replace(
        &mut self,
        serial: Serial,
        new: Registration,
        starting: bool,
        now: Duration,
        changes: &mut Vec<Change>,
    ) {
        let late = self.hear(serial, now);
        let moved = self.take_home(serial);
        let Some(entry) = self.entries.get_mut(&serial) else { return };
        let mut services = entry.services();
        let health = states(&new, starting, &entry.health);
        let same = *entry.registration == new;
        if same && health == entry.health {
            if moved {
                changes.push(self.put(serial));
            } else if late {
                changes.push(Change::Lease { key: entry.key.clone(), services });
            }
            return;
        }
        entry.health = health;
        if !same {
            self.unlink(serial);
            if let Some(entry) = self.entries.get_mut(&serial) {
                entry.registration = Arc::new(new);
                services.extend(entry.services());
            }
            self.link(serial);
            self.queue(serial);
        }
        services.sort();
        services.dedup();
        changes.push(Change::Put { key: self.entries[&serial].key.clone(), services });
    }

    /// Those of the same identity at the same address under another id: their process is gone.
    pub(super) fn supersede(&mut self, key: &Key, new: &Registration, now: Duration, changes: &mut Vec<Change>) {
        let there: Vec<Serial> = new.addresses().filter_map(|address| self.addresses.get(&address).copied()).collect();
        for serial in there {
            let other = self.entries.get(&serial).map(|entry| &entry.key);
            if other.is_some_and(|other| other.identity == key.identity && other.id != key.id) {
                changes.extend(self.remove(serial, Gone::Replaced));
            }
        }
        self.recover(now, changes);
    }

    pub(super) fn put(&self, serial: Serial) -> Change {
        let entry = &self.entries[&serial];
        Change::Put { key: entry.key.clone(), services: entry.services() }
    }

    /// Whether it had been silent.
    pub(super) fn hear(&mut self, serial: Serial, now: Duration) -> bool {
        let Some(entry) = self.entries.get_mut(&serial) else { return false };
        (entry.heard, entry.from) = (now, now);
        let late = entry.lease != Lease::Fresh;
        if late {
            self.set_lease(serial, Lease::Fresh);
        }
        self.queue(serial);
        late
    }

    /// It beats here from now on; whether that is new.
    pub(super) fn take_home(&mut self, serial: Serial) -> bool {
        if self.entries[&serial].home == Home::Here {
            return false;
        }
        self.set_home(serial, Home::Here);
        true
    }

    pub(super) fn set_home(&mut self, serial: Serial, home: Home) {
        self.unlink(serial);
        if let Some(entry) = self.entries.get_mut(&serial) {
            entry.home = home;
        }
        self.link(serial);
        self.queue(serial);
    }

    pub(super) fn set_lease(&mut self, serial: Serial, lease: Lease) {
        self.unlink(serial);
        if let Some(entry) = self.entries.get_mut(&serial) {
            entry.lease = lease;
        }
        self.link(serial);
    }

    /// Puts it in line, unless it is there already and early enough: heartbeats then cost nothing here.
    pub(super) fn queue(&mut self, serial: Serial) {
        let Some(entry) = self.entries.get_mut(&serial) else { return };
        match (entry.due(), entry.queued) {
            (Some(due), Some(at)) if at <= due => {}
            (due, at) => {
                if let Some(at) = at {
                    self.due.remove(&(at, serial));
                }
                if let Some(due) = due {
                    self.due.insert((due, serial));
                }
                entry.queued = due;
            }
        }
    }

    /// Its lease has run out, whichever it is.
    pub(super) fn overdue(&mut self, serial: Serial, now: Duration, changes: &mut Vec<Change>) {
        let Some(entry) = self.entries.get(&serial) else { return };
        let (key, services, lease) = (entry.key.clone(), entry.services(), entry.lease);
        let next = match lease {
            Lease::Fresh => Lease::Late,
            Lease::Late | Lease::Kept if self.protect(&services, now, changes) => Lease::Kept,
            Lease::Late | Lease::Kept => {
                changes.extend(self.remove(serial, Gone::Expired));
                return;
            }
        };
        self.set_lease(serial, next);
        self.queue(serial);
        changes.push(Change::Lease { key, services });
    }

    /// What this process slept through is nobody's silence.
    pub(super) fn skip_standstill(&mut self, now: Duration) {
        let gap = now.saturating_sub(self.ticked);
        self.ticked = now;
        if gap > STANDSTILL {
            for entry in self.entries.values_mut() {
                entry.from = (entry.from + gap).min(now);
            }
        }
    }

    /// Into every index and count.
    fn link(&mut self, serial: Serial) {
        let Some(entry) = self.entries.get(&serial) else { return };
        let (here, silent) = counted(entry);
        for service in entry.registration.ports.keys() {
            let members = self.services.entry(service.clone()).or_default();
            members.ids.insert(entry.key.id.clone(), serial);
            members.scope.here += here;
            members.scope.silent += silent;
        }
        for address in entry.registration.addresses() {
            self.addresses.insert(address, serial);
        }
        self.all.here += here;
        self.all.silent += silent;
    }

    /// Out of every index and count.
    fn unlink(&mut self, serial: Serial) {
        let Some(entry) = self.entries.get(&serial) else { return };
        let (here, silent) = counted(entry);
        for service in entry.registration.ports.keys() {
            let Some(members) = self.services.get_mut(service) else { continue };
            members.ids.remove(&entry.key.id);
            members.scope.here -= here;
            members.scope.silent -= silent;
            if members.ids.is_empty() && members.scope.since.is_none() {
                self.services.remove(service);
            }
        }
        for address in entry.registration.addresses() {
            if self.addresses.get(&address) == Some(&serial) {
                self.addresses.remove(&address);
            }
        }
        self.all.here -= here;
        self.all.silent -= silent;
    }
}

/// How the instances of `new` are at first: what was known of them goes on, unless they start.
pub(super) fn states(
    new: &Registration,
    starting: bool,
    known: &BTreeMap<ServiceName, State>,
) -> BTreeMap<ServiceName, State> {
    let state = |service: &ServiceName| match known.get(service) {
        _ if starting => State { health: Health::Starting, detail: String::new() },
        Some(state) if state.health != Health::Starting => state.clone(),
        Some(_) | None => State::default(),
    };
    new.ports.keys().map(|service| (service.clone(), state(service))).collect()
}

/// Whether it counts in its scopes, and as silent.
fn counted(entry: &Entry) -> (usize, usize) {
    match (&entry.home, entry.lease) {
        (Home::Elsewhere(_), _) => (0, 0),
        (_, Lease::Fresh) => (1, 0),
        (_, Lease::Late | Lease::Kept) => (1, 1),
    }
}
