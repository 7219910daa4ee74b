//! Bodies on their way: the caller's towards the instance, and the instance's towards the caller.
//!
//! [`SendBody`] can be taken back while nothing of it was read: that is what makes an unsent request resendable.
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
use std::sync::atomic::{AtomicU64, Ordering};
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
    /// Where an untouched body returns to.
    home: Mutex<Option<Incoming>>,
    pub(crate) received: AtomicU64,
    /// Bumped at every frame in either direction; the idle timer compares.
    moves: AtomicU64,
}

impl Flow {
    pub(crate) fn keep(&self, body: Incoming) {
        *self.home.lock().unwrap_or_else(PoisonError::into_inner) = Some(body);
    }
    fn take(&self) -> Option<Incoming> {
        self.home.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
    fn moved(&self) {
        self.moves.fetch_add(1, Ordering::Relaxed);
    }
}

/// A request body towards an instance.
///
/// # Drop behavior
/// Dropped before it was first polled, it leaves the caller's body where the next attempt finds it.
#[derive(Debug)]
pub(crate) enum SendBody {
    Empty,
    Stream { inner: Option<Incoming>, touched: bool, flow: Arc<Flow> },
}

impl SendBody {
    /// The caller's body, if it is still whole.
    pub(crate) fn from_home(flow: &Arc<Flow>) -> Option<Self> {
        Some(Self::Stream { inner: Some(flow.take()?), touched: false, flow: flow.clone() })
    }
}

impl Body for SendBody {
    type Data = Bytes;
    type Error = CallerBroke;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, CallerBroke>>> {
        let SendBody::Stream { inner: Some(inner), touched, flow } = self.get_mut() else {
            return Poll::Ready(None);
        };
        *touched = true;
        let mut frame = ready!(Pin::new(inner).poll_frame(cx));
        flow.moved();
        if let Some(Ok(frame)) = &mut frame {
            if let Some(data) = frame.data_ref() {
                flow.received.fetch_add(data.len() as u64, Ordering::Relaxed);
            } else if let Some(trailers) = frame.trailers_mut() {
                super::headers::strip_ours(trailers);
            }
        }
        Poll::Ready(frame.map(|f| f.map_err(CallerBroke)))
    }
    fn is_end_stream(&self) -> bool {
        match self {
            SendBody::Stream { inner: Some(inner), .. } => inner.is_end_stream(),
            _ => true,
        }
    }
    fn size_hint(&self) -> SizeHint {
        match self {
            SendBody::Stream { inner: Some(inner), .. } => inner.size_hint(),
            _ => SizeHint::with_exact(0),
        }
    }
}

impl Drop for SendBody {
    fn drop(&mut self) {
        if let SendBody::Stream { inner, touched: false, flow } = self
            && let Some(inner) = inner.take()
        {
            flow.keep(inner);
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
    Own { text: Full<Bytes>, _exchange: Option<Box<Exchange>> },
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
            held.release(&self.exchange.worker, attempt.member());
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
                self.exchange.reason = Some(Reason::Reset);
                self.ended(Happening::Truncated, false);
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
