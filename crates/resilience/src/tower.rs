//! The same breakers in an application's own code: a [`tower`](https://docs.rs/tower) layer.
//!
//! A [`ResilienceLayer`] stands before any `tower::Service` and asks, in this order, a rate limit, a throttle, a circuit and a
//! bulkhead, each of which is there only if it was asked for. A call that one of them refuses never reaches the service and
//! ends as [`Error::Rejected`], which says who refused and when to come back. How a call counts is a closure's to say; without
//! one, an error is a failure and every response is fine. [`RetryLayer`] around it makes failed calls again, paid for by
//! successes.
//!
//! All clones of a layer, and of the services made with it, share one circuit, as all callers of one dependency should. It is
//! the service-level kind: instances that fail one at a time are better served by a breaker for each, which is what
//! [`InstanceSet`](crate::InstanceSet) is for.
//!
//! ```
//! use std::time::Duration;
//!
//! use fusewire_resilience::tower::{Error, Rejected, ResilienceLayer};
//! use fusewire_resilience::{BreakerConfig, Class, Evidence, Outcome, State};
//! use tower::{Layer, Service, ServiceExt, service_fn};
//!
//! # #[derive(Debug)] struct Status(u16);
//! # let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
//! # runtime.block_on(async {
//! let layer = ResilienceLayer::builder("inventory")
//!     .circuit(BreakerConfig { consecutive: 3, open_base: Duration::from_secs(5), ..BreakerConfig::default() })
//!     .bulkhead(100)
//!     // A response can be a failure too.
//!     .classify(|result: Result<&Status, &std::io::Error>| match result {
//!         Ok(Status(500..)) => Outcome::new(Class::Hard, Evidence::Status),
//!         Ok(_) => Outcome::OK,
//!         Err(_) => Outcome::new(Class::Hard, Evidence::Connect),
//!     })
//!     .build()
//!     .expect("settings within their bounds");
//!
//! let mut inventory = layer.layer(service_fn(|_item: u32| async { Ok::<_, std::io::Error>(Status(503)) }));
//! for _ in 0..3 {
//!     // It is the service that answers, however badly.
//!     assert!(inventory.ready().await.unwrap().call(7).await.is_ok());
//! }
//! match inventory.ready().await.unwrap().call(7).await {
//!     Err(Error::Rejected(Rejected::Open { retry_after })) => assert!(retry_after > Duration::from_secs(3)),
//!     other => panic!("three failures in a row open the circuit: {other:?}"),
//! }
//! assert_eq!(layer.circuit().map(|circuit| circuit.state()), Some(State::Open));
//! # });
//! ```
//!
//! `examples/tower.rs` puts it around an HTTP client.
//!
//! # What it does not do
//!
//! It looks at responses and errors, not at bodies: a body that breaks off later is not seen. It has no timeout; put
//! `tower::timeout` inside it, and its error counts as any other. It starts no task and needs no runtime.

mod builder;
mod clock;
mod error;
mod retry;
mod service;

pub use builder::{Builder, Faults};
pub use clock::{Clock, Monotonic};
pub use error::{Error, Rejected};
pub use retry::{Retry, RetryLayer};
pub use service::{Classify, ErrorsOnly, Guarded, ResilienceLayer, ResponseFuture};
