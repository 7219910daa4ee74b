//! Who asks: the sidecar (node) that resources are compiled for, and the settings it boots with.

use crate::name::{ServiceName, SpiffeId};
use crate::service::Protocol;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// A sidecar as the control plane knows it: a proven identity, and which instance of that workload it says it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    pub workload: SpiffeId,
    /// The instance's id; `None`: every instance with this identity (one sidecar may stand before several ports).
    pub instance: Option<String>,
}

/// The `sidecar:` section of a file: how one sidecar boots.
#[derive(Clone, Debug, PartialEq)]
pub struct SidecarSettings {
    /// `workload`: a full SPIFFE ID, or a path (such as `web`) within the trust domain. Default `workload`.
    pub workload: SpiffeId,
    /// `instance`: this instance's id in the configuration. Default none.
    pub instance: Option<String>,
    /// `control`: host:port of the control plane. Default none: the file's own services and routes are all there is.
    pub control: Option<String>,
    /// `token_file`: where the join token lies; needed only until the first certificate is on disk.
    pub token_file: Option<PathBuf>,
    /// `identity`: certificate, key and bundle from files instead of the control plane's signer.
    pub identity: Option<IdentityFiles>,
    /// `data_dir`: key, certificate, bundle and last resources, all 0600. Default: none kept.
    pub data_dir: Option<PathBuf>,
    pub outbound: Vec<OutboundListener>,
    pub inbound: Option<InboundListener>,
    pub admin: AdminSettings,
    pub access_log: AccessLog,
    /// `discovery_timeout`: how long a first use waits for the control plane. Default 5 s; 10 ms to 60 s.
    pub discovery_timeout: Duration,
    /// `drain_timeout`: how long running requests may go on after SIGTERM. Default 30 s; 0 to 1 h.
    pub drain_timeout: Duration,
    /// `workers`: request threads, one single-threaded runtime each. Default 1; 1 to 64.
    pub workers: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdentityFiles {
    pub certificate: PathBuf,
    pub key: PathBuf,
    pub bundle: PathBuf,
}

/// Where applications send what leaves. Without `service` each request's authority decides (HTTP only).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutboundListener {
    pub listen: SocketAddr,
    /// Everything that comes here goes to this service; with an opaque service, as bytes.
    pub service: Option<ServiceName>,
    /// Default http; `opaque` needs `service`.
    pub protocol: Protocol,
}

/// Where peers' sidecars come in over mTLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InboundListener {
    pub listen: SocketAddr,
    /// `app`: the address the application listens on; the port is the caller's target port. Default 127.0.0.1.
    pub app: std::net::IpAddr,
}

#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct AdminSettings {
    /// `/live /ready /metrics`, read-only. Default none.
    pub listen: Option<SocketAddr>,
    /// Unix socket for `/config` and `/breakers`. Default: `<data_dir>/sidecar.sock` when there is a `data_dir`.
    pub socket: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum AccessLog {
    /// The default: traces and metrics tell the rest; a line per request costs more than the breaker.
    #[default]
    Off,
    /// Only requests that the mesh itself answered or that ended badly.
    Errors,
    Text,
    Json,
}
