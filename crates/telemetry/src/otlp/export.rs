//! The one task that sends: spans in batches, metrics in a rhythm, over one connection.
//!
//! It decides how long what cannot be sent is kept. A batch is tried three times, with growing pauses; meanwhile the queue
//! in front fills and then loses the newest, which is counted. Metrics are sums since the start: a round that fails loses
//! nothing, the next says it all. What was lost is said in the log at most every 30 s, with what the receiver said last.

use super::client::{Client, Refusal, Sent};
use super::{metrics, scope};
use crate::trace::sink::{Dropped, ExportMetrics, Spans};
use crate::trace::span::{SCHEMA, Span};
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::metrics::v1::{ResourceMetrics, ScopeMetrics};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::oneshot;
use tokio::time::{Instant, MissedTickBehavior, interval, interval_at, timeout};

/// Spans that are sent at once.
const BATCH: usize = 512;
/// How long spans wait for their batch to fill.
const LINGER: Duration = Duration::from_secs(1);
/// For a connection and an answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Attempts at one batch.
const ATTEMPTS: u32 = 3;
const MIN_PAUSE: Duration = Duration::from_millis(500);
const MAX_PAUSE: Duration = Duration::from_secs(30);
/// Between attempts where there is no such receiver.
const UNKNOWN_PAUSE: Duration = Duration::from_secs(60);
/// At most this often is a loss logged.
const COMPLAIN: Duration = Duration::from_secs(30);
/// What is left is sent within this time when the process ends.
const FAREWELL: Duration = Duration::from_secs(2);

/// How a connection comes to be.
pub trait Connect: Send {
    /// The error's text is shown: it must hold no secret.
    fn connect(&mut self) -> impl Future<Output = Result<Client, String>> + Send;
    /// Whether it is worth trying; until then everything waits.
    fn is_ready(&self) -> bool {
        true
    }
    /// For logs: where it goes, without anything secret.
    fn name(&self) -> String;
}

#[derive(Debug)]
pub struct Settings {
    pub resource: Resource,
    pub metrics_interval: Duration,
    /// Since when the process counts: Unix time in nanoseconds.
    pub started: u64,
}

pub struct Exporter<C> {
    connect: C,
    settings: Settings,
    counts: ExportMetrics,
    client: Option<Client>,
    batch: Vec<Span>,
    /// Attempts at this batch that failed.
    failed: u32,
    pause: Duration,
    not_before: Instant,
    complained: Option<Instant>,
    /// Losses that were logged.
    told: u64,
}

impl<C: Connect> Exporter<C> {
    pub fn new(connect: C, settings: Settings, counts: ExportMetrics) -> Self {
        let (pause, not_before) = (MIN_PAUSE, Instant::now());
        let batch = Vec::with_capacity(BATCH);
        Self { connect, settings, counts, client: None, batch, failed: 0, pause, not_before, complained: None, told: 0 }
    }

    /// Runs until `stop` says so, or is dropped; then what is left goes out within two seconds. `encoded`: the metrics as
    /// OpenMetrics text.
    pub async fn run(mut self, mut spans: Spans, encoded: impl Fn() -> String, mut stop: oneshot::Receiver<()>) {
        let mut linger = interval(LINGER);
        let every = self.settings.metrics_interval;
        let mut rhythm = interval_at(Instant::now() + every, every);
        for ticks in [&mut linger, &mut rhythm] {
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        }
        loop {
            let mut due = false;
            let room = BATCH.saturating_sub(self.batch.len());
            tokio::select! {
                _ = &mut stop => break,
                got = spans.recv(), if room > 0 => match got {
                    Some(more) => self.batch.extend(more),
                    None => break,
                },
                _ = linger.tick() => due = true,
                _ = rhythm.tick() => self.send_metrics(encoded()).await,
            }
            if (due || self.batch.len() >= BATCH) && !self.batch.is_empty() {
                // what fails here waits for the next tick, and so does what is behind it
                self.send_spans().await;
                linger.reset();
            }
        }
        let _ = timeout(FAREWELL, self.farewell(&mut spans, encoded())).await;
        let mut left = self.batch.len();
        while let Ok(more) = spans.try_recv() {
            left += more.len();
        }
        self.lost(Dropped::Shutdown, left);
    }

    async fn farewell(&mut self, spans: &mut Spans, encoded: String) {
        self.not_before = Instant::now();
        loop {
            while self.batch.len() < BATCH
                && let Ok(more) = spans.try_recv()
            {
                self.batch.extend(more);
            }
            if self.batch.is_empty() || !self.send_spans().await {
                break;
            }
        }
        self.send_metrics(encoded).await;
    }

    /// Whether the batch is off our hands.
    async fn send_spans(&mut self) -> bool {
        if !self.may_send() {
            return false;
        }
        let spans: Vec<_> = self.batch.iter().cloned().map(Span::into_wire).collect();
        let count = spans.len() as u64;
        let scope_spans = vec![ScopeSpans { scope: Some(scope()), spans, schema_url: SCHEMA.into() }];
        let resource = Some(self.settings.resource.clone());
        let resource_spans = vec![ResourceSpans { resource, scope_spans, schema_url: SCHEMA.into() }];
        let refusal = match self.ask(Ask::Traces(ExportTraceServiceRequest { resource_spans })).await {
            Ok(Sent { refused, said }) => {
                self.counts.sent.inc_by(count.saturating_sub(refused));
                self.counts.dropped(Dropped::Refused, refused);
                if refused > 0 {
                    self.complain(&Refusal::Never(said));
                }
                self.failed = 0;
                self.batch.clear();
                return true;
            }
            Err(refusal) => refusal,
        };
        self.counts.failed_traces.inc();
        self.failed += 1;
        let later = matches!(refusal, Refusal::Later(_));
        if later && self.failed < ATTEMPTS {
            return false;
        }
        self.failed = 0;
        let lost = self.batch.drain(..).count();
        self.lost(if later { Dropped::ExportFailed } else { Dropped::Refused }, lost);
        self.complain(&refusal);
        !later
    }

    async fn send_metrics(&mut self, encoded: String) {
        // while it fails, each attempt is for what would be lost
        let spans_first = self.pause > MIN_PAUSE && !self.batch.is_empty();
        if !self.may_send() || spans_first {
            return;
        }
        let metrics = metrics::from_text(&encoded, self.settings.started, now());
        let scope_metrics = vec![ScopeMetrics { scope: Some(scope()), metrics, schema_url: SCHEMA.into() }];
        let resource = Some(self.settings.resource.clone());
        let resource_metrics = vec![ResourceMetrics { resource, scope_metrics, schema_url: SCHEMA.into() }];
        match self.ask(Ask::Metrics(ExportMetricsServiceRequest { resource_metrics })).await {
            Ok(Sent { refused: 0, .. }) => {}
            Ok(Sent { refused, said }) => {
                self.complain(&Refusal::Never(format!("{refused} metrics were refused: {said}")))
            }
            Err(refusal) => {
                self.counts.failed_metrics.inc();
                self.complain(&refusal);
            }
        }
    }

    fn may_send(&self) -> bool {
        self.connect.is_ready() && Instant::now() >= self.not_before
    }

    /// One request over the connection, which is made if there is none. What went wrong decides when the next may go.
    async fn ask(&mut self, what: Ask) -> Result<Sent, Refusal> {
        let asked = async {
            let client = match &mut self.client {
                Some(client) => client,
                none => none.insert(self.connect.connect().await.map_err(Refusal::Later)?),
            };
            match what {
                Ask::Traces(message) => client.traces(message).await,
                Ask::Metrics(message) => client.metrics(message).await,
            }
        };
        let late = || Refusal::Later(format!("no answer within {PATIENCE:?}"));
        let answered = timeout(PATIENCE, asked).await.unwrap_or_else(|_| Err(late()));
        let pause = match &answered {
            Ok(_) => {
                self.pause = MIN_PAUSE;
                return answered;
            }
            Err(Refusal::Never(_)) => return answered,
            Err(Refusal::Unknown(_)) => UNKNOWN_PAUSE,
            Err(Refusal::Later(_)) => self.pause,
        };
        self.client = None;
        self.pause = (self.pause * 2).min(MAX_PAUSE);
        self.not_before = Instant::now() + pause.mul_f64(0.5 + fraction() / 2.0);
        answered
    }

    fn lost(&mut self, why: Dropped, spans: usize) {
        self.counts.dropped(why, spans as u64);
    }

    fn complain(&mut self, refusal: &Refusal) {
        if self.complained.is_some_and(|at| at.elapsed() < COMPLAIN) {
            return;
        }
        self.complained = Some(Instant::now());
        let total = self.counts.dropped_total();
        let (receiver, said) = (self.connect.name(), refusal.text());
        let lost = total - std::mem::replace(&mut self.told, total);
        match refusal {
            // an older control plane, say: nothing that anybody needs to be woken for
            Refusal::Unknown(_) => tracing::info!(receiver, lost, "nobody takes telemetry there: {said}"),
            _ => tracing::warn!(receiver, lost, "telemetry does not arrive: {said}"),
        }
    }
}

enum Ask {
    Traces(ExportTraceServiceRequest),
    Metrics(ExportMetricsServiceRequest),
}

/// 0..1, for spreading: a fleet must not come back to its receiver in step.
fn fraction() -> f64 {
    RandomState::new().build_hasher().finish() as f64 / u64::MAX as f64
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
