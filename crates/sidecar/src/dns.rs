//! Names that exist only in the mesh, for applications that ask their resolver before they call.
//!
//! Port 53 of the workload is redirected here, or the application's resolver is told this address; `resolv.conf` stays as
//! it is. Decides who answers: what the resolver upstream knows is its to answer, byte for byte, and what is no ordinary question
//! goes there as it is. Only where that has no such name, or does not answer for now, and the mesh has it, the answer is a virtual
//! address ([`book`]), which the outbound listener knows again. Upstream is asked first, since a name of the mesh must not hide one
//! that exists; where it is silent, every resolver is asked at once whether it knows a name that the mesh has, and the mesh
//! answers after a second: for a moment only, while it is still heard what upstream says. It deliberately does not cache what
//! upstream said, validates nothing, and listens to the workload alone: it is no resolver for others.
//!
//! Invariants: at most [`MAX_QUESTIONS`] are being answered at once and [`MAX_CONNECTIONS`] TCP connections are open, each
//! for a bounded time; no request waits for any of this.

mod answer;
mod book;
mod forward;
mod relay;

use crate::fault::Fault;
use crate::intercept;
use crate::mesh::Mesh;
use crate::sockets::Inherited;
use answer::{Asked, BRIEF, TTL, Verdict};
use book::Outside;
pub(crate) use book::{Book, FILE, is_virtual};
use forward::Way;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Questions that are being answered; beyond it one over UDP is not heard, and resolvers ask again.
const MAX_QUESTIONS: u32 = 512;
/// Connections over TCP; beyond it they wait to be accepted.
const MAX_CONNECTIONS: usize = 64;
/// A connection on which nothing is asked (RFC 7766, section 6.2.3: seconds).
const IDLE: Duration = Duration::from_secs(10);
/// For the control plane's word on a name. Resolvers ask again after five seconds.
const PATIENCE: Duration = Duration::from_secs(3);
/// After so long without an answer the mesh is asked, and if it has the name, after as long again it is answered.
const SILENCE: Duration = Duration::from_millis(500);
/// The setting that names its listeners.
pub(crate) const FIELD: &str = "dns.listen";
/// After a failed accept.
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

/// The places of all listeners.
pub(crate) struct Places {
    questions: Arc<Semaphore>,
    connections: Arc<Semaphore>,
}

impl Default for Places {
    fn default() -> Self {
        let places = |number| Arc::new(Semaphore::new(number));
        Self { questions: places(MAX_QUESTIONS as usize), connections: places(MAX_CONNECTIONS) }
    }
}

impl Places {
    /// Resolves once every question has its answer. None is heard from here on.
    pub(crate) async fn answered(&self) {
        let _ = self.questions.acquire_many(MAX_QUESTIONS).await;
    }
}

/// One question, in its place for as long as anybody is asked.
struct Question {
    message: Vec<u8>,
    way: Way,
    upstream: Arc<[SocketAddr]>,
    _place: OwnedSemaphorePermit,
}

impl Question {
    async fn ask(self: Arc<Self>) -> Option<Vec<u8>> {
        forward::ask(&self.message, self.way, &self.upstream).await
    }
}

/// Runs until it is dropped; what was asked until then is still answered.
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
    let mut buffer = vec![0; MAX_MESSAGE];
    loop {
        let Ok((length, from)) = socket.recv_from(&mut buffer).await else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        let Ok(place) = mesh.names.questions.clone().try_acquire_owned() else { continue };
        let (mesh, socket, upstream) = (mesh.clone(), socket.clone(), upstream.clone());
        let question = Question { message: buffer[..length].to_vec(), way: Way::Udp, upstream, _place: place };
        tokio::spawn(async move {
            let question = Arc::new(question);
            if let Some(answer) = answered(&mesh, &question).await {
                let _ = socket.send_to(&answer, from).await;
            }
        });
    }
}

async fn over_tcp(mesh: &Arc<Mesh>, listener: TcpListener, upstream: &Arc<[SocketAddr]>) {
    loop {
        let Ok(place) = mesh.names.connections.clone().acquire_owned().await else { return };
        let Ok((mut stream, _)) = listener.accept().await else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        let (mesh, upstream) = (mesh.clone(), upstream.clone());
        tokio::spawn(async move {
            while let Ok(Ok(message)) = tokio::time::timeout(IDLE, read(&mut stream)).await {
                let Ok(place) = mesh.names.questions.clone().acquire_owned().await else { break };
                let question = Question { message, way: Way::Tcp, upstream: upstream.clone(), _place: place };
                if over_connection(&mesh, &mut stream, Arc::new(question)).await.is_none() {
                    break;
                }
            }
            drop(place);
        });
    }
}

/// `None`: nothing more can be asked there.
async fn over_connection(mesh: &Arc<Mesh>, stream: &mut TcpStream, question: Arc<Question>) -> Option<()> {
    let mut zone = match Asked::read(&question.message)? {
        Asked::Transfer => forward::asked_over_tcp(&question.message, &question.upstream).await,
        Asked::Address { .. } | Asked::Other => None,
    };
    if let Some(server) = &mut zone {
        mesh.metrics.dns("forwarded");
        let _ = relay::relay(stream, server).await;
        return None;
    }
    let answer = answered(mesh, &question).await?;
    tokio::time::timeout(IDLE, write(stream, &answer)).await.ok()?.ok()
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
async fn answered(mesh: &Arc<Mesh>, question: &Arc<Question>) -> Option<Vec<u8>> {
    let asked = Asked::read(&question.message)?;
    let Asked::Address { name, .. } = &asked else {
        return Some(theirs(mesh, question, question.clone().ask().await));
    };
    // what upstream has denied a moment ago is not asked for again
    if mesh.book.outside(name, mesh.clock.now()) == Some(Outside::Denied)
        && let Known::Yes = known(mesh, name).await
    {
        return Some(own(mesh, &asked, question, name, TTL));
    }
    let mut asking = Box::pin(question.clone().ask());
    let said = tokio::select! {
        said = &mut asking => said,
        said = silence(mesh, question, name) => match said {
            Some(said) => Some(said),
            None => {
                let answer = own(mesh, &asked, question, name, BRIEF);
                let (mesh, name) = (mesh.clone(), name.clone());
                tokio::spawn(async move { heard(&mesh, &name, verdict(asking.await.as_deref())) });
                return Some(answer);
            }
        },
    };
    let verdict = verdict(said.as_deref());
    if verdict == Verdict::Known {
        heard(mesh, name, verdict);
        return Some(theirs(mesh, question, said));
    }
    match known(mesh, name).await {
        Known::Yes => {
            let answer = own(mesh, &asked, question, name, TTL);
            heard(mesh, name, verdict);
            Some(answer)
        }
        // it may exist: to say that it does not would be kept by resolvers. But where nobody can be asked, names outside
        // the mesh must go on as they would without it
        Known::Unsaid if !intercept::is_away(mesh) => Some(theirs(mesh, question, None)),
        Known::Unsaid | Known::No => Some(theirs(mesh, question, said)),
    }
}

/// Resolves where upstream has been silent for so long that the mesh should answer to a name that it has: with what another
/// resolver knows of it, or with nothing.
async fn silence(mesh: &Mesh, question: &Question, name: &str) -> Option<Vec<u8>> {
    tokio::time::sleep(SILENCE).await;
    let is_real = mesh.book.outside(name, mesh.clock.now()) == Some(Outside::Real);
    if is_real || !matches!(known(mesh, name).await, Known::Yes) {
        return std::future::pending().await;
    }
    mesh.book.address(name); // from here on it is kept what upstream says of it
    let others = question.upstream.get(1..).unwrap_or_default();
    let known = forward::known_to_any(&question.message, question.way, others);
    tokio::time::timeout(SILENCE, known).await.ok()
}

fn verdict(said: Option<&[u8]>) -> Verdict {
    said.map_or(Verdict::Failed, Verdict::of)
}

/// Keeps what upstream says of a name that has a virtual address.
fn heard(mesh: &Mesh, name: &str, verdict: Verdict) {
    let outside = match verdict {
        Verdict::Known => Outside::Real,
        Verdict::NoSuchName => Outside::Denied,
        Verdict::Failed => return,
    };
    mesh.book.said(name, outside, mesh.clock.now());
}

/// What upstream said, or that nobody did.
fn theirs(mesh: &Mesh, question: &Question, said: Option<Vec<u8>>) -> Vec<u8> {
    mesh.metrics.dns(if said.is_some() { "forwarded" } else { "failed" });
    said.unwrap_or_else(|| answer::failed(&question.message))
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
fn own(mesh: &Mesh, asked: &Asked, question: &Question, name: &str, ttl: u32) -> Vec<u8> {
    mesh.metrics.dns("mesh");
    match mesh.book.address(name) {
        Some(address) => asked.answer(&question.message, address, ttl),
        None => answer::failed(&question.message),
    }
}
