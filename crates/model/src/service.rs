//! Services, their instances, and who may call them.

use crate::health::HealthCheck;
use crate::name::{PolicyName, ServiceName, SpiffeId};
use crate::policy::PlainDefaults;
use crate::route::Authority;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

#[derive(Clone, Debug, PartialEq)]
pub struct Service {
    pub name: ServiceName,
    pub protocol: Protocol,
    pub policy: Option<PolicyName>,
    /// The workload identity of its instances unless one names its own. Default `spiffe://<trust domain>/<service name>`.
    pub identity: SpiffeId,
    pub allow: Allow,
    /// `health`: how its instances are checked. Default: not at all.
    pub health: Option<HealthCheck>,
    /// `dns`: where more instances are found. Default: nowhere.
    pub dns: Option<Dns>,
    pub instances: Vec<Instance>,
    /// `authorities`: what callers may call it besides its name, each with its port or for every port. A route for one of them
    /// is for all of them that have none of their own. Default none; with any, its name without one of their ports is no longer
    /// for every port.
    pub authorities: Vec<Authority>,
    /// `addresses`: virtual addresses, such as a cluster IP: what connects there means this service, and takes its routes.
    pub addresses: Vec<SocketAddr>,
    /// Never written, always found.
    pub plain: PlainDefaults,
    /// Who calls an instance's own address means that one, and not the service. Never written, always found.
    pub direct: bool,
}

impl Service {
    /// With every default.
    pub fn new(name: ServiceName, identity: SpiffeId) -> Self {
        Self {
            name,
            protocol: Protocol::default(),
            policy: None,
            identity,
            allow: Allow::default(),
            health: None,
            dns: None,
            instances: Vec::new(),
            authorities: Vec::new(),
            addresses: Vec::new(),
            plain: PlainDefaults::default(),
            direct: false,
        }
    }
}

/// Instances found by DNS. Plain: a name proves no identity, so they are called in clear, where the policy allows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dns {
    /// Such as `db.example.com`, or `_pg._tcp.example.com` for SRV.
    pub name: String,
    pub records: DnsRecords,
    /// `server`: ip:port to ask. Default: the system's.
    pub server: Option<SocketAddr>,
    /// `refresh`: the longest time between two questions, however long the TTL; jittered. Default 30 s; 1 s to 1 h.
    pub refresh: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DnsRecords {
    /// A and AAAA, each with this port.
    Address { port: u16 },
    /// SRV: priorities and weights count as in RFC 2782.
    Srv,
}

/// What the application speaks on its port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Protocol {
    /// HTTP/1.1 or HTTP/2 (gRPC), as the caller's request was.
    #[default]
    Http,
    /// Always HTTP/1.1 towards the application.
    Http1,
    /// Always HTTP/2 with prior knowledge (h2c) towards the application; gRPC.
    Http2,
    /// Bytes.
    Opaque,
}

impl Protocol {
    pub const NAMES: [(&'static str, Protocol); 4] =
        [("http", Self::Http), ("http1", Self::Http1), ("http2", Self::Http2), ("opaque", Self::Opaque)];
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Http1 => "http1",
            Self::Http2 => "http2",
            Self::Opaque => "opaque",
        }
    }
}

/// Who may call the service over mTLS.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum Allow {
    /// Every workload of the trust domain. The default.
    #[default]
    Mesh,
    /// These identities only; an empty list lets nobody in.
    Only(Vec<SpiffeId>),
}

impl Allow {
    pub fn admits(&self, trust_domain: &str, peer: &SpiffeId) -> bool {
        match self {
            Allow::Mesh => peer.trust_domain() == trust_domain,
            Allow::Only(list) => list.contains(peer),
        }
    }
}

/// One address that serves a service. Its key is address, workload identity and unique id, so that a reused address is
/// a new instance.
#[derive(Clone, Debug, PartialEq)]
pub struct Instance {
    /// Unique within the service; such as a pod UID. Default: the address.
    pub id: String,
    /// Where the application listens.
    pub address: SocketAddr,
    /// Where its sidecar takes mTLS; `None`: a plain instance, with no sidecar and no identity.
    pub sidecar: Option<Sidecar>,
    /// Share of the traffic relative to its peers. Default 1; 1..=1000.
    pub weight: u32,
    pub labels: BTreeMap<String, String>,
    /// `zone`: where it runs. Default: not known.
    pub zone: Option<String>,
    /// Its health check says that it is down; never written, always found.
    pub down: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Sidecar {
    pub inbound: SocketAddr,
    pub identity: SpiffeId,
}

/// Unix seconds; the model reads no clock.
pub type UnixTime = u64;

/// An operator's hold on breakers: forces them open or closed until it ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Override {
    pub service: ServiceName,
    /// The instance's id; `None`: every instance of the service.
    pub instance: Option<String>,
    pub breaker: Hold,
    pub owner: String,
    pub reason: String,
    /// `None`: until removed.
    pub until: Option<UnixTime>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    Open,
    Closed,
}
