//! Opaque TCP: a connection is the exchange; it is balanced once, or goes on to where it was going, and is then copied.

use crate::bounds;
use crate::drain::SharedGuard;
use crate::fault::Fault;
use crate::http::exchange::Exchange;
use crate::mesh::Worker;
use crate::snapshot::Target;
use crate::upstream::join::join;
use crate::upstream::kept::Ends;
use crate::upstream::tunnel;
use fusewire_telemetry::metrics::Direction;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// How long a destination that no policy is about may take to accept.
const CONNECT: Duration = Duration::from_secs(10);

/// Without an instance the connection is reset: in bytes there is no other way to say no. `ends`: by whose address the
/// application beside us is called, where that is not ours.
pub(crate) async fn carry(
    worker: &Arc<Worker>,
    (direction, ends): (Direction, Option<Ends>),
    stream: impl tunnel::Io,
    target: impl Future<Output = Result<Target, Fault>>,
    guard: SharedGuard,
) {
    let mut exchange = Exchange::begin_tcp(worker, direction, None);
    exchange.ends = ends;
    let opened = async {
        let target = target.await?;
        exchange.decide_tcp(target.policy.sample);
        exchange.routed(&target);
        bounds::enter_tcp(&mut exchange, &target)?;
        let idle = target.policy.timeout.idle;
        Ok::<_, Fault>((tunnel::open(&mut exchange, &target).await?, idle))
    };
    match opened.await {
        Ok((tunnel::Open { io, served, _kept }, idle)) => {
            begun(&mut exchange);
            join(stream, io, &mut exchange, idle, Some(served)).await;
        }
        Err(fault) => refuse(&mut exchange, &stream, &fault),
    }
    drop(guard);
}

/// On to `address`, which the mesh has no word about: in clear, and counted where no service is.
pub(crate) async fn pass(
    worker: &Arc<Worker>,
    (direction, ends): (Direction, Option<Ends>),
    stream: impl tunnel::Io,
    address: SocketAddr,
    guard: SharedGuard,
) {
    let mut exchange = Exchange::begin_tcp(worker, direction, None);
    exchange.passes(address);
    let dial = async {
        match ends {
            Some(ends) => fusewire_net::connect_from(ends.caller, address).await,
            None => fusewire_net::connect(address).await,
        }
    };
    let dialled = tokio::time::timeout(CONNECT, dial).await;
    let failed = |e: std::io::Error| Fault::ConnectFailed(e.kind());
    match dialled.map_or(Err(Fault::ConnectTimeout), |dialled| dialled.map_err(failed)) {
        Ok(far) => {
            worker.mesh.passing.dialled(&far, address);
            begun(&mut exchange);
            join(stream, far, &mut exchange, None, None).await;
        }
        Err(fault) => refuse(&mut exchange, &stream, &fault),
    }
    drop(guard);
}

fn begun(exchange: &mut Exchange) {
    exchange.status = Some(200);
    exchange.first_byte = Some(exchange.worker.mesh.clock.now());
}

pub(crate) fn refuse(exchange: &mut Exchange, stream: &impl tunnel::Io, fault: &Fault) {
    exchange.reason = Some(fault.reason());
    exchange.refused(fault);
    if let Some(detail) = fault.detail() {
        exchange.detail(&detail);
    }
    stream.abort();
}
