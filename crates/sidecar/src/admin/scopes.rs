//! The circuits before services and routes as a whole, as the admin socket shows and steers them.
//!
//! `/breakers/service/SERVICE` and `/breakers/route/RULE`. It decides what is shown; what may be asked of a circuit is
//! [`super::overrides`]'s to say.

use super::Unknown;
use super::breakers::{MAX_KNOWN, held_word, millis, mode_word, totals};
use crate::mesh::Mesh;
use crate::snapshot::Whole;
use crate::watch::state_word;
use fusewire_resilience::{OpenStage, ServiceScope, Time};
use serde_json::{Value, json as value};
use std::sync::Arc;

pub(super) fn all(mesh: &Mesh, now: Time) -> Vec<Value> {
    let snapshot = mesh.snapshot.load();
    let mut all: Vec<Value> = snapshot.scopes.iter().map(|(whole, scope)| shown(*whole, scope, now)).collect();
    all.sort_by_key(|b| (b["scope"].to_string(), b["service"].to_string()));
    all
}

/// The one that is meant, or which there are.
pub(super) fn find(mesh: &Mesh, whole: Whole, name: &str) -> Result<Arc<ServiceScope>, Unknown> {
    let snapshot = mesh.snapshot.load();
    let all = || snapshot.scopes.iter().filter(|(of, _)| *of == whole).map(|(_, scope)| scope);
    if let Some(scope) = all().find(|scope| scope.name() == name) {
        return Ok(scope.clone());
    }
    let mut known: Vec<String> = all().take(MAX_KNOWN).map(|scope| scope.name().to_owned()).collect();
    known.sort();
    let name: String = name.chars().take(80).collect();
    let list = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
    let error = format!("no {} {name:?} with a circuit of its own is known here; those that are: {list}", whole.word());
    Err(Unknown { error, known })
}

pub(super) fn shown(whole: Whole, scope: &ServiceScope, now: Time) -> Value {
    let view = scope.inspect(now);
    let circuit = &view.circuit;
    value!({
        "scope": whole.word(),
        "key": format!("{}/{}", whole.word(), view.name),
        "service": view.name,
        "circuit": state_word(circuit.state),
        "mode": mode_word(circuit.mode),
        "opens_on": match view.open {
            OpenStage::Off => "nothing",
            OpenStage::Connect => "connect",
            OpenStage::Any => "any",
        },
        "reason": circuit.reason.map(|reason| reason.as_str()),
        "open_remaining_ms": circuit.open_remaining.map(millis),
        "openings_in_a_row": circuit.k,
        "generation": circuit.generation,
        "window": totals(circuit.window),
        "at_trip": circuit.at_trip.map(totals),
        "probes": { "in_flight": circuit.probes_in_flight },
        "admitted_share": view.admitted_share,
        "throttle": view.throttle.map(|throttle| value!({
            "probability": throttle.probability,
            "k": f64::from(throttle.k_percent) / 100.0,
            "requests": throttle.requests,
            "accepts": throttle.accepts,
        })),
        "refused": { "open": circuit.refused, "throttled": view.throttled, "ramp": view.ramped },
        "would_reject": circuit.would_reject + view.would_reject,
        "stale_results": circuit.stale_results,
        "override": circuit.forced.as_ref().map(|held| value!({
            "to": held_word(held.forced),
            "owner": held.owner,
            "reason": held.reason,
            "remaining_ms": held.until.map(|until| millis(until.since(now))),
            "by": "operator",
        })),
    })
}
