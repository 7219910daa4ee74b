//! From the application, to wherever it connected.

use super::speakers::Overheard;
use super::{FIRST_BYTES, Original, SILENCE, destination, hello, passes_unknown, unless_away};
use crate::doors::Doors;
use crate::drain::SharedGuard;
use crate::fault::Fault;
use crate::http::exchange::Exchange;
use crate::http::serve::{Http, Way};
use crate::listener;
use crate::mesh::Worker;
use crate::snapshot::Target;
use crate::tcp;
use crate::upstream::service::Upstream;
use crate::upstream::tunnel::Io;
use fusewire_model::service::Protocol;
use fusewire_net::{Opening, Patience, Prefixed, canonical, opening};
use fusewire_telemetry::Reason;
use fusewire_telemetry::metrics::Direction;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::{TcpListener, TcpStream};

pub(crate) async fn leave(worker: Arc<Worker>, listener: TcpListener, doors: Arc<Doors>) {
    let mesh = worker.mesh.clone();
    let taken = |stream, peer, guard| {
        let (worker, doors) = (worker.clone(), doors.clone());
        tokio::spawn(async move {
            let Some(to) = destination(&worker.mesh, &stream, false) else { return };
            Leaving { worker, peer: canonical(peer), to, guard, doors }.go(stream).await;
        });
    };
    // what it speaks is not known, so that nothing can be said
    let full = |_| mesh.unrouted(Direction::Outbound).reason(Reason::Overloaded);
    listener::accept(listener, &doors, &mesh.outbound_drain, taken, full).await;
}

struct Leaving {
    worker: Arc<Worker>,
    peer: SocketAddr,
    to: SocketAddr,
    guard: SharedGuard,
    doors: Arc<Doors>,
}

impl Leaving {
    async fn go(self, stream: TcpStream) {
        let mesh = &self.worker.mesh;
        match unless_away(mesh, mesh.directory.destination(mesh, self.to)).await {
            Ok(route) => match route.of_bytes() {
                Some(service) => self.known(stream, service.clone()).await,
                None => self.unknown(stream, true).await, // several services: each request says which
            },
            Err(Fault::NoRoute) => self.unknown(stream, false).await,
            Err(fault) => self.refuse(&stream, &fault),
        }
    }

    /// To an address of `service`, or of one of its instances.
    async fn known(self, stream: TcpStream, service: Arc<Upstream>) {
        if service.protocol == Protocol::Opaque {
            return self.carry(stream, &service).await;
        }
        let Some((opening, io)) = self.opened(stream).await else { return };
        match opening {
            Opening::Http2 => self.http(io, Http::Two).await,
            Opening::Http1(_) => self.http(io, Http::One).await,
            // what is declared to be HTTP is told what is wrong with it
            Opening::Other if service.protocol != Protocol::Http => self.http(io, Http::One).await,
            // the application's own TLS, which is not ours to read, or a protocol that nobody declared
            Opening::Tls | Opening::Other => self.carry(io, &service).await,
            // the server speaks first, or the caller later
            Opening::Silent => {
                let io = Overheard::new(io, self.worker.mesh.clone(), self.to);
                self.carry(io, &service).await;
            }
        }
    }

    /// To an address of nobody in particular. `routed`: requests have a route by it all the same.
    async fn unknown(self, stream: TcpStream, routed: bool) {
        let mesh = self.worker.mesh.clone();
        let passes = !routed && passes_unknown(&mesh, self.to);
        let Some((opening, io)) = self.opened(stream).await else { return };
        match opening {
            Opening::Http2 => self.http(io, Http::Two).await,
            // without the leave to go on it is answered why
            Opening::Http1(_) if !passes => self.http(io, Http::One).await,
            Opening::Http1(authority) => {
                match unless_away(&mesh, mesh.directory.authority(&mesh, &authority, mesh.clock.now())).await {
                    Err(Fault::NoRoute | Fault::BadRequest(_)) => self.pass(io).await,
                    Ok(_) | Err(_) => self.http(io, Http::One).await, // where it is answered why
                }
            }
            Opening::Tls => {
                let Ok((said, io)) = hello::hello(io, FIRST_BYTES).await else { return };
                match self.wanted(said.server).await {
                    Ok(service) => self.carry(io, &service).await,
                    Err(Fault::NoRoute | Fault::BadRequest(_)) if passes => self.pass(io).await,
                    Err(fault) => self.refuse(&io, &fault),
                }
            }
            Opening::Other if passes => self.pass(io).await,
            Opening::Silent if passes => {
                let io = Overheard::new(io, mesh, self.to);
                self.pass(io).await;
            }
            Opening::Other | Opening::Silent => self.refuse(&io, &Fault::NoRoute),
        }
    }

    /// The service that TLS names.
    async fn wanted(&self, server: Option<String>) -> Result<Arc<Upstream>, Fault> {
        let mesh = &self.worker.mesh;
        let authority = format!("{}:{}", server.ok_or(Fault::NoRoute)?, self.to.port());
        let route = unless_away(mesh, mesh.directory.authority(mesh, &authority, mesh.clock.now())).await?;
        route.of_bytes().cloned().ok_or(Fault::NoRoute)
    }

    /// What it begins with. `None`: it ended, or nothing was asked yet and we are in a hurry.
    async fn opened(&self, stream: TcpStream) -> Option<(Opening, Prefixed<TcpStream>)> {
        let mesh = &self.worker.mesh;
        let limits = Patience { silence: mesh.speakers.patience(self.to), pause: Some(SILENCE), all: FIRST_BYTES };
        tokio::select! {
            biased; // bytes that are there are a request to be answered
            opened = opening(stream, limits) => opened.ok(),
            () = mesh.outbound_drain.hurried() => None,
        }
    }

    async fn carry(self, io: impl Io, service: &Arc<Upstream>) {
        let target = std::future::ready(Ok(Target::service(service, None)));
        tcp::carry(&self.worker, (Direction::Outbound, None), io, target, self.guard).await;
    }

    async fn http(self, io: impl Io + 'static, http: Http) {
        let way = Way::Original(Box::new(Original::new(self.to, http)));
        listener::from_application(&self.worker, io, http, (way, self.peer), self.guard, &self.doors).await;
    }

    async fn pass(self, io: impl Io) {
        tcp::pass(&self.worker, (Direction::Outbound, None), io, self.to, self.guard).await;
    }

    fn refuse(&self, io: &impl Io, fault: &Fault) {
        let mut exchange = Exchange::begin_tcp(&self.worker, Direction::Outbound, None);
        exchange.bound_for(self.to);
        tcp::refuse(&mut exchange, io, fault);
    }
}
