//! From settings to a running sidecar, and from a signal to its end.
//!
//! Sockets are bound before anything else, so that a port that is taken is known at once. Requests run on worker
//! threads; configuration, identity, admin and watching on this one, so that none of them delays a request.

use crate::admin::{self, Reveal};
use crate::carried::Carried;
use crate::clock::Clock;
use crate::config::{self, Control, Source};
use crate::controls::Controls;
use crate::dns::{self, Book};
use crate::doors::Doors;
use crate::drain::Drain;
use crate::events::Events;
use crate::export;
use crate::health;
use crate::http::{stale, trace};
use crate::intercept::{self, Passing, Speakers};
use crate::listener;
use crate::mesh::{Mesh, Worker};
use crate::probe;
use crate::registration;
use crate::snapshot::Snapshot;
use crate::sockets::Sockets;
use crate::takeover;
use crate::trust::{self, Belief};
use crate::watch;
use arc_swap::{ArcSwap, ArcSwapOption};
use fusewire_model::World;
use fusewire_model::node::{AccessLog as LogSetting, OWN_MARK, SidecarSettings};
use fusewire_telemetry::access_log::{AccessLog, Format};
use fusewire_telemetry::admin as endpoint;
use fusewire_telemetry::metrics::{Direction, Metrics};
use fusewire_telemetry::trace::sink::Spans;
use std::collections::BTreeSet;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// How long one that was replaced waits for what it was asked for names.
const ANSWERS: Duration = Duration::from_secs(2);

const _: () = assert!(OWN_MARK == fusewire_net::redirect::ANSWERS, "what the configuration refuses is what is taken");

#[derive(Debug, thiserror::Error)]
pub enum SidecarError {
    #[error("sidecar.{field}: cannot listen on {address}: {source}")]
    Listen { field: &'static str, address: SocketAddr, source: io::Error },
    #[error(
        "sidecar.intercept.tproxy: {address} cannot be taken for connections to any address: {source} (it needs Linux \
         and CAP_NET_ADMIN, or from 5.17 CAP_NET_RAW: in Kubernetes securityContext.capabilities.add, under systemd \
         AmbientCapabilities; or leave `tproxy` out)"
    )]
    Transparent { address: SocketAddr, source: io::Error },
    #[error(
        "sidecar.intercept.mark: the kernel does not let this process mark what it sends: {0} (it needs Linux and \
         CAP_NET_ADMIN, or from 5.17 CAP_NET_RAW: in Kubernetes securityContext.capabilities.add, under systemd \
         AmbientCapabilities; or leave `mark` out, and name the sidecar's user to the rules by --uid)"
    )]
    Mark(io::Error),
    #[error(transparent)]
    Socket(#[from] endpoint::BindError),
    #[error("sidecar.data_dir: {path}: {source}")]
    DataDir { path: PathBuf, source: io::Error },
    #[error("{0}")]
    Identity(String),
    #[error("sidecar.data_dir: the instance's id cannot be kept: {0}")]
    InstanceId(io::Error),
    #[error("cannot start a thread: {0}")]
    Thread(io::Error),
    #[error("the listening sockets cannot be kept for a successor: {0}")]
    Handles(io::Error),
    #[error(
        "nothing can be taken over without sidecar.data_dir or sidecar.admin.socket, where the sidecar that runs is found"
    )]
    Nowhere,
    #[error("{path}: the sidecar that runs does not hand over its sockets: {source}")]
    TakeOver { path: PathBuf, source: io::Error },
    #[error("not ready within {limit:?} ({missing}): the sidecar that runs goes on")]
    NeverReady { limit: Duration, missing: &'static str },
}

/// The addresses that were bound: what port 0 became.
#[derive(Clone, Debug)]
pub struct Bound {
    pub outbound: Vec<SocketAddr>,
    pub inbound: Option<SocketAddr>,
    pub dns: Vec<SocketAddr>,
    /// For redirected connections, outbound and inbound.
    pub intercept: [Vec<SocketAddr>; 2],
    pub admin: Option<SocketAddr>,
    pub socket: Option<PathBuf>,
}

/// How a sidecar begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    Afresh,
    /// By taking over the sockets of the sidecar that runs with the same `data_dir` (or `admin.socket`), which then drains. As
    /// [`Start::Afresh`] where none runs.
    TakingOver,
}

/// Runs until `stop` resolves and the drain is over. `world`: what the file itself configures, for a sidecar without a
/// control plane. `bound` is called once all sockets are there.
pub async fn run(
    mut settings: SidecarSettings,
    world: World,
    start: Start,
    bound: impl FnOnce(Bound),
    stop: impl Future<Output = ()>,
) -> Result<(), SidecarError> {
    let mut stop = pin!(stop);
    prepare_data_dir(&mut settings)?;
    leave_out_missing_family(&mut settings);
    if let Some(mark) = settings.intercept.as_ref().and_then(|intercept| intercept.mark) {
        fusewire_net::mark_all(mark).map_err(SidecarError::Mark)?; // before anything is sent
    }
    registration::settle_id(&mut settings).map_err(SidecarError::InstanceId)?;
    let (predecessor, mut inherited) = takeover::begin(start, &settings).await?;
    let sockets = Sockets::bind(&settings, &mut inherited).await?;
    drop(inherited); // what this configuration has no use for
    let handles = sockets.handles(&settings).map_err(SidecarError::Handles)?;
    let mut addresses = sockets.addresses();
    addresses.socket.clone_from(&settings.admin.socket);
    if let Some(intercept) = &mut settings.intercept {
        // what port 0 became: nothing may lead back to these
        [intercept.outbound, intercept.inbound] = addresses.intercept.clone();
    }
    let identity = trust::at_boot(&settings).map_err(|e| SidecarError::Identity(e.to_string()))?;
    let (mesh, desk, spans) = mesh(settings)?;
    if let Some(identity) = identity {
        trust::install(&mesh, identity).map_err(|e| SidecarError::Identity(e.to_string()))?;
    }
    let inbound_at = addresses.inbound;
    bound(addresses);
    if let Some(files) = mesh.settings.identity.clone() {
        tokio::spawn(trust::follow_files(mesh.clone(), files));
    }
    let controls = Controls::new(&mesh.settings.control);
    let source = match &controls {
        Some(controls) => {
            if mesh.settings.identity.is_none() {
                tokio::spawn(trust::keep_current(mesh.clone(), controls.clone()));
            }
            let data_dir = mesh.settings.data_dir.clone();
            Source::Control(Box::new(Control { controls: controls.clone(), data_dir }))
        }
        None => Source::Local(Box::new(world)),
    };
    config::start(mesh.clone(), source, desk);
    tokio::spawn(health::run(mesh.clone()));
    let is_successor = predecessor.is_some();
    let predecessor = match predecessor {
        Some(predecessor) => tokio::select! {
            ready = predecessor.when_ready(&mesh) => ready?,
            () = &mut stop => return Ok(()), // the other goes on
        },
        None => None,
    };
    let workers = start_workers(&mesh, &sockets)?;
    let paths = [mesh.settings.admin.socket.clone(), takeover::path(&mesh.settings)];
    let (was_up, [unix, handover]) = match predecessor {
        Some(predecessor) => {
            let was_up = predecessor.replace().await;
            mesh.book.reopen();
            (was_up, paths.map(|path| path.as_deref().and_then(takeover::inherit)))
        }
        // one that is leaving may still answer there
        None if is_successor => (BTreeSet::new(), paths.map(|path| path.as_deref().and_then(takeover::inherit))),
        None => (BTreeSet::new(), unix_sockets(paths).await?),
    };
    let succession = AtomicBool::new(false);
    let offer = takeover::offer(handover, handles, &succession);
    let exporting = spans.and_then(|spans| export::start(&mesh, controls.as_ref(), spans));
    let mut registration = controls.map(|controls| registration::start(&mesh, controls, inbound_at, &was_up));
    tokio::spawn(watch::run(mesh.clone()));
    let Sockets { outbound, inbound, intercept, dns, admin } = sockets;
    drop((outbound, inbound, intercept)); // the workers hold their own handles: a drain must be able to close the last
    let mut served = serve_admin(&mesh, admin, unix);
    if !dns.is_empty() {
        served.spawn(dns::run(mesh.clone(), dns));
    }
    let successor = tokio::select! {
        () = &mut stop => None,
        successor = offer => Some(successor),
    };
    let replaced = successor.is_some();
    match successor {
        Some(successor) => {
            tracing::info!("another sidecar has taken over");
            served.shutdown().await; // it is the other's to tell from here on
            mesh.inbound_drain.begin_patiently();
            mesh.outbound_drain.begin_patiently();
            successor.yielded(&mesh.health.was_up()).await;
            // until the other has said it all: what is known by this one's stream goes with it
            if let Some(registration) = registration.take() {
                tokio::spawn(registration.end_soon());
            }
        }
        // another that is about to take over goes on with what is registered
        None if succession.load(Ordering::Relaxed) => {}
        None => {
            if let Some(registration) = &mut registration {
                // callers turn elsewhere before we turn them away
                mesh.leaving.store(true, Ordering::Relaxed);
                registration.leave().await;
            }
        }
    }
    let answers = tokio::time::timeout(ANSWERS, mesh.names.answered());
    tokio::join!(drain(&mesh, stop), async {
        if replaced {
            drop(answers.await)
        }
    });
    if let Some(registration) = registration {
        registration.end();
    }
    mesh.events.end().await;
    drop(served); // with the socket's file
    drop(workers);
    if let Some(exporting) = exporting {
        exporting.stop().await;
    }
    if let Some(log) = &mesh.access_log {
        log.flush();
    }
    Ok(())
}

async fn unix_sockets<const N: usize>(
    paths: [Option<PathBuf>; N],
) -> Result<[Option<endpoint::Socket>; N], SidecarError> {
    let mut sockets = [const { None }; N];
    for (path, socket) in paths.iter().zip(&mut sockets) {
        if let Some(path) = path {
            *socket = Some(endpoint::Socket::bind(path).await?);
        }
    }
    Ok(sockets)
}

fn prepare_data_dir(settings: &mut SidecarSettings) -> Result<(), SidecarError> {
    let Some(dir) = settings.data_dir.clone() else { return Ok(()) };
    let failed = |source| SidecarError::DataDir { path: dir.clone(), source };
    let mut builder = std::fs::DirBuilder::new();
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.recursive(true).create(&dir).map_err(failed)?;
    if settings.admin.socket.is_none() {
        settings.admin.socket = Some(dir.join("sidecar.sock"));
    }
    Ok(())
}

/// A port that is taken is told from a permission that is lacking.
pub(crate) fn not_transparent(address: SocketAddr, source: io::Error) -> SidecarError {
    match source.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::Unsupported => SidecarError::Transparent { address, source },
        _ => SidecarError::Listen { field: "intercept.inbound", address, source },
    }
}

/// One file for pods with IPv6 and without: nothing can be redirected to an address that is not there.
fn leave_out_missing_family(settings: &mut SidecarSettings) {
    let Some(intercept) = &mut settings.intercept else { return };
    let there = |at: &SocketAddr| match std::net::UdpSocket::bind((at.ip(), 0)) {
        Err(e) if fusewire_net::lacks_ipv6(*at, &e) => {
            tracing::info!("sidecar.intercept: {at} is left out: there is no IPv6 here");
            false
        }
        _ => true,
    };
    intercept.outbound.retain(there);
}

fn mesh(settings: SidecarSettings) -> Result<(Arc<Mesh>, config::Desk, Option<Spans>), SidecarError> {
    let metrics = Metrics::new();
    let dropped = metrics.access_log_dropped.clone();
    let log = |format, errors_only| {
        AccessLog::to(io::stdout(), format, errors_only, dropped.clone()).map(Some).map_err(SidecarError::Thread)
    };
    let access_log = match settings.access_log {
        LogSetting::Off => None,
        LogSetting::Errors => log(Format::Text, true)?,
        LogSetting::Text => log(Format::Text, false)?,
        LogSetting::Json => log(Format::Json, false)?,
    };
    let (directory, desk) = config::directory(settings.discovery_timeout);
    let kept = settings.data_dir.as_deref().filter(|_| settings.dns.is_some());
    let book = Book::open(kept).map_err(|source| SidecarError::DataDir { path: dns::FILE.into(), source })?;
    let unrouted = [Direction::Inbound, Direction::Outbound].map(|d| Arc::new(metrics.service(d, "")));
    let own_state = trace::own_state(&settings.workload);
    let (sink, spans) = export::sink(&settings, &metrics).unzip();
    let mesh = Arc::new(Mesh {
        settings,
        clock: Clock::start(),
        snapshot: ArcSwap::from_pointee(Snapshot::default()),
        directory,
        tls: ArcSwapOption::empty(),
        belief: Belief::default(),
        metrics,
        unrouted,
        passing: Passing::default(),
        speakers: Speakers::default(),
        access_log,
        sink,
        carried: Carried::default(),
        own_state,
        book,
        names: dns::Places::default(),
        stale: stale::Cache::default(),
        events: Arc::new(Events::default()),
        health: health::Board::default(),
        leaving: AtomicBool::new(false),
        inbound_drain: Drain::default(),
        outbound_drain: Drain::default(),
    });
    Ok((mesh, desk, spans))
}

/// Ends the workers when dropped: their runtimes stop with what is left on them.
struct Workers(Vec<(tokio::sync::oneshot::Sender<()>, std::thread::JoinHandle<()>)>);

impl Drop for Workers {
    fn drop(&mut self) {
        for (stop, thread) in self.0.drain(..) {
            let _ = stop.send(());
            let _ = thread.join();
        }
    }
}

fn start_workers(mesh: &Arc<Mesh>, sockets: &Sockets) -> Result<Workers, SidecarError> {
    let mut workers = Workers(Vec::new());
    let inbound_doors = Doors::new(mesh.settings.limits.connections);
    for index in 0..mesh.settings.workers {
        let worker = Arc::new(Worker::new(mesh.clone(), index));
        let mut outbound = Vec::new();
        for (listener, to) in &sockets.outbound {
            outbound.push((listener.try_clone().map_err(SidecarError::Thread)?, to.clone()));
        }
        let inbound = sockets.inbound.as_ref().map(TcpListener::try_clone).transpose().map_err(SidecarError::Thread)?;
        let mut intercept = Vec::new();
        for (listener, direction, doors) in &sockets.intercept {
            intercept.push((listener.try_clone().map_err(SidecarError::Thread)?, *direction, doors.clone()));
        }
        let inbound_doors = inbound_doors.clone();
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(SidecarError::Thread)?;
        let thread = std::thread::Builder::new().name(format!("worker-{index}")).spawn(move || {
            runtime.block_on(async move {
                if index == 0 {
                    tokio::spawn(probe::run(worker.clone()));
                }
                for (listener, to) in outbound {
                    if let Ok(l) = tokio::net::TcpListener::from_std(listener) {
                        tokio::spawn(listener::outbound(worker.clone(), l, to));
                    }
                }
                if let Some(Ok(l)) = inbound.map(tokio::net::TcpListener::from_std) {
                    tokio::spawn(listener::inbound(worker.clone(), l, inbound_doors));
                }
                for (listener, direction, doors) in intercept {
                    let Ok(l) = tokio::net::TcpListener::from_std(listener) else { continue };
                    match direction {
                        Direction::Outbound => drop(tokio::spawn(intercept::leave(worker.clone(), l, doors))),
                        Direction::Inbound => drop(tokio::spawn(intercept::enter(worker.clone(), l, doors))),
                    }
                }
                let _ = stopped.await;
            });
            runtime.shutdown_background();
        });
        workers.0.push((stop, thread.map_err(SidecarError::Thread)?));
    }
    Ok(workers)
}

fn serve_admin(mesh: &Arc<Mesh>, tcp: Option<tokio::net::TcpListener>, unix: Option<endpoint::Socket>) -> JoinSet<()> {
    let listeners = tcp
        .map(|l| (endpoint::Listener::Tcp(l), Reveal::Health))
        .into_iter()
        .chain(unix.map(|s| (endpoint::Listener::Unix(s), Reveal::All)));
    let mut served = JoinSet::new();
    for (listener, reveal) in listeners {
        let mesh = mesh.clone();
        served.spawn(endpoint::serve(listener, move |asked| admin::answer(mesh.clone(), reveal, asked)));
    }
    served
}

/// Peers first, while our application can still call out to answer them; then the application. All within the deadline.
/// `hurry`: those who may stay, where another sidecar has taken over, may not any more.
async fn drain(mesh: &Mesh, hurry: impl Future<Output = ()>) {
    let limit: Duration = mesh.settings.drain_timeout;
    let until = Instant::now() + limit;
    let left = || (mesh.inbound_drain.open(), mesh.outbound_drain.open());
    let (inbound, outbound) = left();
    tracing::info!(inbound, outbound, "draining, at most {limit:?}");
    // what the application still calls gets its share of the time, even while a peer's stream goes on
    let inbound_only = limit - (limit / 3).min(Duration::from_secs(5));
    if mesh.inbound_drain.has_begun() {
        // there is another sidecar: nobody needs to wait for anybody
        let both = async { tokio::join!(mesh.inbound_drain.finished(), mesh.outbound_drain.finished()) };
        tokio::select! {
            _ = tokio::time::timeout(inbound_only, both) => {}
            () = hurry => {}
        }
        mesh.outbound_drain.begin();
    }
    let both = async {
        mesh.inbound_drain.begin();
        let _ = tokio::time::timeout(inbound_only, mesh.inbound_drain.finished()).await;
        mesh.outbound_drain.begin();
        mesh.outbound_drain.finished().await;
        mesh.inbound_drain.finished().await;
    };
    if tokio::time::timeout_at(until, both).await.is_err() {
        let (inbound, outbound) = left();
        tracing::warn!(inbound, outbound, "the drain's time is over: what is left is cut");
    }
}
