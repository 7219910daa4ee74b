//! Spans of the work beside requests: joining, renewing, putting a configuration in force.
//!
//! Each is the root of a trace of its own, and always recorded: they are rare, and when something is wrong they are what is
//! looked for. They go through the same bounded queue as those of requests.

use crate::mesh::Mesh;
use fusewire_resilience::Time;
use fusewire_telemetry::trace::span::{Kind, Span};
use fusewire_telemetry::{SpanId, TraceId};
use std::hash::{BuildHasher, RandomState};

/// `name` took from `began` until now; `error`: how it failed.
pub(crate) fn tell(mesh: &Mesh, name: &'static str, began: Time, error: Option<&str>, fill: impl FnOnce(&mut Span)) {
    let Some(sink) = &mesh.sink else { return };
    let random = RandomState::new();
    let [high, low, own] = [1_u8, 2, 3].map(|n| random.hash_one(n));
    let trace = TraceId::from_bits((u128::from(high) << 64) | u128::from(low));
    let now = crate::clock::unix_nanos();
    let took = u64::try_from(mesh.clock.now().since(began).as_nanos()).unwrap_or(u64::MAX);
    let mut span =
        Span::new(name.into(), Kind::Internal, trace, SpanId::from_bits(own)).at(now.saturating_sub(took), now);
    fill(&mut span);
    if let Some(error) = error {
        span.text("error.type", "_OTHER");
        span.failed(Some(error));
    }
    sink.push(vec![span]);
}
