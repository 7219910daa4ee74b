//! Traces: whose part a request is of, which are recorded, and what is told of them.
//!
//! Spans are made once, at the end of an exchange, from the facts that it gathered: a request that is not recorded has no
//! span object, and pays for its ids and two header fields.

pub mod context;
pub mod sample;
pub mod sink;
pub mod span;
pub mod state;

pub use context::{Context, Forms, Incoming, SpanId, TraceId};
pub use sink::{Dropped, Sink};
