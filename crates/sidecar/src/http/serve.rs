//! The hyper connection: every request on it calls one function.

use super::calm::{Calm, Crowd};
use super::connect::Caller;
use super::exchange::Exchange;
use super::outgoing::Outgoing;
use super::strict::Line;
use super::{forwarded, headers, turns};
use crate::doors::Doors;
use crate::drain::SharedGuard;
use crate::fault::Fault;
use crate::intercept::{self, Original};
use crate::mesh::Worker;
use crate::snapshot::{Route, Target};
use crate::trust::until_denied;
use crate::upstream::connect::{CONNECTION_WINDOW, STREAM_WINDOW};
use crate::upstream::kept::Ends;
use fusewire_identity::SpiffeId;
use fusewire_model::ServiceName;
use fusewire_model::node::Forwarded;
use fusewire_model::policy::{Ratio, RequestKey};
use fusewire_resilience::{Time, balance};
use fusewire_telemetry::metrics::Direction;
use http::Request;
use http::uri::Authority;
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::sleep;

/// Streams that one peer may have open on one connection.
pub(crate) const MAX_STREAMS: u32 = 1024;
/// Requests that were taken back before we turned to them, as a peer's sidecar sends them when many callers give up at
/// once; h2's own 20 would end the connection under everybody else.
const MAX_TAKEN_BACK: usize = MAX_STREAMS as usize;
/// Streams, in the life of a connection, that we had to reset for what the peer sent on them.
const MAX_MALFORMED: usize = 8 * MAX_STREAMS as usize;
const PING_INTERVAL: Duration = Duration::from_secs(10);
const PING_TIMEOUT: Duration = Duration::from_secs(3);
/// How long the connection of a peer that was denied may still carry why.
const LAST_ANSWERS: Duration = Duration::from_millis(200);
/// What an idle caller has to take the rest of its last answer, and our leave.
const FAREWELL: Duration = Duration::from_secs(2);

/// What the requests of one connection have in common.
pub(crate) struct Connection {
    pub(crate) worker: Arc<Worker>,
    pub(crate) direction: Direction,
    /// The proven identity at the other end.
    pub(crate) peer: Option<Arc<SpiffeId>>,
    pub(crate) way: Way,
    pub(crate) guard: SharedGuard,
    /// When the certificate ends that the peer proved itself with, in Unix seconds.
    pub(crate) until: Option<u64>,
    /// The peer's identity was denied after it connected.
    pub(crate) denied: AtomicBool,
    /// Where the caller's application is; `None`: its sidecar has seen to that.
    pub(crate) caller: Option<IpAddr>,
    /// Inbound: by whose address the application is called, where that is not ours.
    pub(crate) ends: Option<Ends>,
    /// What the connection came in by.
    pub(crate) doors: Arc<Doors>,
}

/// What says where the requests of a connection go.
pub(crate) enum Way {
    /// Outbound: each request's authority.
    Authority,
    /// Outbound: the one service that the listener is for.
    Service(ServiceName),
    /// Outbound, redirected: the address that the application connected to, where it is an instance's; else the authority.
    Original(Box<Original>),
    /// Inbound from a peer's sidecar, which names the port.
    Wire,
    /// Inbound, redirected, from a caller without a sidecar: the port that it connected to.
    Port(u16),
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Http {
    One,
    Two,
}

/// Serves until the connection ends; when the drain begins, what runs is finished (GOAWAY, `connection: close`).
pub(crate) async fn serve<T>(io: T, http: Http, connection: Arc<Connection>)
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let worker = connection.worker.clone();
    let direction = connection.direction;
    let drain = worker.mesh.drain(direction);
    let of = connection.clone();
    match http {
        Http::One => turns::serve(io, of).await,
        Http::Two => {
            let (crowd, fields) = match of.is_wire() {
                true => (Crowd::Many, headers::WIRE_FIELDS_H2),
                false => (Crowd::One, headers::MAX_FIELDS_H2),
            };
            let line = Arc::new(Line::shared(&of.guard));
            let counted = line.clone();
            let service = service_fn(move |request: Request<Incoming>| {
                turns::at_once(connection.clone(), counted.clone(), request)
            });
            let served = http2::Builder::new(TokioExecutor::new())
                .timer(TokioTimer::new())
                // the application beside us cannot be blackholed, and each ping's book-keeping is paid for every frame
                .keep_alive_interval((direction == Direction::Inbound).then_some(PING_INTERVAL))
                .keep_alive_timeout(PING_TIMEOUT)
                .max_concurrent_streams(MAX_STREAMS)
                .initial_stream_window_size(STREAM_WINDOW)
                .initial_connection_window_size(CONNECTION_WINDOW)
                .max_send_buf_size(256 << 10)
                .max_header_list_size(fields)
                .max_pending_accept_reset_streams(MAX_TAKEN_BACK)
                .max_local_error_reset_streams(MAX_MALFORMED)
                .enable_connect_protocol()
                .serve_connection(TokioIo::new(Calm::client(io, crowd)), service);
            let mut served = pin!(served);
            let mut shut_out = pin!(of.shut_out());
            let over = pin!(of.over());
            tokio::select! {
                _ = &mut served => return,
                () = drain.begun() => served.as_mut().graceful_shutdown(),
                // what runs is finished, and nothing new begins: the next proves itself with a certificate that holds
                () = over => served.as_mut().graceful_shutdown(),
                () = of.left_idle(&line) => {
                    served.as_mut().graceful_shutdown();
                    return farewell(served, &line).await;
                }
                () = &mut shut_out => {
                    served.as_mut().graceful_shutdown(); // what was answered arrives, and the next comes by a new connection
                    return of.cut(served).await;
                }
            }
            tokio::select! {
                _ = &mut served => {}
                () = shut_out => of.cut(served).await,
            }
        }
    }
}

/// Until what was asked is answered, and the caller took its leave.
async fn farewell(mut served: impl Future + Unpin, line: &Line) {
    while tokio::time::timeout(FAREWELL, &mut served).await.is_err() {
        if line.is_idle() {
            return;
        }
    }
}

impl Connection {
    /// Whether the other end is a peer's sidecar, whose `fusewire-*` fields are believed.
    pub(crate) fn is_wire(&self) -> bool {
        matches!(self.way, Way::Wire)
    }

    /// Waits until the connection is to make room for another, or was idle for too long. Between sidecars the caller's
    /// pool decides, and this never comes.
    async fn left_idle(&self, line: &Arc<Line>) {
        if self.is_wire() {
            return std::future::pending().await;
        }
        self.doors.know(line);
        tokio::select! {
            () = line.evicted() => {}
            () = line.idle_for(self.worker.mesh.settings.limits.idle_timeout) => {}
        }
    }

    /// Waits until the peer's certificate has ended.
    async fn over(&self) {
        match self.until {
            Some(until) => sleep(Duration::from_secs(until.saturating_sub(crate::clock::unix_seconds()))).await,
            None => std::future::pending().await,
        }
    }

    /// Waits until the peer's identity is denied.
    async fn shut_out(&self) {
        match &self.peer {
            Some(peer) => until_denied(&self.worker.mesh, peer).await,
            None => std::future::pending().await,
        }
    }

    /// What is asked from here on is answered with the reason; soon after, the connection ends with all that is on it.
    async fn cut(&self, served: impl Future) {
        self.denied.store(true, Ordering::Relaxed);
        let peer = self.peer.as_deref().map(SpiffeId::as_str).unwrap_or_default();
        tracing::info!(peer, "the peer's identity was denied: its connection ends");
        let _ = tokio::time::timeout(LAST_ANSWERS, served).await;
    }

    /// Routes the request, decides with the policy that was found whether it is recorded.
    pub(crate) async fn begin<B>(&self, exchange: &mut Exchange, request: &Request<B>) -> Result<Target, Fault> {
        let routed = exchange.wait(self.route(request, exchange.started)).await;
        exchange.decide(routed.as_ref().map_or(Ratio::DEFAULT, |target| target.policy.sample), request);
        match &routed {
            Err(Fault::Redirected(to)) => exchange.answered_by(&to.route),
            Err(Fault::Preflight(asked)) => exchange.answered_by(&asked.route),
            _ => {}
        }
        let target = routed?;
        exchange.sharing = target.filters.as_ref().and_then(|filters| filters.sharing(request.headers()));
        exchange.routed(&target);
        Ok(target)
    }

    /// Where a request goes: by authority from the application, by port from a peer's sidecar.
    pub(crate) async fn route<B>(&self, request: &Request<B>, now: Time) -> Result<Target, Fault> {
        let mesh = &self.worker.mesh;
        let route = match &self.way {
            Way::Wire => {
                let named = headers::port(request.headers());
                return self
                    .admit_peer(named.ok_or(Fault::BadRequest("fusewire-port is missing or not a port".into()))?);
            }
            Way::Port(port) => return intercept::admit_plain(mesh, *port),
            Way::Service(service) => return mesh.directory.service(mesh, service).await,
            Way::Original(original) => {
                let found = match intercept::unless_away(mesh, mesh.directory.destination(mesh, original.address)).await
                {
                    Err(Fault::NoRoute) => intercept::unless_away(mesh, self.by_authority(request, now)).await,
                    found => found,
                };
                match found {
                    Err(Fault::NoRoute) => {
                        return Ok(Target::service(original.beyond(mesh).ok_or(Fault::NoRoute)?, None));
                    }
                    found => found?,
                }
            }
            Way::Authority => self.by_authority(request, now).await?,
        };
        route.target(&Matched(request), self.worker.random())
    }

    async fn by_authority<B>(&self, request: &Request<B>, now: Time) -> Result<Arc<Route>, Fault> {
        let mesh = &self.worker.mesh;
        let authority =
            headers::authority(request).ok_or(Fault::BadRequest("the request names no authority (Host)".into()))?;
        mesh.directory.authority(mesh, authority, now).await
    }

    fn admit_peer(&self, named: u16) -> Result<Target, Fault> {
        let mesh = &self.worker.mesh;
        let snapshot = mesh.snapshot.load();
        let ports = snapshot.inbound.as_ref().ok_or(Fault::Untold)?;
        let port = ports.get(&named).ok_or(Fault::NoRoute)?;
        let peer = self.peer.as_deref().ok_or(Fault::Denied("no identity".into()))?;
        if self.denied.load(Ordering::Relaxed) {
            return Err(Fault::Denied(format!("{peer} is denied").into()));
        }
        if !port.allow.admits(mesh.settings.workload.trust_domain(), peer) {
            return Err(Fault::Denied(format!("{peer} may not call {}", port.upstream.name).into()));
        }
        Ok(Target::service(&port.upstream, None))
    }

    pub(crate) fn outgoing(
        &self,
        mut request: Request<Incoming>,
        caller: Option<&Caller>,
        target: &Target,
        protocol: &'static str,
    ) -> Result<Outgoing, Fault> {
        let authority = match (request.uri().authority(), request.headers().get(http::header::HOST)) {
            (Some(authority), _) => Ok(authority.clone()),
            (None, Some(host)) => Authority::try_from(host.as_bytes()),
            (None, None) => Authority::try_from(target.upstream.name.as_str()),
        };
        let authority = authority.map_err(|_| Fault::BadRequest("the authority is not host[:port]".into()))?;
        if let Some(address) = self.caller {
            let default = match self.way {
                Way::Original(_) => Some(Forwarded::Keep), // the kernel says that it is on this machine
                Way::Port(_) => Some(Forwarded::Append),   // what stands before us may know better where it came from
                Way::Authority | Way::Service(_) | Way::Wire => None,
            };
            let policy = self.worker.mesh.settings.forwarded.or(default);
            forwarded::apply(request.headers_mut(), policy, address, authority.as_str());
        }
        let idle = target.policy.timeout.idle.is_some();
        let key = target.upstream.hashes_by().and_then(|key| self.key(key, &request));
        let mut outgoing = Outgoing::new(
            request,
            authority,
            caller.map(|c| c.token.clone()),
            (protocol, key),
            idle,
            &self.worker.replay,
        );
        if let Some(filters) = &target.filters {
            outgoing.edit(filters)?;
        }
        Ok(outgoing)
    }

    /// What belongs together with `request`, hashed the same in every sidecar; `None`: it has no such thing.
    fn key<B>(&self, key: &RequestKey, request: &Request<B>) -> Option<u64> {
        match key {
            RequestKey::Header(name) => request.headers().get(name).map(|value| balance::hash(value.as_bytes())),
            RequestKey::Path => Some(balance::hash(request.uri().path().as_bytes())),
            RequestKey::Peer => match (&self.peer, self.caller) {
                (Some(peer), _) => Some(balance::hash(peer.as_str().as_bytes())),
                (None, Some(address)) => Some(balance::hash(address.to_string().as_bytes())),
                (None, None) => None,
            },
        }
    }
}

/// What the model's rules look at.
struct Matched<'a, B>(&'a Request<B>);

impl<B> fusewire_model::route::Request for Matched<'_, B> {
    fn authority(&self) -> &str {
        headers::authority(self.0).unwrap_or_default()
    }
    fn query(&self) -> Option<&str> {
        self.0.uri().query()
    }
    fn path(&self) -> &str {
        self.0.uri().path()
    }
    fn method(&self) -> &str {
        self.0.method().as_str()
    }
    fn any_header(&self, name: &str, wanted: &mut dyn FnMut(&[u8]) -> bool) -> bool {
        if name == "host" {
            return headers::authority(self.0).is_some_and(|host| wanted(host.as_bytes())); // in whichever form it came
        }
        self.0.headers().get_all(name).iter().any(|v| wanted(v.as_bytes()))
    }
}
