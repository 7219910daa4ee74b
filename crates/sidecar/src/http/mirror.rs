//! Copies of requests that a route's rule sends to another service as well, whose answers are thrown away.
//!
//! It decides which requests are copied, and when: one without a body at once, one with a body when all of that has gone to
//! its own instance and was kept for a replay. A copy is an exchange of its own: the mirrored service's policy, circuits
//! and limits apply, its log line and counts are that service's. It is never retried but where no application saw it.
//!
//! Invariants: the request itself neither waits for a copy nor fails with it; at most 100 copies to a service are on
//! their way (`upstream/ledger.rs`), each for at most [`PATIENCE`]. One that waits for its body is not on its way: it takes
//! nobody's place, and ends with the request that it is a copy of. Upgrades are never copied.

use super::exchange::Exchange;
use super::filters::{Filters, Mirror};
use super::outgoing::Outgoing;
use super::proxy::attempts;
use crate::bounds;
use crate::mesh::Worker;
use crate::snapshot::Target;
use crate::upstream::service::Upstream;
use bytes::{Bytes, BytesMut};
use fusewire_model::policy::Ratio;
use fusewire_telemetry::Reason;
use fusewire_telemetry::metrics::{Direction, NOT_MIRRORED};
use http::Request;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::time::timeout;

/// For the copy's answer.
const PATIENCE: Duration = Duration::from_secs(10);
const BODY: &str = NOT_MIRRORED[0];
const BUSY: &str = NOT_MIRRORED[1];

/// Begins the copies of a request that is about to be sent. `caller`: where the application is.
pub(super) fn begin(worker: &Arc<Worker>, filters: &Filters, outgoing: &Outgoing, caller: Option<IpAddr>) {
    if filters.mirrors.is_empty() || outgoing.upgrade.is_some() {
        return;
    }
    let mut bodies = Vec::new();
    for mirror in filters.mirrors.iter().filter(|mirror| falls_on(mirror, worker.random())) {
        let upstream = mirror.upstream.clone();
        if !outgoing.has_body() {
            if let Some(place) = place(&upstream) {
                let (worker, outgoing) = (worker.clone(), outgoing.copy());
                tokio::spawn(async move { send(&worker, &upstream, outgoing, (caller, place)).await });
            }
            continue;
        }
        let (whole, body) = oneshot::channel();
        bodies.push(whole);
        let (worker, outgoing) = (worker.clone(), outgoing.copy());
        tokio::spawn(async move {
            let Ok(pieces) = body.await else { return upstream.metrics.mirror_skipped(BODY) };
            if let Some(place) = place(&upstream) {
                send(&worker, &upstream, outgoing.with(joined(pieces)), (caller, place)).await;
            }
        });
    }
    outgoing.tell_whole(bodies);
}

fn falls_on(mirror: &Mirror, random: u64) -> bool {
    random % u64::from(Ratio::WHOLE) < u64::from(mirror.share)
}

/// Among those that are on their way; `None`: all are taken, which is counted.
fn place(upstream: &Upstream) -> Option<OwnedSemaphorePermit> {
    let place = upstream.ledger.copy();
    if place.is_none() {
        upstream.metrics.mirror_skipped(BUSY);
    }
    place
}

fn joined(mut pieces: Vec<Bytes>) -> Bytes {
    if pieces.len() == 1 {
        return pieces.pop().unwrap_or_default();
    }
    let mut all = BytesMut::with_capacity(pieces.iter().map(Bytes::len).sum());
    pieces.iter().for_each(|piece| all.extend_from_slice(piece));
    all.freeze()
}

/// Holds the place until the answer has come.
async fn send(
    worker: &Arc<Worker>,
    upstream: &Arc<Upstream>,
    outgoing: Outgoing,
    (caller, _place): (Option<IpAddr>, OwnedSemaphorePermit),
) {
    let request = Request::from_parts(outgoing.head().clone(), ());
    let mut exchange = Box::new(Exchange::begin(worker, Direction::Outbound, None, &request));
    let target = Target { retries: false, ..Target::service(upstream, None) };
    exchange.decide(target.policy.sample, &request);
    exchange.routed(&target);
    let began = exchange.started;
    let sent = async {
        bounds::enter(&mut exchange, &target, &request, caller).await?;
        exchange.admit(&target, exchange.now)?;
        attempts(&mut exchange, &target, &outgoing, began).await
    };
    let sent = timeout(PATIENCE, sent).await;
    let failed = match sent {
        Ok(Ok(answer)) => {
            exchange.status = Some(answer.status());
            exchange.heard(&answer.judged);
            return answer.let_go(worker, worker.mesh.clock.now());
        }
        Ok(Err(fault)) => {
            exchange.refused(&fault);
            if let Some(detail) = fault.detail() {
                exchange.detail(&detail);
            }
            fault.reason()
        }
        Err(_) => Reason::ResponseTimeout,
    };
    exchange.reason = Some(failed);
    exchange.status = Some(failed.status_code());
}
