//! To the application, from whoever connected to its port.

use super::speakers::{Overheard, server_speaks_first};
use super::{FIRST_BYTES, SILENCE, destination, hello, passes_unknown};
use crate::doors::Doors;
use crate::drain::SharedGuard;
use crate::fault::Fault;
use crate::http::exchange::Exchange;
use crate::http::serve::{Connection, Http, Way, serve};
use crate::listener::{self, Counted, TLS_HANDSHAKE};
use crate::mesh::{Mesh, Worker};
use crate::snapshot::Target;
use crate::tcp;
use crate::upstream::kept::Ends;
use crate::upstream::tunnel::Io;
use fusewire_model::policy::Plain;
use fusewire_model::service::{Allow, Protocol};
use fusewire_net::{Opening, Patience, canonical, opening};
use fusewire_telemetry::Reason;
use fusewire_telemetry::metrics::Direction;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, timeout, timeout_at};

/// A caller that pauses must not get round what is checked of requests.
const STRICT: Patience = Patience { silence: Duration::ZERO, pause: None, all: FIRST_BYTES };
/// Where the application is known to speak first, and peers' sidecars, whose first words may be late, come by their own port.
const GREETING: Duration = Duration::from_millis(30);

/// Of [`FIRST_BYTES`] each.
const ROUNDS: usize = 6;

pub(crate) async fn enter(worker: Arc<Worker>, listener: TcpListener, doors: Arc<Doors>) {
    let mesh = worker.mesh.clone();
    let taken = |stream, peer, guard| {
        let (worker, doors) = (worker.clone(), doors.clone());
        tokio::spawn(async move {
            let Some(to) = destination(&worker.mesh, &stream, true) else { return };
            let ends = Ends::of(&worker.mesh, peer, Some(to));
            Entering { worker, peer: canonical(peer), ends, to, guard, doors }.come(stream).await;
        });
    };
    let full = |_| mesh.unrouted(Direction::Inbound).reason(Reason::Overloaded);
    listener::accept(listener, &doors, &mesh.inbound_drain, taken, full).await;
}

/// Whether a caller without identity may call the application's `port`. A service that names its callers is not for those
/// who cannot say who they are.
pub(crate) fn admit_plain(mesh: &Mesh, port: u16) -> Result<Target, Fault> {
    let snapshot = mesh.snapshot.load();
    let port = snapshot.inbound.as_ref().ok_or(Fault::Untold)?.get(&port).ok_or(Fault::NoRoute)?;
    if port.upstream.policy.plain.callers(port.upstream.plain) != Plain::Allow {
        return Err(Fault::Denied("no identity, and the policy does not say `plain: allow`".into()));
    }
    if port.allow != Allow::Mesh {
        return Err(Fault::Denied(format!("no identity, and {} names who may call it", port.upstream.name).into()));
    }
    Ok(Target::service(&port.upstream, None))
}

struct Entering {
    worker: Arc<Worker>,
    peer: SocketAddr,
    ends: Option<Ends>,
    to: SocketAddr,
    guard: SharedGuard,
    doors: Arc<Doors>,
}

impl Entering {
    async fn come(self, stream: TcpStream) {
        let mut first = [0u8];
        let until = Instant::now() + FIRST_BYTES;
        let spoken = tokio::select! {
            biased;
            spoken = timeout(self.patience(), stream.peek(&mut first)) => spoken,
            () = self.worker.mesh.inbound_drain.hurried() => return, // nothing was asked yet
        };
        let spoken = match spoken {
            Err(_)
                if self.may_have_more_patience()
                    && !server_speaks_first(&self.worker.mesh, self.application()).await =>
            {
                timeout_at(until, stream.peek(&mut first)).await
            }
            spoken => spoken,
        };
        match spoken {
            Ok(Ok(1..)) if first[0] == TLS_HANDSHAKE => {
                let Ok(Ok((said, io))) = timeout_at(until, hello::hello(stream, FIRST_BYTES)).await else { return };
                if said.wire {
                    self.worker.mesh.speakers.peer_came();
                    return listener::secured(&self.worker, io, (self.peer, self.ends, until), self.guard, &self.doors)
                        .await;
                }
                self.bytes(io).await; // the application's own
            }
            Ok(Ok(0) | Err(_)) => {} // it went away
            Ok(Ok(_)) => self.plain(stream).await,
            Err(_) => self.silent(stream).await,
        }
    }

    /// Until a caller that says nothing may be one that waits for the server: soon where there may be such a one at all.
    fn patience(&self) -> Duration {
        let mesh = &self.worker.mesh;
        match admit_plain(mesh, self.to.port()) {
            Ok(target) if matches!(target.upstream.protocol, Protocol::Opaque | Protocol::Http) => {}
            Err(Fault::NoRoute) if passes_unknown(mesh, self.to) => {}
            Ok(_) | Err(_) => return FIRST_BYTES,
        }
        match mesh.speakers.is_server(self.application(), mesh.clock.now()) {
            Some(true) if !mesh.speakers.peers_come() => GREETING,
            _ => SILENCE,
        }
    }

    /// Where what comes in is for: the application where it listens, else where it was going.
    fn application(&self) -> SocketAddr {
        let snapshot = self.worker.mesh.snapshot.load();
        let port = snapshot.inbound.as_ref().and_then(|ports| ports.get(&self.to.port()));
        port.and_then(|port| port.upstream.set.members().next()).map_or(self.to, |member| member.key.address)
    }

    /// Whether silence says nothing yet: a peer's first words may be late, and it must not be the way round what is checked of
    /// requests.
    fn may_have_more_patience(&self) -> bool {
        admit_plain(&self.worker.mesh, self.to.port()).is_ok_and(|target| target.upstream.protocol == Protocol::Http)
    }

    fn protocol(&self) -> Option<Protocol> {
        let snapshot = self.worker.mesh.snapshot.load();
        Some(snapshot.inbound.as_ref()?.get(&self.to.port())?.upstream.protocol)
    }

    /// A caller that may wait for the server.
    async fn silent(self, stream: TcpStream) {
        let mesh = self.worker.mesh.clone();
        match self.protocol() {
            None | Some(Protocol::Opaque) => {
                let io = Overheard::of_application(stream, mesh, self.application());
                self.bytes(io).await;
            }
            Some(Protocol::Http) if self.may_have_more_patience() => self.patient(stream).await,
            Some(Protocol::Http) => self.bytes(stream).await, // where it is refused
            Some(Protocol::Http1 | Protocol::Http2) => self.plain(stream).await,
        }
    }

    /// Where nobody declared what is spoken, to be silent is no way round what is checked either: it goes on as bytes once the
    /// server is found to speak first, and else may take its time, for [`ROUNDS`].
    async fn patient(self, stream: TcpStream) {
        let mesh = self.worker.mesh.clone();
        let mut first = [0];
        for _ in 0..ROUNDS {
            if server_speaks_first(&mesh, self.application()).await {
                return self.bytes(stream).await;
            }
            let spoken = tokio::select! {
                spoken = timeout(FIRST_BYTES, stream.peek(&mut first)) => spoken,
                () = mesh.inbound_drain.hurried() => return,
            };
            match spoken {
                Ok(Ok(1..)) => return Box::pin(self.come(stream)).await,
                Ok(Ok(0) | Err(_)) => return, // it went away
                Err(_) => {}
            }
        }
    }

    async fn plain(self, stream: TcpStream) {
        let Some(protocol) = self.protocol().filter(|protocol| *protocol != Protocol::Opaque) else {
            return self.bytes(stream).await;
        };
        let opened = tokio::select! {
            biased; // bytes that are there are a request to be answered
            opened = opening(stream, STRICT) => opened,
            () = self.worker.mesh.inbound_drain.hurried() => return,
        };
        match opened {
            Ok((Opening::Http2, io)) => self.http(io, Http::Two).await,
            Ok((Opening::Http1(_), io)) => self.http(io, Http::One).await,
            Ok((_, io)) if protocol == Protocol::Http => self.bytes(io).await, // a protocol that nobody declared
            Ok((Opening::Other, io)) => self.http(io, Http::One).await,        // where it is told what is wrong with it
            Ok((Opening::Tls | Opening::Silent, _)) | Err(_) => {}
        }
    }

    async fn http(self, io: impl Io + 'static, http: Http) {
        let _open = Counted::new(&self.worker.mesh);
        let connection = Connection {
            worker: self.worker.clone(),
            direction: Direction::Inbound,
            peer: None,
            way: Way::Port(self.to.port()),
            guard: self.guard,
            until: None,
            denied: AtomicBool::new(false),
            caller: Some(self.peer.ip()),
            ends: self.ends,
            doors: self.doors,
        };
        serve(io, http, Arc::new(connection)).await;
    }

    async fn bytes(self, io: impl Io) {
        match admit_plain(&self.worker.mesh, self.to.port()) {
            Err(Fault::NoRoute) if passes_unknown(&self.worker.mesh, self.to) => {
                tcp::pass(&self.worker, (Direction::Inbound, self.ends), io, self.to, self.guard).await;
            }
            Err(fault) => {
                let mut exchange = Exchange::begin_tcp(&self.worker, Direction::Inbound, None);
                exchange.bound_for(self.to);
                tcp::refuse(&mut exchange, &io, &fault);
            }
            admitted => {
                let target = std::future::ready(admitted);
                tcp::carry(&self.worker, (Direction::Inbound, self.ends), io, target, self.guard).await;
            }
        }
    }
}
