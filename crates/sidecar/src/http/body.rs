//! Bodies on their way: the caller's towards the instance, and the instance's towards the caller.
//!
//! [`SendBody`] can be taken back while all that was read of it is kept: that is what makes an unsent request resendable.
//! [`ReplyBody`] closes the books when the stream ends: the permit, the connection, the log line.

use super::exchange::Exchange;
use super::stale::Copy;
use super::unread::{Cut, Unread};
use crate::fault::Fault;
use crate::upstream::instance::Instance;
use crate::upstream::send::Held;
use crate::upstream::stream::Written;
use bytes::{Buf, Bytes};
use fusewire_model::policy::Policy;
use fusewire_resilience::retry::Replay;
use fusewire_resilience::{Attempt, Happening};
use fusewire_telemetry::Reason;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use std::io::ErrorKind;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, Sleep};

pub(crate) type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The caller's connection broke while its body was being read.
#[derive(Debug, thiserror::Error)]
#[error("the caller's body broke off")]
pub(crate) struct CallerBroke(#[source] Cut);

/// No byte in either direction for the policy's `timeout.idle`.
#[derive(Debug, thiserror::Error)]
#[error("no byte within timeout.idle")]
pub(crate) struct Idle;

/// What both directions of one exchange share.
#[derive(Debug, Default)]
pub(crate) struct Flow {
    /// Where a body returns to that can be sent from its beginning.
    home: Mutex<Option<Source>>,
    returned: Notify,
    /// It cannot be sent from its beginning any more.
    spent: AtomicBool,
    /// The caller has not said yet what comes next.
    waits: AtomicBool,
    pub(crate) received: AtomicU64,
    /// Bumped at every frame in either direction; the idle timer compares.
    moves: AtomicU64,
    broke: OnceLock<Fault>,
    /// Who wants the body as a whole.
    whole: OnceLock<Mutex<Vec<oneshot::Sender<Vec<Bytes>>>>>,
}

impl Flow {
    pub(crate) fn keep(&self, body: Unread, replay: Replay) {
        self.put(Source { begun: Vec::new(), replay, rest: body });
    }
    fn put(&self, source: Source) {
        *self.home.lock().unwrap_or_else(PoisonError::into_inner) = Some(source);
        self.returned.notify_one();
    }
    fn take(&self) -> Option<Source> {
        self.home.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
    /// Whether the body could be sent from its beginning now.
    pub(crate) fn is_home(&self) -> bool {
        self.home.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }
    /// Waits until an attempt that has ended has let go of the body: the task of its connection does so, at once.
    pub(crate) async fn come_home(&self) {
        let home = async {
            while !self.is_home() && !self.spent.load(Ordering::Acquire) {
                self.returned.notified().await;
            }
        };
        let _ = tokio::time::timeout(WAY_HOME, home).await;
    }
    /// Whether it is the caller that is waited for: its body has not ended.
    pub(crate) fn waits_for_caller(&self) -> bool {
        self.waits.load(Ordering::Relaxed)
    }
    /// The request was answered: it is not sent again.
    pub(crate) fn forget(&self) {
        drop(self.take());
    }
    /// Why the caller's body broke off, if it did: what followed from that is nobody else's failure.
    pub(crate) fn broke(&self) -> Option<&Fault> {
        self.broke.get()
    }
    /// Once, before the body is sent.
    pub(crate) fn tell_whole(&self, waiting: Vec<oneshot::Sender<Vec<Bytes>>>) {
        let _ = self.whole.set(Mutex::new(waiting));
    }
    /// `body`: all of it; `None`: it will not be had.
    fn told(&self, body: Option<&[Bytes]>) {
        let Some(waiting) = self.whole.get() else { return };
        for waits in std::mem::take(&mut *waiting.lock().unwrap_or_else(PoisonError::into_inner)) {
            if let Some(body) = body {
                let _ = waits.send(body.to_vec());
            }
        }
    }
    fn spend(&self) {
        self.spent.store(true, Ordering::Release);
        self.returned.notify_one();
        self.told(None);
    }
    fn moved(&self) {
        self.moves.fetch_add(1, Ordering::Relaxed);
    }
}

/// What a body that was taken from an attempt may take to be back.
const WAY_HOME: Duration = Duration::from_millis(50);
/// What is kept of a body so that it can be sent again is in the worker's `ReplayPool`: 64 KiB each, what a form or a call
/// carries.
/// And it is kept in at most so many pieces: each costs its own bookkeeping.
const PIECES: usize = 64;

/// The caller's body: what was read of it, all of it, and what is yet to come.
#[derive(Debug)]
pub(crate) struct Source {
    begun: Vec<Bytes>,
    replay: Replay,
    rest: Unread,
}

/// A request body towards an instance.
///
/// # Drop behavior
/// Dropped while all that was read of it is kept, it leaves the caller's body where the next attempt finds it.
#[derive(Debug)]
pub(crate) enum SendBody {
    Empty,
    /// Our own words, in one piece.
    Own(Option<Bytes>),
    /// One direction of a stream of bytes.
    Written(Written),
    /// `at`: how many of the kept pieces were sent; `whole`: they are all that was ever read.
    Stream {
        source: Option<Source>,
        at: usize,
        whole: bool,
        flow: Arc<Flow>,
    },
}

impl SendBody {
    /// The caller's body, if it is still whole.
    pub(crate) fn from_home(flow: &Arc<Flow>) -> Option<Self> {
        Some(Self::Stream { source: Some(flow.take()?), at: 0, whole: true, flow: flow.clone() })
    }

    pub(crate) fn whole(bytes: Bytes) -> Self {
        if bytes.is_empty() { Self::Empty } else { Self::Own(Some(bytes)) }
    }
}

impl Body for SendBody {
    type Data = Bytes;
    type Error = CallerBroke;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, CallerBroke>>> {
        let (source, at, whole, flow) = match self.get_mut() {
            SendBody::Stream { source: Some(source), at, whole, flow } => (source, at, whole, flow),
            SendBody::Own(bytes) => return Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            SendBody::Written(written) => {
                return Pin::new(written).poll_frame(cx).map(|frame| frame.map(|frame| frame.map_err(CallerBroke)));
            }
            SendBody::Empty | SendBody::Stream { .. } => return Poll::Ready(None),
        };
        if let Some(again) = source.begun.get(*at) {
            *at += 1;
            flow.moved();
            return Poll::Ready(Some(Ok(Frame::data(again.clone()))));
        }
        let polled = source.rest.poll_frame(cx);
        flow.waits.store(polled.is_pending(), Ordering::Relaxed);
        let mut frame = ready!(polled);
        flow.moved();
        match &mut frame {
            Some(Ok(frame)) => {
                if let Some(trailers) = frame.trailers_mut() {
                    super::headers::strip_trailers(trailers);
                }
                let data = frame.data_ref();
                let length = data.map_or(0, Bytes::len);
                flow.received.fetch_add(length as u64, Ordering::Relaxed);
                match data.filter(|_| *whole && source.begun.len() < PIECES && source.replay.keep(length)) {
                    Some(data) => {
                        source.begun.push(data.clone());
                        *at = source.begun.len();
                    }
                    None => {
                        *whole = false; // too much, or trailers
                        source.replay.give_up();
                        source.begun = Vec::new();
                        *at = 0;
                        flow.spend();
                    }
                }
            }
            Some(Err(e)) => {
                *whole = false;
                let _ = flow.broke.set(why_broke(e));
                flow.spend();
            }
            None => {}
        }
        if *whole && (frame.is_none() || source.rest.is_end_stream()) {
            flow.told(Some(source.begun.as_slice()));
        }
        Poll::Ready(frame.map(|f| f.map_err(CallerBroke)))
    }
    fn is_end_stream(&self) -> bool {
        match self {
            SendBody::Stream { source: Some(source), at, .. } => {
                *at >= source.begun.len() && source.rest.is_end_stream()
            }
            SendBody::Own(bytes) => bytes.is_none(),
            SendBody::Written(written) => written.is_end_stream(),
            _ => true,
        }
    }
    fn size_hint(&self) -> SizeHint {
        let (source, at) = match self {
            SendBody::Stream { source: Some(source), at, .. } => (source, at),
            SendBody::Own(Some(bytes)) => return SizeHint::with_exact(bytes.len() as u64),
            SendBody::Written(written) => return written.size_hint(),
            SendBody::Own(None) | SendBody::Empty | SendBody::Stream { .. } => return SizeHint::with_exact(0),
        };
        let again: usize = source.begun.iter().skip(*at).map(Bytes::len).sum();
        let (rest, mut hint) = (source.rest.size_hint(), SizeHint::new());
        hint.set_lower(rest.lower().saturating_add(again as u64));
        if let Some(upper) = rest.upper() {
            hint.set_upper(upper.saturating_add(again as u64));
        }
        hint
    }
}

/// hyper names what it finds wrong with a body by the kind of an I/O error.
fn why_broke(error: &(dyn std::error::Error + 'static)) -> Fault {
    let mut source = Some(error);
    while let Some(e) = source {
        match e.downcast_ref::<std::io::Error>().map(std::io::Error::kind) {
            Some(ErrorKind::InvalidInput | ErrorKind::InvalidData) => {
                return Fault::BadRequest("the body's chunks are malformed, or what is beside them too large".into());
            }
            Some(ErrorKind::TimedOut) => {
                return Fault::CallerSlow("no byte of the request's body within limits.body_timeout");
            }
            _ => source = e.source(),
        }
    }
    Fault::CallerGone
}

impl Drop for SendBody {
    fn drop(&mut self) {
        if let SendBody::Stream { source, whole: true, flow, .. } = self
            && let Some(source) = source.take()
        {
            flow.put(source);
        }
    }
}

/// Fires when nothing moved for the limit; re-armed by comparison, so that a frame costs no timer.
pub(crate) struct IdleTimer {
    flow: Arc<Flow>,
    seen: u64,
    limit: Duration,
    sleep: Pin<Box<Sleep>>,
}

impl IdleTimer {
    pub(crate) fn new(flow: Arc<Flow>, limit: Duration) -> Self {
        let seen = flow.moves.load(Ordering::Relaxed);
        Self { flow, seen, limit, sleep: Box::pin(tokio::time::sleep(limit)) }
    }
    pub(crate) fn poll_expired(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            ready!(self.sleep.as_mut().poll(cx));
            let moves = self.flow.moves.load(Ordering::Relaxed);
            if moves == self.seen {
                return Poll::Ready(());
            }
            self.seen = moves;
            self.sleep.as_mut().reset(Instant::now() + self.limit);
        }
    }
}

/// A response body towards the caller.
pub(crate) enum ReplyBody {
    /// The mesh's own answer; the exchange ends with it.
    Own {
        text: Full<Bytes>,
        /// Behind a gRPC message.
        trailers: Option<HeaderMap>,
        _exchange: Option<Box<Exchange>>,
    },
    Stream(Box<Tracked>),
    /// One direction of a stream of bytes, which its own task accounts for.
    Written(Written),
}

pub(crate) struct Tracked {
    inner: Unread,
    exchange: Box<Exchange>,
    attempt: Option<Attempt<Instance>>,
    held: Option<Held>,
    flow: Option<Arc<Flow>>,
    idle: Option<IdleTimer>,
    /// gRPC: the status is in the trailers, and a stream without one was cut.
    needs_grpc_status: bool,
    /// For the day on which the service has no answer.
    copy: Option<Box<Copy>>,
    policy: Arc<Policy>,
    sent: u64,
}

pub(crate) struct Parts {
    pub(crate) inner: Unread,
    pub(crate) exchange: Box<Exchange>,
    pub(crate) attempt: Attempt<Instance>,
    pub(crate) held: Held,
    pub(crate) flow: Option<Arc<Flow>>,
    pub(crate) idle: Option<IdleTimer>,
    pub(crate) needs_grpc_status: bool,
    pub(crate) copy: Option<Box<Copy>>,
    pub(crate) policy: Arc<Policy>,
}

impl Tracked {
    pub(crate) fn new(p: Parts) -> Self {
        let mut tracked = Self {
            inner: p.inner,
            exchange: p.exchange,
            attempt: Some(p.attempt),
            held: Some(p.held),
            flow: p.flow,
            idle: p.idle,
            needs_grpc_status: p.needs_grpc_status,
            copy: p.copy,
            policy: p.policy,
            sent: 0,
        };
        if tracked.inner.is_end_stream() {
            tracked.ended(if tracked.needs_grpc_status { Happening::Truncated } else { Happening::Complete }, true);
        }
        tracked
    }

    /// Gives back the permit and, after a clean end, the connection. Once.
    fn ended(&mut self, happening: Happening, clean: bool) {
        let Some(attempt) = self.attempt.take() else { return };
        self.exchange.bytes_out = self.sent;
        if let Some(flow) = &self.flow {
            self.exchange.bytes_in = flow.received.load(Ordering::Relaxed);
        }
        if let Some(held) = self.held.take()
            && clean
        {
            let now = self.exchange.end();
            held.release(self.exchange.worker.index, attempt.member(), now);
        }
        if let Some(copy) = self.copy.take()
            && clean
            && happening == Happening::Complete
        {
            let now = self.exchange.end();
            self.exchange.worker.mesh.stale.store(*copy, now);
        }
        self.exchange.settle(attempt, self.policy.classify.classify(happening));
    }

    fn trailers(&mut self, trailers: &mut HeaderMap) {
        super::headers::strip_trailers(trailers);
        if self.needs_grpc_status {
            self.needs_grpc_status = false;
            let happening = match super::headers::grpc_status(trailers) {
                Some(code) => {
                    self.exchange.grpc_status = Some(code);
                    Happening::Grpc(code)
                }
                None => Happening::Truncated,
            };
            self.ended(happening, true);
        } else {
            self.ended(Happening::Complete, true);
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let polled = self.inner.poll_frame(cx);
        match polled {
            Poll::Pending => {
                if let Some(idle) = &mut self.idle
                    && idle.poll_expired(cx).is_ready()
                {
                    self.exchange.reason = Some(Reason::ResponseTimeout);
                    self.ended(Happening::Timeout, false);
                    return Poll::Ready(Some(Err(Idle.into())));
                }
                Poll::Pending
            }
            Poll::Ready(None) => {
                let cut = self.needs_grpc_status;
                self.ended(if cut { Happening::Truncated } else { Happening::Complete }, true);
                Poll::Ready(None)
            }
            Poll::Ready(Some(Err(e))) => {
                let left = self.flow.as_ref().is_some_and(|f| f.broke().is_some());
                self.exchange.reason = Some(if left { Reason::ClientGone } else { Reason::Reset });
                self.ended(if left { Happening::Local } else { Happening::Truncated }, false);
                Poll::Ready(Some(Err(e.into())))
            }
            Poll::Ready(Some(Ok(mut frame))) => {
                if let Some(flow) = &self.flow {
                    flow.moved();
                }
                if let Some(data) = frame.data_ref() {
                    self.sent += data.remaining() as u64;
                    if self.copy.as_mut().is_some_and(|copy| !copy.add(data)) {
                        self.copy = None;
                    }
                    // hyper does not poll again once the announced length has come
                    if self.inner.is_end_stream() && !self.needs_grpc_status {
                        self.ended(Happening::Complete, true);
                    }
                } else if let Some(trailers) = frame.trailers_mut() {
                    self.trailers(trailers);
                }
                Poll::Ready(Some(Ok(frame)))
            }
        }
    }
}

impl Drop for Tracked {
    fn drop(&mut self) {
        if self.attempt.is_some() {
            self.exchange.reason = self.exchange.reason.or(Some(Reason::ClientGone));
            // the headers were good and the caller left: that says nothing against the instance, and for gRPC nothing at all
            let happening = if self.needs_grpc_status { Happening::Local } else { Happening::Complete };
            self.ended(happening, false);
        }
    }
}

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.get_mut() {
            ReplyBody::Own { text, trailers, .. } => match ready!(Pin::new(text).poll_frame(cx)) {
                Some(frame) => Poll::Ready(Some(frame.map_err(|e| match e {}))),
                None => Poll::Ready(trailers.take().map(|trailers| Ok(Frame::trailers(trailers)))),
            },
            ReplyBody::Stream(tracked) => tracked.poll(cx),
            ReplyBody::Written(written) => Pin::new(written).poll_frame(cx).map_err(BoxError::from),
        }
    }
    fn is_end_stream(&self) -> bool {
        match self {
            ReplyBody::Own { text, trailers, .. } => text.is_end_stream() && trailers.is_none(),
            ReplyBody::Stream(tracked) => tracked.inner.is_end_stream(),
            ReplyBody::Written(written) => written.is_end_stream(),
        }
    }
    fn size_hint(&self) -> SizeHint {
        match self {
            ReplyBody::Own { text, .. } => text.size_hint(),
            ReplyBody::Stream(tracked) => tracked.inner.size_hint(),
            ReplyBody::Written(written) => written.size_hint(),
        }
    }
}
