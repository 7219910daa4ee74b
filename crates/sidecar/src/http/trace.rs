//! Whose part an exchange is of: the context that came in, whether it is recorded, and what each attempt sends on.
//!
//! It decides by the caller's word where there is one, and else by the policy's share and the trace id alone. What is not
//! recorded has ids, for log lines, and nothing more. It deliberately believes `fusewire` in `tracestate` only where a
//! peer's sidecar wrote it: what an application sends under that key is written over, by what its own inbound exchange of
//! the same trace brought ([`crate::carried`]), or by the beginning of a new story.

use super::record::Recording;
use crate::mesh::Worker;
use fusewire_model::policy::Ratio;
use fusewire_resilience::Time;
use fusewire_resilience::retry::{Allowance, Carried, Chain, MAX_ATTEMPTS, Mark, Origin};
use fusewire_telemetry::metrics::Direction;
use fusewire_telemetry::trace::context::{TRACESTATE, extract};
use fusewire_telemetry::trace::sample;
use fusewire_telemetry::trace::state::{self, Member};
use fusewire_telemetry::{Context, Forms, Incoming, SpanId, TraceId};
use http::{HeaderMap, HeaderValue};
use std::borrow::Cow;

pub(crate) struct Trace {
    pub(crate) id: TraceId,
    /// Of the exchange itself.
    pub(crate) span: SpanId,
    pub(crate) parent: Option<SpanId>,
    forms: Forms,
    /// It came as W3C context, so that `tracestate` belongs to it.
    w3c: bool,
    /// What the caller's sidecar said of the request that our application makes this one because of.
    outer: Option<String>,
    /// `None`: not decided yet.
    sampled: Option<bool>,
    /// What will be told of it, where it is recorded and somebody listens.
    pub(crate) recording: Option<Box<Recording>>,
}

impl Trace {
    /// `fields`: of the request; an empty map where there are none.
    pub(crate) fn begin(worker: &Worker, direction: Direction, fields: &HeaderMap, now: Time) -> Self {
        let Incoming { ids, sampled, forms, w3c } = extract(fields);
        let (id, parent) = match ids {
            Some((id, parent)) => (id, Some(parent)),
            None => (TraceId::from_bits((u128::from(worker.random()) << 64) | u128::from(worker.random())), None),
        };
        if w3c
            && direction == Direction::Inbound
            && let Some(said) = told(fields)
        {
            worker.mesh.carried.put(id, said, now);
        }
        let outer = match direction {
            Direction::Outbound => parent.and_then(|_| worker.mesh.carried.get(id, now)),
            Direction::Inbound => None,
        };
        let span = SpanId::from_bits(worker.random());
        Self { id, span, parent, forms, w3c, outer, sampled, recording: None }
    }

    /// Decides by `ratio` where nobody has.
    pub(crate) fn decide(&mut self, ratio: Ratio) -> bool {
        *self.sampled.get_or_insert_with(|| sample::takes(ratio, self.id))
    }

    pub(crate) fn is_sampled(&self) -> bool {
        self.sampled == Some(true)
    }

    /// What is known of the layers outside.
    pub(crate) fn chain(&self) -> Chain {
        self.outer().map_or(Chain::Broken, |member| Chain::Known(member.carried))
    }

    fn outer(&self) -> Option<Member<'_>> {
        self.outer.as_deref().and_then(Member::parse)
    }

    /// Tells the way back that this request failed for good.
    pub(crate) fn mark(&self, worker: &Worker, mark: Mark) {
        if self.outer.is_some() {
            worker.mesh.carried.mark(self.id, mark);
        }
    }

    /// Writes what goes on with an attempt. `carried`: what the next layer is told of retries; `None`: there are none here.
    pub(crate) fn stamp(
        &self,
        worker: &Worker,
        direction: Direction,
        carried: Option<Carried>,
        fields: &mut HeaderMap,
    ) {
        let sampled = self.is_sampled();
        let inbound = direction == Direction::Inbound;
        if inbound && self.w3c && !sampled {
            return; // it goes on as it came: nothing here has anything to add
        }
        let last = self.recording.as_ref().and_then(|r| r.last_attempt());
        let (span, parent) = match last {
            Some(attempt) => (attempt, Some(self.span)),
            None => (self.span, self.parent),
        };
        Context { trace: self.id, span, parent, sampled, forms: self.forms }.inject(fields);
        if !self.w3c {
            fields.remove(TRACESTATE); // it belongs to nothing
        }
        if !inbound && let Some(value) = self.state(worker, carried, fields) {
            fields.insert(TRACESTATE, value);
        }
    }

    /// `tracestate` with our member first.
    fn state(&self, worker: &Worker, carried: Option<Carried>, fields: &HeaderMap) -> Option<HeaderValue> {
        let mesh = &worker.mesh;
        let outer = self.outer();
        let carried = carried.unwrap_or_else(|| Allowance::of(self.chain(), 0).onward(0));
        if outer.is_none() && carried.origin == Origin::First && !fields.contains_key(TRACESTATE) {
            return mesh.own_state.get(usize::from(carried.left)).cloned();
        }
        let origin = match outer {
            Some(outer) => outer.origin,
            None => Cow::Borrowed(origin(&mesh.settings.workload)),
        };
        let others = fields.get_all(TRACESTATE).iter().map(HeaderValue::as_bytes);
        HeaderValue::from_str(&state::with_ours(others, &Member { origin, carried }.value())).ok()
    }
}

/// Our own members for a request that begins here, at its first attempt, by how many may follow: nearly all requests.
pub(crate) fn own_state(workload: &fusewire_identity::SpiffeId) -> [HeaderValue; MAX_ATTEMPTS as usize] {
    let mut left = 0..MAX_ATTEMPTS;
    std::array::from_fn(|_| {
        let carried = Carried { origin: Origin::First, left: left.next().unwrap_or_default() };
        let value = state::with_ours([], &Member { origin: origin(workload).into(), carried }.value());
        HeaderValue::from_str(&value).unwrap_or(HeaderValue::from_static("fusewire=f0"))
    })
}

fn origin(workload: &fusewire_identity::SpiffeId) -> &str {
    workload.as_str().trim_start_matches("spiffe://")
}

/// What a peer's sidecar said; it writes its member first.
fn told(fields: &HeaderMap) -> Option<&str> {
    let rest = fields.get(TRACESTATE)?.to_str().ok()?.strip_prefix("fusewire=")?;
    let value = rest.split(',').next()?;
    Member::parse(value).map(|_| value)
}
