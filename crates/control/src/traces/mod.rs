//! Traces and the service map: received as OTLP, kept in memory within bounds, told to the page and to other replicas.
//!
//! It decides who is believed to have sent what ([`span`], [`reports`]), what is kept ([`store`]) and how it is asked for
//! ([`query`], [`map`], [`everywhere`]). It deliberately keeps nothing on disk and nothing for long: it is for looking at what
//! happens now, with nothing else installed; whoever wants to keep traces sends them to a collector as well.
//!
//! Invariant: neither lock is held across an await, nor for longer than one batch, one
//! sidecar's report or one step of a search; a
//! few messages ([`admission`]) of [`MAX_MESSAGE`] are being received at once, none for longer than [`RECEIVE`].

mod admission;
mod clear;
mod everywhere;
mod map;
mod otlp;
mod query;
mod reports;
mod span;
mod store;
mod weigh;

pub(crate) use clear::serve as serve_clear;
pub(crate) use everywhere::{get, list, proven_reporters, service_map};
pub(crate) use otlp::{METRICS_SERVICE, Receivers, TRACE_SERVICE};

use crate::shared::lock;
use admission::Admission;
use fusewire_api::v1;
use fusewire_identity::SpiffeId;
use fusewire_telemetry::exposition::Family;
use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsPartialSuccess, ExportMetricsServiceRequest, ExportMetricsServiceResponse,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use query::Filter;
use reports::{Report, Reports};
use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use store::{Limits, Store};
use tonic::Status;

/// The largest message, before and after it is unpacked: what OTLP's own receivers take.
pub(crate) const MAX_MESSAGE: usize = 4 << 20;
/// Whose metrics one message may hold. A sidecar sends its own, a collector those of some.
const MAX_RESOURCES: usize = 1_000;
/// From the first byte of a message to its answer.
pub(crate) const RECEIVE: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(crate) struct Traces {
    store: Mutex<Store>,
    reports: Mutex<Reports>,
    admission: Admission,
}

impl Traces {
    /// `bytes`: of memory for traces.
    pub(crate) fn new(bytes: usize) -> Self {
        Self {
            store: Mutex::new(Store::new(Limits::of(bytes))),
            reports: Mutex::default(),
            admission: Admission::default(),
        }
    }

    /// Others have their turn after each batch of it.
    async fn take_spans(&self, sent: ExportTraceServiceRequest, peer: Option<&SpiffeId>) -> ExportTraceServiceResponse {
        let now = since_1970();
        let (mut malformed, mut surplus, mut fault) = (0, 0, None);
        for resource in sent.resource_spans {
            for batch in span::receive(resource, peer) {
                malformed += batch.malformed;
                fault = fault.or(batch.fault);
                surplus += lock(&self.store).add(batch, now);
                tokio::task::yield_now().await;
            }
        }
        let partial_success = (malformed + surplus > 0).then(|| ExportTracePartialSuccess {
            rejected_spans: i64::try_from(malformed + surplus).unwrap_or(i64::MAX),
            error_message: fault.unwrap_or("a trace has more spans than are kept of one").to_owned(),
        });
        ExportTraceServiceResponse { partial_success }
    }

    /// Others have their turn after each resource of it.
    async fn take_metrics(
        &self,
        mut sent: ExportMetricsServiceRequest,
        peer: Option<&SpiffeId>,
    ) -> ExportMetricsServiceResponse {
        let now = Instant::now();
        let surplus = sent.resource_metrics.split_off(sent.resource_metrics.len().min(MAX_RESOURCES));
        let mut refused = lock(&self.reports).begin(&surplus, now);
        for resource in sent.resource_metrics {
            let report = Report::of(resource, peer);
            refused += lock(&self.reports).add(report, now);
            tokio::task::yield_now().await;
        }
        let partial_success = (refused > 0).then(|| ExportMetricsPartialSuccess {
            rejected_data_points: i64::try_from(refused).unwrap_or(i64::MAX),
            error_message:
                "some values are over the bounds, not in the form that is understood, or of a workload that \
                            proven sidecars speak for"
                    .to_owned(),
        });
        ExportMetricsServiceResponse { partial_success }
    }

    /// Of this replica.
    async fn list_here(&self, asked: &v1::ListTracesRequest) -> Result<v1::ListTracesResponse, Status> {
        let mut filter = Filter::of(asked).map_err(Status::invalid_argument)?;
        let mut traces = Vec::new();
        while !query::step(&lock(&self.store), &mut filter, &mut traces) {
            // others have their turn between two looks
            tokio::task::yield_now().await;
        }
        let is_full = traces.len() >= filter.limit;
        let next = traces.last().filter(|_| is_full).map(query::next).unwrap_or_default();
        let store = lock(&self.store);
        let (services, figures) = (query::services(&store), query::figures(&store));
        Ok(v1::ListTracesResponse { traces, next, services, store: Some(figures), ..Default::default() })
    }

    fn get_here(&self, asked: &v1::GetTraceRequest) -> Result<v1::GetTraceResponse, Status> {
        let malformed = || Status::invalid_argument("trace_id: write the 32 hex digits of a trace's id");
        let id = span::trace_id(&asked.trace_id).ok_or_else(malformed)?;
        let found = lock(&self.store).get(&id);
        let Some(trace) = found else { return Ok(v1::GetTraceResponse::default()) };
        let (summary, spans) = (Some(query::summary(id, &trace)), query::spans(&trace));
        Ok(v1::GetTraceResponse { summary, spans, ..Default::default() })
    }

    fn map_here(&self) -> v1::ServiceMapResponse {
        let mut reports = lock(&self.reports);
        let (reporters, refused_reports) = (reports.told(Instant::now()), reports.refused);
        v1::ServiceMapResponse { reporters, refused_reports, ..Default::default() }
    }

    pub(crate) fn families(&self) -> Vec<Family> {
        let (figures, received, evicted) = {
            let store = lock(&self.store);
            (query::figures(&store), store.received, store.lost.evicted_spans)
        };
        let (reporters, refused) = {
            let reports = lock(&self.reports);
            (reports.count(), reports.refused)
        };
        let cause = |cause: &str| [("cause", cause.to_owned())];
        vec![
            Family::gauge("traces_held", "Traces in memory").with([], figures.traces as f64),
            Family::gauge("trace_spans_held", "Spans in memory").with([], figures.spans as f64),
            Family::gauge("trace_bytes", "Memory that they take").with([], figures.bytes as f64),
            Family::gauge("trace_bytes_max", "Memory that they may take").with([], figures.max_bytes as f64),
            Family::counter("trace_spans_received", "Spans that were sent here").with([], received as f64),
            Family::counter("trace_spans_dropped", "Spans that were not kept, or not any longer")
                .with(cause("malformed"), figures.malformed_spans as f64)
                .with(cause("trace-full"), figures.surplus_spans as f64)
                .with(cause("evicted"), evicted as f64),
            Family::counter("trace_spans_trimmed", "Spans kept with less than they came with")
                .with([], figures.trimmed_spans as f64),
            Family::gauge("map_reporters", "Sidecars whose metrics came lately").with([], reporters as f64),
            Family::counter("map_points_refused", "Values of sidecars' metrics that were not taken")
                .with([], refused as f64),
        ]
    }
}

fn since_1970() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
