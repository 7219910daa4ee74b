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
mod configuration;
mod files;
mod grpc;
mod last_good;
mod listen;
mod own;
mod plan;
mod rate;
mod run;
mod session;
mod shared;
mod sidecars;
mod sign;
mod status;

use fusewire_identity::{AuthorityError, IdentityError, SignError};
use fusewire_model::yaml::Fault;
use fusewire_telemetry::admin::BindError;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;
use tokio::sync::oneshot;

pub use run::run;

/// How one control plane runs.
#[derive(Debug)]
pub struct Settings {
    /// Where sidecars connect; port 0 takes a free one. Default 127.0.0.1:15010.
    pub listen: SocketAddr,
    /// Files, or folders of which every `*.yaml` and `*.yml` that is not hidden counts. At least one.
    pub config: Vec<PathBuf>,
    /// The certificate authority, the join tokens and the last good configuration, all for the owner only. Two control
    /// planes must not share it; the admin socket in it guards that.
    pub data_dir: PathBuf,
    /// Default `<data_dir>/control.sock`.
    pub admin_socket: Option<PathBuf>,
    /// How long a sidecar's certificate holds. Default 24 h: a control plane may be gone for a night.
    pub leaf_lifetime: Duration,
    /// Told the bound address once sidecars may connect.
    pub bound: Option<oneshot::Sender<SocketAddr>>,
}

impl Settings {
    pub fn new(config: Vec<PathBuf>, data_dir: PathBuf) -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 15010)),
            config,
            data_dir,
            admin_socket: None,
            leaf_lifetime: fusewire_identity::DEFAULT_LIFETIME,
            bound: None,
        }
    }
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
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error("the control plane cannot sign its own certificate: {0}")]
    Own(#[from] SignError),
    #[error("the gRPC server ended: {0}")]
    Serve(#[from] tonic::transport::Error),
}

fn lines(faults: &[Fault]) -> String {
    faults.iter().map(|fault| format!("\n  {fault}")).collect()
}
