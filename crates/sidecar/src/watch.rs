//! Once in a while: circuits are swept, their transitions told, idle connections closed.
//!
//! Transitions are written down by `resilience` in their order and told from here, so that telling costs no request.

use crate::mesh::Mesh;
use crate::upstream::service::Upstream;
use fusewire_resilience::{Member, State, Transition};
use fusewire_telemetry::metrics::Direction;
use serde::Serialize;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::{MissedTickBehavior, interval};

const TICK: Duration = Duration::from_millis(50);
/// In ticks.
const SWEEP: u64 = 20;
const TIDY: u64 = 100;
/// Events kept for the admin socket.
const KEPT: usize = 4096;

/// What happened to a circuit, as it is shown and streamed.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Event {
    /// Of this sidecar, from 1; gaps are events that were dropped.
    pub(crate) seq: u64,
    pub(crate) time: String,
    pub(crate) service: String,
    pub(crate) instance: String,
    pub(crate) from: &'static str,
    pub(crate) to: &'static str,
    pub(crate) reason: &'static str,
    pub(crate) open_ms: u64,
    pub(crate) total: u32,
    pub(crate) hard: u32,
    pub(crate) soft: u32,
    pub(crate) probes_needed: u8,
    pub(crate) observed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) actor: Option<String>,
}

#[derive(Default)]
pub(crate) struct Events(Mutex<(u64, VecDeque<Event>)>);

impl Events {
    fn push(&self, mut event: Event) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.0 += 1;
        event.seq = kept.0;
        if kept.1.len() == KEPT {
            kept.1.pop_front();
        }
        kept.1.push_back(event);
    }
    /// Those after `seq`, oldest first.
    pub(crate) fn after(&self, seq: u64) -> Vec<Event> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.1.iter().filter(|e| e.seq > seq).cloned().collect()
    }
}

pub(crate) fn state_word(state: State) -> &'static str {
    match state {
        State::Closed => "closed",
        State::Open => "open",
        State::HalfOpen => "half-open",
    }
}

pub(crate) async fn run(mesh: Arc<Mesh>) {
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    for tick in 0u64.. {
        ticks.tick().await;
        let snapshot = mesh.snapshot.load_full();
        let now = mesh.clock.now();
        for (direction, upstream) in &snapshot.upstreams {
            if tick.is_multiple_of(TIDY) {
                upstream.set.members().for_each(|i| i.tidy(now));
            }
            if *direction == Direction::Inbound {
                continue; // the application's circuit is its callers' business
            }
            if tick.is_multiple_of(SWEEP) {
                upstream.set.sweep(now);
                let would: u64 = upstream.set.members().map(|i| i.node().would_reject()).sum();
                let counted = &upstream.metrics.would_reject;
                counted.inc_by(would.saturating_sub(counted.get()));
            }
            for (instance, transition) in upstream.set.drain_transitions() {
                tell(&mesh, upstream, &instance.key.id, &transition);
            }
        }
    }
}

fn tell(mesh: &Mesh, upstream: &Upstream, instance: &str, t: &Transition) {
    let (from, to, reason) = (state_word(t.from), state_word(t.to), t.reason.as_str());
    let service = upstream.name.as_str();
    let open_ms = u64::try_from(t.open_for.as_millis()).unwrap_or(u64::MAX);
    mesh.metrics.transition(service, from, to, reason);
    let state = match t.to {
        State::Closed => None,
        State::Open => Some(1),
        State::HalfOpen => Some(2),
    };
    mesh.metrics.breaker_state(service, instance, state);
    tracing::info!(
        service,
        instance,
        from,
        reason,
        open_ms,
        total = t.total,
        hard = t.hard,
        soft = t.soft,
        observed = t.observed,
        "circuit {to}"
    );
    mesh.events.push(Event {
        seq: 0,
        time: fusewire_telemetry::access_log::timestamp(crate::clock::unix_micros()),
        service: service.into(),
        instance: instance.into(),
        from,
        to,
        reason,
        open_ms,
        total: t.total,
        hard: t.hard,
        soft: t.soft,
        probes_needed: t.need,
        observed: t.observed,
        actor: t.actor.clone(),
    });
}
