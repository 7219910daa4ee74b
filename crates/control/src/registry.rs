//! Registrations in this control plane: the pure registry with a clock, a store, and whoever wants to know.
//!
//! It decides what follows from a change: it is logged, counted, written to the store (registrations and their health, never a
//! heartbeat), and the services it touches are marked ([`Marks`]). It deliberately does not merge sources:
//! whoever assembles the view asks for a service's registered instances ([`Registrations::found`]) and for what sidecars
//! said of others ([`Registrations::reported`]).
//!
//! Invariant: the lock on the registry is held for one call of it, never across an await.

mod authorise;
pub(crate) mod kept;
pub(crate) mod persist;
mod reports;
mod service;
#[cfg(test)]
mod tests;
mod watch;
mod wire;
mod words;

pub(crate) use authorise::identity_of;
pub(crate) use service::RegistryService;
pub(crate) use watch::WatchedRegistry;
pub(crate) use wire::health_to_wire;

use crate::assembly::Marks;
use crate::shared::lock;
use fusewire_discovery::registry::{
    Change, Gone, Key, Lease, Limits, Preservation, Refusal, Registration, Registry, State,
};
use fusewire_model::health::Health;
use fusewire_model::service::Instance;
use fusewire_model::{ServiceName, SpiffeId};
use persist::{Pending, Record};
use reports::{Reports, Speaker};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::{Instant, MissedTickBehavior, interval};

/// How often expiry is looked for.
const TICK: Duration = Duration::from_millis(250);

/// A registered instance of one service.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct RegisteredInstance {
    /// Who registered it.
    pub(crate) owner: SpiffeId,
    pub(crate) instance: Instance,
    pub(crate) health: Health,
    pub(crate) detail: String,
    pub(crate) lease: Lease,
    /// Since its last heartbeat; none where another replica hears it.
    pub(crate) age: Option<Duration>,
}

/// What happened since the start.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) heartbeats: AtomicU64,
    pub(crate) registered: AtomicU64,
    pub(crate) deregistered: AtomicU64,
    pub(crate) expired: AtomicU64,
    pub(crate) refused: AtomicU64,
}

#[derive(Debug)]
pub(crate) struct Registrations {
    registry: Mutex<Registry>,
    reports: Reports,
    pending: Pending,
    /// Others have to be told.
    shared: AtomicBool,
    /// This replica, as registrations name it that beat here.
    home: String,
    began: Instant,
    marks: Arc<Marks>,
    pub(crate) counts: Counts,
}

impl Registrations {
    pub(crate) fn new(limits: Limits, home: String, marks: Arc<Marks>) -> Self {
        Self {
            registry: Mutex::new(Registry::new(limits, Duration::ZERO)),
            reports: Reports::default(),
            pending: Pending::default(),
            shared: AtomicBool::new(false),
            home,
            began: Instant::now(),
            marks,
            counts: Counts::default(),
        }
    }

    /// Whether other replicas write to the same store.
    fn is_shared(&self) -> bool {
        self.shared.load(Ordering::Relaxed)
    }

    /// What is to be written to the store; see [`persist::write`].
    pub(crate) fn pending(&self) -> &Pending {
        &self.pending
    }

    /// A value below `registry/`, as the store has it: at the start of this control plane (`replicas` are those that
    /// are alive beside it), and later whenever another replica writes.
    pub(crate) fn learn(&self, value: &[u8], replicas: &kept::Alive, at_start: bool) {
        let stored = Record::parse(value).and_then(wire::stored);
        let Some((stored, home)) = stored else {
            tracing::warn!("a registration in the store is not of this build, and was left alone");
            return;
        };
        if home == self.home && !at_start {
            return; // our own words
        }
        let elsewhere = Some(home.as_str()).filter(|home| **home != self.home && replicas.contains_key(*home));
        let now = self.now();
        let changes = lock(&self.registry).learn(stored, elsewhere, now);
        self.follow(changes);
    }

    /// Another replica deleted the entry `registry/<key>`.
    pub(crate) fn forget(&self, store_key: &str) {
        if let Some(key) = persist::key_of(store_key) {
            let changes = lock(&self.registry).forget(&key, self.now());
            self.follow(changes);
            if self.get(&key).is_some() {
                self.keep(&key); // it beats here, whatever the other thought
            }
        }
    }

    /// The replica `home` is gone.
    pub(crate) fn adopt(&self, home: &str) {
        let changes = lock(&self.registry).adopt(home, self.now());
        self.touched(self.reports.forget(&Speaker::Replica(home.to_owned())));
        tracing::info!(
            replica = home,
            registrations = changes.len(),
            "a replica is gone: its registrations have a full TTL and grace to beat elsewhere"
        );
        self.follow(changes);
    }

    /// Writes again everything that is heard here.
    pub(crate) fn restate(&self) {
        let here = lock(&self.registry).here();
        here.iter().for_each(|key| self.keep(key));
        self.tell_again();
    }

    pub(crate) fn register(&self, key: &Key, registration: Registration, starting: bool) -> Result<(), Refusal> {
        let now = self.now();
        let changes = lock(&self.registry).register(key, registration, starting, now)?;
        self.follow(changes);
        Ok(())
    }

    /// `None`: not known.
    pub(crate) fn heartbeat(&self, key: &Key) -> Option<()> {
        let now = self.now();
        let changes = lock(&self.registry).heartbeat(key, now)?;
        self.counts.heartbeats.fetch_add(1, Ordering::Relaxed);
        self.follow(changes);
        Some(())
    }

    pub(crate) fn deregister(&self, key: &Key) {
        let now = self.now();
        let changes = lock(&self.registry).deregister(key, now);
        self.follow(changes);
    }

    pub(crate) fn get(&self, key: &Key) -> Option<Arc<Registration>> {
        lock(&self.registry).get(key).map(|it| it.registration.clone())
    }

    /// The sidecar of `identity` says how an instance of `service` is. `mine`: it is written in a file with this identity,
    /// so that the sidecar may speak of it although it is not registered.
    pub(crate) fn report(
        &self,
        (identity, stream): (&SpiffeId, u64),
        (service, id): (&ServiceName, &str),
        (health, detail): (Health, &str),
        mine: impl FnOnce() -> bool,
    ) {
        let changes = {
            let mut registry = lock(&self.registry);
            let registered = registry.instance(service, id).filter(|(it, _)| it.key.identity == *identity);
            let key = registered.map(|(it, _)| it.key.clone());
            key.and_then(|key| registry.report(&key, service, health, detail))
        };
        match changes {
            Some(changes) => self.follow(changes),
            None if mine() && self.reports.put(service, id, (identity, Speaker::Stream(stream)), (health, detail)) => {
                self.touch([service.clone()]);
                if self.is_shared() {
                    self.tell(identity, (service, id), (health, detail));
                }
            }
            None => {}
        }
    }

    /// Stream `stream` ended: what it said of instances that are written in files no longer counts.
    /// `spoken`: all that it spoke of.
    pub(crate) fn stream_ended(&self, stream: u64, spoken: &BTreeSet<(ServiceName, String)>) {
        let speaker = Speaker::Stream(stream);
        let gone: Vec<_> = spoken.iter().flat_map(|(s, id)| self.reports.forget_one(&speaker, s, id)).collect();
        if self.is_shared() {
            gone.iter().for_each(|(service, id)| self.untell(service, id));
        }
        self.touched(gone);
    }

    /// What was said of instances of `service` that are not registered: by whom, and how they are.
    pub(crate) fn reported(&self, service: &ServiceName, id: &str, identity: &SpiffeId) -> Option<(Health, String)> {
        self.reports.get(service, id, identity)
    }

    /// The registered instances of a service, in the order of their ids.
    pub(crate) fn found(&self, service: &ServiceName) -> Vec<RegisteredInstance> {
        let now = self.now();
        let registry = lock(&self.registry);
        let found = registry.service(service).map(|(it, port)| {
            let State { health, detail } = it.health.get(service).cloned().unwrap_or_default();
            RegisteredInstance {
                owner: it.key.identity.clone(),
                instance: it.registration.instance(it.key, port, health == Health::Down),
                health,
                detail,
                lease: it.lease,
                age: it.heard.map(|heard| now.saturating_sub(heard)),
            }
        });
        found.collect()
    }

    /// Since the last heartbeat of one registered instance.
    pub(crate) fn age(&self, service: &ServiceName, id: &str) -> Option<Duration> {
        let now = self.now();
        let registry = lock(&self.registry);
        registry.instance(service, id)?.0.heard.map(|heard| now.saturating_sub(heard))
    }

    /// Registrations, how many are late, and what is preserved.
    pub(crate) fn state(&self) -> (usize, usize, Vec<Preservation>) {
        let registry = lock(&self.registry);
        (registry.len(), registry.silent(), registry.preservations().collect())
    }

    /// Those that have registered instances.
    pub(crate) fn services(&self) -> Vec<ServiceName> {
        lock(&self.registry).services().cloned().collect()
    }

    /// Lets time pass until dropped.
    pub(crate) async fn run(&self) {
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let changes = lock(&self.registry).tick(self.now());
            self.follow(changes);
        }
    }

    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    fn touch(&self, services: impl IntoIterator<Item = ServiceName>) {
        self.marks.mark(services);
    }

    fn follow(&self, changes: Vec<Change>) {
        for change in changes {
            match change {
                Change::Put { key, services } => {
                    self.keep(&key);
                    self.touch(services);
                }
                Change::Lease { .. } => {} // callers are not told of leases
                Change::Gone { key, registration, why } => {
                    self.gone(&key, why);
                    self.touch(registration.ports.keys().cloned());
                }
                Change::Preserving(preservation) => tracing::warn!("self-preservation begins: {preservation}"),
                Change::Preserved { service, recovered } => {
                    let service = service.as_ref().map_or("", ServiceName::as_str);
                    tracing::info!(service, recovered, "self-preservation is over");
                }
            }
        }
    }

    fn keep(&self, key: &Key) {
        let said = now_micros();
        let record = lock(&self.registry).get(key).map(|it| wire::record(&it, &self.home, said));
        // none: gone again meanwhile, and that follows
        if let Some(record) = record {
            self.pending.put(key, Some(record.encode()));
        }
    }

    fn gone(&self, key: &Key, why: Gone) {
        self.pending.put(key, None);
        let (identity, id) = (&key.identity, &key.id);
        match why {
            Gone::Expired => {
                self.counts.expired.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(%identity, id, "registration expired: no heartbeat for its TTL and grace");
            }
            Gone::Deregistered | Gone::Replaced => {
                self.counts.deregistered.fetch_add(1, Ordering::Relaxed);
                tracing::info!(%identity, id, why = why.as_str(), "registration ended");
            }
        }
    }
}

/// Since 1970, to compare what replicas heard.
fn now_micros() -> u64 {
    u64::try_from(jiff::Timestamp::now().as_microsecond()).unwrap_or_default()
}
