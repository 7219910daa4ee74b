//! One request and its answer: the facts that are gathered on the way, and the one place that writes them down.
//!
//! # Drop behavior
//! The exchange ends when it is dropped: with its response body, with our own answer, or with a caller that left. Each
//! exchange writes one line and counts once, however it ends.

use crate::clock;
use crate::mesh::Worker;
use crate::upstream::instance::Instance;
use crate::upstream::service::Upstream;
use fusewire_identity::SpiffeId;
use fusewire_resilience::{Attempt, Outcome, Time};
use fusewire_telemetry::Reason;
use fusewire_telemetry::access_log::Line;
use fusewire_telemetry::metrics::{Direction, ServiceMetrics};
use http::{Method, Request, Version};
use std::sync::Arc;

pub(crate) struct Exchange {
    pub(crate) worker: Arc<Worker>,
    pub(crate) direction: Direction,
    pub(crate) peer: Option<Arc<SpiffeId>>,
    pub(crate) started: Time,
    pub(crate) is_grpc: bool,
    pub(crate) is_head: bool,
    pub(crate) protocol: &'static str,
    /// Where the request goes, once routed.
    pub(crate) upstream: Option<Arc<Upstream>>,
    pub(crate) attempts: u32,
    pub(crate) probe: bool,
    pub(crate) status: Option<u16>,
    pub(crate) grpc_status: Option<u8>,
    pub(crate) reason: Option<Reason>,
    pub(crate) first_byte: Option<Time>,
    ended: Option<Time>,
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,
    /// Only gathered where there is a log to write them to.
    log: Option<Box<LogFacts>>,
}

#[derive(Default)]
struct LogFacts {
    method: String,
    authority: String,
    path: String,
    instance: String,
    detail: Option<String>,
}

impl Exchange {
    pub(crate) fn begin<B>(
        worker: &Arc<Worker>,
        direction: Direction,
        peer: Option<Arc<SpiffeId>>,
        request: &Request<B>,
    ) -> Self {
        let is_grpc = super::headers::is_grpc(request.headers());
        let protocol = match request.version() {
            _ if is_grpc => "grpc",
            Version::HTTP_2 => "h2",
            _ => "h1",
        };
        let log = worker.mesh.access_log.as_ref().map(|_| {
            Box::new(LogFacts {
                method: request.method().as_str().into(),
                authority: super::headers::authority(request).unwrap_or_default().into(),
                path: request.uri().path().into(),
                ..LogFacts::default()
            })
        });
        let mut exchange = Self::new(worker, direction, peer, is_grpc, protocol, log);
        exchange.is_head = request.method() == Method::HEAD;
        exchange
    }

    /// Bytes, not HTTP: a connection is the exchange.
    pub(crate) fn begin_tcp(worker: &Arc<Worker>, direction: Direction, peer: Option<Arc<SpiffeId>>) -> Self {
        let log = worker.mesh.access_log.as_ref().map(|_| Box::default());
        Self::new(worker, direction, peer, false, "tcp", log)
    }

    fn new(
        worker: &Arc<Worker>,
        direction: Direction,
        peer: Option<Arc<SpiffeId>>,
        is_grpc: bool,
        protocol: &'static str,
        log: Option<Box<LogFacts>>,
    ) -> Self {
        Self {
            worker: worker.clone(),
            direction,
            peer,
            started: worker.mesh.clock.now(),
            is_grpc,
            is_head: false,
            protocol,
            upstream: None,
            attempts: 0,
            probe: false,
            status: None,
            grpc_status: None,
            reason: None,
            first_byte: None,
            ended: None,
            bytes_in: 0,
            bytes_out: 0,
            log,
        }
    }

    /// The route is known: from here on the service's metrics count this exchange.
    pub(crate) fn routed(&mut self, upstream: &Arc<Upstream>) {
        upstream.metrics.in_flight.inc();
        self.upstream = Some(upstream.clone());
    }

    pub(crate) fn attempted(&mut self, attempt: &Attempt<Instance>) {
        self.attempts += 1;
        self.probe = attempt.is_probe();
        if let Some(log) = &mut self.log {
            log.instance.clone_from(&attempt.member().key.id);
        }
        if self.probe
            && let Some(upstream) = &self.upstream
        {
            upstream.metrics.probes.inc();
        }
    }

    pub(crate) fn detail(&mut self, detail: &str) {
        if let Some(log) = &mut self.log {
            log.detail = Some(detail.into());
        }
    }

    /// Gives the permit back with its outcome and tells of the circuit that this changed.
    pub(crate) fn settle(&mut self, attempt: Attempt<Instance>, outcome: Outcome) {
        attempt.end(outcome, self.end());
    }

    /// The one moment at which it ended.
    pub(crate) fn end(&mut self) -> Time {
        *self.ended.get_or_insert_with(|| self.worker.mesh.clock.now())
    }

    fn metrics(&self) -> &ServiceMetrics {
        match &self.upstream {
            Some(upstream) => &upstream.metrics,
            None => self.worker.mesh.unrouted(self.direction),
        }
    }

    fn write_line(&self, log: &LogFacts, ended: Time) {
        let Some(out) = &self.worker.mesh.access_log else { return };
        let micros = |t: Time| u64::try_from(t.since(self.started).as_micros()).unwrap_or(u64::MAX);
        out.write(&Line {
            time: clock::unix_micros(),
            direction: self.direction.as_str(),
            peer: self.peer.as_deref().map(SpiffeId::as_str),
            protocol: self.protocol,
            method: &log.method,
            authority: &log.authority,
            path: &log.path,
            status: self.status.unwrap_or(Reason::ClientGone.status_code()),
            grpc_status: self.grpc_status,
            reason: self.reason.map(Reason::word),
            detail: log.detail.as_deref(),
            service: self.upstream.as_ref().map(|u| u.name.as_str()),
            instance: Some(log.instance.as_str()).filter(|i| !i.is_empty()),
            attempts: self.attempts,
            probe: self.probe,
            first_byte_us: micros(self.first_byte.unwrap_or(ended)),
            duration_us: micros(ended),
            bytes_in: self.bytes_in,
            bytes_out: self.bytes_out,
        });
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        let ended = self.end();
        if self.status.is_none() && self.reason.is_none() {
            self.reason = Some(Reason::ClientGone);
        }
        let metrics = self.metrics();
        metrics.seconds.observe(ended.since(self.started).as_secs_f64());
        if let Some(status) = self.status {
            metrics.response(status);
        }
        if let Some(reason) = self.reason {
            metrics.reason(reason);
        }
        if self.bytes_in > 0 {
            metrics.bytes_received.inc_by(self.bytes_in);
        }
        if self.bytes_out > 0 {
            metrics.bytes_sent.inc_by(self.bytes_out);
        }
        if self.upstream.is_some() {
            metrics.in_flight.dec();
        }
        if let Some(log) = self.log.take() {
            self.write_line(&log, ended);
        }
    }
}
