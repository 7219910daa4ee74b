//! Limits as the admin socket and the metrics show them.

use super::gate::GateView;
use crate::mesh::Mesh;
use crate::snapshot::Snapshot;
use fusewire_resilience::limit::Phase;
use fusewire_telemetry::metrics::{Direction, GateMetrics};
use serde_json::{Value, json};
use std::collections::BTreeSet;

pub(crate) fn phase_word(phase: Phase) -> &'static str {
    match phase {
        Phase::Free => "free",
        Phase::Test => "test",
        Phase::Engaged => "engaged",
    }
}

/// `/limits`.
pub(crate) fn limits(mesh: &Mesh) -> Value {
    let snapshot = mesh.snapshot.load();
    let mut inbound: Vec<Value> = gates(&snapshot).map(|(service, port, view)| gate(service, port, &view)).collect();
    inbound.sort_by_key(|v| v["port"].as_u64());
    let mut outbound: Vec<Value> = snapshot
        .upstreams
        .iter()
        .filter(|(direction, _)| *direction == Direction::Outbound)
        .map(|(_, upstream)| {
            let (bulkheads, limits) = (&upstream.bounds.bulkheads, &upstream.policy.limits.bulkhead);
            let one = |bulkhead: &fusewire_resilience::bulkhead::Bulkhead, max: u32| {
                json!({ "used": bulkhead.used(), "max": max, "refused": bulkhead.refused() })
            };
            json!({
                "service": upstream.name.as_str(),
                "requests": one(&bulkheads.requests, limits.max_requests),
                "pending": one(&bulkheads.pending, limits.max_pending),
                "connections": one(&bulkheads.connections, limits.max_connections),
                "rate_keys": upstream.bounds.rates.len(),
            })
        })
        .collect();
    outbound.sort_by_key(|v| v["service"].to_string());
    json!({ "inbound": inbound, "outbound": outbound })
}

fn gates(snapshot: &Snapshot) -> impl Iterator<Item = (&str, u16, GateView)> {
    snapshot.inbound.iter().flatten().filter_map(|(port, inbound)| {
        let view = inbound.upstream.bounds.gate.as_ref()?.view();
        Some((inbound.upstream.name.as_str(), *port, view))
    })
}

fn gate(service: &str, port: u16, view: &GateView) -> Value {
    json!({
        "service": service,
        "port": port,
        "algorithm": view.algorithm,
        "phase": view.phase.map(phase_word),
        "limit": view.limit,
        "in_flight": view.in_flight,
        "queued": view.queued,
        "shed": view.shed,
        "abandoned": view.abandoned,
    })
}

/// Ports whose gates have gauges.
pub(crate) type Measured = BTreeSet<(String, u16)>;

/// Sets the gauges of the gates, once a second, and takes out those that are gone.
pub(crate) fn measure(mesh: &Mesh, snapshot: &Snapshot, measured: &mut Measured) {
    let before = std::mem::take(measured);
    for (service, port, view) in gates(snapshot) {
        let phase = view.phase.map_or(0, |phase| match phase {
            Phase::Free => 0,
            Phase::Test => 1,
            Phase::Engaged => 2,
        });
        let (in_flight, queued) = (view.in_flight.into(), view.queued.into());
        let now = GateMetrics { limit: view.limit.map(i64::from), in_flight, queued, phase };
        mesh.metrics.gate(service, port, Some(&now));
        measured.insert((service.to_owned(), port));
    }
    for (service, port) in before.difference(measured) {
        mesh.metrics.gate(service, *port, None);
    }
}
