//! What a sidecar tells about itself. `/live /ready /metrics` to anybody who can reach the address; `/config` and
//! `/breakers` too on the Unix socket.

use crate::clock;
use crate::mesh::Mesh;
use crate::watch::state_word;
use fusewire_identity::SpiffeId;
use fusewire_resilience::{Mode, NodeView};
use fusewire_telemetry::admin::{Answer, Asked, json, not_found, text};
use fusewire_telemetry::metrics::Direction;
use http::{Method, StatusCode};
use serde_json::{Value, json as value};
use std::sync::Arc;

/// How much may be told.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reveal {
    Health,
    All,
}

pub(crate) async fn answer(mesh: Arc<Mesh>, reveal: Reveal, asked: Asked) -> Answer {
    if asked.method != Method::GET && asked.method != Method::HEAD {
        return text(StatusCode::METHOD_NOT_ALLOWED, "text/plain", "read-only: use GET\n");
    }
    match (asked.path.as_str(), reveal) {
        ("/live", _) => text(StatusCode::OK, "text/plain", "live\n"),
        ("/ready", _) => ready(&mesh),
        ("/metrics", _) => {
            text(StatusCode::OK, "application/openmetrics-text; version=1.0.0; charset=utf-8", mesh.metrics.encode())
        }
        ("/config", Reveal::All) => json(StatusCode::OK, &config(&mesh)),
        ("/breakers", Reveal::All) => json(StatusCode::OK, &breakers(&mesh)),
        ("/breakers/events", Reveal::All) => {
            let after = asked.query.strip_prefix("after=").and_then(|n| n.parse().ok()).unwrap_or(0);
            json(StatusCode::OK, &mesh.events.after(after))
        }
        (_, Reveal::Health) => not_found("/live, /ready and /metrics"),
        (_, Reveal::All) => not_found("/live, /ready, /metrics, /config, /breakers and /breakers/events?after=SEQ"),
    }
}

/// Ready: there is a configuration, and a certificate where one is needed, and no drain has begun.
fn ready(mesh: &Mesh) -> Answer {
    let missing = if mesh.inbound_drain.has_begun() {
        Some("draining")
    } else if mesh.needs_identity() && mesh.tls().is_none() {
        Some("no certificate yet")
    } else if mesh.snapshot.load().version.is_empty() {
        Some("no configuration yet")
    } else {
        None
    };
    match missing {
        None => text(StatusCode::OK, "text/plain", "ready\n"),
        Some(why) => text(StatusCode::SERVICE_UNAVAILABLE, "text/plain", format!("not ready: {why}\n")),
    }
}

fn config(mesh: &Mesh) -> Value {
    let snapshot = mesh.snapshot.load();
    let identity = mesh.tls().map(|tls| {
        let expires = tls.identity.not_after();
        value!({
            "id": tls.identity.id.as_str(),
            "serial": tls.identity.serial(),
            "expires": expires,
            "remaining_seconds": expires.saturating_sub(clock::unix_seconds()),
            "roots": tls.identity.bundle().root_hashes(),
        })
    });
    let known = |found: bool| if found { "found" } else { "not-found" };
    let authorities: serde_json::Map<String, Value> =
        snapshot.authorities.iter().map(|(name, k)| (name.to_string(), known(k.found.is_some()).into())).collect();
    let services: Vec<Value> = snapshot
        .upstreams
        .iter()
        .filter(|(direction, _)| *direction == Direction::Outbound)
        .map(|(_, u)| {
            let instances: Vec<Value> = u
                .set
                .members()
                .map(|i| {
                    let sidecar = i.key.sidecar.as_ref();
                    value!({
                        "id": i.key.id,
                        "address": i.key.address.to_string(),
                        "sidecar": sidecar.map(|s| s.inbound.to_string()),
                        "identity": sidecar.map(|s| s.identity.to_string()),
                        "connections": i.connections(),
                    })
                })
                .collect();
            value!({
                "name": u.name.as_str(),
                "protocol": u.protocol.as_str(),
                "policy": u.policy.name.as_str(),
                "instances": instances,
            })
        })
        .collect();
    let inbound = snapshot.inbound.as_ref().map(|ports| {
        let ports: Vec<Value> = ports
            .iter()
            .map(|(port, p)| {
                let allow = match &p.allow {
                    fusewire_model::service::Allow::Mesh => value!("mesh"),
                    fusewire_model::service::Allow::Only(ids) => ids.iter().map(SpiffeId::as_str).collect(),
                };
                value!({ "port": port, "service": p.upstream.name.as_str(), "allow": allow })
            })
            .collect();
        ports
    });
    value!({
        "workload": mesh.settings.workload.as_str(),
        "instance": mesh.settings.instance,
        "program": env!("CARGO_PKG_VERSION"),
        "version": snapshot.version,
        "control": mesh.settings.control,
        "connected": mesh.metrics.config_connected.get() == 1,
        "identity": identity,
        "draining": mesh.inbound_drain.has_begun(),
        "open_connections": mesh.inbound_drain.open() + mesh.outbound_drain.open(),
        "authorities": authorities,
        "services": services,
        "inbound": inbound,
    })
}

fn breakers(mesh: &Mesh) -> Value {
    let snapshot = mesh.snapshot.load();
    let now = mesh.clock.now();
    let mut all: Vec<Value> = Vec::new();
    for (direction, upstream) in &snapshot.upstreams {
        if *direction != Direction::Outbound {
            continue;
        }
        for (member, view) in upstream.set.members().zip(upstream.set.inspect(now)) {
            all.push(breaker(upstream.name.as_str(), &member.key.id, &member.key.address.to_string(), &view));
        }
    }
    all.sort_by_key(|b| (b["service"].to_string(), b["instance"].to_string()));
    value!({ "breakers": all })
}

fn breaker(service: &str, instance: &str, address: &str, v: &NodeView) -> Value {
    let millis = |d: std::time::Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
    let totals = |t: fusewire_resilience::Totals| value!({ "total": t.total, "hard": t.hard, "soft": t.soft });
    let mode = match v.mode {
        Mode::Enforce => "enforce",
        Mode::Observe => "observe",
        Mode::Disabled => "disabled",
    };
    value!({
        "scope": "instance",
        "service": service,
        "instance": instance,
        "address": address,
        "circuit": state_word(v.state),
        "mode": mode,
        "reason": v.reason.map(|r| r.as_str()),
        "open_remaining_ms": v.open_remaining.map(millis),
        "openings_in_a_row": v.k,
        "generation": v.generation,
        "window": totals(v.window),
        "at_trip": v.at_trip.map(totals),
        "failures_in_a_row": v.run,
        "probes": { "needed": v.probes_needed, "in_flight": v.probes_in_flight, "ok": v.probes_ok, "failed": v.probes_failed },
        "override": v.forced.as_ref().map(|o| value!({
            "to": match o.forced { fusewire_resilience::Forced::Open => "open", fusewire_resilience::Forced::Closed => "closed" },
            "owner": o.owner, "reason": o.reason,
        })),
        "latency_us": v.ewma.map(|d| u64::try_from(d.as_micros()).unwrap_or(u64::MAX)),
        "in_flight": v.inflight,
        "weight": v.weight,
        "slow_start": v.ramp,
        "stale_results": v.stale_results,
        "would_reject": v.would_reject,
    })
}
