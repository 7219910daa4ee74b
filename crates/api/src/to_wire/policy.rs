//! A policy: every setting as it stands, defaults included, so that both sides mean the same whatever their builds default to.

use super::millis;
use crate::v1;
use fusewire_model::policy::{
    Algorithm, Balancing, Concurrency, Fallback, Limits, Plain, PlainRules, Policy, Probe, RateLimit, RequestKey,
    Retry, Scope, Subsetting, Zoning,
};
use fusewire_resilience::retry::{BudgetConfig, On, Repeat};
use fusewire_resilience::throttle::Priority;
use fusewire_resilience::{AfterWait, BreakerConfig, ClassRules, HalfOpen, Mode, OpenStage, Round, WhenFew};
use std::ops::RangeInclusive;

pub(super) fn policy(policy: &Policy) -> v1::Policy {
    v1::Policy {
        breaker: Some(breaker(&policy.breaker)),
        connect_timeout_ms: millis(policy.timeout.connect),
        request_timeout_ms: policy.timeout.request.map(millis),
        idle_timeout_ms: policy.timeout.idle.map(millis),
        plain: policy.plain == PlainRules::both(Plain::Allow),
        plain_callers: policy.plain.callers.map(|plain| plain == Plain::Allow),
        plain_instances: policy.plain.instances.map(|plain| plain == Plain::Allow),
        probe_by_check: policy.probe == Probe::Check,
        trace_sample_millionths: Some(policy.sample.millionths()),
        classify: Some(classify(&policy.classify)),
        balancing: Some(balancing(&policy.balancing)),
        limits: Some(limits(&policy.limits)),
        critical: policy.priority == Priority::Critical,
        retry: Some(retry(&policy.retry)),
        fallbacks: policy.fallback.iter().map(fallback).collect(),
        service: Some(service(policy)),
        exhausted: Some(match policy.exhausted {
            WhenFew::Limiter => v1::Exhausted::default(),
            WhenFew::Spill(percent) => v1::Exhausted { spill: Some(percent.into()), envoy_panic: None },
            WhenFew::EnvoyPanic(percent) => v1::Exhausted { spill: None, envoy_panic: Some(percent.into()) },
        }),
    }
}

fn service(policy: &Policy) -> v1::ServiceBreaker {
    let config = &policy.service;
    v1::ServiceBreaker {
        mode: mode(config.mode).into(),
        by_route: policy.scope == Scope::Route,
        throttle_k_percent: config.throttle.as_ref().map(|throttle| throttle.k_percent.into()),
        open: match config.open {
            OpenStage::Off => v1::service_breaker::Open::Off,
            OpenStage::Connect => v1::service_breaker::Open::Connect,
            OpenStage::Any => v1::service_breaker::Open::Any,
        }
        .into(),
        failure_rate: config.failure_rate.into(),
        min_calls: config.min_calls.into(),
        window_ms: millis(config.window),
        recent_rate: config.recent_rate.into(),
        open_base_ms: millis(config.open_base),
        open_max_ms: millis(config.open_max),
        stable_ms: millis(config.stable),
        jitter_percent: config.jitter_percent.into(),
        permits: config.permits.into(),
        concurrency: config.concurrency.into(),
        probe_timeout_ms: millis(config.probe_timeout),
        ramp_ms: millis(config.ramp),
    }
}

fn mode(mode: Mode) -> v1::breaker::Mode {
    match mode {
        Mode::Enforce => v1::breaker::Mode::Enforce,
        Mode::Observe => v1::breaker::Mode::Observe,
        Mode::Disabled => v1::breaker::Mode::Disabled,
    }
}

fn breaker(breaker: &BreakerConfig) -> v1::Breaker {
    v1::Breaker {
        mode: mode(breaker.mode).into(),
        window_ms: millis(breaker.window),
        buckets: breaker.buckets.into(),
        consecutive: breaker.consecutive.into(),
        min_calls: breaker.min_calls.into(),
        failure_rate: breaker.failure_rate.into(),
        open_base_ms: millis(breaker.open_base),
        open_max_ms: millis(breaker.open_max),
        stable_ms: millis(breaker.stable),
        jitter_percent: breaker.jitter_percent.into(),
        probe_timeout_ms: millis(breaker.probe_timeout),
        probe_concurrency: breaker.probe_concurrency.into(),
        slow_start_ms: millis(breaker.slow_start),
        unresponsive_timeouts: breaker.unresponsive.timeouts.into(),
        unresponsive_span_ms: millis(breaker.unresponsive.span),
        window_calls: breaker.window_calls.into(),
        open_factor: Some(breaker.open_factor.into()),
        slow: breaker.slow.map(|slow| v1::SlowCalls { over_ms: millis(slow.over), rate: slow.rate.into() }),
        peer: Some(v1::PeerOutlier { delta: breaker.peer.delta.into(), z: breaker.peer.z.into() }),
        half_open: match breaker.half_open {
            HalfOpen::Evidence => None,
            HalfOpen::Rate(by_rate) => Some(round(by_rate)),
        },
    }
}

fn round(round: Round) -> v1::Round {
    v1::Round {
        permits: round.permits.into(),
        concurrency: round.concurrency.into(),
        max_wait_ms: round.max_wait.map(millis),
        then_closed: round.then == AfterWait::Closed,
    }
}

fn classify(rules: &ClassRules) -> v1::Classify {
    let statuses = |ranges: &[RangeInclusive<u16>]| {
        let range = |r: &RangeInclusive<u16>| v1::Statuses { first: (*r.start()).into(), last: (*r.end()).into() };
        ranges.iter().map(range).collect()
    };
    let codes = |codes: &[u8]| codes.iter().map(|code| u32::from(*code)).collect();
    v1::Classify {
        hard: statuses(&rules.hard),
        soft: statuses(&rules.soft),
        ok: statuses(&rules.ok),
        grpc_hard: codes(&rules.grpc_hard),
        grpc_soft: codes(&rules.grpc_soft),
        grpc_ok: codes(&rules.grpc_ok),
    }
}

fn balancing(balancing: &Balancing) -> v1::Balancing {
    use v1::balancing::Algorithm as Wire;
    let (algorithm, key) = match &balancing.algorithm {
        Algorithm::PeakEwma => (Wire::PeakEwma, None),
        Algorithm::LeastRequest => (Wire::LeastRequest, None),
        Algorithm::RoundRobin => (Wire::RoundRobin, None),
        Algorithm::RingHash(key) => (Wire::RingHash, Some(request_key(key))),
        Algorithm::Maglev(key) => (Wire::Maglev, Some(request_key(key))),
    };
    v1::Balancing {
        algorithm: algorithm.into(),
        key,
        zone_aware: balancing.zone == Zoning::Prefer,
        subset: balancing.subset == Subsetting::Tenth,
    }
}

fn request_key(key: &RequestKey) -> v1::RequestKey {
    use v1::request_key::By;
    let by = match key {
        RequestKey::Header(name) => By::Header(name.clone()),
        RequestKey::Path => By::Path(v1::request_key::Path {}),
        RequestKey::Peer => By::Peer(v1::request_key::Peer {}),
    };
    v1::RequestKey { by: Some(by) }
}

fn limits(limits: &Limits) -> v1::Limits {
    v1::Limits {
        inbound: Some(concurrency(&limits.inbound.concurrency)),
        inbound_rate: limits.inbound.rate.as_ref().map(rate),
        max_connections: limits.bulkhead.max_connections,
        max_pending: limits.bulkhead.max_pending,
        max_requests: limits.bulkhead.max_requests,
        rate: limits.rate.as_ref().map(rate),
    }
}

fn concurrency(concurrency: &Concurrency) -> v1::Concurrency {
    use v1::concurrency::{self as wire, Algorithm as Wire};
    let whole = |limit: f64| limit as u32;
    let algorithm = match concurrency {
        Concurrency::Off => Wire::Off(wire::Off {}),
        Concurrency::QueueGuard(c) => {
            Wire::QueueGuard(wire::QueueGuard { target_ms: millis(c.target), queue_ms: millis(c.queue), min: c.min })
        }
        Concurrency::Gradient2(c) => {
            Wire::Gradient2(wire::Gradient2 { initial: whole(c.initial), min: whole(c.min), max: whole(c.max) })
        }
        Concurrency::Aimd(c) => {
            Wire::Aimd(wire::Aimd { initial: c.initial, min: c.min, max: c.max, timeout_ms: millis(c.timeout) })
        }
    };
    v1::Concurrency { algorithm: Some(algorithm) }
}

fn rate(limit: &RateLimit) -> v1::RateLimit {
    v1::RateLimit {
        requests: limit.rate.requests,
        per_ms: millis(limit.rate.per),
        burst: limit.rate.burst,
        key: limit.key.as_ref().map(request_key),
    }
}

/// Each cause as it is numbered on the wire.
pub(crate) const CAUSES: [(v1::retry::On, On); 7] = [
    (v1::retry::On::Connect, On::CONNECT),
    (v1::retry::On::NotProcessed, On::NOT_PROCESSED),
    (v1::retry::On::Reset, On::RESET),
    (v1::retry::On::Timeout, On::TIMEOUT),
    (v1::retry::On::GatewayError, On::GATEWAY_ERROR),
    (v1::retry::On::Unavailable, On::UNAVAILABLE),
    (v1::retry::On::ServerError, On::SERVER_ERROR),
];

fn retry(retry: &Retry) -> v1::Retry {
    let policy = &retry.policy;
    v1::Retry {
        attempts: policy.attempts.into(),
        on: CAUSES.iter().filter(|(_, cause)| policy.on.has(*cause)).map(|(wire, _)| (*wire).into()).collect(),
        backoff_initial_ms: millis(policy.backoff.initial),
        backoff_max_ms: millis(policy.backoff.max),
        per_try_timeout_ms: retry.per_try_timeout.map(millis),
        budget: Some(budget(&retry.budget)),
        idempotent: retry.repeat.map(|repeat| repeat == Repeat::Idempotent),
        hedges: retry.hedge.extra.into(),
        hedge_min_delay_ms: millis(retry.hedge.min_delay),
    }
}

fn budget(budget: &BudgetConfig) -> v1::RetryBudget {
    v1::RetryBudget {
        start: budget.start,
        cap: budget.cap,
        per_success: budget.per_success,
        per_second: budget.per_second,
        active_percent: budget.active_percent,
        active_min: budget.active_min,
    }
}

fn fallback(fallback: &Fallback) -> v1::Fallback {
    use v1::fallback::{self as wire, Kind};
    let kind = match fallback {
        Fallback::Static(answer) => {
            let header = |(name, value): &(String, String)| v1::Label { name: name.clone(), value: value.clone() };
            Kind::Static(wire::Static {
                status: answer.status.into(),
                headers: answer.headers.iter().map(header).collect(),
                body: answer.body.clone(),
                grpc_status: answer.grpc_status.into(),
            })
        }
        Fallback::Stale { max_age } => Kind::StaleMaxAgeMs(millis(*max_age)),
        Fallback::Service(name) => Kind::Service(name.to_string()),
        Fallback::Empty => Kind::Empty(wire::Empty {}),
        Fallback::Fail { status, retry_after } => {
            Kind::Fail(wire::Fail { status: (*status).into(), retry_after_ms: retry_after.map(millis) })
        }
    };
    v1::Fallback { kind: Some(kind) }
}
