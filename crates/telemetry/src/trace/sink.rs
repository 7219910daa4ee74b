//! Where finished spans go: a bounded queue in front of one task that sends them.
//!
//! It deliberately never waits: when the queue is full the newest are lost, and counted
//! (`fusewire_spans_dropped_total`). A request never feels that the receiver of its spans is slow or gone.

use super::span::Span;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use tokio::sync::mpsc;

/// Exchanges whose spans may wait to be sent; each has one span and one for each attempt.
pub const QUEUE: usize = 2048;

/// Why spans were lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dropped {
    /// More came than could be sent.
    QueueFull,
    /// The receiver could not be reached, or did not answer, several times.
    ExportFailed,
    /// The receiver did not want them.
    Refused,
    /// The process ended before they were sent.
    Shutdown,
}

impl Dropped {
    pub const ALL: [Self; 4] = [Self::QueueFull, Self::ExportFailed, Self::Refused, Self::Shutdown];

    pub const fn word(self) -> &'static str {
        match self {
            Self::QueueFull => "queue-full",
            Self::ExportFailed => "export-failed",
            Self::Refused => "refused",
            Self::Shutdown => "shutdown",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DroppedLabels {
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SignalLabels {
    signal: &'static str,
}

/// What the exporter counts of its own work.
#[derive(Clone, Debug)]
pub struct ExportMetrics {
    dropped: [Counter; 4],
    pub sent: Counter,
    /// Requests to the receiver that failed: of traces, of metrics.
    pub failed_traces: Counter,
    pub failed_metrics: Counter,
}

impl ExportMetrics {
    /// With every series there is, so that the first loss is a change.
    pub fn register(registry: &mut Registry) -> Self {
        let dropped: Family<DroppedLabels, Counter> = Family::default();
        let failed: Family<SignalLabels, Counter> = Family::default();
        let metrics = Self {
            dropped: Dropped::ALL.map(|d| dropped.get_or_create_owned(&DroppedLabels { reason: d.word() })),
            sent: Counter::default(),
            failed_traces: failed.get_or_create_owned(&SignalLabels { signal: "traces" }),
            failed_metrics: failed.get_or_create_owned(&SignalLabels { signal: "metrics" }),
        };
        registry.register("spans_dropped", "Spans that were lost, by reason", dropped);
        registry.register("spans_sent", "Spans that the receiver took", metrics.sent.clone());
        registry.register("otlp_failed", "Requests to the OTLP receiver that failed", failed);
        metrics
    }

    pub fn dropped(&self, why: Dropped, spans: u64) {
        if spans > 0 {
            self.dropped[why as usize].inc_by(spans);
        }
    }

    pub fn dropped_total(&self) -> u64 {
        self.dropped.iter().map(Counter::get).sum()
    }
}

/// The requests' end of the queue.
#[derive(Clone, Debug)]
pub struct Sink {
    queue: mpsc::Sender<Vec<Span>>,
    metrics: ExportMetrics,
}

/// The sending task's end.
pub type Spans = mpsc::Receiver<Vec<Span>>;

impl Sink {
    pub fn new(metrics: ExportMetrics) -> (Self, Spans) {
        let (queue, spans) = mpsc::channel(QUEUE);
        (Self { queue, metrics }, spans)
    }

    /// Never blocks. The spans of one exchange go together.
    pub fn push(&self, spans: Vec<Span>) {
        if let Err(mpsc::error::TrySendError::Full(lost) | mpsc::error::TrySendError::Closed(lost)) =
            self.queue.try_send(spans)
        {
            self.metrics.dropped(Dropped::QueueFull, lost.len() as u64);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::{SpanId, TraceId, span::Kind};

    #[test]
    fn a_full_queue_loses_the_newest_at_once_and_counts_them() {
        let metrics = ExportMetrics::register(&mut Registry::default());
        let (sink, mut spans) = Sink::new(metrics.clone());
        let span = |n: u64| Span::new(n.to_string(), Kind::Client, TraceId::from_bits(1), SpanId::from_bits(n));
        for n in 0..QUEUE as u64 + 10 {
            sink.push(vec![span(n), span(n)]);
        }
        assert_eq!(metrics.dropped_total(), 20);
        assert_eq!(spans.try_recv().unwrap()[0].clone().into_wire().name, "0");
    }
}
