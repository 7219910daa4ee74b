//! To the application, from whoever connected to its port.

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
use fusewire_net::{Detected, canonical, detect};
use fusewire_telemetry::Reason;
use fusewire_telemetry::metrics::Direction;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, timeout, timeout_at};

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
    if port.upstream.policy.plain != Plain::Allow {
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
            () = self.worker.mesh.inbound_drain.begun() => return, // nothing was asked yet
        };
        match spoken {
            Ok(Ok(1..)) if first[0] == TLS_HANDSHAKE => {
                let Ok(Ok((wire, io))) = timeout_at(until, hello::is_wire(stream)).await else { return };
                if wire {
                    return listener::secured(&self.worker, io, (self.peer, self.ends, until), self.guard, &self.doors)
                        .await;
                }
                self.bytes(io).await; // the application's own
            }
            Ok(Ok(0) | Err(_)) => {} // it went away
            Ok(Ok(_)) | Err(_) => self.plain(stream).await,
        }
    }

    /// Until a caller that says nothing is one that waits for the server: soon where there may be such a one at all. A peer's
    /// first words may be late; and silence must not be the way round what is checked of requests. Outsiders are not learned
    /// from: they would choose for others.
    fn patience(&self) -> Duration {
        match admit_plain(&self.worker.mesh, self.to.port()) {
            Ok(target) if target.upstream.protocol == Protocol::Opaque => SILENCE,
            Err(Fault::NoRoute) if passes_unknown(&self.worker.mesh, self.to) => SILENCE,
            Ok(_) | Err(_) => FIRST_BYTES,
        }
    }

    async fn plain(self, stream: TcpStream) {
        let protocol = {
            let snapshot = self.worker.mesh.snapshot.load();
            let port = snapshot.inbound.as_ref().and_then(|ports| ports.get(&self.to.port()));
            port.map(|port| port.upstream.protocol)
        };
        if protocol.is_none_or(|protocol| protocol == Protocol::Opaque) {
            return self.bytes(stream).await;
        }
        let detected = tokio::select! {
            biased; // bytes that are there are a request to be answered
            detected = detect(stream, FIRST_BYTES) => detected,
            () = self.worker.mesh.inbound_drain.begun() => return,
        };
        match detected {
            Ok((Detected::Http1, io)) => self.http(io, Http::One).await,
            Ok((Detected::Http2, io)) => self.http(io, Http::Two).await,
            Ok((Detected::Tls | Detected::Nothing | Detected::Silent, _)) | Err(_) => {}
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
