//! The layer, the service that it makes, and one call.
//!
//! Invariant: a call that was admitted is settled once, by its result, or given back when its future is dropped.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll, ready};

use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use super::clock::Clock;
use super::error::{Error, Rejected};
use crate::bulkhead::{Bulkhead, Place};
use crate::circuit::{Call, Circuit};
use crate::compat::{CallResult, Resilience4jBreaker};
use crate::outcome::{Class, Evidence, Outcome};
use crate::rate::{Gcra, Rate, Standing};
use crate::throttle::{Priority, Throttle, Throttled};
use crate::time::Time;

/// How a call that ended counts.
pub trait Classify<Response, Error> {
    fn classify(&self, result: Result<&Response, &Error>) -> Outcome;
}

impl<F: Fn(Result<&R, &E>) -> Outcome, R, E> Classify<R, E> for F {
    fn classify(&self, result: Result<&R, &E>) -> Outcome {
        self(result)
    }
}

/// Every error is a hard failure, every response is fine. The default.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct ErrorsOnly;

impl<R, E> Classify<R, E> for ErrorsOnly {
    fn classify(&self, result: Result<&R, &E>) -> Outcome {
        match result {
            Ok(_) => Outcome::OK,
            Err(_) => Outcome::new(Class::Hard, Evidence::Reset),
        }
    }
}

pub(super) enum Fuse {
    Ours(Arc<Circuit>),
    Resilience4j(Box<Resilience4jBreaker>),
}

/// What all clones share.
pub(super) struct Parts {
    pub(super) fuse: Option<Fuse>,
    pub(super) bulkhead: Option<Arc<Bulkhead>>,
    pub(super) rate: Option<(Rate, Gcra)>,
    pub(super) throttle: Option<Throttle>,
    pub(super) clock: Arc<dyn Clock>,
    /// Counts on with every draw; mixed, that is chance enough to throttle by.
    pub(super) draws: AtomicU64,
}

/// Makes services that are called only while it is sensible; see the [module](super).
pub struct ResilienceLayer<C = ErrorsOnly> {
    pub(super) parts: Arc<Parts>,
    pub(super) classify: C,
}

impl<C: Clone> Clone for ResilienceLayer<C> {
    fn clone(&self) -> Self {
        ResilienceLayer { parts: self.parts.clone(), classify: self.classify.clone() }
    }
}

impl<C> ResilienceLayer<C> {
    /// The circuit, to look at, to hold open or closed, and to take events from. `None` if none was asked for.
    pub fn circuit(&self) -> Option<&Arc<Circuit>> {
        match self.parts.fuse.as_ref()? {
            Fuse::Ours(circuit) => Some(circuit),
            Fuse::Resilience4j(breaker) => Some(breaker.circuit()),
        }
    }

    /// The same with Resilience4j's states, if it has those.
    pub fn resilience4j(&self) -> Option<&Resilience4jBreaker> {
        match self.parts.fuse.as_ref()? {
            Fuse::Ours(_) => None,
            Fuse::Resilience4j(breaker) => Some(breaker),
        }
    }

    /// Calls in flight, where there is a bulkhead.
    pub fn in_flight(&self) -> Option<u32> {
        self.parts.bulkhead.as_ref().map(|bulkhead| bulkhead.used())
    }

    /// The time that this layer lives by, as [`Circuit::inspect`] and others want it.
    pub fn now(&self) -> Time {
        self.parts.clock.now()
    }
}

impl<S, C: Clone> Layer<S> for ResilienceLayer<C> {
    type Service = Guarded<S, C>;

    fn layer(&self, inner: S) -> Self::Service {
        Guarded { inner, layer: self.clone() }
    }
}

/// A service behind a [`ResilienceLayer`].
#[derive(Clone)]
pub struct Guarded<S, C = ErrorsOnly> {
    inner: S,
    layer: ResilienceLayer<C>,
}

impl<S, C> Guarded<S, C> {
    pub fn get_ref(&self) -> &S {
        &self.inner
    }

    pub fn into_inner(self) -> S {
        self.inner
    }
}

impl<S, C, Request> Service<Request> for Guarded<S, C>
where
    S: Service<Request>,
    C: Classify<S::Response, S::Error> + Clone,
{
    type Response = S::Response;
    type Error = Error<S::Error>;
    type Future = ResponseFuture<S::Future, C>;

    /// The inner service's own readiness. Whether a call is refused is said by the call, because that is what it depends on.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx).map_err(Error::Service)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        match self.layer.parts.admit() {
            Ok(admitted) => ResponseFuture::Called {
                future: self.inner.call(request),
                admitted: Some(admitted),
                parts: self.layer.parts.clone(),
                classify: self.layer.classify.clone(),
            },
            Err(rejected) => ResponseFuture::Rejected { rejected },
        }
    }
}

/// What an admitted call holds until it is over.
pub struct Admitted {
    call: Option<Call>,
    _place: Option<Place>,
    began: Time,
}

impl Parts {
    fn admit(&self) -> Result<Admitted, Rejected> {
        let now = self.clock.now();
        if let Some((rate, gcra)) = &self.rate
            && let Standing::Over { retry_after, .. } = gcra.ask(*rate, now)
        {
            return Err(Rejected::RateLimited { retry_after });
        }
        if let Some(throttle) = &self.throttle
            && let Throttled::Reject { probability } =
                throttle.admit(Priority::Normal, self.draws.fetch_add(1, Relaxed), now)
        {
            return Err(Rejected::Throttled { probability });
        }
        let call = match &self.fuse {
            None => Ok(None),
            Some(Fuse::Ours(circuit)) => circuit.acquire(now).map(Some),
            Some(Fuse::Resilience4j(breaker)) => breaker.acquire(now).map(Some),
        };
        let call = call.map_err(|refused| Rejected::Open { retry_after: refused.retry_after })?;
        let place = match &self.bulkhead {
            None => None,
            // The circuit's permit comes back by itself.
            Some(bulkhead) => Some(bulkhead.enter().ok_or(Rejected::Full)?),
        };
        Ok(Admitted { call, _place: place, began: now })
    }

    fn settle(&self, admitted: Admitted, outcome: Outcome) {
        let now = self.clock.now();
        let took = now.since(admitted.began);
        if let Some(throttle) = &self.throttle
            && outcome.class != Class::Ignored
        {
            throttle.settle_as(outcome.evidence != Evidence::Overload, now);
        }
        match (&self.fuse, admitted.call) {
            (Some(Fuse::Ours(_)), Some(call)) => drop(call.settle(outcome, took, now)),
            (Some(Fuse::Resilience4j(breaker)), call) => {
                let result = match outcome.class {
                    Class::Ok => CallResult::Success,
                    Class::Hard | Class::Soft => CallResult::Failure,
                    Class::Ignored => CallResult::Ignored,
                };
                breaker.settle(call, result, took, now);
            }
            (Some(Fuse::Ours(_)), None) | (None, _) => {}
        }
    }
}

pin_project! {
    /// One guarded call.
    ///
    /// # Drop behavior
    ///
    /// Dropped before it is over, nothing is learnt from the call and all that it held is free again.
    #[project = Projected]
    pub enum ResponseFuture<F, C> {
        #[doc(hidden)]
        Called { #[pin] future: F, admitted: Option<Admitted>, parts: Arc<Parts>, classify: C },
        #[doc(hidden)]
        Rejected { rejected: Rejected },
    }
}

impl<F, C, R, E> Future for ResponseFuture<F, C>
where
    F: Future<Output = Result<R, E>>,
    C: Classify<R, E>,
{
    type Output = Result<R, Error<E>>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project() {
            Projected::Rejected { rejected } => Poll::Ready(Err(Error::Rejected(*rejected))),
            Projected::Called { future, admitted, parts, classify } => {
                let result = ready!(future.poll(cx));
                if let Some(admitted) = admitted.take() {
                    parts.settle(admitted, classify.classify(result.as_ref()));
                }
                Poll::Ready(result.map_err(Error::Service))
            }
        }
    }
}
