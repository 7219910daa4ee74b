//! One control plane, from start to end.
//!
//! It decides the order: the admin socket first (it guards the data directory from a second control plane), then the
//! configuration (which names the trust domain), the authority, the port. It deliberately has no state of its own.
//!
//! Invariant: when [`run`] returns, whether it succeeded or was dropped, socket file and port are free.

use crate::alerts::Alerts;
use crate::assembly::{Assembly, Marks};
use crate::configuration::{POLL, Watched};
use crate::kubernetes::Kubernetes;
use crate::objects::Snapshot;
use crate::own::Own;
use crate::registry::kept;
use crate::replicas::{self, Replicas};
use crate::shared::{Shared, lock, log_faults};
use crate::store::Store;
use crate::trust::{self, Opening, Trust};
use crate::webhook::Webhook;
use crate::{ControlError, Settings, WebhookSettings, alerts, checks, dns, grpc, public, socket, traces, web};
use fusewire_model::route::Authority;
use fusewire_telemetry::admin::Socket;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::time::MissedTickBehavior;

const SOCKET: &str = "control.sock";
/// After a failure of the store.
const RETRY: Duration = Duration::from_secs(1);

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
    let name = replicas::name(settings.replica.as_deref(), &settings.data_dir)?;
    let store = Store::open(&settings.store).await?;
    let (shared, watched) = open(&settings, store.clone(), Replicas::new(name)).await?;
    let alive = kept::load(&shared.registrations, &store).await?;
    if let Some(kubernetes) = &shared.kubernetes {
        Box::pin(kubernetes.first()).await?;
    }
    let assembly = Assembly::first(&shared);
    let listener = bind(settings.listen)?;
    let address = local(&listener, settings.listen)?;
    web::check(&settings)?;
    let watchable = bind_some(settings.admin_listen)?;
    let page = bind_some(settings.web_listen)?;
    let otlp = bind_some(settings.otlp_listen)?;
    let webhook = bind_some(settings.webhook.as_ref().map(|webhook| webhook.listen))?;
    let advertised = advertised(settings.advertise.as_deref(), store.is_shared(), address)?;
    let (own, identity) = Own::new(&shared)?;
    let injecting = injector(settings.webhook.as_ref().zip(webhook), &shared)?;
    let presence = shared.replicas.appear(&shared, advertised).await?;
    tracing::info!(
        trust_domain = %shared.trust.domain(), root_hash = shared.trust.now().authority.root_hash(), store = store.engine(),
        replica = shared.replicas.name(), configuration = shared.in_force.borrow().world.version(), admin = %path.display(), "listening on {address}"
    );
    if let Some(bound) = bound {
        // whoever asked may have gone
        let _ = bound.send(address);
    }
    let watched = Arc::new(Mutex::new(watched));
    let stop = StopOnDrop(&shared);
    let mut server = Box::pin(grpc::serve(shared.clone(), &own, listener));
    tokio::select! {
        served = &mut server => return served,
        () = shutdown => {}
        // these do not end
        () = shared.registrations.run() => {}
        () = assembly.run(&shared) => {}
        () = Box::pin(checks::run(&shared.verdicts, shared.in_force.subscribe())) => {}
        () = Box::pin(dns::run(&shared.names, shared.in_force.subscribe(), &settings.data_dir)) => {}
        () = Box::pin(kept::run(&shared.registrations, &store, alive)) => {}
        () = watch(&shared, &watched) => {}
        () = follow(&shared, &watched) => {}
        () = trust::run(&shared) => {}
        () = alerts::run(&shared) => {}
        () = own.renew(&shared, identity) => {}
        () = socket::serve(socket, &shared) => {}
        () = public::serve(watchable, &shared) => {}
        () = cluster(&shared) => {}
        () = web::serve(page, settings.web_hosts.clone(), &shared) => {}
        () = traces::serve_clear(otlp, &shared) => {}
        () = inject(injecting, &shared) => {}
    }
    tracing::info!("stopping");
    drop(stop);
    let served = server.await;
    if let Some(kubernetes) = &shared.kubernetes {
        kubernetes.leave().await;
    }
    if let Some(presence) = presence {
        presence.leave().await;
    }
    served
}

/// Ends what was spawned, however `run` ends.
struct StopOnDrop<'a>(&'a Shared);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.stopping.send_replace(true);
        if let Some(kubernetes) = &self.0.kubernetes {
            kubernetes.end();
        }
    }
}

fn make_dir(dir: &Path) -> Result<(), ControlError> {
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.map_err(|source| ControlError::DataDir { path: dir.to_owned(), source })
}

/// Everything that is read from disk and from the store.
async fn open(settings: &Settings, store: Store, replicas: Replicas) -> Result<(Arc<Shared>, Watched), ControlError> {
    let snapshot = Snapshot::read(&store).await?;
    let (mut watched, written, judged) = Watched::start(settings, snapshot)?;
    let alerts = Alerts::default();
    let opening = Opening {
        data_dir: &settings.data_dir,
        domain: &written.mesh.trust_domain,
        leaf_lifetime: settings.leaf_lifetime,
        ca_dir: settings.ca_dir.as_deref(),
    };
    let trust = Trust::open(store.clone(), &opening, &alerts).await?;
    watched.confirm();
    if !judged.faults.is_empty() {
        log_faults(&judged.faults);
    } else if judged.files.is_empty() {
        tracing::warn!("the configuration has no *.yaml or *.yml files yet: an empty mesh until there is one");
    }
    let marks: Arc<Marks> = Arc::default();
    let kubernetes = match &settings.kubernetes {
        Some(wanted) => {
            let domain = &written.mesh.trust_domain;
            Some(Kubernetes::open(wanted, domain, replicas.name(), marks.clone()).await?)
        }
        None => None,
    };
    let (written, found) = ((written, judged), (kubernetes, marks));
    Ok((Arc::new(Shared::new(store, replicas, trust, alerts, written, found, settings)), watched))
}

/// `[::]` is both families, or IPv4 where there is no other.
fn bind(address: SocketAddr) -> Result<TcpListener, ControlError> {
    let listening = fusewire_net::listen(address).and_then(TcpListener::from_std);
    listening.map_err(|source| ControlError::Listen { address, source })
}

fn bind_some(address: Option<SocketAddr>) -> Result<Option<TcpListener>, ControlError> {
    address.map(bind).transpose()
}

/// A webhook with its certificate, when that is due, and where it listens.
type Injector<'a> = Option<(Webhook, u64, &'a WebhookSettings, TcpListener)>;

fn injector<'a>(
    asked: Option<(&'a WebhookSettings, TcpListener)>,
    shared: &Shared,
) -> Result<Injector<'a>, ControlError> {
    let Some((settings, listener)) = asked else { return Ok(None) };
    let (webhook, due) = Webhook::new(shared, &settings.namespace)?;
    Ok(Some((webhook, due, settings, listener)))
}

/// Until it is dropped.
async fn inject(injector: Injector<'_>, shared: &Shared) {
    let Some((webhook, due, settings, listener)) = injector else { return std::future::pending().await };
    tokio::select! {
        () = webhook.serve(listener, settings, shared) => {}
        () = webhook.renew(shared, due) => {}
    }
}

fn local(listener: &TcpListener, asked: SocketAddr) -> Result<SocketAddr, ControlError> {
    listener.local_addr().map_err(|source| ControlError::Listen { address: asked, source })
}

/// Where other replicas reach this one.
fn advertised(said: Option<&str>, is_shared: bool, bound: SocketAddr) -> Result<String, ControlError> {
    match said {
        Some(said) => {
            host_port(said, bound.port()).ok_or_else(|| ControlError::AdvertiseAs(said.chars().take(100).collect()))
        }
        None if bound.ip().is_unspecified() && is_shared => Err(ControlError::Advertise(bound)),
        None => Ok(bound.to_string()),
    }
}

/// `host:port` of a host, or of a host and port; IPv6 with brackets or, as Kubernetes writes a pod's address, without.
fn host_port(said: &str, port: u16) -> Option<String> {
    let bare = said.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(said);
    if let Ok(ip) = bare.parse::<IpAddr>() {
        return Some(SocketAddr::new(ip, port).to_string());
    }
    let text = match said.rsplit_once(':') {
        None => format!("{said}:{port}"),
        Some((host, port)) if host.parse::<Ipv6Addr>().is_ok() => format!("[{host}]:{port}"),
        Some(_) => said.to_owned(),
    };
    let authority = Authority::parse(&text).filter(|authority| authority.port().is_some_and(|port| port > 0));
    authority.map(|authority| authority.to_string())
}

/// Does in the cluster what one replica does for all, where there is one, until dropped.
async fn cluster(shared: &Shared) {
    match &shared.kubernetes {
        Some(kubernetes) => Box::pin(kubernetes.run(shared)).await,
        None => std::future::pending().await,
    }
}

/// Looks at the files until dropped. A thread of the blocking pool does the looking: a network file system may hang.
async fn watch(shared: &Arc<Shared>, watched: &Arc<Mutex<Watched>>) {
    let mut ticks = tokio::time::interval(POLL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let (shared, watched) = (shared.clone(), watched.clone());
        let looking = tokio::task::spawn_blocking(move || {
            // published under the lock, so that what was judged last is in force last
            let mut watched = lock(&watched);
            if let Some(judged) = watched.poll() {
                shared.judged(judged);
            }
        });
        if let Err(error) = looking.await {
            tracing::error!(%error, "the configuration could not be looked at; trying again");
        }
    }
}

/// Takes over objects as they change, here or on another replica, until dropped.
async fn follow(shared: &Arc<Shared>, watched: &Arc<Mutex<Watched>>) {
    let mut changes = shared.objects.watch();
    loop {
        changes.next().await;
        let snapshot = loop {
            match shared.objects.read().await {
                Ok(snapshot) => break snapshot,
                Err(error) => {
                    tracing::warn!(%error, "the applied objects cannot be read; what is in force stays, and it is tried again")
                }
            }
            tokio::time::sleep(RETRY).await;
        };
        let (shared, watched) = (shared.clone(), watched.clone());
        let taking = tokio::task::spawn_blocking(move || {
            let mut watched = lock(&watched);
            if let Some(judged) = watched.take(snapshot) {
                shared.judged(judged);
            }
        });
        if let Err(error) = taking.await {
            tracing::error!(%error, "the applied objects could not be taken over");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_advertised_whatever_its_family_and_however_it_is_written() {
        let bound: SocketAddr = "[::]:15010".parse().unwrap();
        for (said, wanted) in [
            ("10.0.0.7", "10.0.0.7:15010"),
            ("fd00::7", "[fd00::7]:15010"),
            ("[fd00::7]", "[fd00::7]:15010"),
            ("10.0.0.7:1", "10.0.0.7:1"),
            ("[fd00::7]:1", "[fd00::7]:1"),
            ("fd00::7:15010", "[fd00::7]:15010"),
            ("control-1.example", "control-1.example:15010"),
            ("control-1.example:443", "control-1.example:443"),
        ] {
            assert_eq!(advertised(Some(said), true, bound).unwrap(), wanted, "{said}");
        }
        for said in ["", ":1", "host:", "host:0", "host:99999", "a b", "[fd00::7", "http://host:1"] {
            let why = advertised(Some(said), true, bound).unwrap_err().to_string();
            assert!(why.contains(&format!("{said:?}")), "{why}");
        }
        assert!(matches!(advertised(None, true, bound), Err(ControlError::Advertise(_))));
        assert_eq!(advertised(None, false, bound).unwrap(), "[::]:15010");
    }

    #[tokio::test]
    async fn any_address_is_that_of_both_families() {
        let listener = bind("[::]:0".parse().unwrap()).unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut families = vec![IpAddr::from([127, 0, 0, 1])];
        families.extend(listener.local_addr().unwrap().is_ipv6().then(|| IpAddr::from(Ipv6Addr::LOCALHOST)));
        for ip in families {
            tokio::net::TcpStream::connect((ip, port)).await.unwrap();
        }
    }
}
