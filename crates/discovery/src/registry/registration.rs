//! One registration: what an instance says of itself, and what that means for each of its services.

use fusewire_model::service::{Instance, Sidecar};
use fusewire_model::{ServiceName, SpiffeId};
use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// Whose registration, and which of theirs.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// Who made it, and alone may change or end it.
    pub identity: SpiffeId,
    /// Also the id of its instances; 1..253 visible ASCII characters.
    pub id: String,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", self.id, self.identity)
    }
}

/// What was registered. Checked by whoever took it from the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registration {
    pub host: IpAddr,
    /// Which port serves which service; 1..64, no service twice.
    pub ports: BTreeMap<ServiceName, u16>,
    /// Where its sidecar takes mTLS; `None`: plain.
    pub sidecar: Option<SocketAddr>,
    /// 1..=1000.
    pub weight: u32,
    pub zone: Option<String>,
    pub labels: BTreeMap<String, String>,
    /// How long it is believed without a heartbeat: 1 s to 10 min.
    pub ttl: Duration,
}

impl Registration {
    /// After the TTL, before it is taken out: once more the TTL, so that a restart of the control plane or a lost
    /// connection costs nobody its place.
    pub fn grace(&self) -> Duration {
        self.ttl
    }

    /// A third of the TTL: two heartbeats may be lost.
    pub fn heartbeat_every(&self) -> Duration {
        self.ttl / 3
    }

    /// The instance that it is of one of its services.
    pub fn instance(&self, key: &Key, port: u16, down: bool) -> Instance {
        Instance {
            id: key.id.clone(),
            address: SocketAddr::new(self.host, port),
            sidecar: self.sidecar.map(|inbound| Sidecar { inbound, identity: key.identity.clone() }),
            weight: self.weight,
            labels: self.labels.clone(),
            zone: self.zone.clone(),
            down,
        }
    }

    /// Whether both were made by one process: no two can have one port, so the newer took the older's place.
    pub(super) fn addresses(&self) -> impl Iterator<Item = Address> {
        self.ports.values().map(|port| (SocketAddr::new(self.host, *port), self.sidecar))
    }
}

/// Hosts may be alike (loopback beside each sidecar); with the sidecar's own address they are not.
pub(super) type Address = (SocketAddr, Option<SocketAddr>);
