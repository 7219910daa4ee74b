//! What all workers share, and what each has of its own.

use crate::clock::Clock;
use crate::config::Directory;
use crate::drain::Drain;
use crate::snapshot::Snapshot;
use crate::watch::Events;
use arc_swap::{ArcSwap, ArcSwapOption};
use fusewire_identity::Identity;
use fusewire_model::node::SidecarSettings;
use fusewire_telemetry::access_log::AccessLog;
use fusewire_telemetry::metrics::{Direction, Metrics, ServiceMetrics};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

pub(crate) struct Mesh {
    pub(crate) settings: SidecarSettings,
    pub(crate) clock: Clock,
    pub(crate) snapshot: ArcSwap<Snapshot>,
    pub(crate) directory: Directory,
    pub(crate) tls: ArcSwapOption<Tls>,
    pub(crate) metrics: Metrics,
    pub(crate) unrouted: [ServiceMetrics; 2],
    pub(crate) access_log: Option<AccessLog>,
    pub(crate) events: Events,
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
        self.settings.control.is_some() || self.settings.identity.is_some() || self.settings.inbound.is_some()
    }
    pub(crate) fn tls(&self) -> Option<Arc<Tls>> {
        self.tls.load_full()
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
    random: AtomicU64,
}

impl Worker {
    pub(crate) fn new(mesh: Arc<Mesh>, index: usize) -> Self {
        let seed = crate::clock::unix_micros() ^ (u64::from(std::process::id()) << 32) ^ (index as u64 + 1);
        Self { mesh, index, random: AtomicU64::new(seed) }
    }
    /// For choosing instances, not for secrets: SplitMix64 (Steele, Lea, Flood 2014).
    pub(crate) fn random(&self) -> u64 {
        let mut z = self.random.fetch_add(0x9E37_79B9_7F4A_7C15, Ordering::Relaxed);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}
