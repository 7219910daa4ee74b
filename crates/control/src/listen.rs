//! From a TCP connection to one whose peer is known: the TLS handshake, bounded in time and in number.
//!
//! It decides who the peer is (its proven SPIFFE ID, or nobody yet), how long nobody may stay, and that the connections of
//! an identity end when it is denied. It deliberately does not decide what a peer may do: `session` and `sign` do.
//!
//! Invariant: at most [`MAX_HANDSHAKES`] handshakes run at once, none longer than [`HANDSHAKE`]; no peer can delay
//! another's.

use crate::own::Own;
use crate::shared::Shared;
use fusewire_identity::{CONTROL_PATH, SpiffeId, TrustDomain, UnixTime, peer_id, peer_not_after, peer_root, refusal};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

const MAX_HANDSHAKES: usize = 256;
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long a connection without a certificate may live: it is good for one `Sign`.
const NOBODY: Duration = Duration::from_secs(30);
/// How long the connection of an identity that was just denied may still carry why.
const LAST_WORDS: Duration = Duration::from_millis(500);
/// After an error of `accept` such as "too many open files": time for some to close.
const PAUSE: Duration = Duration::from_millis(100);

/// Who is at the other end; every request of the connection carries it.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    /// `None`: without a certificate, and good only for `Sign` with a join token.
    pub(crate) id: Option<SpiffeId>,
    pub(crate) address: SocketAddr,
    /// Hash of the root that its certificate leads to.
    pub(crate) root: Option<String>,
    /// When its certificate ends, in seconds since 1970; 0 without one.
    pub(crate) not_after: u64,
}

/// What an identity may ask of the mesh itself; each may also do what those before it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Role {
    /// A workload, or nobody yet.
    None,
    /// Sees.
    Viewer,
    /// Changes configuration.
    Operator,
    /// Handles trust and tokens.
    Admin,
}

impl Role {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }

    /// By the identity's path: `fusewire/<role>/<name>`. One of another trust domain has none, whatever its path.
    pub(crate) fn of(id: &SpiffeId, domain: &TrustDomain) -> Self {
        if id.trust_domain() != domain.as_str() {
            return Self::None;
        }
        let mut parts = id.path().split('/');
        match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some("fusewire"), Some("viewer"), Some(_), None) => Self::Viewer,
            (Some("fusewire"), Some("operator"), Some(_), None) => Self::Operator,
            (Some("fusewire"), Some("admin"), Some(_), None) => Self::Admin,
            // another replica, which asks on behalf of a viewer
            _ if id.path() == CONTROL_PATH => Self::Viewer,
            _ => Self::None,
        }
    }
}

impl Peer {
    /// An identity of another trust domain has no role, whatever its path.
    pub(crate) fn role(&self, domain: &TrustDomain) -> Role {
        self.id.as_ref().map_or(Role::None, |id| Role::of(id, domain))
    }
}

/// Accepts until dropped; what shook hands goes to `out`.
pub(crate) async fn accept(listener: &TcpListener, own: &Own, shared: &Arc<Shared>, out: mpsc::Sender<Connection>) {
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
        let (out, shared) = (out.clone(), shared.clone());
        tokio::spawn(async move {
            match timeout(HANDSHAKE, shake(acceptor, tcp, address, &shared)).await {
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

async fn shake(acceptor: TlsAcceptor, tcp: TcpStream, address: SocketAddr, shared: &Shared) -> io::Result<Connection> {
    tcp.set_nodelay(true)?;
    let stream = acceptor.accept(tcp).await?;
    let certificates = stream.get_ref().1.peer_certificates();
    let id = match certificates {
        None => None,
        certs => Some(peer_id(certs).map_err(io::Error::other)?),
    };
    let root = peer_root(certificates, shared.trust.now().authority.bundle(), UnixTime::now());
    let not_after = if id.is_some() { peer_not_after(certificates).map_err(io::Error::other)? } else { 0 };
    let until = end(id.clone(), not_after, shared);
    Ok(Connection { stream, peer: Peer { id, address, root, not_after }, until })
}

/// When a connection has to end, whatever is on it.
fn end(id: Option<SpiffeId>, not_after: u64, shared: &Shared) -> Pin<Box<dyn Future<Output = ()> + Send>> {
    let mut trust = shared.trust.subscribe();
    Box::pin(async move {
        let Some(id) = id else { return sleep(NOBODY).await };
        // whoever is denied already is let in to be told so, and to do nothing else
        let told = if trust.borrow_and_update().denied().contains(&id) { NOBODY } else { LAST_WORDS };
        // a proof holds as long as its certificate; whoever renewed it comes again with the new one
        let left = Duration::from_secs(not_after.saturating_sub(UnixTime::now().as_secs()));
        tokio::select! {
            denied = async { trust.wait_for(|trust| trust.denied().contains(&id)).await.is_ok() } => {
                if !denied {
                    std::future::pending().await
                }
                sleep(told).await;
            }
            () = sleep(left) => {}
        }
    })
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
    /// When a peer without identity, or one that was denied, has to leave.
    until: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.until.as_mut().poll(cx).is_ready() {
            // it must not be asked again
            self.until = Box::pin(std::future::ready(()));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_is_the_whole_path_of_an_identity_of_this_mesh() {
        let domain = TrustDomain::parse("shop.local").unwrap();
        let role = |id: &str| {
            let id = Some(SpiffeId::parse(id).unwrap());
            Peer { id, address: SocketAddr::from(([127, 0, 0, 1], 1)), root: None, not_after: 0 }.role(&domain)
        };
        assert_eq!(role("spiffe://shop.local/fusewire/viewer/ada"), Role::Viewer);
        assert_eq!(role("spiffe://shop.local/fusewire/operator/ada"), Role::Operator);
        assert_eq!(role("spiffe://shop.local/fusewire/admin/ada"), Role::Admin);
        assert_eq!(role("spiffe://shop.local/fusewire/control"), Role::Viewer);
        for none in [
            "fusewire/admin",
            "fusewire/admin/a/b",
            "fusewire/control/a",
            "fusewire/root/a",
            "x/fusewire/admin/a",
            "web",
        ] {
            assert_eq!(role(&format!("spiffe://shop.local/{none}")), Role::None, "{none}");
        }
        assert_eq!(role("spiffe://partner.example/fusewire/admin/ada"), Role::None);
        assert_eq!(role("spiffe://partner.example/fusewire/control"), Role::None);
        let nobody = Peer { id: None, address: SocketAddr::from(([127, 0, 0, 1], 1)), root: None, not_after: 0 };
        assert_eq!(nobody.role(&domain), Role::None);
        assert!(Role::None < Role::Viewer && Role::Viewer < Role::Operator && Role::Operator < Role::Admin);
    }
}
