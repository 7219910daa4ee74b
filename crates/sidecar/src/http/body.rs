//! Bodies on their way: the caller's towards the instance, and the instance's towards the caller.
//!
//! [`SendBody`] can be taken back while all that was read of it is kept: that is what makes an unsent request resendable.
//! [`ReplyBody`] closes the books when the stream ends: the permit, the connection, the log line.

use super::exchange::Exchange;
use crate::upstream::instance::Instance;
use crate::upstream::send::Held;
use bytes::{Buf, Bytes};
use fusewire_resilience::{Attempt, Happening, classify};
use fusewire_telemetry::Reason;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use hyper::body::Incoming;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::time::{Instant, Sleep};

pub(crate) type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The caller's connection broke while its body was being read.
#[derive(Debug, thiserror::Error)]
#[error("the caller's body broke off")]
pub(crate) struct CallerBroke(#[source] hyper::Error);

/// No byte in either direction for the policy's `timeout.idle`.
#[derive(Debug, thiserror::Error)]
#[error("no byte within timeout.idle")]
pub(crate) struct Idle;

/// What both directions of one exchange share.
#[derive(Debug, Default)]
pub(crate) struct Flow {
    /// Where a body returns to that can be sent from its beginning.
    home: Mutex<Option<Source>>,
    pub(crate) received: AtomicU64,
    /// Bumped at every frame in either direction; the idle timer compares.
    moves: AtomicU64,
    broke: AtomicBool,
}

impl Flow {
    pub(crate) fn keep(&self, body: Incoming) {
        self.put(Source { begun: Vec::new(), kept: 0, rest: body });
    }
    fn put(&self, source: Source) {
        *self.home.lock().unwrap_or_else(PoisonError::into_inner) = Some(source);
    }
    fn take(&self) -> Option<Source> {
        self.home.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
    /// Whether the body could be sent from its beginning now.
    pub(crate) fn is_home(&self) -> bool {
        self.home.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }
    /// The request was answered: it is not sent again.
    pub(crate) fn forget(&self) {
        drop(self.take());
    }
    /// Whether the caller's body broke off: what followed from that is nobody else's failure.
    pub(crate) fn broke(&self) -> bool {
        self.broke.load(Ordering::Relaxed)
    }
    fn moved(&self) {
        self.moves.fetch_add(1, Ordering::Relaxed);
    }
}

/// Of a body that has begun to flow, this much is kept, so that a request that then proves unsent (the peer's application
/// is gone, a GOAWAY) can be sent elsewhere: what a form or a call carries. More would be memory for a rare case.
const KEPT: usize = 64 << 10;
/// And at most in so many pieces: each costs its own bookkeeping.
const PIECES: usize = 64;

/// The caller's body: what was read of it, all of it, and what is yet to come.
#[derive(Debug)]
pub(crate) struct Source {
    begun: Vec<Bytes>,
    kept: usize,
    rest: Incoming,
}

/// A request body towards an instance.
///
/// # Drop behavior
/// Dropped while all that was read of it is kept, it leaves the caller's body where the next attempt finds it.
#[derive(Debug)]
pub(crate) enum SendBody {
    Empty,
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
}

impl Body for SendBody {
    type Data = Bytes;
    type Error = CallerBroke;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, CallerBroke>>> {
        let SendBody::Stream { source: Some(source), at, whole, flow } = self.get_mut() else {
            return Poll::Ready(None);
        };
        if let Some(again) = source.begun.get(*at) {
            *at += 1;
            flow.moved();
            return Poll::Ready(Some(Ok(Frame::data(again.clone()))));
        }
        let mut frame = ready!(Pin::new(&mut source.rest).poll_frame(cx));
        flow.moved();
        match &mut frame {
            Some(Ok(frame)) => {
                if let Some(trailers) = frame.trailers_mut() {
                    super::headers::strip_ours(trailers);
                }
                let data = frame.data_ref();
                let length = data.map_or(0, Bytes::len);
                flow.received.fetch_add(length as u64, Ordering::Relaxed);
                source.kept += length;
                match data.filter(|_| *whole && source.kept <= KEPT && source.begun.len() < PIECES) {
                    Some(data) => {
                        source.begun.push(data.clone());
                        *at = source.begun.len();
                    }
                    None => {
                        *whole = false; // too much, or trailers
                        source.begun = Vec::new();
                        *at = 0;
                    }
                }
            }
            Some(Err(_)) => {
                *whole = false;
                flow.broke.store(true, Ordering::Relaxed);
            }
            None => {}
        }
        Poll::Ready(frame.map(|f| f.map_err(CallerBroke)))
    }
    fn is_end_stream(&self) -> bool {
        match self {
            SendBody::Stream { source: Some(source), at, .. } => {
                *at >= source.begun.len() && source.rest.is_end_stream()
            }
            _ => true,
        }
    }
    fn size_hint(&self) -> SizeHint {
        let SendBody::Stream { source: Some(source), at, .. } = self else { return SizeHint::with_exact(0) };
        let again: usize = source.begun.iter().skip(*at).map(Bytes::len).sum();
        let (rest, mut hint) = (source.rest.size_hint(), SizeHint::new());
        hint.set_lower(rest.lower().saturating_add(again as u64));
        if let Some(upper) = rest.upper() {
            hint.set_upper(upper.saturating_add(again as u64));
        }
        hint
    }
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
        _exchange: Option<Box<Exchange>>,
    },
    Stream(Box<Tracked>),
}

pub(crate) struct Tracked {
    inner: Incoming,
    exchange: Box<Exchange>,
    attempt: Option<Attempt<Instance>>,
    held: Option<Held>,
    flow: Option<Arc<Flow>>,
    idle: Option<IdleTimer>,
    /// gRPC: the status is in the trailers, and a stream without one was cut.
    needs_grpc_status: bool,
    sent: u64,
}

pub(crate) struct Parts {
    pub(crate) inner: Incoming,
    pub(crate) exchange: Box<Exchange>,
    pub(crate) attempt: Attempt<Instance>,
    pub(crate) held: Held,
    pub(crate) flow: Option<Arc<Flow>>,
    pub(crate) idle: Option<IdleTimer>,
    pub(crate) needs_grpc_status: bool,
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
        self.exchange.settle(attempt, classify(happening));
    }

    fn trailers(&mut self, trailers: &mut HeaderMap) {
        super::headers::strip_ours(trailers);
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
        let polled = Pin::new(&mut self.inner).poll_frame(cx);
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
                let left = self.flow.as_ref().is_some_and(|f| f.broke());
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
            ReplyBody::Own { text, .. } => Pin::new(text).poll_frame(cx).map_err(|e| match e {}),
            ReplyBody::Stream(tracked) => tracked.poll(cx),
        }
    }
    fn is_end_stream(&self) -> bool {
        match self {
            ReplyBody::Own { text, .. } => text.is_end_stream(),
            ReplyBody::Stream(tracked) => tracked.inner.is_end_stream(),
        }
    }
    fn size_hint(&self) -> SizeHint {
        match self {
            ReplyBody::Own { text, .. } => text.size_hint(),
            ReplyBody::Stream(tracked) => tracked.inner.size_hint(),
        }
    }
}
