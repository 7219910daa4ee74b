//! From a TCP connection to one whose peer is known: the TLS handshake, bounded in time and in number.
//!
//! It decides who the peer is (its proven SPIFFE ID, or nobody yet) and how long nobody may stay. It deliberately does
//! not decide what a peer may do: `session` and `sign` do.
//!
//! Invariant: at most [`MAX_HANDSHAKES`] handshakes run at once, none longer than [`HANDSHAKE`]; no peer can delay
//! another's.

use crate::own::Own;
use fusewire_identity::{SpiffeId, peer_id, refusal};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Sleep, sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

const MAX_HANDSHAKES: usize = 256;
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long a connection without a certificate may live: it is good for one `Sign`.
const NOBODY: Duration = Duration::from_secs(30);
/// After an error of `accept` such as "too many open files": time for some to close.
const PAUSE: Duration = Duration::from_millis(100);

/// Who is at the other end; every request of the connection carries it.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    /// `None`: without a certificate, and good only for `Sign` with a join token.
    pub(crate) id: Option<SpiffeId>,
    pub(crate) address: SocketAddr,
}

/// Accepts until dropped; what shook hands goes to `out`.
pub(crate) async fn accept(listener: &TcpListener, own: &Own, out: mpsc::Sender<Connection>) {
    let handshakes = Arc::new(Semaphore::new(MAX_HANDSHAKES));
    loop {
        let Ok(permit) = handshakes.clone().acquire_owned().await else { return };
        let (tcp, address) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted; are there too many open files?");
                sleep(PAUSE).await;
                continue;
            }
        };
        let acceptor = TlsAcceptor::from(own.config());
        let out = out.clone();
        tokio::spawn(async move {
            match timeout(HANDSHAKE, shake(acceptor, tcp, address)).await {
                Ok(Ok(connection)) => {
                    // the receiver is gone only when the server is
                    let _ = out.send(connection).await;
                }
                Ok(Err(error)) => refused(address, &error),
                Err(_) => tracing::info!(%address, "handshake not finished within {HANDSHAKE:?}"),
            }
            drop(permit);
        });
    }
}

async fn shake(acceptor: TlsAcceptor, tcp: TcpStream, address: SocketAddr) -> io::Result<Connection> {
    tcp.set_nodelay(true)?;
    let stream = acceptor.accept(tcp).await?;
    let id = match stream.get_ref().1.peer_certificates() {
        None => None,
        certs => Some(peer_id(certs).map_err(io::Error::other)?),
    };
    let until = if id.is_none() { Some(Box::pin(sleep(NOBODY))) } else { None };
    Ok(Connection { stream, peer: Peer { id, address }, until })
}

fn refused(address: SocketAddr, error: &io::Error) {
    match refusal(error) {
        Some(refusal) => tracing::info!(%address, reason = refusal.word(), "handshake refused: {refusal}"),
        // a probe that connects and leaves
        None => tracing::debug!(%address, %error, "connection ended in the handshake"),
    }
}

pub(crate) struct Connection {
    stream: TlsStream<TcpStream>,
    peer: Peer,
    /// When a peer without identity has to leave.
    until: Option<Pin<Box<Sleep>>>,
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if let Some(until) = &mut self.until
            && until.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
