//! Names that exist only in the mesh, for applications that ask their resolver before they call.
//!
//! Port 53 of the workload is redirected here, or the application's resolver is told this address; `resolv.conf` stays as
//! it is. Decides who answers: what the resolver upstream knows is its to answer, byte for byte. Only where that has no
//! such name, or does not answer for now, and the mesh has it, the answer is a virtual address ([`book`]), which the
//! outbound listener knows again. It deliberately does not cache what upstream said, validates nothing, and listens to the workload
//! alone: it is no resolver for others.
//!
//! Invariants: at most [`MAX_QUESTIONS`] are being answered at once and [`MAX_CONNECTIONS`] TCP connections are open, each
//! for a bounded time; no request waits for any of this.

mod answer;
mod book;
mod forward;

use crate::fault::Fault;
use crate::intercept;
use crate::mesh::Mesh;
use crate::sockets::Inherited;
use answer::{Asked, Verdict};
pub(crate) use book::{Book, FILE, is_virtual};
use forward::Way;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;

/// Questions over UDP that are being answered; beyond it one is not heard, and resolvers ask again.
const MAX_QUESTIONS: usize = 512;
/// Connections over TCP; beyond it they wait to be accepted.
const MAX_CONNECTIONS: usize = 64;
/// A connection on which nothing is asked (RFC 7766, section 6.2.3: seconds).
const IDLE: Duration = Duration::from_secs(10);
/// For the control plane's word on a name. Resolvers ask again after five seconds.
const PATIENCE: Duration = Duration::from_secs(3);
/// After a failed accept.
/// The setting that names its listeners.
pub(crate) const FIELD: &str = "dns.listen";
const PAUSE: Duration = Duration::from_millis(50);
/// The largest message that EDNS speaks of.
const MAX_MESSAGE: usize = 65_535;

/// Both sockets, on one port.
pub(crate) struct Sockets {
    udp: UdpSocket,
    tcp: TcpListener,
}

impl Sockets {
    /// Port 0 is any that is free for both.
    pub(crate) async fn bind(address: SocketAddr, inherited: &mut Inherited) -> io::Result<Self> {
        let udp = inherited.take("udp", FIELD, address).map(|udp| UdpSocket::from_std(udp.into())).transpose()?;
        let tcp = inherited.take("tcp", FIELD, address).map(|tcp| TcpListener::from_std(tcp.into())).transpose()?;
        match (udp, tcp) {
            (Some(udp), Some(tcp)) => return Ok(Self { udp, tcp }),
            (Some(udp), None) => return Ok(Self { tcp: TcpListener::bind(udp.local_addr()?).await?, udp }),
            (None, Some(tcp)) => return Ok(Self { udp: UdpSocket::bind(tcp.local_addr()?).await?, tcp }),
            (None, None) => {}
        }
        let mut tries = 0..16;
        loop {
            let tcp = TcpListener::bind(address).await?;
            match UdpSocket::bind(tcp.local_addr()?).await {
                Ok(udp) => return Ok(Self { udp, tcp }),
                // a port that is free for one may not be for the other
                Err(e) if e.kind() == io::ErrorKind::AddrInUse && address.port() == 0 && tries.next().is_some() => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// By the names of their transports.
    pub(crate) fn both(&self) -> [(&'static str, BorrowedFd<'_>); 2] {
        [("udp", self.udp.as_fd()), ("tcp", self.tcp.as_fd())]
    }

    pub(crate) fn address(&self) -> io::Result<SocketAddr> {
        self.udp.local_addr()
    }
}

/// Runs until it is dropped.
pub(crate) async fn run(mesh: Arc<Mesh>, sockets: Vec<Sockets>) {
    let own: Vec<SocketAddr> = sockets.iter().filter_map(|s| s.address().ok()).collect();
    let upstream = match mesh.settings.dns.as_ref().map(|dns| dns.upstream.clone()) {
        Some(named) if !named.is_empty() => named,
        _ => forward::of_this_host(),
    };
    let upstream: Arc<[SocketAddr]> = upstream.into_iter().filter(|server| !own.contains(server)).collect();
    if upstream.is_empty() {
        tracing::warn!("sidecar.dns.upstream: no resolver is known, so names outside the mesh are not found");
    }
    let all = sockets.into_iter().map(|Sockets { udp, tcp }| {
        let (mesh, upstream) = (&mesh, &upstream);
        async move { tokio::join!(over_udp(mesh, Arc::new(udp), upstream), over_tcp(mesh, tcp, upstream)) }
    });
    futures_util::future::join_all(all).await;
}

async fn over_udp(mesh: &Arc<Mesh>, socket: Arc<UdpSocket>, upstream: &Arc<[SocketAddr]>) {
    let room = Arc::new(Semaphore::new(MAX_QUESTIONS));
    let mut buffer = vec![0; MAX_MESSAGE];
    loop {
        let Ok((length, from)) = socket.recv_from(&mut buffer).await else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        let Ok(place) = room.clone().try_acquire_owned() else { continue };
        let (mesh, socket, upstream) = (mesh.clone(), socket.clone(), upstream.clone());
        let question = buffer[..length].to_vec();
        tokio::spawn(async move {
            if let Some(answer) = answered(&mesh, &question, Way::Udp, &upstream).await {
                let _ = socket.send_to(&answer, from).await;
            }
            drop(place);
        });
    }
}

async fn over_tcp(mesh: &Arc<Mesh>, listener: TcpListener, upstream: &Arc<[SocketAddr]>) {
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(place) = room.clone().acquire_owned().await else { return };
        let Ok((mut stream, _)) = listener.accept().await else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        let (mesh, upstream) = (mesh.clone(), upstream.clone());
        tokio::spawn(async move {
            while let Ok(Ok(question)) = tokio::time::timeout(IDLE, read(&mut stream)).await {
                let Some(answer) = answered(&mesh, &question, Way::Tcp, &upstream).await else { break };
                if !matches!(tokio::time::timeout(IDLE, write(&mut stream, &answer)).await, Ok(Ok(()))) {
                    break;
                }
            }
            drop(place);
        });
    }
}

/// RFC 1035, section 4.2.2: two bytes of length before each message.
async fn read(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let length = stream.read_u16().await?;
    let mut message = vec![0; length.into()];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

async fn write(stream: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    let length = u16::try_from(message.len()).map_err(|_| io::ErrorKind::InvalidData)?;
    let mut framed = Vec::with_capacity(2 + message.len());
    framed.extend_from_slice(&length.to_be_bytes());
    framed.extend_from_slice(message);
    stream.write_all(&framed).await
}

/// `None`: what came is no question, and gets no answer.
async fn answered(mesh: &Mesh, question: &[u8], way: Way, upstream: &[SocketAddr]) -> Option<Vec<u8>> {
    let asked = Asked::read(question)?;
    let name = match &asked {
        Asked::Address { name, .. } => Some(name.as_str()),
        Asked::Other => None,
    };
    let now = mesh.clock.now();
    // what upstream has denied a moment ago is not asked for again
    if let Some(name) = name.filter(|name| mesh.book.is_denied(name, now))
        && let Known::Yes = known(mesh, name).await
    {
        return Some(own(mesh, &asked, question, name));
    }
    let said = forward::ask(question, way, upstream).await;
    let verdict = said.as_deref().map_or(Verdict::Failed, Verdict::of);
    if let Some(name) = name.filter(|_| verdict != Verdict::Known) {
        match known(mesh, name).await {
            Known::Yes => {
                let answer = own(mesh, &asked, question, name);
                if verdict == Verdict::NoSuchName {
                    mesh.book.deny(name, mesh.clock.now());
                }
                return Some(answer);
            }
            // it may exist: to say that it does not would be kept by resolvers. But where nobody can be asked, names outside
            // the mesh must go on as they would without it
            Known::Unsaid if !intercept::is_away(mesh) => {
                mesh.metrics.dns("failed");
                return Some(answer::failed(question));
            }
            Known::Unsaid | Known::No => {}
        }
    }
    mesh.metrics.dns(if said.is_some() { "forwarded" } else { "failed" });
    Some(said.unwrap_or_else(|| answer::failed(question)))
}

/// Whether the mesh has a name.
enum Known {
    Yes,
    No,
    Unsaid,
}

async fn known(mesh: &Mesh, name: &str) -> Known {
    let patience = if intercept::is_away(mesh) { Duration::ZERO } else { PATIENCE };
    match tokio::time::timeout(patience, mesh.directory.authority(mesh, name, mesh.clock.now())).await {
        Ok(Ok(_)) => Known::Yes,
        Ok(Err(Fault::DiscoveryTimeout)) | Err(_) => Known::Unsaid,
        Ok(Err(_)) => Known::No,
    }
}

/// The mesh's own answer.
fn own(mesh: &Mesh, asked: &Asked, question: &[u8], name: &str) -> Vec<u8> {
    mesh.metrics.dns("mesh");
    match mesh.book.address(name) {
        Some(address) => asked.answer(question, address),
        None => answer::failed(question),
    }
}
