//! Who asks: the sidecar (node) that resources are compiled for, and the settings it boots with.

use crate::name::{ServiceName, SpiffeId};
use crate::policy::Ratio;
use crate::service::Protocol;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
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
    /// `zone`: where it runs, for `lb.zone_aware`. Default that of `register`.
    pub zone: Option<String>,
    /// `control`: host:port of the control plane, or of each of its replicas; one of them is used at a time, and the next
    /// when that fails. At most 64. Default none: the file's own services and routes are all there is.
    pub control: Vec<String>,
    /// `token_file`: where the join token lies; needed only until the first certificate is on disk. With `trust_file` it may
    /// be a Kubernetes service account's token.
    pub token_file: Option<PathBuf>,
    /// `trust_file`: roots, PEM, that the control plane is believed by at the first contact, where the token in `token_file`
    /// names none: a Kubernetes service account's does not. Default none: then only a join token will do.
    pub trust_file: Option<PathBuf>,
    /// `identity`: certificate, key and bundle from files instead of the control plane's signer.
    pub identity: Option<IdentityFiles>,
    /// `data_dir`: key, certificate, bundle and last resources, all 0600. Default: none kept.
    pub data_dir: Option<PathBuf>,
    pub outbound: Vec<OutboundListener>,
    pub inbound: Option<InboundListener>,
    /// `dns`: names that exist only in the mesh are resolved for the application. Default: they are not.
    pub dns: Option<Dns>,
    /// `intercept`: takes what `fusewire intercept up` redirects. Default: nothing.
    pub intercept: Option<Intercept>,
    /// `register`: the control plane's registry is told of the application beside this sidecar. Default: it is not.
    pub register: Option<Register>,
    pub admin: AdminSettings,
    /// `probes`: what the kubelet may have asked of the application through the admin port, at
    /// `/app-health/CONTAINER/livez`, `readyz` and `startupz`. The injector writes it. Default nothing.
    pub probes: Vec<AppProbe>,
    pub access_log: AccessLog,
    /// `telemetry`: where traces and metrics go.
    pub telemetry: Telemetry,
    /// `discovery_timeout`: how long a first use waits for the control plane. Default 5 s; 10 ms to 60 s.
    pub discovery_timeout: Duration,
    /// `drain_timeout`: how long running requests may go on after SIGTERM. Default 30 s; 0 to 1 h.
    pub drain_timeout: Duration,
    /// `workers`: request threads, one single-threaded runtime each. Default 1; 1 to 64.
    pub workers: usize,
    /// `forwarded`: what becomes of `Forwarded` and `X-Forwarded-*` on their way out. Default: kept from callers on this
    /// machine, replaced from all others.
    pub forwarded: Option<Forwarded>,
    pub limits: Limits,
}

/// Who may say for whom a request was made: `Forwarded` (RFC 7239) and every `X-Forwarded-*`.
///
/// It is the outbound sidecar's to decide, the one that sees the caller's address; between sidecars they stay as they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forwarded {
    /// The caller's address, `Host` and scheme are added to what came.
    Append,
    /// What came is dropped, and the caller's address, `Host` and scheme take its place.
    Replace,
    /// What came is dropped, and nothing takes its place.
    Remove,
    /// What came goes on.
    Keep,
}

/// `limits`: what one caller may cost. The defaults refuse nothing that real applications do: none of them bounds how long
/// an upload, a download, an answer or a WebSocket takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Open connections of one listener; past it the oldest idle one makes room, else the new one is refused (503). Default
    /// 10,000; 1 to 1,000,000.
    pub connections: usize,
    /// A request's fields and target together, counted as HTTP/2 counts (32 more for each field); past it 431. Default and
    /// most 64 KiB, since more would end the connection between two sidecars; at least 1 KiB.
    pub header_bytes: usize,
    /// Fields of one request; past it 431. Default 100, as most servers; 10 to 1,000. In HTTP/2, where a cookie may come in
    /// crumbs, never fewer than 512.
    pub header_count: usize,
    /// A request's target, past it 414. Default 32 KiB; 256 to 60,000.
    pub target_bytes: usize,
    /// HTTP/1: from the first byte of a request's head to its last; past it 408. Default 20 s; 100 ms to 10 min.
    pub header_timeout: Duration,
    /// A connection from the application on which nothing is asked is closed after this. Default 1 h, longer than what clients keep
    /// theirs for, so that they close first: a request that meets our close is lost to many. 100 ms to 24 h.
    pub idle_timeout: Duration,
    /// HTTP/1: without a byte of a request's body that the application waits for; past it 408. Default 5 min; 100 ms to
    /// 24 h.
    pub body_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 10_000,
            header_bytes: 64 << 10,
            header_count: 100,
            target_bytes: 32 << 10,
            header_timeout: Duration::from_secs(20),
            idle_timeout: Duration::from_secs(3_600),
            body_timeout: Duration::from_secs(300),
        }
    }
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
    pub app: IpAddr,
}

/// `dns`: a resolver for the application beside this sidecar. A name that the resolver upstream does not know and the
/// mesh does gets an address of 240.0.0.0/8, at which the outbound listener for intercepted connections knows it again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dns {
    /// `listen`: ip:port, or a list, for UDP and TCP. Redirection leads to loopback: 127.0.0.1, and `[::1]` where there is IPv6.
    pub listen: Vec<SocketAddr>,
    /// `upstream`: who is asked first, in this order; at most 3. Default those of `/etc/resolv.conf`.
    pub upstream: Vec<SocketAddr>,
}

/// `intercept`: listeners for connections that the kernel redirected, which know where each was going. A connection whose
/// destination is such a listener itself is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Intercept {
    /// `outbound`: ip:port, or a list. REDIRECT leads to loopback: 127.0.0.1, and `[::1]` where there is IPv6.
    pub outbound: Vec<SocketAddr>,
    /// `inbound`: ip:port, or a list. REDIRECT leads to the address that the connection came in by: 0.0.0.0, and `[::]` for both
    /// families. What comes without mTLS is let in where the service's policy says `plain: allow` and the service names no
    /// `allow`.
    pub inbound: Vec<SocketAddr>,
    /// `tproxy`: whether what comes in is handed over by TPROXY (`fusewire intercept up --tproxy`); the application is then called
    /// by its caller's address, at the one that the caller connected to, and so has to listen there. Needs Linux and
    /// CAP_NET_ADMIN, or from 5.17 CAP_NET_RAW. Default false.
    pub tproxy: bool,
    /// `mark`: SO_MARK of what the sidecar sends, such as 0x539, for rules that leave it alone by that (`fusewire intercept up
    /// --mark`). Not [`OWN_MARK`]. Needs Linux and CAP_NET_ADMIN, or from 5.17 CAP_NET_RAW. Default none.
    pub mark: Option<u32>,
    /// `unknown`: what becomes of connections to destinations that the mesh does not know. Default allow.
    pub unknown: Unknown,
}

/// The mark by which TPROXY's rules know the application's answers.
pub const OWN_MARK: u32 = 0xf05e;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Unknown {
    /// They go on to where they were going, as bytes, in clear or in whatever TLS the application speaks itself.
    #[default]
    Allow,
    /// They are reset.
    Refuse,
}

/// What a sidecar registers of its application. Needs `control` and `inbound`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Register {
    /// `address`: the IP address that peers reach this sidecar at, its port being that of `inbound`. Default: that of
    /// `inbound`, which then must not be `0.0.0.0` or `[::]`.
    pub address: IpAddr,
    /// `ports`: which port of the application serves which service; 1..64, no service twice.
    pub ports: BTreeMap<u16, ServiceName>,
    /// `id`: unique in those services. Default: `instance`; else one is made, and kept in `data_dir`.
    pub id: Option<String>,
    /// `weight`: default 1; 1..=1000.
    pub weight: u32,
    /// `zone`: where it runs. Default: not said.
    pub zone: Option<String>,
    pub labels: BTreeMap<String, String>,
    /// `ttl`: how long it is believed to be there without a heartbeat; there are three in that time. Default 15 s; 1 s to
    /// 10 min.
    pub ttl: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct AdminSettings {
    /// `/live /ready /metrics`, read-only. Default none.
    pub listen: Option<SocketAddr>,
    /// Unix socket for `/config` and `/breakers`, and to hold circuits; only its owner may use it. Default: `<data_dir>/sidecar.sock` when there is a `data_dir`.
    pub socket: Option<PathBuf>,
}

/// One of the application's probes, as its pod declared it. Asked over loopback, at the address `inbound.app`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppProbe {
    /// `container`: the name of the container.
    pub container: String,
    /// `probe`: liveness, readiness or startup.
    pub kind: ProbeKind,
    /// `port`: 1 to 65535.
    pub port: u16,
    /// `timeout`: default 1 s, as Kubernetes'; 1 s to 10 min.
    pub timeout: Duration,
    pub ask: ProbeAsk,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProbeKind {
    Liveness,
    Readiness,
    Startup,
}

impl ProbeKind {
    /// The last part of the path that it is asked by.
    pub fn path(self) -> &'static str {
        match self {
            Self::Liveness => "livez",
            Self::Readiness => "readyz",
            Self::Startup => "startupz",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProbeAsk {
    /// `http: /path` or `https: /path`, with `headers: [{name, value}]`: any answer of 200 to 399 is good, and any certificate.
    Http { tls: bool, path: String, headers: Vec<(String, String)> },
    /// `grpc: service.Name` or `grpc: ""`: as a service's health check.
    Grpc { service: String },
    /// `tcp`: the port accepts a connection.
    Tcp,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Telemetry {
    /// `otlp`: who receives traces and metrics by OTLP.
    pub otlp: Otlp,
    /// `metrics_interval`: how often metrics are sent. Default 5 s; 1 s to 5 min.
    pub metrics_interval: Duration,
    /// `per_instance_metrics`: `fusewire_breaker_state` shows the closed circuits too, as 0. Default false: only those that
    /// are not closed, so that a mesh that is well costs no series.
    pub per_instance_metrics: bool,
    /// `sample`: which share of the traces that begin here is recorded, in place of the policies' `trace.sample`.
    pub sample: Option<Ratio>,
}

impl Default for Telemetry {
    fn default() -> Self {
        Self {
            otlp: Otlp::Control,
            metrics_interval: Duration::from_secs(5),
            per_instance_metrics: false,
            sample: None,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum Otlp {
    /// The default: the control plane, over the mTLS that everything else to it takes; nobody where there is none.
    #[default]
    Control,
    /// `otlp: off`.
    Off,
    Collector(Collector),
}

/// Any OTLP receiver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Collector {
    /// `endpoint`: `http://host:port`, or `https://` with `ca`. Default ports 4317 (grpc) and 4318 (http).
    pub tls: bool,
    pub host: String,
    pub port: u16,
    /// Before `/v1/traces` and `/v1/metrics`; `http` only. Empty, or begins and does not end with a slash.
    pub path: String,
    /// `protocol`: default grpc.
    pub protocol: OtlpProtocol,
    /// `headers`: fields that go with every request, such as an API key. At most 16; never shown.
    pub headers: BTreeMap<String, Secret>,
    /// `ca`: the certificates that the receiver's is verified against, PEM; read again at every connection.
    pub ca: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum OtlpProtocol {
    #[default]
    Grpc,
    /// Protobuf over HTTP/1.1.
    Http,
}

/// A value that no log and no error shows.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("(not shown)")
    }
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
