//! One request and its answer: the facts that are gathered on the way, and the one place that writes them down.
//!
//! # Drop behavior
//! The exchange ends when it is dropped: with its response body, with our own answer, or with a caller that left. Each
//! exchange writes one line and counts once, however it ends.

use super::answer::Judged;
use super::cors::Sharing;
use super::deadline::Limits;
use super::record::{End, Recording};
use super::trace::Trace;
use crate::bounds::gate::Turn;
use crate::clock;
use crate::fault::Fault;
use crate::mesh::Worker;
use crate::snapshot::{Passes, Target};
use crate::upstream::instance::Instance;
use crate::upstream::kept::Ends;
use crate::upstream::service::Upstream;
use fusewire_identity::SpiffeId;
use fusewire_model::policy::Ratio;
use fusewire_resilience::bulkhead::Place;
use fusewire_resilience::retry::{Carried, Settled};
use fusewire_resilience::{Attempt, Class, Happening, Outcome, Time};
use fusewire_telemetry::access_log::Line;
use fusewire_telemetry::metrics::{Direction, Ended, RouteMetrics, ServiceMetrics};
use fusewire_telemetry::{Reason, SpanId, TraceId};
use http::{HeaderMap, Method, Request, Version};
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;
use tokio::sync::OwnedSemaphorePermit;

pub(crate) struct Exchange {
    pub(crate) worker: Arc<Worker>,
    pub(crate) direction: Direction,
    pub(crate) peer: Option<Arc<SpiffeId>>,
    /// Inbound: by whose address the application is called, where that is not ours.
    pub(crate) ends: Option<Ends>,
    pub(crate) started: Time,
    /// The last reading of the clock that its attempts begin by.
    pub(crate) now: Time,
    pub(crate) is_grpc: bool,
    pub(crate) is_head: bool,
    pub(crate) protocol: &'static str,
    /// Where the request goes, once routed.
    pub(crate) upstream: Option<Arc<Upstream>>,
    route: Option<Arc<RouteMetrics>>,
    /// How long its caller waits.
    pub(crate) limits: Limits,
    pub(crate) attempts: u32,
    retries: u32,
    retry_denied: Option<&'static str>,
    /// What stands in for the service's own answer, and the place among those that something does.
    fallback: Option<(&'static str, OwnedSemaphorePermit)>,
    /// What the next layer is told of retries; `None`: there are none here.
    pub(crate) onward: Option<Carried>,
    first: First,
    pub(crate) probe: bool,
    pub(crate) status: Option<u16>,
    pub(crate) grpc_status: Option<u8>,
    pub(crate) reason: Option<Reason>,
    pub(crate) first_byte: Option<Time>,
    ended: Option<Time>,
    passes: Passes,
    /// How the last attempt went, for the service as a whole.
    last: Outcome,
    /// Which pages may read the answer, where the route's rule says so.
    pub(crate) sharing: Option<Box<Sharing>>,
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,
    /// Of both, what the metrics know already.
    counted: [u64; 2],
    pub(crate) trace: Trace,
    /// Outbound: its place among the service's requests, to the end.
    pub(crate) place: Option<Place>,
    /// Inbound: its turn at the application, until it is sent there.
    pub(crate) turn: Option<Turn>,
    /// Only gathered where there is a log to write them to, or a span.
    facts: Option<Box<Facts>>,
}

/// Whether the retry budget was told how the first attempt went: its success pays for the retries of others.
#[derive(Clone, Copy, PartialEq, Eq)]
enum First {
    Open,
    /// The trailers will say.
    Trailers,
    Told,
}

#[derive(Default)]
pub(crate) struct Facts {
    pub(crate) method: String,
    pub(crate) authority: String,
    pub(crate) path: String,
    instance: String,
    pub(crate) detail: Option<String>,
}

impl Facts {
    fn of<B>(request: &Request<B>) -> Box<Self> {
        Box::new(Self {
            method: request.method().as_str().into(),
            // user information is refused, and must not be kept by the log that says so
            authority: super::headers::authority(request)
                .unwrap_or_default()
                .rsplit('@')
                .next()
                .unwrap_or_default()
                .into(),
            path: request.uri().path().into(),
            ..Self::default()
        })
    }
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
        let facts = worker.mesh.access_log.as_ref().map(|_| Facts::of(request));
        let mut exchange = Self::new(worker, direction, peer, protocol, request.headers());
        (exchange.facts, exchange.is_grpc) = (facts, is_grpc);
        exchange.is_head = request.method() == Method::HEAD;
        exchange.limits =
            Limits::asked(believed(direction, &exchange.peer), request.headers(), is_grpc, exchange.started);
        exchange
    }

    /// Bytes, not HTTP: a connection is the exchange.
    pub(crate) fn begin_tcp(worker: &Arc<Worker>, direction: Direction, peer: Option<Arc<SpiffeId>>) -> Self {
        let mut exchange = Self::new(worker, direction, peer, "tcp", &HeaderMap::new());
        exchange.facts = worker.mesh.access_log.as_ref().map(|_| Box::default());
        exchange
    }

    fn new(
        worker: &Arc<Worker>,
        direction: Direction,
        peer: Option<Arc<SpiffeId>>,
        protocol: &'static str,
        fields: &HeaderMap,
    ) -> Self {
        let started = worker.mesh.clock.now();
        Self {
            worker: worker.clone(),
            direction,
            ends: None,
            started,
            now: started,
            is_grpc: false,
            is_head: false,
            protocol,
            upstream: None,
            route: None,
            limits: Limits::NONE,
            attempts: 0,
            retries: 0,
            retry_denied: None,
            fallback: None,
            onward: None,
            first: First::Open,
            probe: false,
            status: None,
            grpc_status: None,
            reason: None,
            first_byte: None,
            ended: None,
            passes: Passes::default(),
            last: Outcome::IGNORED,
            sharing: None,
            bytes_in: 0,
            bytes_out: 0,
            counted: [0; 2],
            trace: Trace::begin(worker, believed(direction, &peer), fields, started),
            peer,
            place: None,
            turn: None,
            facts: None,
        }
    }

    /// Waits, and looks at the clock again if that took any time: what is ready at once costs nothing.
    pub(crate) async fn wait<T>(&mut self, what: impl Future<Output = T>) -> T {
        let mut what = pin!(what);
        if let Poll::Ready(at_once) = poll_fn(|cx| Poll::Ready(what.as_mut().poll(cx))).await {
            return at_once;
        }
        let waited = what.await;
        self.now = self.worker.mesh.clock.now();
        waited
    }

    /// Whether it is recorded, where no caller has said so: by the policy's share. From here on `request` may change.
    pub(crate) fn decide<B>(&mut self, ratio: Ratio, request: &Request<B>) {
        if self.trace.decide(self.share(ratio)) && self.worker.mesh.sink.is_some() {
            self.facts.get_or_insert_with(|| Facts::of(request));
            self.record();
        }
    }

    /// The same of bytes.
    pub(crate) fn decide_tcp(&mut self, ratio: Ratio) {
        if self.trace.decide(self.share(ratio)) && self.worker.mesh.sink.is_some() {
            self.facts.get_or_insert_default();
            self.record();
        }
    }

    /// The sidecar's own word goes before the policy's.
    fn share(&self, policy: Ratio) -> Ratio {
        self.worker.mesh.settings.telemetry.sample.unwrap_or(policy)
    }

    fn record(&mut self) {
        let snapshot = self.worker.mesh.snapshot.load().version.clone();
        self.trace.recording = Some(Box::new(Recording::new(snapshot)));
    }

    /// Its trace's id where it is recorded: an exemplar that leads somewhere.
    pub(crate) fn trace_id(&self) -> Option<TraceId> {
        self.trace.recording.as_ref().map(|_| self.trace.id)
    }

    /// Writes the trace's context for the attempt that is being made.
    pub(crate) fn stamp(&self, fields: &mut HeaderMap) {
        self.trace.stamp(&self.worker, self.direction, self.onward, fields);
    }

    /// How the logical request's first attempt went.
    pub(crate) fn first(&mut self, class: Class, at: Time) {
        let Some(upstream) = self.upstream.as_ref().filter(|_| self.first != First::Told) else { return };
        self.first = First::Told;
        match class {
            Class::Ok => upstream.ledger.budget.settle_first(Settled::Succeeded, at),
            Class::Hard | Class::Soft => upstream.ledger.budget.settle_first(Settled::Failed, at),
            Class::Ignored => {}
        }
    }

    /// The first attempt was answered well, and the trailers have the last word.
    pub(crate) fn first_in_trailers(&mut self) {
        if self.first == First::Open {
            self.first = First::Trailers;
        }
    }

    /// The last attempt is made again.
    pub(crate) fn retries(&mut self, cause: &'static str, after: Duration, at: Time) {
        self.retries += 1;
        if let Some(recording) = &mut self.trace.recording {
            recording.retry(cause, after, at);
        }
    }

    /// It is not, though it could have been.
    pub(crate) fn retry_denied(&mut self, reason: &'static str, at: Time) {
        self.retry_denied = Some(reason);
        if let Some(recording) = &mut self.trace.recording {
            recording.retry_denied(reason, at);
        }
    }

    /// The route is known: from here on its metrics and the service's count this exchange.
    pub(crate) fn routed(&mut self, target: &Target) {
        target.upstream.metrics.in_flight.inc();
        self.upstream = Some(target.upstream.clone());
        self.route.clone_from(&target.route);
    }

    /// The route's rule has answered by itself: no service counts this exchange.
    pub(crate) fn answered_by(&mut self, route: &Arc<RouteMetrics>) {
        self.route = Some(route.clone());
    }

    /// What the service did for this request is known; whatever answer it gets from here on is another's.
    pub(crate) fn conclude(&mut self, now: Time) {
        std::mem::take(&mut self.passes).settle(std::mem::replace(&mut self.last, Outcome::IGNORED), now);
    }

    /// The answer's head has come: what it means for the service as a whole, where no trailer has the last word. Streams
    /// may last for hours, and a circuit on probation cannot wait for their end.
    pub(crate) fn heard(&mut self, judged: &Judged) {
        if judged.needs_grpc_status {
            self.passes.heard(self.worker.mesh.clock.now());
        } else if judged.happening == Happening::DeadlineExceeded {
            self.conclude_with(Outcome::IGNORED); // the caller's clock says nothing of the service
        } else {
            self.conclude_with(judged.outcome);
        }
    }

    pub(crate) fn conclude_with(&mut self, outcome: Outcome) {
        self.last = outcome;
        self.conclude(self.worker.mesh.clock.now());
    }

    /// Asks for leave to send it at all, of the route and the service as a whole.
    pub(crate) fn admit(&mut self, target: &Target, now: Time) -> Result<(), Fault> {
        let admitted = target.admit(self.worker.random(), now);
        self.passes = admitted.inspect_err(|fault| {
            target.upstream.metrics.rejected.inc();
            self.not_admitted(fault, now);
        })?;
        Ok(())
    }

    pub(crate) fn attempted(&mut self, attempt: &Attempt<Instance>) {
        self.attempts += 1;
        self.probe = attempt.is_probe();
        if let Some(facts) = &mut self.facts {
            facts.instance.clone_from(&attempt.member().key.id);
        }
        if let Some(recording) = &mut self.trace.recording {
            let span = SpanId::from_bits(self.worker.random());
            recording.attempt(span, attempt.member(), self.probe, attempt.started());
        }
    }

    /// The instance that the attempt goes to, as this exchange's caller reaches it.
    pub(crate) fn member(&self, attempt: &Attempt<Instance>) -> Arc<Instance> {
        match self.ends {
            Some(ends) => attempt.member().kept_for(ends, attempt.started()),
            None => attempt.member().clone(),
        }
    }

    /// Bytes that go on to where they were going.
    pub(crate) fn passes(&mut self, to: SocketAddr) {
        if let Some(facts) = &mut self.facts {
            facts.detail = Some("passed through: the mesh does not know this destination".into());
        }
        self.bound_for(to);
    }

    pub(crate) fn bound_for(&mut self, to: SocketAddr) {
        if let Some(facts) = &mut self.facts {
            facts.authority = to.to_string();
        }
    }

    pub(crate) fn detail(&mut self, detail: &str) {
        if let Some(facts) = &mut self.facts {
            facts.detail = Some(detail.into());
        }
    }

    /// The answer of the `nth` attempt, from 1, has come; what it says so far.
    pub(crate) fn answered(&mut self, nth: u32, attempt: &Attempt<Instance>, status: u16, class: Class) {
        if nth != self.attempts
            && let Some(facts) = &mut self.facts
        {
            facts.instance.clone_from(&attempt.member().key.id);
        }
        if let Some(recording) = &mut self.trace.recording {
            recording.answered(nth, status, self.grpc_status, self.reason, class);
        }
    }

    /// The `nth` attempt ended without an answer.
    pub(crate) fn broke(&mut self, nth: u32, reason: Reason, blame: Outcome, at: Time) {
        self.last = blame;
        if let Some(recording) = &mut self.trace.recording {
            recording.broke(nth, reason, blame.class, at);
        }
    }

    /// The `nth` attempt was given up: another was answered first.
    pub(crate) fn lost(&mut self, nth: u32, at: Time) {
        if let Some(recording) = &mut self.trace.recording {
            recording.lost(nth, at);
        }
    }

    /// No instance may be asked.
    pub(crate) fn not_admitted(&mut self, fault: &Fault, at: Time) {
        if let (Fault::CircuitOpen { retry_after, .. }, Some(recording)) = (fault, &mut self.trace.recording) {
            recording.rejected(*retry_after, at);
        }
    }

    /// Counts the limit of ours that was in the way, if one was.
    pub(crate) fn refused(&self, fault: &Fault) {
        if let Some(limit) = fault.limit() {
            self.metrics().refused(limit);
        }
    }

    /// The request goes out again, elsewhere or anew.
    pub(crate) fn redials(&mut self, at: Time) {
        if let Some(recording) = &mut self.trace.recording {
            recording.redial(at);
        }
    }

    /// Another answer stands in, because of `cause`; the request has failed all the same.
    pub(crate) fn replaced(&mut self, of: &'static str, cause: &'static str, place: OwnedSemaphorePermit) {
        if let Some(upstream) = &self.upstream {
            upstream.metrics.fallback(of, cause);
        }
        let at = self.worker.mesh.clock.now();
        if let Some(recording) = &mut self.trace.recording {
            recording.fallback(of, cause, at);
        }
        self.fallback = Some((of, place));
    }

    /// Gives the permit back with its outcome and tells of the circuit that this changed.
    pub(crate) fn settle(&mut self, attempt: Attempt<Instance>, outcome: Outcome) {
        self.last = outcome;
        if let Some(recording) = &mut self.trace.recording {
            recording.settled(outcome.class);
        }
        let ended = self.end();
        if self.first == First::Trailers {
            self.first(outcome.class, ended);
        }
        attempt.end(outcome, ended);
    }

    /// So many bytes have come and gone so far. What lasts says so more than once.
    pub(crate) fn count(&mut self, [received, sent]: [u64; 2]) {
        (self.bytes_in, self.bytes_out) = (received, sent);
        let [had_received, had_sent] = std::mem::replace(&mut self.counted, [received, sent]);
        let metrics = self.metrics();
        if received > had_received {
            metrics.bytes_received.inc_by(received - had_received);
        }
        if sent > had_sent {
            metrics.bytes_sent.inc_by(sent - had_sent);
        }
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

    fn write_line(&self, log: &Facts, ended: Time) {
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
            retries: self.retries,
            retry_denied: self.retry_denied,
            fallback: self.fallback.as_ref().map(|(of, _)| *of),
            probe: self.probe,
            first_byte_us: micros(self.first_byte.unwrap_or(ended)),
            duration_us: micros(ended),
            bytes_in: self.bytes_in,
            bytes_out: self.bytes_out,
            trace_id: self.trace.id,
            span_id: self.trace.span,
            sampled: self.trace.is_sampled(),
        });
    }

    fn write_spans(&mut self, facts: &Facts, ended: Time) {
        let (Some(sink), Some(recording)) = (&self.worker.mesh.sink, self.trace.recording.take()) else { return };
        sink.push(recording.into_spans(&End {
            direction: self.direction,
            trace: self.trace.id,
            span: self.trace.span,
            parent: self.trace.parent,
            protocol: self.protocol,
            service: self.upstream.as_ref().map(|u| u.name.as_str()),
            peer: self.peer.as_deref().map(SpiffeId::as_str),
            facts,
            status: self.status,
            grpc_status: self.grpc_status,
            reason: self.reason,
            started: self.started,
            ended,
            now: clock::unix_nanos(),
        }));
    }
}

/// Only a peer's sidecar is believed what sidecars say; a caller that came in without one says what applications may.
fn believed(direction: Direction, peer: &Option<Arc<SpiffeId>>) -> Direction {
    if peer.is_some() { direction } else { Direction::Outbound }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        let ended = self.end();
        self.conclude(ended);
        self.count([self.bytes_in, self.bytes_out]);
        if self.status.is_none() && self.reason.is_none() {
            self.reason = Some(Reason::ClientGone);
        }
        let counted = Ended {
            took: ended.since(self.started),
            status: self.status,
            grpc_status: self.grpc_status,
            trace_id: self.trace_id().map(TraceId::get),
        };
        if let Some(route) = &self.route {
            route.requests.ended(&counted);
        }
        let metrics = self.metrics();
        metrics.requests.ended(&counted);
        if let Some(reason) = self.reason.filter(|reason| reason.is_failure()) {
            metrics.reason(reason);
        }
        if self.upstream.is_some() {
            metrics.in_flight.dec();
        }
        if let Some(facts) = self.facts.take() {
            self.write_line(&facts, ended);
            self.write_spans(&facts, ended);
        }
    }
}
