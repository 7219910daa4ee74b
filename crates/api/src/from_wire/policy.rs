//! A policy, from the wire. What an older control plane does not say has its default.

use super::parts::{narrow, span, timeout};
use super::{At, Fault, each, service_name};
use crate::to_wire::CAUSES;
use crate::v1;
use fusewire_model::PolicyName;
use fusewire_model::policy::{
    Algorithm, Balancing, Concurrency, Fallback, InboundLimits, Limits, MAX_BODY, MAX_CHAIN, MAX_FIELDS, Plain,
    PlainRules, Policy, Probe, RateLimit, Ratio, RequestKey, Retry, Scope, StaticAnswer, Subsetting, Timeouts, Zoning,
};
use fusewire_resilience::bulkhead::BulkheadConfig;
use fusewire_resilience::limit::{AimdConfig, Gradient2Config, GuardConfig};
use fusewire_resilience::rate::RateConfig;
use fusewire_resilience::retry::{self, BackoffPolicy, BudgetConfig, HedgePolicy, On, Repeat};
use fusewire_resilience::throttle::{Priority, ThrottleConfig};
use fusewire_resilience::{
    AfterWait, BreakerConfig, ClassRules, HalfOpen, Mode, OpenStage, PeerOutlier, Round, ServiceConfig, SlowCalls,
    Unresponsive, WhenFew,
};
use std::ops::RangeInclusive;
use std::time::Duration;

const MAX_STATUSES: usize = 64;
const MAX_LIMIT: u32 = 100_000;

pub(super) fn policy(name: &str, policy: v1::Policy) -> Result<Policy, Fault> {
    let name = PolicyName::parse(name).map_err(|e| Fault::new(e.to_string()))?;
    let breaker = policy.breaker.ok_or_else(|| Fault::new("is missing")).at("breaker")?;
    Ok(Policy {
        name,
        target: None,
        breaker: breaker_config(breaker).at("breaker")?,
        scope: match &policy.service {
            Some(service) if service.by_route => Scope::Route,
            _ => Scope::Service,
        },
        service: policy.service.map_or(Ok(ServiceConfig::default()), service_config).at("service")?,
        exhausted: policy.exhausted.map_or(Ok(WhenFew::Limiter), exhausted).at("exhausted")?,
        classify: policy.classify.map_or(Ok(ClassRules::default()), classify).at("classify")?,
        balancing: policy.balancing.map_or(Ok(Balancing::default()), balancing).at("balancing")?,
        limits: policy.limits.map_or(Ok(Limits::default()), limits).at("limits")?,
        priority: if policy.critical { Priority::Critical } else { Priority::Normal },
        retry: policy.retry.map_or(Ok(Retry::default()), retry).at("retry")?,
        fallback: each(policy.fallbacks, "fallbacks", MAX_CHAIN, fallback)?,
        timeout: Timeouts {
            connect: timeout(policy.connect_timeout_ms, "connect_timeout_ms")?,
            request: optional(policy.request_timeout_ms, "request_timeout_ms")?,
            idle: optional(policy.idle_timeout_ms, "idle_timeout_ms")?,
        },
        plain: PlainRules {
            callers: said_plain(policy.plain_callers, policy.plain),
            instances: said_plain(policy.plain_instances, policy.plain),
        },
        probe: if policy.probe_by_check { Probe::Check } else { Probe::Request },
        sample: sample(policy.trace_sample_millionths).at("trace_sample_millionths")?,
    })
}

/// `both`: all that builds before the two were apart say.
fn said_plain(said: Option<bool>, both: bool) -> Option<Plain> {
    said.or(both.then_some(true)).map(super::parts::plain)
}

fn optional(ms: Option<u64>, step: &str) -> Result<Option<Duration>, Fault> {
    ms.map(|ms| timeout(ms, step)).transpose()
}

fn sample(millionths: Option<u32>) -> Result<Ratio, Fault> {
    let Some(millionths) = millionths else { return Ok(Ratio::DEFAULT) };
    let refused = || Fault::new(format!("must be 0..={}, got {millionths}", Ratio::WHOLE));
    Ratio::from_millionths(millionths).ok_or_else(refused)
}

/// The first broken bound of a part of `resilience`, as the fault of its field.
fn valid<T>(value: T, checked: Result<(), Vec<(&'static str, String)>>) -> Result<T, Fault> {
    match checked.err().and_then(|faults| faults.into_iter().next()) {
        None => Ok(value),
        Some((field, message)) => Err(Fault::new(message)).at(field),
    }
}

fn breaker_config(wire: v1::Breaker) -> Result<BreakerConfig, Fault> {
    let defaults = BreakerConfig::default();
    let config = BreakerConfig {
        mode: mode(wire.mode)?,
        window: span(wire.window_ms, "window_ms")?,
        buckets: narrow(wire.buckets, "buckets")?,
        window_calls: narrow(wire.window_calls, "window_calls")?,
        consecutive: narrow(wire.consecutive, "consecutive")?,
        min_calls: narrow(wire.min_calls, "min_calls")?,
        failure_rate: narrow(wire.failure_rate, "failure_rate")?,
        open_base: span(wire.open_base_ms, "open_base_ms")?,
        open_factor: wire.open_factor.map_or(Ok(defaults.open_factor), |f| narrow(f, "open_factor"))?,
        open_max: span(wire.open_max_ms, "open_max_ms")?,
        stable: span(wire.stable_ms, "stable_ms")?,
        jitter_percent: narrow(wire.jitter_percent, "jitter_percent")?,
        probe_timeout: span(wire.probe_timeout_ms, "probe_timeout_ms")?,
        half_open: wire.half_open.map_or(Ok(HalfOpen::Evidence), |by_rate| round(by_rate).at("half_open"))?,
        probe_concurrency: narrow(wire.probe_concurrency, "probe_concurrency")?,
        slow_start: span(wire.slow_start_ms, "slow_start_ms")?,
        unresponsive: Unresponsive {
            timeouts: narrow(wire.unresponsive_timeouts, "unresponsive_timeouts")?,
            span: span(wire.unresponsive_span_ms, "unresponsive_span_ms")?,
        },
        slow: wire.slow.map(slow).transpose().at("slow")?,
        peer: wire.peer.map_or(Ok(defaults.peer), peer).at("peer")?,
    };
    let checked = config.validate();
    valid(config, checked)
}

fn mode(wire: i32) -> Result<Mode, Fault> {
    match v1::breaker::Mode::try_from(wire) {
        Ok(v1::breaker::Mode::Enforce) => Ok(Mode::Enforce),
        Ok(v1::breaker::Mode::Observe) => Ok(Mode::Observe),
        Ok(v1::breaker::Mode::Disabled) => Ok(Mode::Disabled),
        Ok(v1::breaker::Mode::Unspecified) | Err(_) => {
            Err(Fault::new(format!("{wire} is no mode that this build knows"))).at("mode")
        }
    }
}

fn service_config(wire: v1::ServiceBreaker) -> Result<ServiceConfig, Fault> {
    use v1::service_breaker::Open;
    let throttle = wire.throttle_k_percent.map(|k| narrow(k, "throttle_k_percent")).transpose()?;
    let config = ServiceConfig {
        mode: mode(wire.mode)?,
        throttle: throttle.map(|k_percent| ThrottleConfig { k_percent }),
        open: match Open::try_from(wire.open) {
            Ok(Open::Off) => OpenStage::Off,
            Ok(Open::Connect) => OpenStage::Connect,
            Ok(Open::Any) => OpenStage::Any,
            Ok(Open::Unspecified) | Err(_) => {
                return Err(Fault::new(format!("{} is nothing that this build knows", wire.open))).at("open");
            }
        },
        failure_rate: narrow(wire.failure_rate, "failure_rate")?,
        min_calls: narrow(wire.min_calls, "min_calls")?,
        window: span(wire.window_ms, "window_ms")?,
        recent_rate: narrow(wire.recent_rate, "recent_rate")?,
        open_base: span(wire.open_base_ms, "open_base_ms")?,
        open_max: span(wire.open_max_ms, "open_max_ms")?,
        stable: span(wire.stable_ms, "stable_ms")?,
        jitter_percent: narrow(wire.jitter_percent, "jitter_percent")?,
        permits: narrow(wire.permits, "permits")?,
        concurrency: narrow(wire.concurrency, "concurrency")?,
        probe_timeout: span(wire.probe_timeout_ms, "probe_timeout_ms")?,
        ramp: span(wire.ramp_ms, "ramp_ms")?,
    };
    let checked = config.validate();
    valid(config, checked)
}

fn exhausted(wire: v1::Exhausted) -> Result<WhenFew, Fault> {
    let percent = |percent: u32, step| match u8::try_from(percent) {
        Ok(percent @ 1..=100) => Ok(percent),
        _ => Err(Fault::new(format!("must be 1..=100, got {percent}"))).at(step),
    };
    match (wire.spill, wire.envoy_panic) {
        (None, None) => Ok(WhenFew::Limiter),
        (Some(share), None) => Ok(WhenFew::Spill(percent(share, "spill")?)),
        (None, Some(share)) => Ok(WhenFew::EnvoyPanic(percent(share, "envoy_panic")?)),
        (Some(_), Some(_)) => Err(Fault::new("must have one of spill and envoy_panic")),
    }
}

fn slow(wire: v1::SlowCalls) -> Result<SlowCalls, Fault> {
    Ok(SlowCalls { over: span(wire.over_ms, "over_ms")?, rate: narrow(wire.rate, "rate")? })
}

fn peer(wire: v1::PeerOutlier) -> Result<PeerOutlier, Fault> {
    Ok(PeerOutlier { delta: narrow(wire.delta, "delta")?, z: narrow(wire.z, "z")? })
}

fn round(wire: v1::Round) -> Result<HalfOpen, Fault> {
    Ok(HalfOpen::Rate(Round {
        permits: narrow(wire.permits, "permits")?,
        concurrency: narrow(wire.concurrency, "concurrency")?,
        max_wait: optional(wire.max_wait_ms, "max_wait_ms")?,
        then: if wire.then_closed { AfterWait::Closed } else { AfterWait::Open },
    }))
}

fn classify(wire: v1::Classify) -> Result<ClassRules, Fault> {
    let statuses = |list, step| each(list, step, MAX_STATUSES, status_range);
    let codes = |list, step| each(list, step, MAX_STATUSES, grpc_code);
    Ok(ClassRules {
        hard: statuses(wire.hard, "hard")?,
        soft: statuses(wire.soft, "soft")?,
        ok: statuses(wire.ok, "ok")?,
        grpc_hard: codes(wire.grpc_hard, "grpc_hard")?,
        grpc_soft: codes(wire.grpc_soft, "grpc_soft")?,
        grpc_ok: codes(wire.grpc_ok, "grpc_ok")?,
    })
}

fn status_range(wire: v1::Statuses) -> Result<RangeInclusive<u16>, Fault> {
    match (u16::try_from(wire.first), u16::try_from(wire.last)) {
        (Ok(first), Ok(last)) if first <= last && (200..=599).contains(&first) && last <= 599 => Ok(first..=last),
        _ => Err(Fault::new(format!("must be a range within 200..=599, got {}..={}", wire.first, wire.last))),
    }
}

fn grpc_code(code: u32) -> Result<u8, Fault> {
    u8::try_from(code).ok().filter(|c| *c <= 16).ok_or_else(|| Fault::new(format!("must be 0..=16, got {code}")))
}

fn balancing(wire: v1::Balancing) -> Result<Balancing, Fault> {
    use v1::balancing::Algorithm as Wire;
    let key = wire.key.map(request_key).transpose().at("key")?;
    let keyed = || key.clone().ok_or_else(|| Fault::new("is missing")).at("key");
    let algorithm = match Wire::try_from(wire.algorithm) {
        Ok(Wire::PeakEwma) => Algorithm::PeakEwma,
        Ok(Wire::LeastRequest) => Algorithm::LeastRequest,
        Ok(Wire::RoundRobin) => Algorithm::RoundRobin,
        Ok(Wire::RingHash) => Algorithm::RingHash(keyed()?),
        Ok(Wire::Maglev) => Algorithm::Maglev(keyed()?),
        Ok(Wire::Unspecified) | Err(_) => {
            let message = format!("{} is no algorithm that this build knows", wire.algorithm);
            return Err(Fault::new(message)).at("algorithm");
        }
    };
    let zone = if wire.zone_aware { Zoning::Prefer } else { Zoning::Ignore };
    let subset = if wire.subset { Subsetting::Tenth } else { Subsetting::All };
    Ok(Balancing { algorithm, zone, subset })
}

fn request_key(wire: v1::RequestKey) -> Result<RequestKey, Fault> {
    use v1::request_key::By;
    match wire.by {
        Some(By::Header(name)) => field_name(name).map(RequestKey::Header).at("header"),
        Some(By::Path(_)) => Ok(RequestKey::Path),
        Some(By::Peer(_)) => Ok(RequestKey::Peer),
        None => Err(Fault::new("is of no kind that this build knows")),
    }
}

fn field_name(name: String) -> Result<String, Fault> {
    if fusewire_model::policy::is_field_name(&name) {
        return Ok(name);
    }
    Err(Fault::new("must be a header's name in lower case"))
}

fn limits(wire: v1::Limits) -> Result<Limits, Fault> {
    let defaults = BulkheadConfig::default();
    let or = |value, default| if value == 0 { default } else { value };
    let bulkhead = BulkheadConfig {
        max_connections: or(wire.max_connections, defaults.max_connections),
        max_pending: or(wire.max_pending, defaults.max_pending),
        max_requests: or(wire.max_requests, defaults.max_requests),
    };
    let checked = bulkhead.validate();
    Ok(Limits {
        inbound: InboundLimits {
            concurrency: wire.inbound.map_or(Ok(Concurrency::default()), concurrency).at("inbound")?,
            rate: wire.inbound_rate.map(rate).transpose().at("inbound_rate")?,
        },
        bulkhead: valid(bulkhead, checked)?,
        rate: wire.rate.map(rate).transpose().at("rate")?,
    })
}

fn concurrency(wire: v1::Concurrency) -> Result<Concurrency, Fault> {
    use v1::concurrency::Algorithm as Wire;
    match wire.algorithm {
        None => Err(Fault::new("is of no kind that this build knows")),
        Some(Wire::Off(_)) => Ok(Concurrency::Off),
        Some(Wire::QueueGuard(g)) => {
            let config = GuardConfig {
                target: span(g.target_ms, "target_ms")?,
                queue: span(g.queue_ms, "queue_ms")?,
                min: g.min,
            };
            let checked = config.validate();
            valid(Concurrency::QueueGuard(config), checked)
        }
        Some(Wire::Gradient2(g)) => {
            ordered(g.min, g.initial, g.max)?;
            let (initial, min, max) = (g.initial.into(), g.min.into(), g.max.into());
            Ok(Concurrency::Gradient2(Gradient2Config { initial, min, max, ..Gradient2Config::default() }))
        }
        Some(Wire::Aimd(a)) => {
            ordered(a.min, a.initial, a.max)?;
            let timeout = timeout(a.timeout_ms, "timeout_ms")?;
            let (initial, min, max) = (a.initial, a.min, a.max);
            Ok(Concurrency::Aimd(AimdConfig { initial, min, max, timeout, ..AimdConfig::default() }))
        }
    }
}

fn ordered(min: u32, initial: u32, max: u32) -> Result<(), Fault> {
    if (1..=initial).contains(&min) && initial <= max && max <= MAX_LIMIT {
        return Ok(());
    }
    Err(Fault::new(format!("must be 1 <= min <= initial <= max <= {MAX_LIMIT}, got {min}, {initial}, {max}")))
}

fn rate(wire: v1::RateLimit) -> Result<RateLimit, Fault> {
    let rate = RateConfig { requests: wire.requests, per: span(wire.per_ms, "per_ms")?, burst: wire.burst };
    let checked = rate.validate();
    Ok(RateLimit { rate: valid(rate, checked)?, key: wire.key.map(request_key).transpose().at("key")? })
}

fn retry(wire: v1::Retry) -> Result<Retry, Fault> {
    let mut on = On::NOTHING;
    for number in &wire.on {
        let known = CAUSES.iter().find(|(wire, _)| i32::from(*wire) == *number);
        let (_, cause) =
            known.ok_or_else(|| Fault::new(format!("{number} is no cause that this build knows"))).at("on")?;
        on = on | *cause;
    }
    let backoff = BackoffPolicy {
        initial: span(wire.backoff_initial_ms, "backoff_initial_ms")?,
        max: span(wire.backoff_max_ms, "backoff_max_ms")?,
        ..BackoffPolicy::default()
    };
    let policy = retry::Policy { attempts: narrow(wire.attempts, "attempts")?, on, backoff };
    let checked = policy.validate();
    let hedge = HedgePolicy {
        extra: narrow(wire.hedges, "hedges")?,
        min_delay: span(wire.hedge_min_delay_ms, "hedge_min_delay_ms")?,
    };
    let hedge_checked = hedge.validate();
    Ok(Retry {
        policy: valid(policy, checked)?,
        per_try_timeout: optional(wire.per_try_timeout_ms, "per_try_timeout_ms")?,
        budget: wire.budget.map_or(Ok(BudgetConfig::default()), budget).at("budget")?,
        repeat: wire.idempotent.map(|idempotent| if idempotent { Repeat::Idempotent } else { Repeat::Unsafe }),
        hedge: valid(hedge, hedge_checked).at("hedge")?,
    })
}

fn budget(wire: v1::RetryBudget) -> Result<BudgetConfig, Fault> {
    let config = BudgetConfig {
        start: wire.start,
        cap: wire.cap,
        per_success: wire.per_success,
        per_second: wire.per_second,
        active_percent: wire.active_percent,
        active_min: wire.active_min,
    };
    let checked = config.validate();
    valid(config, checked)
}

fn fallback(wire: v1::Fallback) -> Result<Fallback, Fault> {
    use v1::fallback::Kind;
    match wire.kind {
        None => Err(Fault::new("is of no kind that this build knows")),
        Some(Kind::Static(answer)) => static_answer(answer).map(Fallback::Static).at("static"),
        Some(Kind::StaleMaxAgeMs(ms)) => Ok(Fallback::Stale { max_age: timeout(ms, "stale_max_age_ms")? }),
        Some(Kind::Service(name)) => Ok(Fallback::Service(service_name(&name).at("service")?)),
        Some(Kind::Empty(_)) => Ok(Fallback::Empty),
        Some(Kind::Fail(fail)) => {
            let status = status(fail.status, 400).at("fail.status")?;
            Ok(Fallback::Fail { status, retry_after: optional(fail.retry_after_ms, "fail.retry_after_ms")? })
        }
    }
}

fn status(status: u32, least: u16) -> Result<u16, Fault> {
    let fits = u16::try_from(status).ok().filter(|s| (least..=599).contains(s));
    fits.ok_or_else(|| Fault::new(format!("must be {least}..=599, got {status}")))
}

fn static_answer(wire: v1::fallback::Static) -> Result<StaticAnswer, Fault> {
    if wire.body.len() > MAX_BODY {
        return Err(Fault::new(format!("must be at most {MAX_BODY} bytes, got {}", wire.body.len()))).at("body");
    }
    let header = |label: v1::Label| {
        if fusewire_model::policy::is_field_value(&label.value) {
            return Ok((field_name(label.name)?, label.value));
        }
        Err(Fault::new("must be visible ASCII characters"))
    };
    Ok(StaticAnswer {
        status: status(wire.status, 200).at("status")?,
        headers: each(wire.headers, "headers", MAX_FIELDS, header)?,
        body: wire.body,
        grpc_status: grpc_code(wire.grpc_status).at("grpc_status")?,
    })
}
