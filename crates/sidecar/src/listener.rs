//! Taking connections: outbound from the application beside us, inbound from peers' sidecars.
//!
//! Every worker accepts from the same listening sockets. What cannot be accepted now is tried again; what does not
//! prove itself is refused with a counted and logged reason.

use crate::doors::Doors;
use crate::drain::{Drain, SharedGuard};
use crate::http::reply;
use crate::http::serve::{Connection, Http, Way, serve};
use crate::mesh::{Mesh, Worker};
use crate::tcp;
use crate::upstream::kept::Ends;
use crate::upstream::tunnel::Io;
use fusewire_identity::{ALPN_WIRE, Refusal, expect_alpn, peer_id, peer_not_after, refusal};
use fusewire_model::ServiceName;
use fusewire_model::service::Protocol;
use fusewire_net::{Detected, detect};
use fusewire_telemetry::Reason;
use fusewire_telemetry::metrics::{Direction, Ended};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, timeout_at};

/// How long a new connection may take to say what it speaks, and then to prove itself.
const FIRST_BYTES: Duration = Duration::from_secs(10);
const HANDSHAKE: Duration = Duration::from_secs(10);
/// The type of a TLS record that begins a handshake (RFC 8446, section 5.1).
pub(crate) const TLS_HANDSHAKE: u8 = 0x16;
/// How long a caller may take to read that there is no room for it.
const REFUSAL: Duration = Duration::from_secs(2);
/// After an accept that failed (out of descriptors): time for some to close.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// One outbound listener as every worker knows it.
#[derive(Clone)]
pub(crate) struct Outbound {
    pub(crate) service: Option<ServiceName>,
    pub(crate) protocol: Protocol,
    pub(crate) doors: Arc<Doors>,
}

/// Calls `taken` for every connection, and `full` for those past the limit, until the drain begins; then the socket is
/// closed. One past the limit is reset: many protocols take an end for an answer.
pub(crate) async fn accept(
    listener: TcpListener,
    doors: &Arc<Doors>,
    drain: &Drain,
    mut taken: impl FnMut(TcpStream, SocketAddr, SharedGuard),
    mut full: impl FnMut(TcpStream),
) {
    loop {
        let accepted = tokio::select! {
            biased;
            () = drain.begun() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                fusewire_net::tune(&stream);
                match doors.enter() {
                    Some(place) => taken(stream, peer, Arc::new(drain.guard(place))),
                    None => {
                        fusewire_net::reset_on_close(&stream);
                        full(stream);
                    }
                }
            }
            Err(e) => {
                tracing::warn!("a connection could not be accepted: {e}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

pub(crate) async fn outbound(worker: Arc<Worker>, listener: TcpListener, to: Outbound) {
    let mesh = worker.mesh.clone();
    let is_http = to.protocol != Protocol::Opaque;
    let doors = to.doors.clone();
    let taken = |stream, peer: SocketAddr, guard| {
        let (worker, to) = (worker.clone(), to.clone());
        tokio::spawn(async move {
            match (to.protocol, &to.service) {
                (Protocol::Opaque, Some(service)) => {
                    let target = worker.mesh.directory.service(&worker.mesh, service);
                    tcp::carry(&worker, (Direction::Outbound, None), stream, target, guard).await;
                }
                _ => http(&worker, stream, peer, &to, guard).await,
            }
        });
    };
    let full = |stream| {
        let unrouted = mesh.unrouted(Direction::Outbound);
        unrouted.reason(Reason::Overloaded);
        if let Some(refusing) = doors.refuse().filter(|_| is_http) {
            let status = Some(Reason::Overloaded.status_code());
            unrouted.requests.ended(&Ended { took: Duration::ZERO, status, grpc_status: None, trace_id: None });
            tokio::spawn(async move {
                say_full(stream).await;
                drop(refusing);
            });
        }
    };
    accept(listener, &doors, &mesh.outbound_drain, taken, full).await;
}

/// The refusal, and a moment for the caller to read it: a close with its request unread would be a reset.
async fn say_full(mut stream: TcpStream) {
    fusewire_net::end_on_close(&stream);
    let said = async {
        stream.write_all(reply::FULL).await?;
        stream.shutdown().await?;
        let mut unread = [0; 1024];
        while stream.read(&mut unread).await? > 0 {}
        std::io::Result::Ok(())
    };
    let _ = tokio::time::timeout(REFUSAL, said).await;
}

async fn http(worker: &Arc<Worker>, stream: TcpStream, peer: SocketAddr, to: &Outbound, guard: SharedGuard) {
    let drain = worker.mesh.outbound_drain.clone();
    let detected = tokio::select! {
        biased; // bytes that are there are a request to be answered
        detected = detect(stream, FIRST_BYTES) => detected,
        () = drain.hurried() => return, // nothing was asked yet
    };
    let Ok((detected, io)) = detected else { return };
    let http = match detected {
        Detected::Http2 => Http::Two,
        Detected::Http1 => Http::One,
        // TLS from the application itself is not ours to read; nothing else speaks first by silence
        Detected::Tls | Detected::Nothing | Detected::Silent => return,
    };
    let way = to.service.clone().map_or(Way::Authority, Way::Service);
    from_application(worker, io, http, (way, peer), guard, &to.doors).await;
}

/// A connection of the application's that speaks HTTP.
pub(crate) async fn from_application(
    worker: &Arc<Worker>,
    io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    http: Http,
    (way, peer): (Way, SocketAddr),
    guard: SharedGuard,
    doors: &Arc<Doors>,
) {
    let _open = Counted::new(&worker.mesh);
    let connection = Connection {
        worker: worker.clone(),
        direction: Direction::Outbound,
        peer: None,
        way,
        guard,
        until: None,
        denied: AtomicBool::new(false),
        caller: Some(peer.ip()),
        ends: None,
        doors: doors.clone(),
    };
    serve(io, http, Arc::new(connection)).await;
}

pub(crate) async fn inbound(worker: Arc<Worker>, listener: TcpListener, doors: Arc<Doors>) {
    let mesh = worker.mesh.clone();
    let taken = |stream, peer, guard| {
        let (worker, doors) = (worker.clone(), doors.clone());
        tokio::spawn(async move { from_peer(&worker, stream, peer, guard, &doors).await });
    };
    // without TLS there is nothing to say; the peer's sidecar goes elsewhere
    let full = |_| mesh.metrics.tls_refused(Direction::Inbound, "full");
    accept(listener, &doors, &mesh.inbound_drain, taken, full).await;
}

/// A connection on which a peer's sidecar has yet to prove who it is.
async fn from_peer(
    worker: &Arc<Worker>,
    mut stream: TcpStream,
    peer: SocketAddr,
    guard: SharedGuard,
    doors: &Arc<Doors>,
) {
    let mut first = [0u8];
    let until = Instant::now() + HANDSHAKE;
    let spoken = tokio::select! {
        biased;
        spoken = timeout_at(until, stream.peek(&mut first)) => spoken,
        () = worker.mesh.inbound_drain.hurried() => return, // nothing was asked yet
    };
    match spoken {
        Ok(Ok(1..)) if first[0] == TLS_HANDSHAKE => {
            let ends = Ends::of(&worker.mesh, peer, stream.local_addr().ok());
            secured(worker, stream, (peer, ends, until), guard, doors).await;
        }
        Ok(Ok(1..)) => {
            // a client that speaks HTTP in clear deserves an answer it can read
            let _ = stream.write_all(reply::NOT_TLS).await;
            let _ = stream.shutdown().await;
            refused(&worker.mesh, peer, &Refusal::NotTls);
        }
        _ => {} // it went away, or said nothing
    }
}

/// The same, where it has begun TLS, which must have ended by `until`.
pub(crate) async fn secured(
    worker: &Arc<Worker>,
    io: impl Io + 'static,
    (peer, ends, until): (SocketAddr, Option<Ends>, Instant),
    guard: SharedGuard,
    doors: &Arc<Doors>,
) {
    let proven = tokio::select! {
        biased;
        proven = timeout_at(until, prove(&worker.mesh, io)) => proven,
        () = worker.mesh.inbound_drain.hurried() => return, // nothing was asked yet
    };
    let (io, id, until) = match proven {
        Ok(Ok(proven)) => proven,
        Ok(Err(Some(refusal))) => return refused(&worker.mesh, peer, &refusal),
        Ok(Err(None)) | Err(_) => return, // it went away, or said nothing
    };
    let _open = Counted::new(&worker.mesh);
    let connection = Connection {
        worker: worker.clone(),
        direction: Direction::Inbound,
        peer: Some(Arc::new(id)),
        way: Way::Wire,
        guard,
        until: Some(until),
        denied: AtomicBool::new(false),
        caller: None,
        ends,
        doors: doors.clone(),
    };
    serve(io, Http::Two, Arc::new(connection)).await;
}

/// With the end of the proof, in Unix seconds.
type Proven<T> = (tokio_rustls::server::TlsStream<T>, fusewire_identity::SpiffeId, u64);

/// The TLS handshake and the peer's identity; `None` where the peer merely went away.
async fn prove<T: Io>(mesh: &Mesh, stream: T) -> Result<Proven<T>, Option<Refusal>> {
    let tls = mesh.tls().ok_or_else(|| Some(Refusal::Handshake("this sidecar has no certificate yet".into())))?;
    let acceptor = tokio_rustls::TlsAcceptor::from(tls.server.clone());
    let stream = acceptor.accept(stream).await.map_err(|e| refusal(&e))?;
    let session = stream.get_ref().1;
    expect_alpn(session, ALPN_WIRE).map_err(Some)?;
    let id = peer_id(session.peer_certificates()).map_err(|_| Some(Refusal::NoSpiffeId))?;
    let until = peer_not_after(session.peer_certificates()).map_err(|_| Some(Refusal::NoSpiffeId))?;
    let _ = stream.get_ref().0.socket().map(fusewire_net::tune_peer);
    Ok((stream, id, until))
}

/// Counted always, logged at most ten times a second: whoever knocks must not fill the disk.
fn refused(mesh: &Mesh, peer: SocketAddr, refusal: &Refusal) {
    static NEXT_LOG: AtomicU64 = AtomicU64::new(0);
    mesh.metrics.tls_refused(Direction::Inbound, refusal.word());
    let now = mesh.clock.now().0;
    let due = NEXT_LOG.load(Ordering::Relaxed);
    let next = now + 100_000_000;
    if now >= due && NEXT_LOG.compare_exchange(due, next, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
        tracing::warn!(%peer, cause = refusal.word(), "connection refused: {refusal}");
    }
}

/// One open connection in the metrics.
pub(crate) struct Counted<'a>(&'a Mesh);

impl<'a> Counted<'a> {
    pub(crate) fn new(mesh: &'a Mesh) -> Self {
        mesh.metrics.downstream_connections.inc();
        Self(mesh)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.metrics.downstream_connections.dec();
    }
}
