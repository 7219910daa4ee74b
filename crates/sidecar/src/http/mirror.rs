//! Copies of requests that a route's rule sends to another service as well, whose answers are thrown away.
//!
//! It decides which requests are copied, and when: one without a body at once, one with a body when all of that has gone to
//! its own instance and was kept for a replay. A copy is an exchange of its own: the mirrored service's policy, circuits
//! and limits apply, its log line and counts are that service's. It is never retried but where no application saw it.
//!
//! Invariants: the request itself neither waits for a copy nor fails with it; at most 100 copies to a service are on
//! their way (`upstream/ledger.rs`), each for at most twice [`PATIENCE`]; upgrades are never copied.

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
use tokio::sync::oneshot;
use tokio::time::timeout;

/// For the request's body to come, and then for the copy's answer.
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
        let Some(place) = upstream.ledger.copy() else {
            upstream.metrics.mirror_skipped(BUSY);
            continue;
        };
        let body = outgoing.has_body().then(|| {
            let (whole, body) = oneshot::channel();
            bodies.push(whole);
            body
        });
        let (worker, outgoing) = (worker.clone(), outgoing.copy());
        tokio::spawn(async move {
            let _place = place;
            match whole(body).await {
                Some(body) => send(&worker, &upstream, outgoing.with(body), caller).await,
                None => upstream.metrics.mirror_skipped(BODY),
            }
        });
    }
    outgoing.tell_whole(bodies);
}

fn falls_on(mirror: &Mirror, random: u64) -> bool {
    random % u64::from(Ratio::WHOLE) < u64::from(mirror.share)
}

/// `None`: it is too large to be kept, or did not come to its end.
async fn whole(body: Option<oneshot::Receiver<Vec<Bytes>>>) -> Option<Bytes> {
    let Some(body) = body else { return Some(Bytes::new()) };
    let mut pieces = timeout(PATIENCE, body).await.ok()?.ok()?;
    if pieces.len() == 1 {
        return pieces.pop();
    }
    let mut all = BytesMut::with_capacity(pieces.iter().map(Bytes::len).sum());
    pieces.iter().for_each(|piece| all.extend_from_slice(piece));
    Some(all.freeze())
}

async fn send(worker: &Arc<Worker>, upstream: &Arc<Upstream>, outgoing: Outgoing, caller: Option<IpAddr>) {
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
