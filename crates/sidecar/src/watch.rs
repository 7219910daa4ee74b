//! Once in a while: circuits are swept, their transitions told, idle connections closed.
//!
//! Transitions are written down by `resilience` in their order and told from here, so that telling costs no request: a
//! log line, a metric, an event. What `/metrics` shows of circuits is set, and taken out, from here alone: what is in no
//! snapshot any more goes with the next sweep, whoever told of it last.

use crate::bounds::view::{self, Measured};
use crate::doubt::Doubt;
use crate::events::Event;
use crate::mesh::Mesh;
use crate::snapshot::Whole;
use crate::upstream::instance::Instance;
use crate::upstream::service::Upstream;
use fusewire_model::ServiceName;
use fusewire_resilience::{Member, Override, Reason, ServiceScope, State, Transition, TripClass};
use fusewire_telemetry::metrics::{Changed, Direction, Metrics};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{MissedTickBehavior, interval};

const TICK: Duration = Duration::from_millis(50);
/// In ticks.
const SWEEP: u64 = 20;
const TIDY: u64 = 100;
/// An opening that is longer has no end but an operator's word.
const WITHOUT_END: Duration = Duration::from_secs(10 * 365 * 86_400);

/// Which kind of circuit, as events, metrics and paths name it.
pub(crate) const INSTANCE: &str = "instance";

pub(crate) fn state_word(state: State) -> &'static str {
    match state {
        State::Closed => "closed",
        State::Open => "open",
        State::HalfOpen => "half-open",
    }
}

/// What a circuit is found by in metrics.
type Name = (ServiceName, String);

/// What `/metrics` shows of circuits at the moment.
#[derive(Default)]
struct Shown {
    states: HashMap<Name, i64>,
    /// Of whole services and routes, those that are shown.
    wholes: HashSet<(&'static str, String)>,
    /// With the events that each one's journal has lost so far.
    services: HashMap<ServiceName, u64>,
}

pub(crate) async fn run(mesh: Arc<Mesh>) {
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut measured = Measured::new();
    let (mut shown, mut doubt) = (Shown::default(), Doubt::default());
    for tick in 0u64.. {
        ticks.tick().await;
        let snapshot = mesh.snapshot.load_full();
        let now = mesh.clock.now();
        if tick.is_multiple_of(SWEEP) {
            view::measure(&mesh, &snapshot, &mut measured);
        }
        for (direction, upstream) in &snapshot.upstreams {
            if tick.is_multiple_of(TIDY) {
                upstream.set.members().chain(&upstream.resting).for_each(|i| i.tidy(now));
            }
            if *direction == Direction::Inbound {
                continue; // the application's circuit is its callers' business
            }
            if tick.is_multiple_of(SWEEP) {
                upstream.set.sweep(now);
                let saved = upstream.ledger.budget.tokens() / 1000;
                upstream.metrics.retry_budget.set(i64::try_from(saved).unwrap_or(i64::MAX));
            }
            for (instance, transition) in upstream.set.drain_transitions() {
                tell(&mesh, upstream, &instance, &transition);
                doubt.transition(&mesh, upstream, &transition);
                shown.set(&mesh, upstream, &instance, transition.to);
            }
        }
        for (whole, scope) in &snapshot.scopes {
            if tick.is_multiple_of(SWEEP) {
                scope.sweep(now);
            }
            for transition in scope.drain_transitions() {
                tell_whole(&mesh, *whole, scope, &transition);
            }
        }
        if tick.is_multiple_of(SWEEP) {
            shown.wholes(&mesh, &snapshot.scopes);
            let outbound = snapshot.upstreams.iter().filter(|(direction, _)| *direction == Direction::Outbound);
            let outbound = outbound.map(|(_, upstream)| upstream.as_ref());
            doubt.look(&mesh, outbound.clone(), now);
            shown.renew(&mesh, outbound);
            mesh.metrics.events_dropped("reader", mesh.events.take_missed());
        }
    }
}

impl Shown {
    /// The circuits before services and routes: an empty instance stands for all of them.
    fn wholes(&mut self, mesh: &Mesh, scopes: &[(Whole, Arc<ServiceScope>)]) {
        let mut there = HashSet::new();
        for (whole, scope) in scopes {
            let value = match scope.state() {
                State::Closed if !mesh.settings.telemetry.per_instance_metrics => continue,
                State::Closed => 0,
                State::Open => 1,
                State::HalfOpen => 2,
            };
            mesh.metrics.breaker_state(whole.word(), scope.name(), "", Some(value));
            there.insert((whole.word(), scope.name().to_owned()));
        }
        for (whole, name) in self.wholes.difference(&there) {
            mesh.metrics.breaker_state(whole, name, "", None);
        }
        self.wholes = there;
    }

    fn set(&mut self, mesh: &Mesh, upstream: &Upstream, instance: &Instance, state: State) {
        let name = (upstream.name.clone(), instance.key.id.clone());
        let value = match state {
            State::Closed if !mesh.settings.telemetry.per_instance_metrics => {
                self.states.remove(&name);
                mesh.metrics.breaker_state(INSTANCE, name.0.as_str(), &name.1, None);
                return;
            }
            State::Closed => 0,
            State::Open => 1,
            State::HalfOpen => 2,
        };
        mesh.metrics.breaker_state(INSTANCE, name.0.as_str(), &name.1, Some(value));
        self.states.insert(name, value);
    }

    /// Shows all circuits as they are, and takes out those that are not there any more. By name: an instance that left and
    /// came back with another address is the same one here.
    fn renew<'a>(&mut self, mesh: &Mesh, upstreams: impl Iterator<Item = &'a Upstream>) {
        let now = mesh.clock.now();
        let (mut there, mut services) = (HashSet::new(), HashSet::new());
        for upstream in upstreams {
            for instance in upstream.set.members().chain(&upstream.resting) {
                instance.count(&upstream.metrics, now);
                let name = (upstream.name.clone(), instance.key.id.clone());
                let state = instance.node().state();
                if state != State::Closed
                    || mesh.settings.telemetry.per_instance_metrics
                    || self.states.contains_key(&name)
                {
                    self.set(mesh, upstream, instance, state);
                }
                there.insert(name);
            }
            let lost = upstream.set.dropped_transitions();
            let before = self.services.insert(upstream.name.clone(), lost).unwrap_or(0);
            mesh.metrics.events_dropped("journal", lost.saturating_sub(before));
            services.insert(upstream.name.clone());
        }
        self.forget(&mesh.metrics, &there, &services);
    }

    fn forget(&mut self, metrics: &Metrics, there: &HashSet<Name>, services: &HashSet<ServiceName>) {
        self.states.retain(|name, _| {
            let stays = there.contains(name);
            if !stays {
                metrics.breaker_state(INSTANCE, name.0.as_str(), &name.1, None);
            }
            stays
        });
        self.services.retain(|service, _| {
            let stays = services.contains(service);
            if !stays {
                metrics.forget_transitions(INSTANCE, service.as_str());
            }
            stays
        });
    }
}

fn tell(mesh: &Mesh, upstream: &Upstream, instance: &Arc<Instance>, t: &Transition) {
    instance.changed(t.to, t.at, &upstream.metrics);
    let index = upstream.set.members().position(|member| Arc::ptr_eq(member, instance));
    let config = index.and_then(|index| upstream.set.config(index)).map_or(&upstream.policy.breaker, |c| c.as_ref());
    let whose = Whose {
        scope: INSTANCE,
        service: upstream.name.as_str(),
        instance: &instance.key.id,
        window: config.window,
        window_calls: config.window_calls,
        held: instance.node().held(),
    };
    tell_of(mesh, whose, t);
}

fn tell_whole(mesh: &Mesh, whole: Whole, scope: &ServiceScope, t: &Transition) {
    let held = scope.inspect(t.at).circuit.forced;
    let window = scope.config().window;
    let whose = Whose { scope: whole.word(), service: scope.name(), instance: "", window, window_calls: 0, held };
    tell_of(mesh, whose, t);
}

/// Whose circuit has changed.
struct Whose<'a> {
    scope: &'static str,
    service: &'a str,
    /// Empty: the whole's own.
    instance: &'a str,
    window: Duration,
    window_calls: u16,
    held: Option<Override>,
}

fn tell_of(mesh: &Mesh, whose: Whose<'_>, t: &Transition) {
    let Whose { scope, service, instance, .. } = whose;
    let (from, to, reason) = (state_word(t.from), state_word(t.to), t.reason.as_str());
    let open_ms = (t.open_for < WITHOUT_END).then(|| u64::try_from(t.open_for.as_millis()).unwrap_or(u64::MAX));
    mesh.metrics.transition(scope, service, Changed { from, to, reason });
    let held = whose.held.filter(|_| t.reason == Reason::Manual);
    let note = held.filter(|held| t.actor.as_ref() == Some(&held.owner)).map(|held| held.reason);
    tracing::info!(
        service,
        instance,
        scope,
        from,
        reason,
        open_ms,
        total = t.total,
        hard = t.hard,
        soft = t.soft,
        observed = t.observed,
        actor = t.actor,
        note,
        "circuit {to}"
    );
    let lost = mesh.events.push(Event {
        seq: 0,
        time: fusewire_telemetry::access_log::timestamp(crate::clock::unix_micros()),
        scope,
        service: service.into(),
        instance: instance.into(),
        from,
        to,
        reason,
        class: t.class.map(TripClass::as_str),
        generation: t.generation,
        k: t.k,
        open_ms,
        window_ms: u64::try_from(whose.window.as_millis()).unwrap_or(u64::MAX),
        window_calls: Some(whose.window_calls).filter(|calls| *calls > 0),
        total: t.total,
        hard: t.hard,
        soft: t.soft,
        slow: t.slow,
        probes_needed: t.need,
        probes_ok: t.probes_ok,
        probes_failed: t.probes_failed,
        observed: t.observed,
        actor: t.actor.clone(),
        note,
    });
    mesh.metrics.events_dropped("kept", lost);
}
