//! Hot restart: a sidecar that runs hands its listening sockets to the one that replaces it, and drains.
//!
//! It decides when the predecessor lets go: only once its successor has a configuration and an identity. Until then both hold
//! the sockets and the predecessor serves, so a successor that never gets so far has changed nothing. From then on the
//! successor accepts, and what the predecessor had open goes on to its end. It deliberately hands over no connection and no
//! circuit: the successor learns anew.
//!
//! The two talk over a Unix socket beside the admin socket (`.handover`), which only its owner may use: descriptors go over
//! ([`fusewire_net::send_descriptors`]), `ready` comes back, and `yielded` with the services that were up ends it.
//!
//! Invariant: at every moment at least one of them accepts from each socket that both name. So a successor whose predecessor goes
//! away begins at once, and once it has said `ready` nothing makes it give up.

use crate::admin;
use crate::boot::{SidecarError, Start};
use crate::mesh::Mesh;
use crate::sockets::Inherited;
use fusewire_model::ServiceName;
use fusewire_model::node::SidecarSettings;
use fusewire_telemetry::admin::Socket;
use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

/// For what one side says when it is its turn.
const TURN: Duration = Duration::from_secs(5);
/// How long a successor may take until it is ready.
const BOOT: Duration = Duration::from_secs(60);
/// How often it looks whether it is.
const LOOK: Duration = Duration::from_millis(10);
const READY: &[u8] = b"ready\n";
const YIELDED: &str = "yielded";
/// What follows it.
const MAX_YIELDED: u64 = 64 << 10;

/// The socket on which `settings` offer a takeover. `None`: there is no folder and no admin socket to put it beside.
pub(crate) fn path(settings: &SidecarSettings) -> Option<PathBuf> {
    let mut path = settings.admin.socket.clone()?.into_os_string();
    path.push(".handover");
    Some(path.into())
}

/// The sidecar that is taken over, where there is one, with its sockets.
///
/// # Errors
/// Those of finding it: that none runs is none.
pub(crate) async fn begin(
    start: Start,
    settings: &SidecarSettings,
) -> Result<(Option<Predecessor>, Inherited), SidecarError> {
    if start == Start::Afresh {
        return Ok((None, Inherited::default()));
    }
    let path = path(settings).ok_or(SidecarError::Nowhere)?;
    let found = Predecessor::find(&path).await?;
    if found.is_none() {
        tracing::info!("{}: no sidecar runs that could be taken over", path.display());
    }
    let (predecessor, sockets) = found.unzip();
    Ok((predecessor, Inherited::new(sockets.unwrap_or_default())))
}

/// A successor's hold on its predecessor, from the sockets to their change of hands.
pub(crate) struct Predecessor {
    stream: UnixStream,
}

impl Predecessor {
    /// The one that answers on `path`, and its sockets. `None`: nobody does, and there is nothing to take over.
    async fn find(path: &Path) -> Result<Option<(Self, Vec<(String, OwnedFd)>)>, SidecarError> {
        let failed = |source| SidecarError::TakeOver { path: path.to_owned(), source };
        let stream = match UnixStream::connect(path).await {
            Ok(stream) => stream.into_std().map_err(failed)?,
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
                return Ok(None);
            }
            Err(e) => return Err(failed(e)),
        };
        let received = tokio::task::spawn_blocking(move || {
            stream.set_nonblocking(false)?;
            stream.set_read_timeout(Some(TURN))?;
            let sockets = fusewire_net::receive_descriptors(&stream)?;
            stream.set_nonblocking(true)?;
            io::Result::Ok((stream, sockets))
        });
        let received = received.await.map_err(io::Error::other).and_then(|received| received).map_err(failed)?;
        let stream = UnixStream::from_std(received.0).map_err(failed)?;
        Ok(Some((Self { stream }, received.1)))
    }

    /// Waits until this sidecar could serve. `None`: the other went away meanwhile, and there is nobody to wait for.
    pub(crate) async fn when_ready(mut self, mesh: &Mesh) -> Result<Option<Self>, SidecarError> {
        let ready = async {
            while admin::missing(mesh).is_some() {
                tokio::time::sleep(LOOK).await;
            }
        };
        tokio::select! {
            _ = self.stream.read_u8() => {
                tracing::warn!("the sidecar before this one went away: this one begins by itself");
                Ok(None)
            }
            ready = tokio::time::timeout(BOOT, ready) => match ready {
                Ok(()) => Ok(Some(self)),
                Err(_) => {
                    let missing = admin::missing(mesh).unwrap_or("time");
                    Err(SidecarError::NeverReady { limit: BOOT, missing })
                }
            },
        }
    }

    /// This sidecar accepts: the other is to stop. The services whose instance beside us callers know of, by its word. Whatever
    /// has become of it, the sockets are ours from here on.
    pub(crate) async fn replace(mut self) -> BTreeSet<ServiceName> {
        let told = async {
            self.stream.write_all(READY).await?;
            let mut said = String::new();
            (&mut self.stream).take(MAX_YIELDED).read_to_string(&mut said).await?;
            io::Result::Ok(said)
        };
        match tokio::time::timeout(TURN, told).await {
            Ok(Ok(said)) if said.starts_with(YIELDED) => {
                tracing::info!("taken over: the sidecar before this one drains");
                return said.split_whitespace().skip(1).filter_map(|name| ServiceName::parse(name).ok()).collect();
            }
            Ok(Err(e)) => tracing::warn!("the sidecar before this one went away before it let go: {e}"),
            Ok(Ok(_)) | Err(_) => tracing::warn!("the sidecar before this one did not say that it drains"),
        }
        BTreeSet::new()
    }
}

/// The Unix socket at `path`, which a predecessor may not have left yet. A sidecar that serves does not end for lack of it.
pub(crate) fn inherit(path: &Path) -> Option<Socket> {
    Socket::replacing(path).inspect_err(|e| tracing::error!("{e}; this sidecar runs without it")).ok()
}

/// A successor that is ready, and waits to hear that the sockets are its own.
pub(crate) struct Successor(UnixStream);

impl Successor {
    /// The sockets are the other's alone. `up`: the services whose instance beside us callers know of.
    pub(crate) async fn yielded(mut self, up: &BTreeSet<ServiceName>) {
        let mut said = YIELDED.to_owned();
        for service in up {
            said = said + " " + service.as_str();
        }
        let _ = tokio::time::timeout(TURN, self.0.write_all(said.as_bytes())).await;
    }
}

/// Offers `sockets` to whoever comes to `at`, one after the other, until one of them is ready to serve. `has_one`: somebody holds
/// them who may yet be.
pub(crate) async fn offer(at: Option<Socket>, sockets: Vec<(String, OwnedFd)>, has_one: &AtomicBool) -> Successor {
    let Some(at) = at else { return std::future::pending().await };
    let sockets = Arc::new(sockets);
    loop {
        match at.accept().await {
            Ok(stream) => {
                has_one.store(true, Ordering::Relaxed);
                match hand_over(stream, &sockets).await {
                    Ok(successor) => return successor,
                    Err(e) => tracing::warn!("a sidecar that was to replace this one did not: {e}; this one goes on"),
                }
                has_one.store(false, Ordering::Relaxed);
            }
            Err(e) => {
                tracing::warn!("{}: {e}", at.path().display());
                tokio::time::sleep(TURN).await;
            }
        }
    }
}

async fn hand_over(stream: UnixStream, sockets: &Arc<Vec<(String, OwnedFd)>>) -> io::Result<Successor> {
    let stream = stream.into_std()?;
    let sockets = sockets.clone();
    let sent = tokio::task::spawn_blocking(move || {
        stream.set_nonblocking(false)?;
        stream.set_write_timeout(Some(TURN))?;
        let sockets: Vec<_> = sockets.iter().map(|(name, socket)| (name.clone(), socket.as_fd())).collect();
        fusewire_net::send_descriptors(&stream, &sockets)?;
        stream.set_nonblocking(true)?;
        io::Result::Ok(stream)
    });
    let mut stream = UnixStream::from_std(sent.await.map_err(io::Error::other)??)?;
    tracing::info!("another sidecar is about to replace this one");
    let mut said = [0; READY.len()];
    // its own limit begins later than this one
    let heard = tokio::time::timeout(2 * BOOT, stream.read_exact(&mut said)).await;
    match heard.map_err(|_| io::Error::from(io::ErrorKind::TimedOut)).and_then(|heard| heard)? {
        _ if said == *READY => Ok(Successor(stream)),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}
