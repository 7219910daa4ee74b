//! What all workers share, and what each has of its own.

use crate::carried::Carried;
use crate::clock::Clock;
use crate::config::Directory;
use crate::dns::{Book, Places};
use crate::drain::Drain;
use crate::events::Events;
use crate::health::Board;
use crate::http::stale;
use crate::intercept::{Passing, Speakers};
use crate::snapshot::Snapshot;
use crate::trust::Belief;
use arc_swap::{ArcSwap, ArcSwapOption};
use fusewire_identity::Identity;
use fusewire_model::node::SidecarSettings;
use fusewire_resilience::retry::{MAX_ATTEMPTS, ReplayPool};
use fusewire_telemetry::Sink;
use fusewire_telemetry::access_log::AccessLog;
use fusewire_telemetry::metrics::{Direction, Metrics, ServiceMetrics};
use http::HeaderValue;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

pub(crate) struct Mesh {
    pub(crate) settings: SidecarSettings,
    pub(crate) clock: Clock,
    pub(crate) snapshot: ArcSwap<Snapshot>,
    pub(crate) directory: Directory,
    pub(crate) tls: ArcSwapOption<Tls>,
    /// Whom the control plane said to believe.
    pub(crate) belief: Belief,
    pub(crate) metrics: Metrics,
    pub(crate) unrouted: [Arc<ServiceMetrics>; 2],
    /// Connections that we made ourselves, which must not come back redirected.
    pub(crate) passing: Passing,
    /// Who speaks first at destinations whose protocol is not declared.
    pub(crate) speakers: Speakers,
    pub(crate) access_log: Option<AccessLog>,
    /// Where spans go; `None`: nobody is told.
    pub(crate) sink: Option<Sink>,
    /// What peers said of the traces that our application is part of.
    pub(crate) carried: Carried,
    /// `tracestate` of a request that begins here, by the retries that may follow.
    pub(crate) own_state: [HeaderValue; MAX_ATTEMPTS as usize],
    /// Virtual addresses of names that exist only in the mesh.
    pub(crate) book: Book,
    /// Who asks for names.
    pub(crate) names: Places,
    /// Answers for policies that fall back to the last good one.
    pub(crate) stale: stale::Cache,
    pub(crate) events: Arc<Events>,
    /// How the application beside us is.
    pub(crate) health: Board,
    /// It is being taken out of the registry. The control plane then has no instance here any more, and no inbound port for
    /// one; callers that have not heard of it yet are still let in.
    pub(crate) leaving: AtomicBool,
    /// Towards us: new exchanges from peers' sidecars are refused from here on.
    pub(crate) inbound_drain: Drain,
    /// From our application; ends after `inbound_drain`, since answering peers may need it.
    pub(crate) outbound_drain: Drain,
}

/// What the current certificate makes of handshakes, on both sides.
pub(crate) struct Tls {
    pub(crate) identity: Identity,
    pub(crate) server: Arc<rustls::ServerConfig>,
    pub(crate) client: Arc<rustls::ClientConfig>,
}

impl Mesh {
    /// Whether peers expect this sidecar to prove who it is.
    pub(crate) fn needs_identity(&self) -> bool {
        !self.settings.control.is_empty() || self.settings.identity.is_some() || self.settings.inbound.is_some()
    }
    pub(crate) fn tls(&self) -> Option<Arc<Tls>> {
        self.tls.load_full()
    }
    /// Where dials are noted. `None`: nothing is redirected here.
    pub(crate) fn dials_noted(&self) -> Option<Passing> {
        self.settings.intercept.is_some().then(|| self.passing.clone())
    }
    /// Where exchanges count that no service was found for.
    pub(crate) fn unrouted(&self, direction: Direction) -> &ServiceMetrics {
        &self.unrouted[usize::from(direction == Direction::Outbound)]
    }
    pub(crate) fn drain(&self, direction: Direction) -> &Drain {
        match direction {
            Direction::Inbound => &self.inbound_drain,
            Direction::Outbound => &self.outbound_drain,
        }
    }
}

/// One request thread: its own runtime, its own connections.
pub(crate) struct Worker {
    pub(crate) mesh: Arc<Mesh>,
    pub(crate) index: usize,
    /// What requests keep of their bodies so that they can be sent again.
    pub(crate) replay: Arc<ReplayPool>,
    random: AtomicU64,
}

impl Worker {
    pub(crate) fn new(mesh: Arc<Mesh>, index: usize) -> Self {
        // the hasher's keys are the operating system's random bytes: trace ids must not come twice in a mesh
        let seed = RandomState::new().hash_one((crate::clock::unix_micros(), std::process::id(), index));
        Self { mesh, index, replay: Arc::default(), random: AtomicU64::new(seed) }
    }
    /// For choosing instances and naming traces, not for secrets: SplitMix64 (Steele, Lea, Flood 2014).
    pub(crate) fn random(&self) -> u64 {
        let mut z = self.random.fetch_add(0x9E37_79B9_7F4A_7C15, Ordering::Relaxed);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}
