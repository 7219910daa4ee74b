//! One instance: its breaker and load estimate, shared by all workers, and each worker's own connections to it.
//!
//! Invariant 5: it survives every snapshot that still holds its key; dropping the last reference closes its connections.

use super::dials::Dials;
use super::kept::{self, Ends, Kept};
use super::pool::{H1, Pool};
use crate::bounds::Bounds;
use fusewire_model::service::Sidecar;
use fusewire_resilience::{Class, Member, Node, Override, ProbeResult, State, Time, balance};
use fusewire_telemetry::metrics::{InstanceMetrics, ServiceMetrics};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// Address, proven identity and unique id: a reused address is a new instance.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct InstanceKey {
    pub(crate) id: String,
    pub(crate) address: SocketAddr,
    /// `None`: plain, spoken to in clear.
    pub(crate) sidecar: Option<Sidecar>,
}

pub(crate) struct Instance {
    pub(crate) key: InstanceKey,
    node: Node,
    /// The same in every sidecar.
    id: u64,
    zone: u64,
    pools: Box<[Pool]>,
    /// Whose address it is called by, where that is not ours.
    ends: Option<Ends>,
    /// The same application for callers whose addresses are kept.
    kept: OnceLock<Box<Kept>>,
    /// Turns to dial for HTTP/1.1, shared by all workers.
    pub(crate) dials: Arc<Dials>,
    /// `None` for the application beside us: what comes in is counted by service.
    metrics: Option<Arc<InstanceMetrics>>,
    /// Its service's.
    pub(crate) bounds: Arc<Bounds>,
    tally: Tally,
    /// Whether the override that holds the circuit, if one does, came by the admin socket.
    by_hand: AtomicBool,
}

/// What happened to the circuit, until the watch adds it to the service's metrics.
#[derive(Default)]
struct Tally {
    /// Since the last time, by [`ProbeResult::ALL`].
    probes: [AtomicU64; 4],
    /// What the node counted, as it was the last time.
    stale: AtomicU64,
    would_reject: AtomicU64,
    /// Up to when the time for which the circuit was not closed is counted; 0 while it is closed.
    since: AtomicU64,
}

impl Instance {
    pub(crate) fn new(
        (key, zone): (InstanceKey, Option<&str>),
        workers: usize,
        metrics: Option<Arc<InstanceMetrics>>,
        bounds: Arc<Bounds>,
        now: Time,
    ) -> Self {
        let mut hasher = DefaultHasher::new();
        key.hash(&mut hasher);
        std::process::id().hash(&mut hasher); // so that sidecars do not probe in step
        let id = balance::hash(format!("{} {}", key.id, key.address).as_bytes());
        let zone = zone.map_or(0, |zone| balance::hash(zone.as_bytes()));
        let pools = (0..workers).map(|_| Pool::default()).collect();
        let dials = Arc::default();
        Self {
            key,
            node: Node::new(hasher.finish(), now),
            id,
            zone,
            pools,
            ends: None,
            kept: OnceLock::new(),
            dials,
            metrics,
            bounds,
            tally: Tally::default(),
            by_hand: AtomicBool::new(false),
        }
    }

    /// The application as it is called by `ends.caller`'s address.
    pub(crate) fn kept_for(&self, ends: Ends, now: Time) -> Arc<Self> {
        self.kept.get_or_init(Box::default).of(ends, || {
            let address = SocketAddr::new(ends.called, self.key.address.port());
            let key = InstanceKey { address, ..self.key.clone() };
            let made = Self::new((key, None), 0, None, self.bounds.clone(), now);
            let pools = self.pools.iter().map(|_| Pool::with_idle(kept::MAX_IDLE)).collect();
            Self { pools, ends: Some(ends), dials: self.dials.clone(), ..made }
        })
    }

    pub(crate) fn ends(&self) -> Option<Ends> {
        self.ends
    }

    /// What an operator holds the circuit by, if that came by the admin socket and not with the configuration.
    pub(crate) fn held_by_hand(&self) -> Option<Override> {
        self.node.held().filter(|_| self.by_hand.load(Relaxed))
    }

    /// To be said before the override is set: who looks meanwhile must not take a new one for the other kind.
    pub(crate) fn will_be_held(&self, by: Holder) {
        self.by_hand.store(by == Holder::Operator, Relaxed);
    }

    /// The circuit changed: `at` ends, or begins, time for which it was not closed.
    pub(crate) fn changed(&self, to: State, at: Time, metrics: &ServiceMetrics) {
        let since = self.tally.since.swap(if to == State::Closed { 0 } else { at.0.max(1) }, Relaxed);
        if since != 0 {
            metrics.open_seconds.inc_by(at.since(Time(since)).as_secs_f64());
        }
    }

    /// Adds what happened since the last time to the service's metrics. For the watch alone, which is one.
    pub(crate) fn count(&self, metrics: &ServiceMetrics, now: Time) {
        for (seen, counter) in self.tally.probes.iter().zip(&metrics.probes) {
            counter.inc_by(seen.swap(0, Relaxed));
        }
        let more = |now: u64, before: &AtomicU64| now.saturating_sub(before.swap(now, Relaxed));
        metrics.stale_results.inc_by(more(self.node.stale_results(), &self.tally.stale));
        metrics.would_reject.inc_by(more(self.node.would_reject(), &self.tally.would_reject));
        self.changed(self.node.state(), now, metrics);
    }

    /// The connections of one worker; a worker never touches another's.
    pub(crate) fn pool(&self, worker: usize) -> &Pool {
        &self.pools[worker]
    }

    /// The address to dial.
    pub(crate) fn dial_address(&self) -> SocketAddr {
        self.key.sidecar.as_ref().map_or(self.key.address, |s| s.inbound)
    }

    /// The response's end was reached: the connection is for the next request, here or at another instance.
    pub(crate) fn give_h1(&self, worker: usize, connection: H1, now: Time) {
        self.pool(worker).give_h1(connection, now);
        self.bounds.given_back();
    }

    /// One of its connections was closed by the other side: those that are idle most likely were too.
    pub(crate) fn drop_idle_h1(&self, worker: usize) {
        self.pool(worker).drop_idle_h1();
        if let Some(kept) = self.kept.get() {
            kept.drop_idle_h1(worker);
        }
    }

    /// Closes one connection that nothing is on; whether there was one.
    pub(crate) fn let_go_of_an_idle_one(&self) -> bool {
        self.pools.iter().any(Pool::let_go_of_an_idle_one)
    }

    /// Lets go of connections that are closed or were idle for long.
    pub(crate) fn tidy(&self, now: Time) {
        for pool in &self.pools {
            pool.tidy(now);
        }
        if let Some(kept) = self.kept.get() {
            kept.tidy(now);
        }
    }

    pub(crate) fn connections(&self) -> usize {
        self.pools.iter().map(Pool::len).sum::<usize>() + self.kept.get().map_or(0, |kept| kept.connections())
    }
}

/// Where an override comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Holder {
    /// The admin socket of this sidecar.
    Operator,
    Configuration,
}

impl Member for Instance {
    fn node(&self) -> &Node {
        &self.node
    }

    fn id(&self) -> u64 {
        self.id
    }

    fn zone(&self) -> u64 {
        self.zone
    }

    fn ended(&self, class: Class, took: Option<Duration>) {
        if let Some(metrics) = &self.metrics {
            metrics.ended(class, took);
        }
    }

    fn probed(&self, result: ProbeResult) {
        self.tally.probes[result as usize].fetch_add(1, Relaxed);
    }
}
