//! Circuits as the admin socket shows them: all of them in short, and one with all that its state follows from.
//!
//! It decides what is shown, in which words and units; what that means to a person is said by `fusewire breaker explain`.

use super::{Circuit, Part, Scope, Unknown, scopes};
use crate::mesh::Mesh;
use crate::snapshot::Whole;
use crate::upstream::instance::Instance;
use crate::upstream::service::Upstream;
use crate::watch::{INSTANCE, state_word};
use fusewire_resilience::{BreakerConfig, Forced, Mode, NodeView, Override, Time, Totals};
use fusewire_telemetry::admin::{Answer, json, not_found};
use fusewire_telemetry::metrics::Direction;
use http::StatusCode;
use serde_json::{Value, json as value};
use std::sync::Arc;
use std::time::Duration;

/// Names in one answer.
pub(super) const MAX_KNOWN: usize = 100;
/// Calls below which a peer says nothing, as the triggers have it.
const PEER_CALLS: u32 = 5;

/// One instance, where it stands now.
pub(super) struct Found {
    pub(super) upstream: Arc<Upstream>,
    pub(super) index: usize,
    member: Arc<Instance>,
}

impl Found {
    pub(super) fn member(&self) -> &Instance {
        &self.member
    }
}

fn outbound(mesh: &Mesh) -> Vec<Arc<Upstream>> {
    let snapshot = mesh.snapshot.load();
    let outbound = snapshot.upstreams.iter().filter(|(direction, _)| *direction == Direction::Outbound);
    let mut all: Vec<Arc<Upstream>> = outbound.map(|(_, upstream)| upstream.clone()).collect();
    all.sort_by(|a, b| a.name.cmp(&b.name));
    all
}

/// The instances of one service by index, in the order of their names.
fn sorted(upstream: &Upstream) -> Vec<(usize, Arc<Instance>)> {
    let mut members: Vec<_> = upstream.set.members().cloned().enumerate().collect();
    members.sort_by(|(_, a), (_, b)| a.key.id.cmp(&b.key.id));
    members
}

pub(super) fn all(mesh: &Mesh) -> Value {
    let now = mesh.clock.now();
    let mut all: Vec<Value> = Vec::new();
    for upstream in outbound(mesh) {
        let views = upstream.set.inspect(now);
        for (index, member) in sorted(&upstream) {
            all.push(short(&upstream, &member, &views[index], now));
        }
    }
    value!({ "breakers": all, "scopes": scopes::all(mesh, now) })
}

/// The service that is meant, or which there are.
fn service(mesh: &Mesh, name: &str) -> Result<Arc<Upstream>, Unknown> {
    let all = outbound(mesh);
    if let Some(found) = all.iter().find(|upstream| upstream.name.as_str() == name) {
        return Ok(found.clone());
    }
    let known: Vec<String> = all.iter().take(MAX_KNOWN).map(|upstream| upstream.name.to_string()).collect();
    let name: String = name.chars().take(80).collect();
    let error = if known.is_empty() {
        format!("service {name:?} is not known here: this sidecar has called nobody yet")
    } else {
        format!("service {name:?} is not known here; this sidecar calls {}", known.join(", "))
    };
    Err(Unknown { error, known })
}

/// The instance that is meant, or which there are.
pub(super) fn find(mesh: &Mesh, circuit: &Circuit) -> Result<Found, Unknown> {
    let upstream = service(mesh, &circuit.service)?;
    let members = sorted(&upstream);
    let known: Vec<String> = members.iter().take(MAX_KNOWN).map(|(_, member)| member.key.id.clone()).collect();
    let list = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
    let Some(id) = &circuit.instance else {
        let error = format!("{} has no circuit of its own; its instances have: {list}", circuit.service);
        return Err(Unknown { error, known });
    };
    if let Some((index, member)) = members.into_iter().find(|(_, member)| member.key.id == *id) {
        return Ok(Found { upstream, index, member });
    }
    let id: String = id.chars().take(80).collect();
    let rests = upstream.resting.iter().any(|resting| resting.key.id == id);
    let error = if rests {
        format!("{id:?} gets no requests while its health check finds it down; those that do are {list}")
    } else {
        format!("{} has no instance {id:?}; there are {list}", circuit.service)
    };
    Err(Unknown { error, known })
}

/// `/breakers/instance/SERVICE[/INSTANCE]`: with the rules, the peers and the last trip.
pub(super) fn explained(mesh: &Mesh, circuit: &Circuit) -> Answer {
    if circuit.part == Part::Override {
        return not_found("GET on a circuit, and PUT and DELETE on its override");
    }
    let now = mesh.clock.now();
    match (circuit.scope, &circuit.instance) {
        (Scope::Instance, Some(_)) => match find(mesh, circuit) {
            Ok(found) => json(StatusCode::OK, &one(mesh, &found, now)),
            Err(unknown) => unknown.answer(),
        },
        (Scope::Whole(whole), _) => match scopes::find(mesh, whole, &circuit.service) {
            Ok(scope) => json(StatusCode::OK, &scopes::shown(whole, &scope, now)),
            Err(unknown) => unknown.answer(),
        },
        (Scope::Instance, None) => match service(mesh, &circuit.service) {
            Ok(upstream) => {
                let views = upstream.set.inspect(now);
                let all = sorted(&upstream).into_iter().map(|(index, member)| {
                    let found = Found { upstream: upstream.clone(), index, member };
                    whole(mesh, &found, &views, now)
                });
                let all: Vec<Value> = all.collect();
                of_service(&upstream, &all, now)
            }
            Err(unknown) => unknown.answer(),
        },
    }
}

fn of_service(upstream: &Upstream, breakers: &[Value], now: Time) -> Answer {
    let own = upstream.scope.as_ref().map(|scope| scopes::shown(Whole::Service, scope, now));
    let resting: Vec<&str> = upstream.resting.iter().map(|instance| instance.key.id.as_str()).collect();
    json(
        StatusCode::OK,
        &value!({ "service": upstream.name.as_str(), "breakers": breakers, "resting": resting, "all_down": upstream.all_down, "own": own }),
    )
}

pub(super) fn one(mesh: &Mesh, found: &Found, now: Time) -> Value {
    whole(mesh, found, &found.upstream.set.inspect(now), now)
}

pub(super) fn mode_word(mode: Mode) -> &'static str {
    match mode {
        Mode::Enforce => "enforce",
        Mode::Observe => "observe",
        Mode::Disabled => "disabled",
    }
}

pub(super) fn held_word(forced: Forced) -> &'static str {
    match forced {
        Forced::Open => "open",
        Forced::Closed => "closed",
    }
}

pub(super) fn millis(d: Duration) -> u64 {
    u64::try_from(d.as_millis()).unwrap_or(u64::MAX)
}

pub(super) fn totals(t: Totals) -> Value {
    value!({ "total": t.total, "hard": t.hard, "soft": t.soft, "slow": t.slow })
}

fn short(upstream: &Upstream, member: &Instance, v: &NodeView, now: Time) -> Value {
    let service = upstream.name.as_str();
    value!({
        "scope": INSTANCE,
        "key": format!("{INSTANCE}/{service}/{}", member.key.id),
        "service": service,
        "instance": member.key.id,
        "address": member.key.address.to_string(),
        "circuit": state_word(v.state),
        "mode": mode_word(v.mode),
        "takes_requests": v.ready,
        "reason": v.reason.map(|r| r.as_str()),
        "ground": v.ground.map(|g| g.as_str()),
        "open_remaining_ms": v.open_remaining.map(millis),
        "openings_in_a_row": v.k,
        "generation": v.generation,
        "window": totals(v.window),
        "at_trip": v.at_trip.map(totals),
        "failures_in_a_row": v.run,
        "timeouts_in_a_row": v.silence,
        "probes": { "needed": v.probes_needed, "in_flight": v.probes_in_flight, "ok": v.probes_ok, "failed": v.probes_failed },
        "override": v.forced.as_ref().map(|held| over(held, member, now)),
        "latency_us": v.ewma.map(|d| u64::try_from(d.as_micros()).unwrap_or(u64::MAX)),
        "in_flight": v.inflight,
        "weight": v.weight,
        "slow_start": v.ramp,
        "stale_results": v.stale_results,
        "would_reject": v.would_reject,
    })
}

fn over(held: &Override, member: &Instance, now: Time) -> Value {
    value!({
        "to": held_word(held.forced),
        "owner": held.owner,
        "reason": held.reason,
        "remaining_ms": held.until.map(|until| millis(until.since(now))),
        "by": if member.held_by_hand().is_some() { "operator" } else { "configuration" },
    })
}

/// With the rules that it is judged by, its peers as they are now, and what opened it last.
fn whole(mesh: &Mesh, found: &Found, views: &[NodeView], now: Time) -> Value {
    let Found { upstream, index, member } = found;
    let Some(view) = views.get(*index) else { return Value::Null };
    let mut shown = short(upstream, member, view, now);
    let carried = |v: &NodeView| if v.ready { f64::from(v.weight.max(1)) * f64::from(v.ramp) } else { 0.0 };
    let all: f64 = views.iter().map(carried).sum();
    let last_trip = mesh.events.last(|e| {
        let its = e.service == upstream.name.as_str() && e.instance == member.key.id;
        its && e.from == "closed" && e.to == "open" && e.reason != "manual"
    });
    if let Value::Object(fields) = &mut shown {
        fields.insert("share".into(), value!(if all > 0.0 { carried(view) / all } else { 0.0 }));
        fields.insert("settings".into(), upstream.set.config(*index).map_or(Value::Null, |config| settings(config)));
        fields.insert("peers".into(), peers(views, *index));
        fields.insert("last_trip".into(), value!(last_trip));
    }
    shown
}

fn settings(config: &BreakerConfig) -> Value {
    value!({
        "window_ms": millis(config.window),
        "window_calls": Some(config.window_calls).filter(|calls| *calls > 0),
        "consecutive": config.consecutive,
        "min_calls": config.min_calls,
        "failure_rate": config.failure_rate,
        "unresponsive": { "timeouts": config.unresponsive.timeouts, "span_ms": millis(config.unresponsive.span) },
        "slow": config.slow.map(|slow| value!({ "over_ms": millis(slow.over), "rate": slow.rate })),
        "peer": { "delta": config.peer.delta, "z": config.peer.z },
        "open": { "base_ms": millis(config.open_base), "max_ms": millis(config.open_max) },
        "probe_timeout_ms": millis(config.probe_timeout),
        "slow_start_ms": millis(config.slow_start),
    })
}

/// The other instances: how many are in which state, and how often those that are closed fail.
fn peers(views: &[NodeView], index: usize) -> Value {
    let others = || views.iter().filter(|v| v.index != index);
    let count = |word: &str| others().filter(|v| state_word(v.state) == word).count();
    let percent = |v: &NodeView| 100.0 * f64::from(v.window.hard + v.window.soft) / f64::from(v.window.total);
    let judged = others().filter(|v| state_word(v.state) == "closed" && v.window.total >= PEER_CALLS);
    let mut rates: Vec<f64> = judged.map(percent).collect();
    rates.sort_by(f64::total_cmp);
    value!({
        "closed": count("closed"),
        "open": count("open"),
        "half_open": count("half-open"),
        "with_calls": rates.len(),
        "median_failing_percent": rates.get(rates.len().saturating_sub(1) / 2),
    })
}
