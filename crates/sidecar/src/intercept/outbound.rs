//! From the application, to wherever it connected.

use super::speakers::Overheard;
use super::{FIRST_BYTES, Original, destination, passes_unknown, unless_away};
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
use fusewire_net::{Detected, Opening, canonical, detect, opening};
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
            Ok(route) => match route.only() {
                Some(upstream) => self.known(stream, upstream).await,
                None => self.unknown(stream).await, // a route with several services: each request says which
            },
            Err(Fault::NoRoute) => self.unknown(stream).await,
            Err(fault) => self.refuse(&stream, &fault),
        }
    }

    async fn known(self, stream: TcpStream, upstream: Arc<Upstream>) {
        let target = || std::future::ready(Ok(Target::service(&upstream, None)));
        if upstream.protocol == Protocol::Opaque {
            return tcp::carry(&self.worker, (Direction::Outbound, None), stream, target(), self.guard).await;
        }
        let mesh = self.worker.mesh.clone();
        let drain = mesh.outbound_drain.clone();
        let detected = tokio::select! {
            biased; // bytes that are there are a request to be answered
            detected = detect(stream, mesh.speakers.patience(self.to)) => detected,
            () = drain.begun() => return, // nothing was asked yet
        };
        match detected {
            Ok((Detected::Http1, io)) => self.http(io, Http::One).await,
            Ok((Detected::Http2, io)) => self.http(io, Http::Two).await,
            // the application's own, which is not ours to read
            Ok((Detected::Tls, io)) => {
                tcp::carry(&self.worker, (Direction::Outbound, None), io, target(), self.guard).await
            }
            // not declared as what it is: the server speaks first, or the caller later
            Ok((Detected::Silent, io)) => {
                let io = Overheard::new(io, mesh, self.to);
                tcp::carry(&self.worker, (Direction::Outbound, None), io, target(), self.guard).await;
            }
            Ok((Detected::Nothing, _)) | Err(_) => {}
        }
    }

    async fn unknown(self, stream: TcpStream) {
        let mesh = &self.worker.mesh;
        let patience = mesh.speakers.patience(self.to);
        let Ok((opening, io)) = opening(stream, patience, FIRST_BYTES).await else { return };
        match opening {
            // without the leave to go on it is answered why
            Opening::Http1(_) if !passes_unknown(mesh, self.to) => self.http(io, Http::One).await,
            Opening::Http1(authority) => {
                match unless_away(mesh, mesh.directory.authority(mesh, &authority, mesh.clock.now())).await {
                    Err(Fault::NoRoute | Fault::BadRequest(_)) => self.pass(io).await,
                    Ok(_) | Err(_) => self.http(io, Http::One).await, // where it is answered why
                }
            }
            Opening::Http2 => self.http(io, Http::Two).await,
            Opening::Tls | Opening::Other if passes_unknown(mesh, self.to) => self.pass(io).await,
            Opening::Silent if passes_unknown(mesh, self.to) => {
                let io = Overheard::new(io, mesh.clone(), self.to);
                self.pass(io).await;
            }
            Opening::Tls | Opening::Other | Opening::Silent => self.refuse(&io, &Fault::NoRoute),
        }
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
