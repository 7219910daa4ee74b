//! What the mesh says about itself: reasons, metrics, access log, traces.
//!
//! It decides names, labels and formats. It deliberately blocks nobody: a reader that does not keep up loses lines, and
//! the loss is counted.

pub mod access_log;
pub mod admin;
pub mod exposition;
pub mod metrics;
pub mod otlp;
mod reason;
pub mod trace;

pub use reason::Reason;
pub use trace::{Context, Forms, Incoming, Sink, SpanId, TraceId};
