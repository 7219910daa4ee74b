//! A connection to an instance: TCP, and to a peer's sidecar TLS 1.3 with both identities proven, to its first frame.
//!
//! In TLS 1.3 the server refuses a client's certificate only after the client believes the handshake done. So the dial
//! is over when the peer's first HTTP/2 frame (its SETTINGS, which it sends unasked) has come: a refusal is then a fault
//! of the dial, with its own reason, and no request was ever at risk.

use super::instance::Instance;
use super::metered::{Gauge, Metered};
use super::pool::{APPLICATION_STREAMS, Found, H1, Lease, WIRE_STREAMS};
use crate::bounds::Room;
use crate::fault::Fault;
use crate::http::body::SendBody;
use crate::http::calm::{Calm, Crowd};
use crate::http::headers::{MAX_FIELDS_H2, WIRE_FIELDS_H2};
use crate::mesh::{Mesh, Worker};
use crate::trust::until_denied;
use bytes::BytesMut;
use fusewire_identity::{ALPN_WIRE, Refusal, expect_alpn, peer_id, peer_not_after, refusal, unchecked_name};
use fusewire_model::policy::Policy;
use fusewire_model::service::Sidecar;
use fusewire_net::Prefixed;
use fusewire_resilience::Member;
use fusewire_telemetry::metrics::{Direction, ServiceMetrics};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::oneshot;

/// HTTP/2 PING on connections between sidecars, so that a blackholed one is found.
const PING_INTERVAL: Duration = Duration::from_secs(10);
const PING_TIMEOUT: Duration = Duration::from_secs(3);
/// Flow control: what one stream may make us hold while its reader is slow.
pub(crate) const STREAM_WINDOW: u32 = 256 << 10;
/// As much as all streams of a connection together ([`crate::http::serve::MAX_STREAMS`]), so that readers that stall can
/// never stall another stream of the same connection.
pub(crate) const CONNECTION_WINDOW: u32 = STREAM_WINDOW * crate::http::serve::MAX_STREAMS;

/// What hyper may hold of an HTTP/1 connection for each direction: more than any head that passes (64 KiB of fields, 60,000
/// bytes of target), and as much of a body as is worth reading at once.
pub(crate) const H1_BUFFER: usize = 256 << 10;

/// The application beside us takes a connection within this time, or its backlog is full: on loopback nothing else takes
/// long.
const APPLICATION_DIAL: Duration = Duration::from_millis(250);

/// A place on an HTTP/2 connection of this worker, dialled if there is none with room.
pub(crate) async fn lease_h2(
    worker: &Worker,
    instance: &Arc<Instance>,
    policy: &Policy,
    metrics: &Arc<ServiceMetrics>,
) -> Result<Lease, Fault> {
    if instance.key.sidecar.as_ref().is_some_and(|peer| worker.mesh.belief.denies(&peer.identity)) {
        return Err(Fault::PeerDenied);
    }
    let pool = instance.pool(worker.index);
    let max_streams = if instance.key.sidecar.is_some() { WIRE_STREAMS } else { APPLICATION_STREAMS };
    let mut _pending = None;
    loop {
        let found = pool.lease_h2(max_streams);
        if _pending.is_none() && !matches!(found, Found::Ready(_)) {
            _pending = Some(instance.bounds.pending(policy)?);
        }
        let mut dial = match found {
            Found::Ready(lease) => return Ok(lease),
            Found::Dialling(dial) => dial,
            Found::Dial(tell, dial) => {
                // a task of its own: the request that began the dial may be cancelled, the others still wait for it
                let (mesh, index) = (worker.mesh.clone(), worker.index);
                let (instance, policy, metrics) = (instance.clone(), policy.clone(), metrics.clone());
                tokio::spawn(async move {
                    let outcome = match room_and_dial_h2(&mesh, &instance, &policy, &metrics).await {
                        Ok((sender, until)) => {
                            instance.node().connected(mesh.clock.now());
                            instance.pool(index).add_h2(sender, until, mesh.clock.now());
                            Ok(())
                        }
                        Err(fault) => {
                            instance.pool(index).dial_failed();
                            Err(fault)
                        }
                    };
                    let _ = tell.send(Some(outcome));
                });
                dial
            }
        };
        let outcome = match dial.wait_for(Option::is_some).await {
            Ok(outcome) => outcome.clone(),
            Err(_) => Some(Err(Fault::Unsent)),
        };
        if let Some(Err(fault)) = outcome {
            return Err(fault);
        }
    }
}

async fn room_and_dial_h2(
    mesh: &Arc<Mesh>,
    instance: &Arc<Instance>,
    policy: &Policy,
    metrics: &ServiceMetrics,
) -> Result<Dialled, Fault> {
    let found = instance.bounds.room(policy, || None::<Infallible>).await?;
    let room = found.unwrap_or_else(|never| match never {});
    metrics.connections.inc();
    let dialled = tokio::time::timeout(policy.timeout.connect, dial_h2(mesh, instance, room)).await;
    dialled.unwrap_or(Err(Fault::ConnectTimeout))
}

/// An HTTP/1.1 connection to a plain instance, idle or new, and whether it served another request before. `timeout.connect`
/// counts from when the dial begins; the wait for a turn is bounded by its own rule ([`super::dials`]).
pub(crate) async fn take_h1(
    worker: &Worker,
    instance: &Arc<Instance>,
    policy: &Policy,
    metrics: &Arc<ServiceMetrics>,
) -> Result<(H1, bool), Fault> {
    let pool = instance.pool(worker.index);
    if let Some(connection) = pool.take_h1() {
        return Ok((connection, true));
    }
    let _pending = instance.bounds.pending(policy)?;
    let room = match instance.bounds.room(policy, || pool.take_h1()).await? {
        Ok(room) => room,
        Err(given_back) => return Ok((given_back, true)),
    };
    let limit = policy.timeout.connect;
    let turn = instance.dials.turn(limit).await.ok_or(Fault::ConnectTimeout)?;
    if let Some(connection) = pool.take_h1() {
        return Ok((connection, true)); // given back while we waited
    }
    metrics.connections.inc();
    let (mesh, instance, index) = (worker.mesh.clone(), instance.clone(), worker.index);
    let (tell, told) = oneshot::channel();
    // a task of its own: a caller that gives up leaves a connection for the next, and not one that was for nothing
    tokio::spawn(async move {
        let dialled = tokio::time::timeout(limit, dial_h1(&mesh, &instance, room)).await;
        let dialled = dialled.unwrap_or(Err(Fault::ConnectTimeout)).map(|(sender, gauge)| {
            let unanswered = Some(instance.dials.succeeded(turn));
            H1 { sender, gauge, unanswered, home: None }
        });
        if let Err(Ok(unclaimed)) = tell.send(dialled) {
            instance.give_h1(index, unclaimed, mesh.clock.now());
        }
    });
    told.await.unwrap_or(Err(Fault::Unsent)).map(|connection| (connection, false))
}

async fn dial_h1(
    mesh: &Arc<Mesh>,
    instance: &Instance,
    room: Room,
) -> Result<(http1::SendRequest<SendBody>, Arc<Gauge>), Fault> {
    let stream = tcp(instance).await?;
    let gauge = Arc::<Gauge>::default();
    let (sender, connection) = http1::Builder::new()
        .max_buf_size(H1_BUFFER)
        .handshake(TokioIo::new(Metered::new(stream, gauge.clone(), Some(room))))
        .await
        .map_err(|_| Fault::ConnectFailed(std::io::ErrorKind::Other))?;
    instance.node().connected(mesh.clock.now());
    tokio::spawn(async move {
        let _ = connection.with_upgrades().await;
    });
    Ok((sender, gauge))
}

/// A TCP connection to the instance's address, for bytes; the caller bounds the time.
pub(crate) async fn tcp(instance: &Instance) -> Result<TcpStream, Fault> {
    let address = instance.dial_address();
    let connect = async || {
        let dialled = match instance.ends() {
            Some(ends) => fusewire_net::connect_from(ends.caller, address).await,
            None => fusewire_net::connect(address).await,
        };
        let stream = dialled.map_err(|e| match e.kind() {
            std::io::ErrorKind::TimedOut => Fault::ConnectTimeout,
            kind => Fault::ConnectFailed(kind),
        })?;
        if let Some(noted) = &instance.noted {
            noted.dialled(&stream, address);
        }
        Ok(stream)
    };
    let Some(gate) = instance.bounds.gate.as_ref().filter(|_| address.ip().is_loopback() || instance.ends().is_some())
    else {
        return connect().await;
    };
    loop {
        match tokio::time::timeout(APPLICATION_DIAL, connect()).await {
            Ok(connected) => return connected,
            Err(_) if gate.has_answered() => return Err(Fault::ConnectTimeout),
            Err(_) => {} // it may be starting, under a crowd: asked again before the kernel would, which waits for a second
        }
    }
}

/// Streams that we reset and still know: what was on its way for them is thrown away. With h2's own 50, answers to more
/// callers that gave up at once count as violations, which end the connection under everybody else.
const MAX_RESET_KNOWN: usize = 4 * crate::http::serve::MAX_STREAMS as usize;
const RESET_KNOWN_FOR: Duration = Duration::from_secs(5);
/// Frames, in the life of a connection, for streams that are no longer known, or that are malformed.
const MAX_VIOLATIONS: usize = 8 * crate::http::serve::MAX_STREAMS as usize;

/// With the end of the peer's certificate, where it has one.
type Dialled = (http2::SendRequest<SendBody>, Option<u64>);

async fn dial_h2(mesh: &Arc<Mesh>, instance: &Instance, room: Room) -> Result<Dialled, Fault> {
    let stream = tcp(instance).await?;
    let Some(peer) = &instance.key.sidecar else {
        let stream = Calm::server(stream, Crowd::One);
        return Ok((handshake(stream, MAX_FIELDS_H2, room, std::future::pending()).await?, None));
    };
    match secure(mesh, peer, stream).await {
        Ok((stream, until)) => {
            let (mesh, peer) = (mesh.clone(), peer.identity.clone());
            let stream = Calm::server(stream, Crowd::Many);
            let cut = async move { until_denied(&mesh, &peer).await };
            Ok((handshake(stream, WIRE_FIELDS_H2, room, cut).await?, Some(until)))
        }
        Err(fault) => {
            let cause = match &fault {
                Fault::WrongIdentity { .. } => "wrong-identity",
                Fault::OwnIdentity(_) => "own-identity",
                Fault::PeerDenied | Fault::Denied(_) => "denied",
                _ => "peer-refused",
            };
            mesh.metrics.tls_refused(Direction::Outbound, cause);
            Err(fault)
        }
    }
}

/// TLS to the peer's first byte; the peer must prove exactly the identity that discovery promised.
async fn secure(
    mesh: &Mesh,
    peer: &Sidecar,
    stream: TcpStream,
) -> Result<(Prefixed<tokio_rustls::client::TlsStream<TcpStream>>, u64), Fault> {
    let tls = mesh.tls().ok_or_else(|| Fault::OwnIdentity("this sidecar has no certificate yet".into()))?;
    let connector = tokio_rustls::TlsConnector::from(tls.client.clone());
    let mut stream = connector.connect(unchecked_name(), stream).await.map_err(|e| tls_fault(&e, peer))?;
    let session = stream.get_ref().1;
    expect_alpn(session, ALPN_WIRE).map_err(|r| Fault::PeerRefused(r.to_string()))?;
    let id = peer_id(session.peer_certificates()).map_err(|e| Fault::PeerRefused(e.to_string()))?;
    let until = peer_not_after(session.peer_certificates()).map_err(|e| Fault::PeerRefused(e.to_string()))?;
    if id != peer.identity {
        return Err(Fault::WrongIdentity { expected: peer.identity.to_string(), got: id.to_string() });
    }
    fusewire_net::tune_peer(stream.get_ref().0);
    let mut first = BytesMut::with_capacity(64);
    match stream.read_buf(&mut first).await {
        Ok(0) => Err(Fault::ConnectFailed(std::io::ErrorKind::UnexpectedEof)),
        Ok(_) => Ok((Prefixed::new(first.freeze(), stream), until)),
        Err(e) => Err(tls_fault(&e, peer)),
    }
}

fn tls_fault(error: &std::io::Error, peer: &Sidecar) -> Fault {
    match refusal(error) {
        None => Fault::ConnectFailed(error.kind()), // a reset or an end within the handshake
        Some(Refusal::WrongIdentity { got, .. }) => {
            Fault::WrongIdentity { expected: peer.identity.to_string(), got: got.to_string() }
        }
        Some(Refusal::Denied) => Fault::PeerDenied,
        Some(Refusal::RefusedByPeer("denied")) => Fault::Denied("the peer was told to shut this workload out".into()),
        Some(refusal) if refusal.by_peer() => {
            Fault::OwnIdentity(format!("the peer refused our certificate: {}", refusal.word()))
        }
        Some(refusal) => Fault::PeerRefused(format!("the peer's certificate was refused: {}", refusal.word())),
    }
}

/// The connection lives until it ends or `cut` does, which takes everything on it along.
async fn handshake<T>(
    stream: T,
    fields: u32,
    room: Room,
    cut: impl Future<Output = ()> + Send + 'static,
) -> Result<http2::SendRequest<SendBody>, Fault>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(256 << 10)
        .max_header_list_size(fields)
        .max_concurrent_reset_streams(MAX_RESET_KNOWN)
        .reset_stream_duration(RESET_KNOWN_FOR)
        .max_local_error_reset_streams(MAX_VIOLATIONS)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|_| Fault::ConnectFailed(std::io::ErrorKind::Other))?;
    tokio::spawn(async move {
        tokio::select! {
            _ = connection => {}
            () = cut => {}
        }
        drop(room);
    });
    Ok(sender)
}
