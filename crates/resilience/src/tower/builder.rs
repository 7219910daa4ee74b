//! How a layer is put together. Nothing is on that was not asked for.

use std::sync::Arc;

use super::clock::{Clock, Monotonic};
use super::service::{ErrorsOnly, Fuse, Parts, ResilienceLayer};
use crate::bulkhead::Bulkhead;
use crate::circuit::Circuit;
use crate::compat::Resilience4j;
use crate::config::BreakerConfig;
use crate::rate::{Gcra, Rate, RateConfig};
use crate::throttle::{Throttle, ThrottleConfig};

/// Every setting that is out of its bounds, with what it must be.
pub type Faults = Vec<(&'static str, String)>;

enum Wanted {
    Nothing,
    Ours(BreakerConfig),
    Resilience4j(Box<Resilience4j>),
}

/// See [`ResilienceLayer::builder`].
pub struct Builder<C = ErrorsOnly> {
    name: String,
    circuit: Wanted,
    bulkhead: Option<u32>,
    rate: Option<RateConfig>,
    throttle: Option<ThrottleConfig>,
    clock: Arc<dyn Clock>,
    seed: u64,
    classify: C,
}

impl ResilienceLayer {
    /// `name` is what the circuit's events are found by.
    pub fn builder(name: &str) -> Builder {
        Builder {
            name: name.to_owned(),
            circuit: Wanted::Nothing,
            bulkhead: None,
            rate: None,
            throttle: None,
            clock: Arc::new(Monotonic::default()),
            seed: crate::balance::hash(name.as_bytes()),
            classify: ErrorsOnly,
        }
    }
}

impl<C> Builder<C> {
    /// A circuit over all calls. What the settings say of peers and of silence has no meaning here; failures, hard and soft
    /// alike, count by their rate, and hard ones in a row.
    #[must_use]
    pub fn circuit(mut self, config: BreakerConfig) -> Self {
        self.circuit = Wanted::Ours(config);
        self
    }

    /// A circuit with the settings and states of Resilience4j, in place of ours.
    #[must_use]
    pub fn resilience4j(mut self, properties: Resilience4j) -> Self {
        self.circuit = Wanted::Resilience4j(Box::new(properties));
        self
    }

    /// So many calls in flight at most, 1 to 1,000,000; one more is refused and does not wait.
    #[must_use]
    pub fn bulkhead(mut self, calls: u32) -> Self {
        self.bulkhead = Some(calls);
        self
    }

    #[must_use]
    pub fn rate_limit(mut self, rate: RateConfig) -> Self {
        self.rate = Some(rate);
        self
    }

    /// Spares a service that refuses calls because of load: those that the classifier calls
    /// [`Evidence::Overload`](crate::Evidence::Overload).
    #[must_use]
    pub fn throttle(mut self, throttle: ThrottleConfig) -> Self {
        self.throttle = Some(throttle);
        self
    }

    /// In place of the system's monotonic clock.
    #[must_use]
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// Decorrelates what is drawn by chance (jitter, throttling) from other processes. By default it follows from the name.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// How a call that ended counts: a closure over `Result<&Response, &Error>` that returns an
    /// [`Outcome`](crate::Outcome), or anything else that is [`Classify`](super::Classify).
    #[must_use]
    pub fn classify<D>(self, classify: D) -> Builder<D> {
        let Builder { name, circuit, bulkhead, rate, throttle, clock, seed, classify: _ } = self;
        Builder { name, circuit, bulkhead, rate, throttle, clock, seed, classify }
    }

    /// The layer, or every setting that is out of its bounds.
    pub fn build(self) -> Result<ResilienceLayer<C>, Faults> {
        let mut faults = Vec::new();
        let now = self.clock.now();
        let fuse = match self.circuit {
            Wanted::Nothing => None,
            Wanted::Ours(config) => {
                faults.extend(config.validate().err().unwrap_or_default());
                Some(Fuse::Ours(Circuit::new(&self.name, self.seed, config)))
            }
            Wanted::Resilience4j(properties) => match properties.build(&self.name, now) {
                Ok(breaker) => Some(Fuse::Resilience4j(Box::new(breaker))),
                Err(broken) => {
                    faults.extend(broken);
                    None
                }
            },
        };
        if self.bulkhead.is_some_and(|calls| !(1..=1_000_000).contains(&calls)) {
            faults.push(("bulkhead", format!("must be 1..1000000, got {}", self.bulkhead.unwrap_or_default())));
        }
        faults.extend(self.rate.as_ref().and_then(|rate| rate.validate().err()).unwrap_or_default());
        faults.extend(self.throttle.as_ref().and_then(|throttle| throttle.validate().err()).unwrap_or_default());
        if !faults.is_empty() {
            return Err(faults);
        }
        let rate = self.rate.as_ref().map(|rate| (Rate::of(rate), Gcra::default()));
        let bulkhead = self.bulkhead.map(|calls| Arc::new(Bulkhead::new(calls)));
        let throttle = self.throttle.map(Throttle::new);
        let parts = Parts { fuse, bulkhead, rate, throttle, clock: self.clock, draws: self.seed.into() };
        Ok(ResilienceLayer { parts: Arc::new(parts), classify: self.classify })
    }
}
