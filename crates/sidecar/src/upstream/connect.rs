//! A connection to an instance: TCP, and to a peer's sidecar TLS 1.3 with both identities proven, to its first frame.
//!
//! In TLS 1.3 the server refuses a client's certificate only after the client believes the handshake done. So the dial
//! is over when the peer's first HTTP/2 frame (its SETTINGS, which it sends unasked) has come: a refusal is then a fault
//! of the dial, with its own reason, and no request was ever at risk.

use super::instance::Instance;
use super::pool::{APPLICATION_STREAMS, Found, H1, Lease, WIRE_STREAMS};
use crate::fault::Fault;
use crate::http::body::SendBody;
use crate::mesh::{Mesh, Worker};
use bytes::BytesMut;
use fusewire_identity::{ALPN_WIRE, Refusal, expect_alpn, peer_id, refusal, unchecked_name};
use fusewire_model::policy::Policy;
use fusewire_model::service::Sidecar;
use fusewire_net::Prefixed;
use fusewire_resilience::Member;
use fusewire_telemetry::metrics::{Direction, ServiceMetrics};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::net::TcpStream;

/// HTTP/2 PING on connections between sidecars, so that a blackholed one is found.
const PING_INTERVAL: Duration = Duration::from_secs(10);
const PING_TIMEOUT: Duration = Duration::from_secs(3);
/// Flow control: what one stream may make us hold while its reader is slow.
pub(crate) const STREAM_WINDOW: u32 = 256 << 10;
/// As much as all streams of a connection together ([`crate::http::serve::MAX_STREAMS`]), so that readers that stall can
/// never stall another stream of the same connection.
pub(crate) const CONNECTION_WINDOW: u32 = STREAM_WINDOW * crate::http::serve::MAX_STREAMS;

/// A place on an HTTP/2 connection of this worker, dialled if there is none with room.
pub(crate) async fn lease_h2(
    worker: &Worker,
    instance: &Arc<Instance>,
    policy: &Policy,
    metrics: &Arc<ServiceMetrics>,
) -> Result<Lease, Fault> {
    let pool = instance.pool(worker.index);
    let max_streams = if instance.key.sidecar.is_some() { WIRE_STREAMS } else { APPLICATION_STREAMS };
    loop {
        let mut dial = match pool.lease_h2(max_streams) {
            Found::Ready(lease) => return Ok(lease),
            Found::Dialling(dial) => dial,
            Found::Dial(tell, dial) => {
                // a task of its own: the request that began the dial may be cancelled, the others still wait for it
                let (mesh, index) = (worker.mesh.clone(), worker.index);
                let (instance, timeout) = (instance.clone(), policy.timeout.connect);
                metrics.connections.inc();
                tokio::spawn(async move {
                    let dialled = tokio::time::timeout(timeout, dial_h2(&mesh, &instance)).await;
                    let outcome = match dialled.unwrap_or(Err(Fault::ConnectTimeout)) {
                        Ok(sender) => {
                            instance.node().connected(mesh.clock.now());
                            instance.pool(index).add_h2(sender, mesh.clock.now());
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

/// An HTTP/1.1 connection to a plain instance, idle or new, and whether it served another request before.
pub(crate) async fn take_h1(
    worker: &Worker,
    instance: &Arc<Instance>,
    policy: &Policy,
    metrics: &Arc<ServiceMetrics>,
) -> Result<(H1, bool), Fault> {
    if let Some(connection) = instance.pool(worker.index).take_h1() {
        return Ok((connection, true));
    }
    metrics.connections.inc();
    let dial = async {
        let tcp = tcp(instance).await?;
        let (sender, connection) =
            http1::handshake(TokioIo::new(tcp)).await.map_err(|_| Fault::ConnectFailed(std::io::ErrorKind::Other))?;
        instance.node().connected(worker.mesh.clock.now());
        tokio::spawn(async move {
            let _ = connection.with_upgrades().await;
        });
        Ok((sender, false))
    };
    tokio::time::timeout(policy.timeout.connect, dial).await.unwrap_or(Err(Fault::ConnectTimeout))
}

/// A TCP connection to the instance's address, for bytes.
pub(crate) async fn tcp(instance: &Instance) -> Result<TcpStream, Fault> {
    fusewire_net::connect(instance.dial_address()).await.map_err(|e| match e.kind() {
        std::io::ErrorKind::TimedOut => Fault::ConnectTimeout,
        kind => Fault::ConnectFailed(kind),
    })
}

async fn dial_h2(mesh: &Arc<Mesh>, instance: &Instance) -> Result<http2::SendRequest<SendBody>, Fault> {
    let stream = tcp(instance).await?;
    let Some(peer) = &instance.key.sidecar else {
        return handshake(stream).await;
    };
    match secure(mesh, peer, stream).await {
        Ok(stream) => handshake(stream).await,
        Err(fault) => {
            let cause = match &fault {
                Fault::WrongIdentity { .. } => "wrong-identity",
                Fault::OwnIdentity(_) => "own-identity",
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
) -> Result<Prefixed<tokio_rustls::client::TlsStream<TcpStream>>, Fault> {
    let tls = mesh.tls().ok_or_else(|| Fault::OwnIdentity("this sidecar has no certificate yet".into()))?;
    let connector = tokio_rustls::TlsConnector::from(tls.client.clone());
    let mut stream = connector.connect(unchecked_name(), stream).await.map_err(|e| tls_fault(&e, peer))?;
    let session = stream.get_ref().1;
    expect_alpn(session, ALPN_WIRE).map_err(|r| Fault::PeerRefused(r.to_string()))?;
    let id = peer_id(session.peer_certificates()).map_err(|e| Fault::PeerRefused(e.to_string()))?;
    if id != peer.identity {
        return Err(Fault::WrongIdentity { expected: peer.identity.to_string(), got: id.to_string() });
    }
    let mut first = BytesMut::with_capacity(64);
    match stream.read_buf(&mut first).await {
        Ok(0) => Err(Fault::ConnectFailed(std::io::ErrorKind::UnexpectedEof)),
        Ok(_) => Ok(Prefixed::new(first.freeze(), stream)),
        Err(e) => Err(tls_fault(&e, peer)),
    }
}

fn tls_fault(error: &std::io::Error, peer: &Sidecar) -> Fault {
    match refusal(error) {
        None => Fault::ConnectFailed(error.kind()), // a reset or an end within the handshake
        Some(Refusal::WrongIdentity { got, .. }) => {
            Fault::WrongIdentity { expected: peer.identity.to_string(), got: got.to_string() }
        }
        Some(refusal) if refusal.by_peer() => {
            Fault::OwnIdentity(format!("the peer refused our certificate: {}", refusal.word()))
        }
        Some(refusal) => Fault::PeerRefused(format!("the peer's certificate was refused: {}", refusal.word())),
    }
}

async fn handshake<T>(stream: T) -> Result<http2::SendRequest<SendBody>, Fault>
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
        .max_header_list_size(crate::http::headers::MAX_FIELDS_H2)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|_| Fault::ConnectFailed(std::io::ErrorKind::Other))?;
    tokio::spawn(async move {
        let _ = connection.await;
    });
    Ok(sender)
}
