//! Tells: the control plane as a library. What operators wrote becomes each sidecar's own small share of it, and
//! sidecars are given their certificates.
//!
//! It decides which configuration is in force ([`Settings::config`], watched; a bad edit never replaces a good one), who
//! is given a certificate, and what each sidecar still has to be told. It deliberately does not look for instances
//! (`discovery` will), keeps no clock for overrides (the sidecar drops those that have ended), and starts no runtime of
//! its own: [`run`] lives on whatever tokio runtime awaits it, of one thread or many.
//!
//! Invariants: a stalled sidecar delays nobody else and costs no more than what it asked for; a token is never logged;
//! whatever is killed, authority and tokens are on disk first.

mod admin;
mod admin_service;
mod alerts;
mod assembly;
mod checks;
mod configuration;
mod dns;
mod encoded;
mod feed;
mod files;
mod fleet;
mod grpc;
mod kubernetes;
mod last_good;
mod listen;
mod metrics;
mod objects;
mod own;
mod plan;
mod public;
mod rate;
mod registry;
mod replicas;
mod run;
mod session;
mod shared;
mod sidecars;
mod sign;
mod socket;
mod status;
mod store;
mod traces;
mod trust;
mod view;
mod web;
mod webhook;

use fusewire_identity::{IdentityError, SignError};
use fusewire_model::yaml::Fault;
use fusewire_telemetry::admin::BindError;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;
use tokio::sync::oneshot;

pub use kubernetes::KubernetesSettings;
pub use run::run;
pub use store::{EtcdSettings, EtcdTls, EtcdUser, StoreError, StoreSettings};
pub use trust::TrustError;

/// Of [`Settings::trace_memory`].
pub const DEFAULT_TRACE_MEMORY: usize = 64 << 20;

/// How one control plane runs.
#[derive(Debug)]
pub struct Settings {
    /// Where sidecars connect; port 0 takes a free one. Default 127.0.0.1:15010.
    pub listen: SocketAddr,
    /// Files, or folders of which every `*.yaml` and `*.yml` that is not hidden counts. At least one, unless there is a cluster
    /// to look at.
    pub config: Vec<PathBuf>,
    /// The store (unless it is elsewhere) and the last good configuration, all for the owner only. Two control
    /// planes must not share it; the admin socket in it guards that.
    pub data_dir: PathBuf,
    /// Default `<data_dir>/control.sock`.
    pub admin_socket: Option<PathBuf>,
    /// Where what must survive is kept: authority, denied identities, join tokens, registrations. Default
    /// `<data_dir>/store.redb`.
    pub store: StoreSettings,
    /// A folder with `tls.crt`, `tls.key` and `ca.crt`: sign with that certificate instead of a root of our own, and follow
    /// when the files change.
    pub ca_dir: Option<PathBuf>,
    /// How long a sidecar's certificate holds. Default 24 h: a control plane may be gone for a night.
    pub leaf_lifetime: Duration,
    /// What this replica is called in the store and in status. Default: the host's name and a few letters that are kept
    /// in `data_dir`.
    pub replica: Option<String>,
    /// Host, or `host:port`, where other replicas reach this one. Default: the bound address; needed where that is `0.0.0.0` or
    /// `[::]` and the store is shared.
    pub advertise: Option<String>,
    /// `GET /live /ready /metrics`, read-only, for whoever can reach it. Default: none.
    pub admin_listen: Option<SocketAddr>,
    /// Where the page with traces and service map is served, in clear and to whoever reaches it. Default: nowhere. Beyond
    /// loopback only with `web_hosts`.
    pub web_listen: Option<SocketAddr>,
    /// Names and addresses under which browsers may ask for the page, beside those of loopback.
    pub web_hosts: Vec<String>,
    /// Where OTLP is taken in clear, from whoever reaches it. Default: nowhere.
    pub otlp_listen: Option<SocketAddr>,
    /// Bytes of traces that are kept. Default 64 MiB.
    pub trace_memory: usize,
    /// The Kubernetes cluster in which services are found, and whose service accounts are believed. Default: none.
    pub kubernetes: Option<KubernetesSettings>,
    /// How long registrations are kept at most when most fall silent together. Default 30 min.
    pub self_preservation: Duration,
    /// The admission webhook of Kubernetes. Default: none.
    pub webhook: Option<WebhookSettings>,
    /// Told the bound address once sidecars may connect.
    pub bound: Option<oneshot::Sender<SocketAddr>>,
}

impl Settings {
    pub fn new(config: Vec<PathBuf>, data_dir: PathBuf) -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 15010)),
            config,
            store: StoreSettings::Embedded(data_dir.join("store.redb")),
            ca_dir: None,
            data_dir,
            admin_socket: None,
            replica: None,
            advertise: None,
            admin_listen: None,
            web_listen: None,
            web_hosts: Vec::new(),
            otlp_listen: None,
            kubernetes: None,
            trace_memory: DEFAULT_TRACE_MEMORY,
            leaf_lifetime: fusewire_identity::DEFAULT_LIFETIME,
            self_preservation: fusewire_discovery::registry::Limits::default().self_preservation,
            webhook: None,
            bound: None,
        }
    }
}

/// How sidecars are injected into pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebhookSettings {
    /// Where the API server reaches it, over TLS.
    pub listen: SocketAddr,
    /// The namespace that this control plane is in.
    pub namespace: String,
    /// The pod that it runs in, whose image sidecars get.
    pub pod: Option<String>,
    /// The image that sidecars get instead.
    pub image: Option<String>,
}

/// Why a control plane does not start, or cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    #[error("{} faults in the configuration, and there is no last good one to go on with:{}", .0.len(), lines(.0))]
    Configuration(Vec<Fault>),
    #[error("no configuration is named: give a file or a folder with --config")]
    NoConfiguration,
    #[error("the data directory {path}: {source}: does it exist, and may this user write there?")]
    DataDir { path: PathBuf, source: std::io::Error },
    #[error("the admin socket {0}")]
    AdminSocket(#[from] BindError),
    #[error(
        "cannot listen on {address}: {source}: is another control plane running, or is the address not this machine's?"
    )]
    Listen { address: SocketAddr, source: std::io::Error },
    #[error("{0:?} is no name of a replica: use 1 to 100 letters, digits, '-', '.' and '_'")]
    Replica(String),
    #[error("other replicas cannot reach this one at {0}: say with --advertise host:port how they do")]
    Advertise(SocketAddr),
    #[error(
        "--advertise {0:?} is nowhere that other replicas reach: give an address or a name, with a port or without"
    )]
    AdvertiseAs(String),
    #[error(
        "the page would be served to whoever reaches {0}, and traces tell a lot: listen on loopback, or say with --web-host NAME \
         under which name it is asked for there"
    )]
    Web(SocketAddr),
    #[error(transparent)]
    Trust(#[from] TrustError),
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error("the control plane cannot sign its own certificate: {0}")]
    Own(#[from] SignError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the applied objects cannot be read: {0}")]
    Objects(String),
    #[error(transparent)]
    Kubernetes(#[from] fusewire_kubernetes::ClusterError),
    #[error("the gRPC server ended: {0}")]
    Serve(#[from] tonic::transport::Error),
}

impl From<objects::ObjectsError> for ControlError {
    fn from(error: objects::ObjectsError) -> Self {
        match error {
            objects::ObjectsError::Store(error) => Self::Store(error),
            error => Self::Objects(error.to_string()),
        }
    }
}

fn lines(faults: &[Fault]) -> String {
    faults.iter().map(|fault| format!("\n  {fault}")).collect()
}
