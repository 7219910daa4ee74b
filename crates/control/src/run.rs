//! One control plane, from start to end.
//!
//! It decides the order: the admin socket first (it guards the data directory from a second control plane), then the
//! configuration (which names the trust domain), the authority, the port. It deliberately has no state of its own.
//!
//! Invariant: when [`run`] returns, whether it succeeded or was dropped, socket file and port are free.

use crate::configuration::{Judged, POLL, Watched};
use crate::own::Own;
use crate::shared::{Shared, lock, log_faults};
use crate::{ControlError, Settings, admin, grpc};
use fusewire_identity::{Authority, TokenBook, UnixTime};
use fusewire_telemetry::admin::{Listener, Socket, serve};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::{Arc, Mutex};
use tokio::net::TcpListener;
use tokio::time::MissedTickBehavior;

const SOCKET: &str = "control.sock";
const TOKENS: &str = "tokens.json";

/// Runs a control plane until `shutdown` completes, on the runtime that awaits it.
///
/// # Errors
/// Whatever keeps it from starting; once it runs, only the loss of its gRPC server. Bad configuration while it runs is
/// logged and shown in `/status`, and what was in force stays.
///
/// # Drop behavior
/// Dropping the future closes the port and removes the admin socket; streams are then cut instead of ended.
pub async fn run(mut settings: Settings, shutdown: impl Future<Output = ()>) -> Result<(), ControlError> {
    let bound = settings.bound.take();
    make_dir(&settings.data_dir)?;
    let path = settings.admin_socket.clone().unwrap_or_else(|| settings.data_dir.join(SOCKET));
    let socket = Socket::bind(&path).await?;
    let (shared, watched) = open(&settings)?;
    let listener = listen(&settings).await?;
    let address = listener.local_addr().map_err(|source| ControlError::Listen { address: settings.listen, source })?;
    let (own, identity) = Own::new(&shared)?;
    tracing::info!(
        trust_domain = %shared.authority.trust_domain(), root_hash = shared.authority.root_hash(),
        configuration = shared.world.borrow().version(), admin = %path.display(), "listening on {address}"
    );
    if let Some(bound) = bound {
        // whoever asked may have gone
        let _ = bound.send(address);
    }
    let asked_of = shared.clone();
    let stop = StopOnDrop(&shared);
    let server = grpc::serve(shared.clone(), &own, listener);
    tokio::pin!(server);
    tokio::select! {
        served = &mut server => return served,
        () = shutdown => {}
        // these three do not end
        () = watch(&shared, watched) => {}
        () = own.renew(&shared, identity) => {}
        () = serve(Listener::Unix(socket), move |asked| admin::answer(asked_of.clone(), asked)) => {}
    }
    tracing::info!("stopping");
    drop(stop);
    server.await
}

/// Ends what was spawned, however `run` ends.
struct StopOnDrop<'a>(&'a Shared);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.stopping.send_replace(true);
    }
}

fn make_dir(dir: &Path) -> Result<(), ControlError> {
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.map_err(|source| ControlError::DataDir { path: dir.to_owned(), source })
}

/// Everything that is read from disk.
fn open(settings: &Settings) -> Result<(Arc<Shared>, Watched), ControlError> {
    let (mut watched, world, judged) = Watched::start(settings)?;
    let authority = Authority::open_or_create(&settings.data_dir, world.trust_domain(), UnixTime::now())?;
    watched.confirm();
    let tokens = TokenBook::open(&settings.data_dir.join(TOKENS), authority.root_hash())?;
    match &judged {
        Judged { world: Err(faults), .. } => log_faults(faults),
        Judged { files, .. } if files.is_empty() => {
            tracing::warn!("the configuration has no *.yaml or *.yml files yet: an empty mesh until there is one");
        }
        Judged { .. } => {}
    }
    let shared = Shared::new(authority, tokens, settings.leaf_lifetime, world, judged);
    Ok((Arc::new(shared), watched))
}

async fn listen(settings: &Settings) -> Result<TcpListener, ControlError> {
    let address = settings.listen;
    TcpListener::bind(address).await.map_err(|source| ControlError::Listen { address, source })
}

/// Looks at the files until dropped. A thread of the blocking pool does the looking: a network file system may hang.
async fn watch(shared: &Shared, watched: Watched) {
    let watched = Arc::new(Mutex::new(watched));
    let mut ticks = tokio::time::interval(POLL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let looking = watched.clone();
        let judged = tokio::task::spawn_blocking(move || lock(&looking).poll()).await.unwrap_or_else(|error| {
            tracing::error!(%error, "the configuration could not be looked at; trying again");
            None
        });
        if let Some(judged) = judged {
            shared.judged(judged);
        }
    }
}
