//! An open circuit is tested by the service's health check, asked through the mesh: `breaker.instance.probe: check`.
//!
//! It decides what is asked of an instance that is due, and what its answer means to the breaker: the question goes the way
//! that requests go (the same pool, the same mTLS, the same inbound sidecar), so that what would break them breaks it. An
//! answer that the check calls bad is a failure, whatever breakers think of its status. It deliberately does not retry, and
//! is no exchange: it is in no access log and in no count of requests.
//!
//! Where the check has a port of its own, which the mesh does not carry, and for a service that speaks no HTTP, a connection
//! through to the application is all that is asked for.
//!
//! Invariant: a question that is cut off, or that our own side kept from being asked, gives its permit back as ignored.

use crate::fault::Fault;
use crate::http::body::SendBody;
use crate::http::{answer, headers};
use crate::mesh::Worker;
use crate::upstream::instance::Instance;
use crate::upstream::send::send;
use crate::upstream::service::Upstream;
use crate::upstream::tunnel;
use fusewire_health::{judge, question};
use fusewire_model::health::{CheckKind, HealthCheck};
use fusewire_model::policy::Plain;
use fusewire_resilience::{Attempt, Happening, Outcome, classify};
use fusewire_telemetry::Reason;
use fusewire_telemetry::metrics::Direction;
use http::Request;
use http::header::HeaderValue;
use http::uri::Authority;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{MissedTickBehavior, interval};

/// How often circuits are looked at; their probes are at least twice as far apart.
const TICK: Duration = Duration::from_millis(50);

/// Looks for circuits that are due until the worker ends. One worker does it for all: circuits are shared, connections are
/// not.
pub(crate) async fn run(worker: Arc<Worker>) {
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        ticks.tick().await;
        let snapshot = worker.mesh.snapshot.load_full();
        for (direction, upstream) in &snapshot.upstreams {
            let Some(check) = upstream.health.clone().filter(|_| *direction == Direction::Outbound) else { continue };
            // one at a time comes out of here, and the breaker bounds how many are out
            if let Some(attempt) = upstream.set.due_probe(worker.random(), worker.mesh.clock.now()) {
                tokio::spawn(ask(worker.clone(), upstream.clone(), check, attempt));
            }
        }
    }
}

async fn ask(worker: Arc<Worker>, upstream: Arc<Upstream>, check: HealthCheck, attempt: Attempt<Instance>) {
    let asked = tokio::time::timeout(check.timeout, outcome(&worker, &upstream, &check, attempt.member())).await;
    let outcome = match asked.unwrap_or(Err(Fault::ResponseTimeout)) {
        Ok(outcome) => outcome,
        Err(fault) => fault.seen_from(Direction::Outbound).blame(),
    };
    tracing::debug!(
        service = upstream.name.as_str(),
        instance = attempt.member().key.id,
        ?outcome,
        "asked for its health"
    );
    attempt.end(outcome, worker.mesh.clock.now());
}

async fn outcome(
    worker: &Worker,
    upstream: &Upstream,
    check: &HealthCheck,
    instance: &Arc<Instance>,
) -> Result<Outcome, Fault> {
    let from_sidecar = instance.key.sidecar.is_some();
    if !from_sidecar && upstream.policy.plain.instances(upstream.plain) != Plain::Allow {
        return Err(Fault::PlainDenied);
    }
    let elsewhere = check.port.is_some_and(|port| port != instance.key.address.port());
    let asked = if elsewhere { None } else { request(&upstream.name, check, instance) };
    let Some(request) = asked else {
        let _stream = tunnel::reach(worker, instance, &upstream.policy, &upstream.metrics, None).await?;
        return Ok(classify(Happening::Status(200)));
    };
    let (mut response, held) = send(worker, instance, &upstream.policy, &upstream.metrics, request).await?;
    if from_sidecar {
        crate::http::connect::restore_status(&mut response);
    }
    match answer::refusal(response.headers(), from_sidecar)? {
        Some(Reason::Reset) => return Ok(classify(Happening::Reset)),
        Some(Reason::ResponseTimeout) => return Ok(classify(Happening::Timeout)),
        // the two sides' configurations differ: nobody's failure
        Some(Reason::Denied | Reason::NoRoute | Reason::BadRequest) => return Ok(classify(Happening::Local)),
        _ => {}
    }
    let status = response.status().as_u16();
    let good = judge(&check.kind, response).await.is_ok();
    held.release(worker.index, instance, worker.mesh.clock.now());
    Ok(match (&check.kind, good) {
        (_, true) => classify(Happening::Status(200)),
        (CheckKind::Grpc { .. }, false) => classify(Happening::Grpc(UNAVAILABLE)),
        (_, false) if classify(Happening::Status(status)).is_failure() => classify(Happening::Status(status)),
        // such as 404: an answer to a caller, but not the one that the check wants
        (_, false) => classify(Happening::Status(503)),
    })
}

/// gRPC's own word for "not serving".
const UNAVAILABLE: u8 = 14;

/// The check's question in the form that this instance takes; `None` where it is no request.
fn request(
    service: &fusewire_model::ServiceName,
    check: &HealthCheck,
    instance: &Instance,
) -> Option<Request<SendBody>> {
    let address = instance.key.address.to_string();
    let name = if instance.key.sidecar.is_some() { service.as_str() } else { address.as_str() };
    let (mut head, body) = question(&check.kind, name)?.into_parts();
    headers::strip_hop_by_hop(&mut head.headers);
    if instance.key.sidecar.is_some() {
        let protocol = if matches!(check.kind, CheckKind::Grpc { .. }) { "grpc" } else { "h1" };
        head.headers.insert(headers::PORT, HeaderValue::from(instance.key.address.port()));
        head.headers.insert(headers::PROTOCOL, HeaderValue::from_static(protocol));
        headers::to_http2(&mut head, Authority::try_from(name).ok()?);
    }
    Some(Request::from_parts(head, SendBody::whole(body)))
}
