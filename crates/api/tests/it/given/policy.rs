use super::{ms, policy_name, service_name, text};
use fusewire_model::policy::{
    Algorithm, Balancing, Concurrency, Fallback, InboundLimits, Limits, PlainRules, Policy, Probe, RateLimit, Ratio,
    RequestKey, Retry, Scope, StaticAnswer, Subsetting, Timeouts, Zoning,
};
use fusewire_model::resource::Resource;
use fusewire_resilience::bulkhead::BulkheadConfig;
use fusewire_resilience::limit::{AimdConfig, Gradient2Config, GuardConfig};
use fusewire_resilience::rate::RateConfig;
use fusewire_resilience::retry::{self, BackoffPolicy, BudgetConfig, HedgePolicy, On, Repeat};
use fusewire_resilience::throttle::{Priority, ThrottleConfig};
use fusewire_resilience::{
    AfterWait, BreakerConfig, ClassRules, HalfOpen, Mode, OpenStage, PeerOutlier, Round, ServiceConfig, SlowCalls,
    Unresponsive, WhenFew,
};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

fn breaker() -> impl Strategy<Value = BreakerConfig> {
    let sizes = (2u8..=20, any::<u8>(), 1u16..=65_000, 1u8..=100, 0u8..=50, 1u8..=20);
    let spans = (ms(200..=600_000), ms(100..=60_000), ms(60_000..=600_000), ms(0..=600_000), ms(10..=60_000));
    let mode = select(vec![Mode::Enforce, Mode::Observe, Mode::Disabled]);
    let unresponsive = (any::<u8>(), ms(0..=60_000)).prop_map(|(timeouts, span)| Unresponsive { timeouts, span });
    let slow = option::of((ms(1..=60_000), 1u8..=100).prop_map(|(over, rate)| SlowCalls { over, rate }));
    let peer = (0u8..=100, 1u8..=20).prop_map(|(delta, z)| PeerOutlier { delta, z });
    let triggers = (unresponsive, slow, peer, half_open(), 0u16..=256, 1000u16..=10_000);
    (mode, sizes, spans, ms(0..=60_000), triggers).prop_map(|(mode, sizes, spans, slow_start, triggers)| {
        let (buckets, consecutive, min_calls, failure_rate, jitter_percent, probe_concurrency) = sizes;
        let (window, open_base, open_max, stable, probe_timeout) = spans;
        let (unresponsive, slow, peer, half_open, window_calls, open_factor) = triggers;
        let config = BreakerConfig {
            mode,
            window,
            buckets,
            window_calls,
            consecutive,
            min_calls,
            failure_rate,
            open_base,
            open_factor,
            open_max,
            stable,
            jitter_percent,
            probe_timeout,
            half_open,
            probe_concurrency,
            slow_start,
            unresponsive,
            slow,
            peer,
        };
        config.validate().unwrap();
        config
    })
}

fn half_open() -> impl Strategy<Value = HalfOpen> {
    let round =
        (1u8..=200, 1u8..=200, option::of(ms(1..=60_000)), any::<bool>()).prop_map(|(a, b, max_wait, closed)| {
            let then = if closed { AfterWait::Closed } else { AfterWait::Open };
            HalfOpen::Rate(Round { permits: a.max(b), concurrency: a.min(b), max_wait, then })
        });
    prop_oneof![Just(HalfOpen::Evidence), round]
}

fn service() -> impl Strategy<Value = ServiceConfig> {
    let kinds = (
        select(vec![Mode::Enforce, Mode::Observe, Mode::Disabled]),
        option::of((110u16..=1000).prop_map(|k_percent| ThrottleConfig { k_percent })),
        select(vec![OpenStage::Off, OpenStage::Connect, OpenStage::Any]),
    );
    let sizes = (1u8..=100, 1u16..=65_000, 0u8..=100, 0u8..=50, 1u8..=200, 1u8..=200);
    let spans = (ms(1_000..=600_000), ms(100..=60_000), ms(60_000..=600_000), ms(0..=600_000), ms(10..=60_000));
    (kinds, sizes, spans, ms(0..=3_600_000)).prop_map(|((mode, throttle, open), sizes, spans, ramp)| {
        let (failure_rate, min_calls, recent_rate, jitter_percent, a, b) = sizes;
        let (window, open_base, open_max, stable, probe_timeout) = spans;
        let config = ServiceConfig {
            mode,
            throttle,
            open,
            failure_rate,
            min_calls,
            window,
            recent_rate,
            open_base,
            open_max,
            stable,
            jitter_percent,
            permits: a.max(b),
            concurrency: a.min(b),
            probe_timeout,
            ramp,
        };
        config.validate().unwrap();
        config
    })
}

fn classify() -> impl Strategy<Value = ClassRules> {
    let statuses = || vec((200u16..=599, 200u16..=599).prop_map(|(a, b)| a.min(b)..=a.max(b)), 0..3);
    let codes = || vec(0u8..=16, 0..3);
    (statuses(), statuses(), statuses(), codes(), codes(), codes()).prop_map(
        |(hard, soft, ok, grpc_hard, grpc_soft, grpc_ok)| ClassRules { hard, soft, ok, grpc_hard, grpc_soft, grpc_ok },
    )
}

fn request_key() -> impl Strategy<Value = RequestKey> {
    prop_oneof!["x-[a-z-]{1,9}".prop_map(RequestKey::Header), Just(RequestKey::Path), Just(RequestKey::Peer)]
}

fn balancing() -> impl Strategy<Value = Balancing> {
    let algorithm = prop_oneof![
        Just(Algorithm::PeakEwma),
        Just(Algorithm::LeastRequest),
        Just(Algorithm::RoundRobin),
        request_key().prop_map(Algorithm::RingHash),
        request_key().prop_map(Algorithm::Maglev),
    ];
    let zone = select(vec![Zoning::Ignore, Zoning::Prefer]);
    (algorithm, zone, select(vec![Subsetting::All, Subsetting::Tenth]))
        .prop_map(|(algorithm, zone, subset)| Balancing { algorithm, zone, subset })
}

fn rate() -> impl Strategy<Value = Option<RateLimit>> {
    let rate = (1u32..=1_000_000, ms(1..=86_400_000), 1u32..=1_000_000, option::of(request_key()));
    option::of(
        rate.prop_map(|(requests, per, burst, key)| RateLimit { rate: RateConfig { requests, per, burst }, key }),
    )
}

fn limits() -> impl Strategy<Value = Limits> {
    let bounds = || (1u32..=100, 100u32..=1000, 1000u32..=100_000);
    let concurrency = prop_oneof![
        Just(Concurrency::Off),
        (ms(1..=60_000), ms(0..=10_000), 1u32..=10_000)
            .prop_map(|(target, queue, min)| Concurrency::QueueGuard(GuardConfig { target, queue, min })),
        bounds().prop_map(|(min, initial, max)| {
            let (initial, min, max) = (initial.into(), min.into(), max.into());
            Concurrency::Gradient2(Gradient2Config { initial, min, max, ..Gradient2Config::default() })
        }),
        (bounds(), ms(1..=60_000)).prop_map(|((min, initial, max), timeout)| {
            Concurrency::Aimd(AimdConfig { initial, min, max, timeout, ..AimdConfig::default() })
        }),
    ];
    let places = || 1u32..=1_000_000;
    (concurrency, rate(), (places(), places(), places()), rate()).prop_map(|(concurrency, inbound, places, rate)| {
        let (max_connections, max_pending, max_requests) = places;
        let bulkhead = BulkheadConfig { max_connections, max_pending, max_requests };
        Limits { inbound: InboundLimits { concurrency, rate: inbound }, bulkhead, rate }
    })
}

fn retry() -> impl Strategy<Value = Retry> {
    let on = vec(select(On::NAMES.map(|(_, on)| on).to_vec()), 0..7)
        .prop_map(|causes| causes.into_iter().fold(On::NOTHING, |all, one| all | one));
    let backoff = (ms(1..=10_000), ms(10_000..=60_000)).prop_map(|(initial, max)| BackoffPolicy {
        initial,
        max,
        ..BackoffPolicy::default()
    });
    let policy = (1u8..=5, on, backoff).prop_map(|(attempts, on, backoff)| retry::Policy { attempts, on, backoff });
    let budget = (0u64..=1_000, 1_000u64..=10_000_000, 0u64..=1_000, 0u64..=1_000_000, 0u32..=100, any::<u32>())
        .prop_map(|(start, cap, per_success, per_second, active_percent, active_min)| BudgetConfig {
            start,
            cap,
            per_success,
            per_second,
            active_percent,
            active_min,
        });
    let repeat = option::of(select(vec![Repeat::Idempotent, Repeat::Unsafe]));
    let hedge = (0u8..=4, ms(1..=60_000)).prop_map(|(extra, min_delay)| HedgePolicy { extra, min_delay });
    (policy, option::of(ms(1..=60_000)), budget, repeat, hedge).prop_map(
        |(policy, per_try_timeout, budget, repeat, hedge)| Retry { policy, per_try_timeout, budget, repeat, hedge },
    )
}

fn fallback() -> impl Strategy<Value = Fallback> {
    let header = ("x-[a-z-]{1,9}", "[a-z]{0,9}");
    let answer =
        (200u16..=599, vec(header, 0..3), text(), 0u8..=16).prop_map(|(status, headers, body, grpc_status)| {
            Fallback::Static(StaticAnswer { status, headers, body, grpc_status })
        });
    prop_oneof![
        answer,
        ms(1000..=86_400_000).prop_map(|max_age| Fallback::Stale { max_age }),
        service_name().prop_map(Fallback::Service),
        Just(Fallback::Empty),
        (400u16..=599, option::of(ms(1000..=60_000)))
            .prop_map(|(status, retry_after)| Fallback::Fail { status, retry_after }),
    ]
}

pub(super) fn policy() -> impl Strategy<Value = Resource> {
    let timeout = (ms(1..=60_000), option::of(ms(1..=86_400_000)), option::of(ms(1..=86_400_000)))
        .prop_map(|(connect, request, idle)| Timeouts { connect, request, idle });
    let either =
        ((option::of(super::plain()), option::of(super::plain())), any::<bool>(), any::<bool>(), 0..=Ratio::WHOLE);
    let exhausted = prop_oneof![
        Just(WhenFew::Limiter),
        (1u8..=100).prop_map(WhenFew::Spill),
        (1u8..=100).prop_map(WhenFew::EnvoyPanic)
    ];
    let before = (service(), select(vec![Scope::Service, Scope::Route]), exhausted);
    let rest = (before, classify(), balancing(), limits(), retry(), vec(fallback(), 0..4));
    (policy_name(), breaker(), timeout, either, rest).prop_map(|(name, breaker, timeout, either, rest)| {
        let (plain, check, critical, millionths) = either;
        let ((service, scope, exhausted), classify, balancing, limits, retry, fallback) = rest;
        let policy = Policy {
            name,
            target: None,
            breaker,
            service,
            scope,
            exhausted,
            classify,
            balancing,
            limits,
            priority: if critical { Priority::Critical } else { Priority::Normal },
            retry,
            fallback,
            timeout,
            plain: PlainRules { callers: plain.0, instances: plain.1 },
            probe: if check { Probe::Check } else { Probe::Request },
            sample: Ratio::from_millionths(millionths).unwrap(),
        };
        Resource::Policy(policy.into())
    })
}
