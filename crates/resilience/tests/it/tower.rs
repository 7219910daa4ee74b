//! The layer around a service, with a clock that only the test moves.

use std::future::{Future, pending, ready};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use fusewire_resilience::compat::{Resilience4j, Resilience4jState, Sliding};
use fusewire_resilience::rate::RateConfig;
use fusewire_resilience::retry::BudgetConfig;
use fusewire_resilience::throttle::ThrottleConfig;
use fusewire_resilience::tower::{Builder, Error, ErrorsOnly, Rejected, ResilienceLayer, RetryLayer};
use fusewire_resilience::{BreakerConfig, Class, Evidence, Outcome, State, Time};
use tower::{Layer, Service, ServiceExt, service_fn};

type Answer = Result<u16, &'static str>;

#[derive(Clone, Default)]
struct Hand(Arc<AtomicU64>);

impl Hand {
    fn pass(&self, time: Duration) {
        self.0.fetch_add(time.as_nanos() as u64, Relaxed);
    }

    fn clock(&self) -> impl Fn() -> Time + Send + Sync + 'static {
        let time = self.0.clone();
        move || Time(time.load(Relaxed))
    }
}

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn builder(hand: &Hand) -> Builder {
    ResilienceLayer::builder("inventory").clock(hand.clock())
}

fn config() -> BreakerConfig {
    BreakerConfig { jitter_percent: 0, ..BreakerConfig::default() }
}

/// What a future that never has to wait comes to.
fn done<F: Future>(future: F) -> F::Output {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("it waits"),
    }
}

/// One call that the service answers so.
fn call<C>(layer: &ResilienceLayer<C>, answer: Answer) -> Result<u16, Error<&'static str>>
where
    C: Clone + fusewire_resilience::tower::Classify<u16, &'static str>,
{
    done(layer.layer(service_fn(move |()| ready(answer))).oneshot(()))
}

#[test]
fn errors_in_a_row_open_it_and_clean_probes_close_it() {
    let hand = Hand::default();
    let layer = builder(&hand).circuit(config()).build().expect("valid");
    for _ in 0..5 {
        assert_eq!(call(&layer, Err("refused")), Err(Error::Service("refused")));
    }
    assert_eq!(call(&layer, Ok(200)), Err(Error::Rejected(Rejected::Open { retry_after: secs(5) })));
    hand.pass(secs(6));
    for _ in 0..3 {
        assert_eq!(call(&layer, Ok(200)), Ok(200));
    }
    let circuit = layer.circuit().expect("there is one");
    assert_eq!(circuit.state(), State::Closed);
    let events: Vec<_> = circuit.drain_transitions().into_iter().map(|event| event.to).collect();
    assert_eq!(events, [State::Open, State::HalfOpen, State::Closed]);
}

#[test]
fn the_classifier_says_what_counts() {
    let hand = Hand::default();
    let classify = |result: Result<&u16, &&str>| match result {
        Ok(500..) => Outcome::new(Class::Hard, Evidence::Status),
        Ok(_) => Outcome::OK,
        Err(_) => Outcome::IGNORED,
    };
    let layer = builder(&hand).circuit(config()).classify(classify).build().expect("valid");
    for _ in 0..100 {
        assert!(call(&layer, Err("the caller's own fault")).is_err());
    }
    assert_eq!(layer.circuit().map(|circuit| circuit.state()), Some(State::Closed));
    for _ in 0..5 {
        assert_eq!(call(&layer, Ok(503)), Ok(503));
    }
    assert_eq!(layer.circuit().map(|circuit| circuit.state()), Some(State::Open));
}

#[test]
fn a_call_that_is_dropped_teaches_nothing_and_frees_its_place() {
    let hand = Hand::default();
    let layer = builder(&hand).circuit(config()).bulkhead(1).build().expect("valid");
    let mut hangs = layer.layer(service_fn(|()| pending::<Answer>()));
    let held = hangs.call(());
    assert_eq!((layer.in_flight(), call(&layer, Ok(200))), (Some(1), Err(Error::Rejected(Rejected::Full))));
    drop(held);
    assert_eq!((layer.in_flight(), call(&layer, Ok(200))), (Some(0), Ok(200)));
    for _ in 0..5 {
        assert!(call(&layer, Err("refused")).is_err());
    }
    hand.pass(secs(6));
    for _ in 0..10 {
        drop(hangs.call(()));
    }
    assert_eq!(call(&layer, Ok(200)), Ok(200), "each probe's permit came back");
}

#[test]
fn a_full_bulkhead_keeps_no_probe_and_is_no_failure() {
    let hand = Hand::default();
    let layer = builder(&hand).circuit(config()).bulkhead(1).build().expect("valid");
    for _ in 0..5 {
        assert!(call(&layer, Err("refused")).is_err());
    }
    hand.pass(secs(6));
    let mut hangs = layer.layer(service_fn(|()| pending::<Answer>()));
    let probe = hangs.call(());
    assert!(matches!(call(&layer, Ok(200)), Err(Error::Rejected(Rejected::Open { .. }))), "one probe at a time");
    drop(probe);
    assert_eq!(call(&layer, Ok(200)), Ok(200));
}

#[test]
fn what_is_over_the_rate_is_told_when_to_come_back() {
    let hand = Hand::default();
    let rate = RateConfig { requests: 10, per: secs(1), burst: 2 };
    let layer = builder(&hand).rate_limit(rate).build().expect("valid");
    assert_eq!([call(&layer, Ok(1)), call(&layer, Ok(2))], [Ok(1), Ok(2)]);
    let over = call(&layer, Ok(3));
    let Err(Error::Rejected(rejected)) = over else { panic!("{over:?}") };
    assert_eq!(rejected.retry_after(), Some(Duration::from_millis(100)));
    hand.pass(Duration::from_millis(100));
    assert_eq!(call(&layer, Ok(3)), Ok(3));
}

#[test]
fn a_service_that_says_it_is_overloaded_is_spared_most_calls() {
    let hand = Hand::default();
    let overloaded = |result: Result<&u16, &&str>| match result {
        Ok(503) => Outcome::new(Class::Soft, Evidence::Overload),
        _ => Outcome::OK,
    };
    let layer = builder(&hand).throttle(ThrottleConfig::default()).classify(overloaded).build().expect("valid");
    let made = (0..1000).filter(|_| call(&layer, Ok(503)).is_ok()).count();
    assert!(made < 200, "{made}");
    hand.pass(secs(31));
    assert!((0..1000).all(|_| call(&layer, Ok(200)).is_ok()));
}

#[test]
fn resilience4js_settings_and_states_work_too() {
    let hand = Hand::default();
    let properties = Resilience4j {
        sliding_window: Sliding::Calls(4),
        minimum_calls: 4,
        permitted_in_half_open: 2,
        ..Resilience4j::default()
    };
    let layer = builder(&hand).resilience4j(properties).build().expect("valid");
    for answer in [Ok(1), Ok(2), Err("a"), Err("b")] {
        assert_eq!(call(&layer, answer), answer.map_err(Error::Service));
    }
    let state = || layer.resilience4j().map(|breaker| breaker.state());
    assert_eq!(state(), Some(Resilience4jState::Open));
    assert!(matches!(call(&layer, Ok(1)), Err(Error::Rejected(Rejected::Open { .. }))));
    hand.pass(secs(61));
    assert_eq!([call(&layer, Ok(1)), call(&layer, Ok(2))], [Ok(1), Ok(2)]);
    assert_eq!(state(), Some(Resilience4jState::Closed));
}

#[test]
fn settings_out_of_bounds_are_all_named_at_once() {
    let bad = BreakerConfig { min_calls: 0, ..BreakerConfig::default() };
    let rate = RateConfig { requests: 0, per: secs(1), burst: 1 };
    let throttle = ThrottleConfig { k_percent: 1 };
    let faults = ResilienceLayer::builder("x").circuit(bad).bulkhead(0).rate_limit(rate).throttle(throttle).build();
    let fields: Vec<_> = faults.err().unwrap_or_default().into_iter().map(|(field, _)| field).collect();
    assert_eq!(fields, ["min_calls", "bulkhead", "requests", "k"]);
}

#[test]
fn errors_say_who_refused() {
    let text = |error: Error<std::io::Error>| error.to_string();
    let cases = [
        (Rejected::Open { retry_after: secs(2) }, "not called: the circuit is open for another 2s"),
        (Rejected::Open { retry_after: Duration::ZERO }, "not called: the circuit is open"),
        (Rejected::Full, "not called: too many calls are in flight"),
        (Rejected::RateLimited { retry_after: secs(1) }, "not called: over the rate limit for another 1s"),
        (
            Rejected::Throttled { probability: 0.9 },
            "not called: the service is overloaded, 90 % of its calls are not made",
        ),
    ];
    for (rejected, words) in cases {
        assert_eq!(text(Error::Rejected(rejected)), words);
    }
    assert_eq!(text(Error::Service(std::io::Error::other("reset"))), "reset");
    assert_eq!(Rejected::Full.retry_after(), None);
}

/// How often the service is called for `calls` calls of three tries, of which those with a number up to `fails` fail.
fn tries(retry: &RetryLayer<impl Fn(Duration) -> std::future::Ready<()> + Send + Sync + 'static>, fails: u64) -> u64 {
    let called = Arc::new(AtomicU64::new(0));
    let guard = ResilienceLayer::builder("inventory").build().expect("nothing is on");
    let count = called.clone();
    let service = service_fn(move |()| {
        let failed = count.fetch_add(1, Relaxed) < fails;
        ready(if failed { Err("reset") } else { Ok(200_u16) })
    });
    let _ = done(retry.layer(guard.layer(service)).oneshot(()));
    called.load(Relaxed)
}

#[test]
fn failed_calls_are_tried_again_while_successes_pay() {
    let hand = Hand::default();
    let budget = BudgetConfig { start: 2_000, per_second: 0, ..BudgetConfig::default() };
    let retry = RetryLayer::with(3, |_| ready(()), ErrorsOnly, budget, hand.clock());
    assert_eq!(tries(&retry, 1), 2);
    assert_eq!(tries(&retry, 9), 2, "one token was left");
    assert_eq!(tries(&retry, 9), 1, "none");
    for _ in 0..10 {
        assert_eq!(tries(&retry, 0), 1);
    }
    assert_eq!(tries(&retry, 9), 3, "ten successes pay for two");
}

#[test]
fn what_was_rejected_here_is_not_tried_again() {
    let hand = Hand::default();
    let layer = builder(&hand).circuit(config()).build().expect("valid");
    for _ in 0..5 {
        assert!(call(&layer, Err("refused")).is_err());
    }
    let retry = RetryLayer::with(5, |_| ready(()), ErrorsOnly, BudgetConfig::default(), hand.clock());
    let outcome = done(retry.layer(layer.layer(service_fn(|()| ready(Answer::Ok(1))))).oneshot(()));
    assert!(matches!(outcome, Err(Error::Rejected(Rejected::Open { .. }))));
    assert_eq!(retry.budget().tokens(), 10_000);
}
