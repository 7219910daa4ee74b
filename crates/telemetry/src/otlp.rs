//! Traces and metrics to whoever speaks OTLP.
//!
//! It decides what is sent when, what is tried again and what is given up. It deliberately does not dial: whoever runs it
//! says how a connection comes to be ([`Connect`]), since the way to the control plane is another than to a collector.
//! The messages are OpenTelemetry's own (`opentelemetry-proto`); its SDK is not used, because that batches on a thread of
//! its own and does not say what it dropped, nor what a receiver refused.

mod client;
mod export;
pub mod metrics;

pub use client::{Client, Http, Io, Refusal, Sent, fields};
pub use export::{Connect, Exporter, Settings};

use crate::trace::span::text;
use opentelemetry_proto::tonic::common::v1::InstrumentationScope;
use opentelemetry_proto::tonic::resource::v1::Resource;

/// Who sends. `attributes`: such as `service.name`.
pub fn resource(attributes: impl IntoIterator<Item = (&'static str, String)>) -> Resource {
    let attributes = attributes.into_iter().filter(|(_, value)| !value.is_empty());
    Resource { attributes: attributes.map(|(key, value)| text(key, value)).collect(), ..Resource::default() }
}

pub(crate) fn scope() -> InstrumentationScope {
    let (name, version) = ("fusewire".into(), env!("CARGO_PKG_VERSION").into());
    InstrumentationScope { name, version, ..InstrumentationScope::default() }
}
