//! `breaker`: when a circuit opens, how it comes back, and what the statuses of its calls mean.

use super::{HOUR, MINUTE, MS, SECOND, only_whole, set, small};
use crate::policy::{GRPC_CODES, Policy, Probe, Scope};
use crate::yaml::cursor::Cursor;
use crate::yaml::scalar;
use fusewire_resilience::throttle::ThrottleConfig;
use fusewire_resilience::{
    AfterWait, BreakerConfig, ClassRules, HalfOpen, Mode, PeerOutlier, Round, SlowCalls, Unresponsive,
};
use fusewire_resilience::{OpenStage, ServiceConfig, WhenFew};
use std::ops::RangeInclusive;
use std::time::Duration;

const MAX_STATUSES: usize = 64;

/// `off`, or one mapping for each scope, and what its calls mean.
pub(super) fn breaker(cursor: &Cursor<'_>, labelled: bool, policy: &mut Policy) {
    match cursor.as_text() {
        Some("off") => {
            policy.breaker.mode = Mode::Disabled;
            policy.service.mode = Mode::Disabled;
            return;
        }
        Some(_) => {
            cursor.must_be_or("`off` or a mapping", Some("for a trial write {instance: {mode: observe}}".into()));
            return;
        }
        None => {}
    }
    let Some(mut fields) = cursor.map("`off` or a mapping") else { return };
    (policy.breaker, policy.probe) = fields.get("instance").map(|c| instance(&c)).unwrap_or_default();
    if let Some(cursor) = fields.get("service") {
        only_whole(&cursor, labelled);
        service(&cursor, policy);
    }
    if let Some(cursor) = fields.get("exhausted") {
        only_whole(&cursor, labelled);
        policy.exhausted = exhausted(&cursor);
    }
    if let Some(cursor) = fields.get("classify") {
        only_whole(&cursor, labelled);
        policy.classify = classify(&cursor);
    }
    fields.finish();
}

const MODES: [(&str, Mode); 3] = [("enforce", Mode::Enforce), ("observe", Mode::Observe), ("disabled", Mode::Disabled)];

/// `off`, or `{scope: service, throttle: {k: 2}, open: {on: connect, base: 5s, max: 30s}, failure_rate: 50%, ...}`.
fn service(cursor: &Cursor<'_>, policy: &mut Policy) {
    let config = &mut policy.service;
    if cursor.as_text() == Some("off") {
        config.mode = Mode::Disabled;
        return;
    }
    let Some(mut fields) = cursor.map("`off` or a mapping") else { return };
    let before = cursor.sink().count();
    let scopes = [("service", Scope::Service), ("route", Scope::Route)];
    set(&mut policy.scope, fields.get("scope"), |c| c.choice(&scopes));
    set(&mut config.mode, fields.get("mode"), |c| c.choice(&MODES));
    if let Some(cursor) = fields.get("throttle") {
        config.throttle = throttle(&cursor);
    }
    if let Some(cursor) = fields.get("open") {
        open_service(&cursor, config);
    }
    set(&mut config.failure_rate, fields.get("failure_rate"), |c| c.percent(1..=100));
    set(&mut config.min_calls, fields.get("min_calls"), |c| u16::try_from(c.integer(1..=65_000)?).ok());
    set(&mut config.window, fields.get("window"), |c| c.duration(SECOND..=10 * MINUTE));
    set(&mut config.recent_rate, fields.get("recent_rate"), |c| c.percent(0..=100));
    set(&mut config.stable, fields.get("stable"), |c| c.duration(Duration::ZERO..=24 * HOUR));
    set(&mut config.permits, fields.get("permits"), |c| small(c, 1, 200));
    config.concurrency = config.concurrency.min(config.permits);
    set(&mut config.concurrency, fields.get("concurrency"), |c| small(c, 1, config.permits));
    set(&mut config.probe_timeout, fields.get("probe_timeout"), |c| c.duration(10 * MS..=HOUR));
    set(&mut config.ramp, fields.get("ramp"), |c| c.duration(Duration::ZERO..=HOUR));
    fields.finish();
    if cursor.sink().count() == before {
        told(cursor, config.validate());
    }
}

/// `off`, or `{k: 2.0}`; `{k: 0}` is off too.
fn throttle(cursor: &Cursor<'_>) -> Option<ThrottleConfig> {
    if cursor.as_text() == Some("off") {
        return None;
    }
    let mut config = ThrottleConfig::default();
    let Some(mut fields) = cursor.map("off, or a mapping such as {k: 2}") else { return Some(config) };
    set(&mut config.k_percent, fields.get("k"), |c| {
        let fits = |k: &u32| (*k == 0 || (1_100..=10_000).contains(k)) && k.is_multiple_of(10);
        let hundredths = |text: &str| scalar::parse_thousandths(text).filter(fits);
        c.parse("0 or a number 1.1..10, to the hundredth", |text| u16::try_from(hundredths(text)? / 10).ok())
    });
    fields.finish();
    (config.k_percent > 0).then_some(config)
}

/// `off`, `connect`, `any`, or `{on: any, base: 5s, max: 30s, jitter: 25%}`.
fn open_service(cursor: &Cursor<'_>, config: &mut ServiceConfig) {
    let stages = [("off", OpenStage::Off), ("connect", OpenStage::Connect), ("any", OpenStage::Any)];
    if cursor.as_text().is_some() {
        return set(&mut config.open, Some(cursor.clone()), |c| c.choice(&stages));
    }
    let Some(mut fields) = cursor.map("off, connect, any, or a mapping such as {on: any, base: 5s}") else { return };
    set(&mut config.open, fields.get("on"), |c| c.choice(&stages));
    set(&mut config.open_base, fields.get("base"), |c| c.duration(100 * MS..=HOUR));
    set(&mut config.open_max, fields.get("max"), |c| c.duration(100 * MS..=24 * HOUR));
    set(&mut config.jitter_percent, fields.get("jitter"), |c| c.percent(0..=50));
    fields.finish();
}

/// `limiter`, `{spill: 50}` or `{envoy_panic: 50}`.
fn exhausted(cursor: &Cursor<'_>) -> WhenFew {
    if cursor.as_text().is_some() {
        return cursor.choice(&[("limiter", WhenFew::Limiter)]).unwrap_or_default();
    }
    let Some(mut fields) = cursor.map("limiter, {spill: 50} or {envoy_panic: 50}") else { return WhenFew::Limiter };
    let percent = |c: Cursor<'_>| c.percent(1..=100).unwrap_or(50);
    let (spill, panic) = (fields.get("spill").map(percent), fields.get("envoy_panic").map(percent));
    fields.finish();
    match (spill, panic) {
        (Some(percent), None) => WhenFew::Spill(percent),
        (None, Some(percent)) => WhenFew::EnvoyPanic(percent),
        _ => {
            cursor.fault("must have one of spill and envoy_panic");
            WhenFew::Limiter
        }
    }
}

/// `classify: {hard: [500, 502-504], soft: 429, grpc_ok: [UNKNOWN]}`.
fn classify(cursor: &Cursor<'_>) -> ClassRules {
    let mut rules = ClassRules::default();
    let Some(mut fields) = cursor.map("a mapping such as {soft: [429]}") else { return rules };
    let mut http = |name| statuses(fields.get(name));
    (rules.hard, rules.soft, rules.ok) = (http("hard"), http("soft"), http("ok"));
    let mut grpc = |name| grpc_codes(fields.get(name));
    (rules.grpc_hard, rules.grpc_soft, rules.grpc_ok) = (grpc("grpc_hard"), grpc("grpc_soft"), grpc("grpc_ok"));
    fields.finish();
    rules
}

fn statuses(cursor: Option<Cursor<'_>>) -> Vec<RangeInclusive<u16>> {
    let status = |text: &str| text.parse::<u16>().ok().filter(|status| (200..=599).contains(status));
    let range = |text: &str| {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        Some(status(first)?..=status(last)?).filter(|range| !range.is_empty())
    };
    let wanted = "an HTTP status 200..599, or a range such as 500-599";
    at_most(cursor, wanted, |c| c.parse(wanted, range))
}

fn grpc_codes(cursor: Option<Cursor<'_>>) -> Vec<u8> {
    let code = |text: &str| {
        let named = GRPC_CODES.iter().position(|name| *name == text).and_then(|code| u8::try_from(code).ok());
        named.or_else(|| text.parse().ok().filter(|code| *code <= 16))
    };
    let wanted = "a gRPC status such as UNAVAILABLE, or its number 0..16";
    at_most(cursor, wanted, |c| c.parse(wanted, code))
}

/// No more than [`MAX_STATUSES`] of something.
fn at_most<T>(cursor: Option<Cursor<'_>>, wanted: &str, read: impl Fn(&Cursor<'_>) -> Option<T>) -> Vec<T> {
    let Some(cursor) = cursor else { return Vec::new() };
    let list = cursor.one_or_list(wanted);
    if list.len() > MAX_STATUSES {
        cursor.fault_with(format!("must be at most {MAX_STATUSES}, got {}", list.len()), "write ranges");
    }
    list.iter().filter_map(read).collect()
}

fn instance(cursor: &Cursor<'_>) -> (BreakerConfig, Probe) {
    let (mut config, mut probe) = (BreakerConfig::default(), Probe::default());
    let Some(mut fields) = cursor.map("a mapping") else { return (config, probe) };
    let before = cursor.sink().count();
    set(&mut config.mode, fields.get("mode"), |c| c.choice(&MODES));
    set(&mut config.window, fields.get("window"), |c| c.duration(100 * MS..=10 * MINUTE));
    set(&mut config.buckets, fields.get("buckets"), |c| small(c, 2, 20));
    set(&mut config.window_calls, fields.get("window_calls"), |c| u16::try_from(c.integer(0..=256)?).ok());
    set(&mut config.consecutive, fields.get("consecutive"), |c| small(c, 0, 255));
    set(&mut config.min_calls, fields.get("min_calls"), |c| u16::try_from(c.integer(1..=65_000)?).ok());
    set(&mut config.failure_rate, fields.get("failure_rate"), |c| c.percent(1..=100));
    if let Some(cursor) = fields.get("open") {
        open(&cursor, &mut config);
    }
    set(&mut config.stable, fields.get("stable"), |c| c.duration(Duration::ZERO..=24 * HOUR));
    set(&mut probe, fields.get("probe"), |c| c.choice(&[("request", Probe::Request), ("check", Probe::Check)]));
    set(&mut config.probe_timeout, fields.get("probe_timeout"), |c| c.duration(10 * MS..=HOUR));
    set(&mut config.probe_concurrency, fields.get("probe_concurrency"), |c| small(c, 1, 20));
    set(&mut config.slow_start, fields.get("slow_start"), |c| c.duration(Duration::ZERO..=HOUR));
    if let Some(cursor) = fields.get("half_open") {
        config.half_open = half_open(&cursor);
    }
    if let Some(cursor) = fields.get("unresponsive") {
        unresponsive(&cursor, &mut config.unresponsive);
    }
    config.slow = fields.get("slow").and_then(|c| slow(&c));
    if let Some(cursor) = fields.get("peer") {
        peer(&cursor, &mut config.peer);
    }
    fields.finish();
    if cursor.sink().count() == before {
        told(cursor, config.validate());
    }
    (config, probe)
}

/// `evidence`, or `{permits: 10, concurrency: 3, max_wait: 30s, then: open}`.
fn half_open(cursor: &Cursor<'_>) -> HalfOpen {
    let by_evidence = HalfOpen::Evidence;
    if cursor.as_text().is_some() {
        return cursor.choice(&[("evidence", by_evidence)]).unwrap_or(by_evidence);
    }
    let Some(mut fields) = cursor.map("evidence, or a mapping such as {permits: 10}") else { return by_evidence };
    let permits = fields.required("permits", "how many calls decide").and_then(|c| small(&c, 1, 200));
    let mut round = Round { permits: permits.unwrap_or(1), concurrency: 1, max_wait: None, then: AfterWait::Open };
    round.concurrency = round.permits.min(3);
    set(&mut round.concurrency, fields.get("concurrency"), |c| small(c, 1, round.permits));
    round.max_wait = fields.get("max_wait").and_then(|c| c.duration(10 * MS..=HOUR));
    let after = [("open", AfterWait::Open), ("closed", AfterWait::Closed)];
    set(&mut round.then, fields.get("then"), |c| c.choice(&after));
    fields.finish();
    HalfOpen::Rate(round)
}

/// `off`, or `{over: 1s, rate: 80%}`.
fn slow(cursor: &Cursor<'_>) -> Option<SlowCalls> {
    if cursor.as_text() == Some("off") {
        return None;
    }
    let mut fields = cursor.map("off, or a mapping such as {over: 1s, rate: 80%}")?;
    let over = fields.required("over", "what is slow").and_then(|c| c.duration(MS..=HOUR));
    let rate = fields.required("rate", "the share that opens the circuit").and_then(|c| c.percent(1..=100));
    fields.finish();
    Some(SlowCalls { over: over?, rate: rate? })
}

/// `off`, or `{delta: 5, z: 4}`; `{delta: 0}` is off too.
fn peer(cursor: &Cursor<'_>, config: &mut PeerOutlier) {
    if cursor.as_text() == Some("off") {
        return config.delta = 0;
    }
    let Some(mut fields) = cursor.map("off, or a mapping such as {delta: 5, z: 4}") else { return };
    set(&mut config.delta, fields.get("delta"), |c| c.percent(0..=100));
    set(&mut config.z, fields.get("z"), |c| small(c, 1, 20));
    fields.finish();
}

/// `open: {base: 5s, max: 60s, factor: 2, jitter: 25%}`.
fn open(cursor: &Cursor<'_>, config: &mut BreakerConfig) {
    let Some(mut fields) = cursor.map("a mapping such as {base: 5s, max: 60s}") else { return };
    set(&mut config.open_base, fields.get("base"), |c| c.duration(100 * MS..=HOUR));
    set(&mut config.open_max, fields.get("max"), |c| c.duration(100 * MS..=24 * HOUR));
    set(&mut config.open_factor, fields.get("factor"), |c| {
        let factor = |text: &str| scalar::parse_thousandths(text).filter(|f| (1_000..=10_000).contains(f));
        c.parse("a factor 1..10, to the thousandth", |text| u16::try_from(factor(text)?).ok())
    });
    set(&mut config.jitter_percent, fields.get("jitter"), |c| c.percent(0..=50));
    fields.finish();
}

/// `unresponsive: {timeouts: 5, span: 1s}`.
fn unresponsive(cursor: &Cursor<'_>, config: &mut Unresponsive) {
    let Some(mut fields) = cursor.map("a mapping such as {timeouts: 5, span: 1s}") else { return };
    set(&mut config.timeouts, fields.get("timeouts"), |c| small(c, 0, 255));
    set(&mut config.span, fields.get("span"), |c| c.duration(Duration::ZERO..=600 * SECOND));
    fields.finish();
}

/// The bounds that single fields do not have; the breaker names them by its own fields.
fn told(cursor: &Cursor<'_>, checked: Result<(), Vec<(&'static str, String)>>) {
    for (field, message) in checked.err().unwrap_or_default() {
        let path: &[&str] = match field {
            "open_base" => &["open", "base"],
            "open_max" => &["open", "max"],
            "jitter_percent" => &["open", "jitter"],
            _ => &[field],
        };
        cursor.sink().fault(&cursor.place_of(path), message, None);
    }
}
