//! Failed calls made again, paid for by the successful ones.
//!
//! Only for calls that may be made twice. A retry needs a token of the [`Budget`](crate::retry::Budget), which every
//! successful first try pays a fifth of, so that retries end when successes do; before it there is a wait with full jitter,
//! by whatever timer the application has. What was rejected here is not tried again: it would be rejected again.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::Duration;

use tower_layer::Layer;
use tower_service::Service;

use super::clock::{Clock, Monotonic};
use super::error::Error;
use super::service::{Classify, ErrorsOnly};
use crate::retry::{Backoff, BackoffPolicy, Budget, BudgetConfig, MAX_ATTEMPTS, Settled};

/// Makes services that try again. Put it around a [`ResilienceLayer`](super::ResilienceLayer)'s, which then sees every try.
///
/// ```
/// # use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
/// use fusewire_resilience::tower::{ResilienceLayer, RetryLayer};
/// use tower::{Layer, Service, ServiceExt, service_fn};
///
/// # let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
/// # runtime.block_on(async {
/// # static CALLS: AtomicU32 = AtomicU32::new(0);
/// let guard = ResilienceLayer::builder("inventory").bulkhead(10).build().unwrap();
/// let retry = RetryLayer::new(3, tokio::time::sleep);
/// let fails_once = service_fn(|item: u32| async move {
///     if CALLS.fetch_add(1, Relaxed) == 0 { Err(std::io::Error::other("reset")) } else { Ok(item) }
/// });
/// let mut inventory = retry.layer(guard.layer(fails_once));
/// assert_eq!(inventory.ready().await.unwrap().call(7).await.unwrap(), 7);
/// # });
/// ```
pub struct RetryLayer<T, C = ErrorsOnly> {
    shared: Arc<Shared<T, C>>,
}

struct Shared<T, C> {
    attempts: u8,
    sleep: T,
    classify: C,
    backoff: BackoffPolicy,
    budget: Arc<Budget>,
    clock: Arc<dyn Clock>,
    draws: AtomicU64,
    active: AtomicU32,
}

impl<T> RetryLayer<T> {
    /// `attempts`: in all, the first included, 1..5. `sleep`: the application's timer, such as `tokio::time::sleep`.
    pub fn new(attempts: u8, sleep: T) -> RetryLayer<T> {
        RetryLayer::with(attempts, sleep, ErrorsOnly, BudgetConfig::default(), Monotonic::default())
    }
}

impl<T, C> RetryLayer<T, C> {
    /// The same with its own classifier (failures are tried again), budget and clock.
    pub fn with(attempts: u8, sleep: T, classify: C, budget: BudgetConfig, clock: impl Clock) -> RetryLayer<T, C> {
        let budget = Arc::new(Budget::new(budget, clock.now()));
        let shared = Shared {
            attempts: attempts.clamp(1, MAX_ATTEMPTS),
            sleep,
            classify,
            backoff: BackoffPolicy::default(),
            budget,
            clock: Arc::new(clock),
            draws: AtomicU64::new(0),
            active: AtomicU32::new(0),
        };
        RetryLayer { shared: Arc::new(shared) }
    }

    pub fn budget(&self) -> &Arc<Budget> {
        &self.shared.budget
    }
}

impl<T, C> Clone for RetryLayer<T, C> {
    fn clone(&self) -> Self {
        RetryLayer { shared: self.shared.clone() }
    }
}

impl<S, T, C> Layer<S> for RetryLayer<T, C> {
    type Service = Retry<S, T, C>;

    fn layer(&self, inner: S) -> Self::Service {
        Retry { inner, shared: self.shared.clone() }
    }
}

/// A service whose failed calls are made again.
pub struct Retry<S, T, C = ErrorsOnly> {
    inner: S,
    shared: Arc<Shared<T, C>>,
}

impl<S: Clone, T, C> Clone for Retry<S, T, C> {
    fn clone(&self) -> Self {
        Retry { inner: self.inner.clone(), shared: self.shared.clone() }
    }
}

/// Counts a call as active for as long as it lives.
struct Active<T, C>(Arc<Shared<T, C>>);

impl<T, C> Drop for Active<T, C> {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Relaxed);
    }
}

impl<S, E, T, C, F, Request> Service<Request> for Retry<S, T, C>
where
    S: Service<Request, Error = Error<E>> + Clone + Send + 'static,
    S::Future: Send,
    S::Response: Send,
    E: Send + 'static,
    T: Fn(Duration) -> F + Send + Sync + 'static,
    F: Future<Output = ()> + Send,
    C: Classify<S::Response, E> + Send + Sync + 'static,
    Request: Clone + Send + 'static,
{
    type Response = S::Response;
    type Error = Error<E>;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, Error<E>>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        // The one that is ready is called; its clone is not, and waits for the next.
        let next = self.inner.clone();
        let mut service = std::mem::replace(&mut self.inner, next);
        let shared = self.shared.clone();
        shared.active.fetch_add(1, Relaxed);
        let active = Active(shared.clone());
        Box::pin(async move {
            let _active = active;
            let mut backoff = Backoff::default();
            let mut token = None;
            let mut attempt = 1;
            loop {
                let result = service.call(request.clone()).await;
                drop(token.take());
                let Some(failed) = shared.failed(&result) else { return result };
                if attempt == 1 {
                    let settled = if failed { Settled::Failed } else { Settled::Succeeded };
                    shared.budget.settle_first(settled, shared.clock.now());
                }
                if !failed || attempt >= shared.attempts {
                    return result;
                }
                match shared.budget.take(shared.active.load(Relaxed), shared.clock.now()) {
                    Ok(paid) => token = Some(paid),
                    Err(_) => return result,
                }
                let wait = backoff.next(&shared.backoff, shared.draws.fetch_add(1, Relaxed));
                (shared.sleep)(wait).await;
                std::future::poll_fn(|cx| service.poll_ready(cx)).await?;
                attempt += 1;
            }
        })
    }
}

impl<T, C> Shared<T, C> {
    /// Whether the call failed; `None` if it was never made.
    fn failed<R, E>(&self, result: &Result<R, Error<E>>) -> Option<bool>
    where
        C: Classify<R, E>,
    {
        let outcome = match result {
            Ok(response) => self.classify.classify(Ok(response)),
            Err(Error::Service(error)) => self.classify.classify(Err(error)),
            Err(Error::Rejected(_)) => return None,
        };
        Some(outcome.is_failure())
    }
}
