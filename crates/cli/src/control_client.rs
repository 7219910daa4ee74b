//! One way to a control plane for every command: its Unix socket on this machine, or mTLS with the identity of a login.
//!
//! It decides which of the two, and what a refusal looks like to a person. It deliberately keeps a login's identity fresh by
//! itself (a command that finds it older than an hour renews it first), so that nobody has to think of it.
//!
//! Invariant: key files are 0600, and no key or token is printed.

use anyhow::{Context, Result, anyhow, bail};
use clap::Args;
use fusewire_api::MAX_MESSAGE_BYTES;
use fusewire_api::v1;
use fusewire_api::v1::admin_client::AdminClient;
use fusewire_identity::{Identity, UnixTime};
use fusewire_sidecar::enrol;
use hyper_util::rt::TokioIo;
use prost::Message;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

const SOCKET: &str = "fusewire-control/control.sock";
/// How long one call may take.
/// A younger identity is not renewed. Whoever works every day never has to log in again.
const FRESH: Duration = Duration::from_secs(3600);
const CALL: Duration = Duration::from_secs(30);
/// What this program takes of the faults of a refusal; the control plane cuts at 4 KiB for those who do not say.
const DETAILS: usize = 512 << 10;
/// Faults travel in trailers, base64.
const MAX_HEADERS: u32 = 1 << 20;

/// Which control plane.
#[derive(Args, Clone, Debug)]
pub(crate) struct Target {
    /// The control plane's admin socket [default: fusewire-control/control.sock].
    #[arg(long, global = true)]
    socket: Option<PathBuf>,
    /// A control plane's host:port, with the identity of `fusewire login`.
    #[arg(long, global = true, env = "FUSEWIRE_CONTROL")]
    control: Option<String>,
    /// Where `fusewire login` kept the identity [default: ~/.config/fusewire/<host_port>].
    #[arg(long, global = true, env = "FUSEWIRE_IDENTITY_DIR")]
    identity_dir: Option<PathBuf>,
}

pub(crate) type Admin = AdminClient<Channel>;

impl Target {
    /// Connected; the first call comes through, or says why not.
    pub(crate) async fn admin(&self) -> Result<Admin> {
        let channel = match (&self.socket, &self.control) {
            (None, Some(control)) => over_mtls(control, self.identity_dir.as_deref()).await?,
            (socket, _) => over_socket(socket.as_deref().unwrap_or(Path::new(SOCKET))).await?,
        };
        Ok(AdminClient::new(channel)
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES))
    }

    /// The same, for up to three seconds while nobody answers on the socket: right after `fusewire control &` it is just
    /// starting.
    pub(crate) async fn admin_patiently(&self) -> Result<Admin> {
        const PATIENCE: Duration = Duration::from_secs(3);
        if self.control.is_none() || self.socket.is_some() {
            let path = self.socket.as_deref().unwrap_or(Path::new(SOCKET));
            let until = Instant::now() + PATIENCE;
            while UnixStream::connect(path).await.is_err() && Instant::now() < until {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        self.admin().await
    }

    /// What is in force everywhere.
    pub(crate) async fn status(&self) -> Result<v1::StatusResponse> {
        let asked = ask(v1::StatusRequest { this_replica_only: false });
        Ok(self.admin().await?.status(asked).await.map_err(refusal)?.into_inner())
    }
}

async fn over_socket(path: &Path) -> Result<Channel> {
    // said here, where it is known what was tried: tonic would say "transport error"
    let unreached = || format!("{}: nobody answers there; is it running, and may this user?", path.display());
    drop(UnixStream::connect(path).await.with_context(unreached)?);
    let at = path.to_owned();
    let connector = tower::service_fn(move |_| {
        let at = at.clone();
        async move { UnixStream::connect(at).await.map(TokioIo::new) }
    });
    // the connector goes where it goes; the name only has to be one
    let endpoint = Endpoint::from_static("http://localhost").http2_max_header_list_size(MAX_HEADERS);
    endpoint.connect_with_connector(connector).await.with_context(unreached)
}

async fn over_mtls(control: &str, dir: Option<&Path>) -> Result<Channel> {
    let dir = identity_dir(control, dir)?;
    let log_in =
        || format!("no identity for {control}: get one with `fusewire login --control {control} --token-file FILE`");
    // another command may be renewing it
    let lock = std::fs::File::open(&dir).with_context(log_in)?;
    lock.lock().with_context(|| format!("{}: cannot be locked", dir.display()))?;
    let mut identity = Identity::load(&dir).with_context(log_in)?;
    let remaining = identity.remaining(UnixTime::now());
    if remaining.is_zero() {
        bail!("the identity in {} has expired; log in again with a new token", dir.display());
    }
    let life = Duration::from_secs(identity.not_after().saturating_sub(identity.not_before()));
    if life - remaining > FRESH.min(life / 2) {
        // what holds still does, so that a failure here is no obstacle yet
        match enrol::renew(control, &identity).await {
            Ok(renewed) => {
                if let Err(e) = renewed.save(&dir) {
                    eprintln!("fusewire: the renewed identity could not be kept: {e}");
                }
                identity = renewed;
            }
            Err(e) => eprintln!("fusewire: the identity in {} is due, and could not be renewed: {e}", dir.display()),
        }
    }
    Ok(enrol::channel(control, &identity).await?)
}

/// Where the identity for one control plane is kept.
pub(crate) fn identity_dir(control: &str, given: Option<&Path>) -> Result<PathBuf> {
    if let Some(dir) = given {
        return Ok(dir.to_owned());
    }
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".config"));
    let base = std::env::var_os("XDG_CONFIG_HOME").filter(|dir| !dir.is_empty()).map(PathBuf::from).or_else(home);
    let base = base.context("HOME is not set: say with --identity-dir where the identity is kept")?;
    let file = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '.' | '-') { c } else { '_' };
    Ok(base.join("fusewire").join(control.chars().map(file).collect::<String>()))
}

/// A message with what every call says besides.
pub(crate) fn ask<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(CALL);
    if let Ok(room) = DETAILS.to_string().parse() {
        request.metadata_mut().insert("fusewire-details-bytes", room);
    }
    request
}

/// A refusal in the words of the control plane: its faults one a line, as `fusewire check` has them.
pub(crate) fn refusal(status: Status) -> anyhow::Error {
    let faults = v1::Faults::decode(status.details()).map(|told| told.faults).unwrap_or_default();
    if faults.is_empty() {
        return anyhow!("{}", status.message());
    }
    let mut text = String::from("nothing was changed:");
    for v1::ConfigFault { file, line, column, path, message, remedy } in faults {
        let path = if path.is_empty() { path } else { format!("{path}: ") };
        let remedy = remedy.map(|remedy| format!(" ({remedy})")).unwrap_or_default();
        text += &format!("\n{file}:{line}:{column}: {path}{message}{remedy}");
    }
    anyhow!(text)
}

/// Runs one command's questions to their end.
pub(crate) fn block_on<T>(asked: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(asked)
}
