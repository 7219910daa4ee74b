//! Opaque TCP from the application: a connection is the exchange; it is balanced once and then copied.

use crate::bounds;
use crate::drain::SharedGuard;
use crate::http::exchange::Exchange;
use crate::mesh::Worker;
use crate::upstream::tunnel;
use fusewire_model::ServiceName;
use fusewire_resilience::{Happening, classify};
use fusewire_telemetry::metrics::Direction;
use std::sync::Arc;
use tokio::net::TcpStream;

/// Without an instance the connection is reset: in bytes there is no other way to say no.
pub(crate) async fn outbound(worker: &Arc<Worker>, stream: TcpStream, service: ServiceName, guard: SharedGuard) {
    let mut exchange = Exchange::begin_tcp(worker, Direction::Outbound, None);
    let opened = async {
        let target = worker.mesh.directory.service(&worker.mesh, &service).await?;
        exchange.decide_tcp(target.policy.sample);
        exchange.routed(&target);
        bounds::enter_tcp(&mut exchange, &target)?;
        let idle = target.policy.timeout.idle;
        Ok::<_, crate::fault::Fault>((tunnel::open(&mut exchange, &target).await?, idle))
    };
    match opened.await {
        Ok((tunnel::Open { io, attempt, _kept }, idle)) => {
            exchange.status = Some(200);
            exchange.first_byte = Some(worker.mesh.clock.now());
            tunnel::join(stream, io, &mut exchange, idle).await;
            exchange.settle(attempt, classify(Happening::Complete));
        }
        Err(fault) => {
            exchange.reason = Some(fault.reason());
            exchange.refused(&fault);
            if let Some(detail) = fault.detail() {
                exchange.detail(&detail);
            }
            fusewire_net::reset_on_close(&stream);
        }
    }
    drop(guard);
}
