//! `policies`: how long, how often, and when to stop.
//!
//! It decides the bounds that a mistyped unit would break; those between fields (a maximum below its base) are the
//! breaker's own ([`BreakerConfig::validate`]).

use super::cursor::{Cursor, Fields};
use super::mesh::Draft;
use super::service;
use crate::name::PolicyName;
use crate::policy::{Plain, Policy, Target, Timeouts};
use crate::world::DEFAULT_POLICY;
use fusewire_resilience::{BreakerConfig, Mode, Unresponsive};
use std::time::Duration;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3_600);

pub(super) fn policy(cursor: &Cursor<'_>, name: &PolicyName, draft: &mut Draft) -> Policy {
    let mut policy = Policy::built_in(name.clone());
    if cursor.is_null() {
        return policy;
    }
    let Some(mut fields) = cursor.map("a mapping") else { return policy };
    let target_at = fields.get("target");
    policy.target = target_at.as_ref().and_then(|c| target(c, draft));
    if let Some(cursor) = &target_at
        && name.as_str() == DEFAULT_POLICY
    {
        cursor.fault_with(
            "the policy named default applies to every service that has no other",
            "leave the target out, or name the policy differently",
        );
    }
    let labelled = policy.target.as_ref().is_some_and(|target| !target.labels.is_empty());
    if let Some(cursor) = fields.get("breaker") {
        policy.breaker = breaker(&cursor);
    }
    if let Some(cursor) = fields.get("timeout") {
        policy.timeout = timeouts(&cursor, labelled);
    }
    if let Some(cursor) = fields.get("plain") {
        only_whole(&cursor, labelled);
        policy.plain = cursor.choice(&[("allow", Plain::Allow), ("deny", Plain::Deny)]).unwrap_or_default();
    }
    fields.finish();
    policy
}

/// A fault for what is no matter of single instances, in a policy for a labelled subset.
fn only_whole(cursor: &Cursor<'_>, labelled: bool) {
    if labelled {
        cursor.fault_with(
            "cannot be set for labelled instances, only breaker.instance and timeout.connect can",
            "set it in the policy of the service",
        );
    }
}

fn target(cursor: &Cursor<'_>, draft: &mut Draft) -> Option<Target> {
    let mut fields = cursor.map("a mapping such as {service: inventory}")?;
    let service = fields.required("service", "the name of a service").and_then(|c| draft.service_ref(&c));
    let labels = fields.get("labels").map(|c| service::labels(&c)).unwrap_or_default();
    fields.finish();
    Some(Target { service: service?, labels })
}

fn timeouts(cursor: &Cursor<'_>, labelled: bool) -> Timeouts {
    let mut timeouts = Timeouts::default();
    let Some(mut fields) = cursor.map("a mapping") else { return timeouts };
    timeouts.connect = fields.get("connect").and_then(|c| c.duration(MS..=MINUTE)).unwrap_or(timeouts.connect);
    let whole = |name, fields: &mut Fields<'_>| {
        let cursor = fields.get(name)?;
        only_whole(&cursor, labelled);
        cursor.duration(MS..=24 * HOUR)
    };
    timeouts.request = whole("request", &mut fields);
    timeouts.idle = whole("idle", &mut fields);
    fields.finish();
    timeouts
}

/// `off`, or one mapping for each scope; there is one so far.
fn breaker(cursor: &Cursor<'_>) -> BreakerConfig {
    let disabled = BreakerConfig { mode: Mode::Disabled, ..BreakerConfig::default() };
    match cursor.as_text() {
        Some("off") => return disabled,
        Some(_) => {
            cursor.must_be_or("`off` or a mapping", Some("for a trial write {instance: {mode: observe}}".into()));
            return disabled;
        }
        None => {}
    }
    let Some(mut fields) = cursor.map("`off` or a mapping") else { return disabled };
    let config = fields.get("instance").map(|c| instance(&c)).unwrap_or_default();
    fields.finish();
    config
}

fn instance(cursor: &Cursor<'_>) -> BreakerConfig {
    let mut config = BreakerConfig::default();
    let Some(mut fields) = cursor.map("a mapping") else { return config };
    let before = cursor.sink().count();
    let modes = [("enforce", Mode::Enforce), ("observe", Mode::Observe), ("disabled", Mode::Disabled)];
    set(&mut config.mode, fields.get("mode"), |c| c.choice(&modes));
    set(&mut config.window, fields.get("window"), |c| c.duration(100 * MS..=10 * MINUTE));
    set(&mut config.buckets, fields.get("buckets"), |c| small(c, 2, 20));
    set(&mut config.consecutive, fields.get("consecutive"), |c| small(c, 0, 255));
    set(&mut config.min_calls, fields.get("min_calls"), |c| u16::try_from(c.integer(1..=65_000)?).ok());
    set(&mut config.failure_rate, fields.get("failure_rate"), |c| c.percent(1..=100));
    if let Some(cursor) = fields.get("open") {
        open(&cursor, &mut config);
    }
    set(&mut config.stable, fields.get("stable"), |c| c.duration(Duration::ZERO..=24 * HOUR));
    set(&mut config.probe_timeout, fields.get("probe_timeout"), |c| c.duration(10 * MS..=HOUR));
    set(&mut config.probe_concurrency, fields.get("probe_concurrency"), |c| small(c, 1, 20));
    set(&mut config.slow_start, fields.get("slow_start"), |c| c.duration(Duration::ZERO..=HOUR));
    if let Some(cursor) = fields.get("unresponsive") {
        unresponsive(&cursor, &mut config.unresponsive);
    }
    fields.finish();
    if cursor.sink().count() == before {
        together(cursor, &config);
    }
    config
}

/// `open: {base: 5s, max: 60s, jitter: 25%}`.
fn open(cursor: &Cursor<'_>, config: &mut BreakerConfig) {
    let Some(mut fields) = cursor.map("a mapping such as {base: 5s, max: 60s}") else { return };
    set(&mut config.open_base, fields.get("base"), |c| c.duration(100 * MS..=HOUR));
    set(&mut config.open_max, fields.get("max"), |c| c.duration(100 * MS..=24 * HOUR));
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
fn together(cursor: &Cursor<'_>, config: &BreakerConfig) {
    for (field, message) in config.validate().err().unwrap_or_default() {
        let path: &[&str] = match field {
            "open_base" => &["open", "base"],
            "open_max" => &["open", "max"],
            "jitter_percent" => &["open", "jitter"],
            _ => &[field],
        };
        cursor.sink().fault(&cursor.place_of(path), message, None);
    }
}

fn set<T>(field: &mut T, cursor: Option<Cursor<'_>>, read: impl FnOnce(&Cursor<'_>) -> Option<T>) {
    if let Some(value) = cursor.as_ref().and_then(read) {
        *field = value;
    }
}

fn small(cursor: &Cursor<'_>, least: u8, most: u8) -> Option<u8> {
    u8::try_from(cursor.integer(least.into()..=most.into())?).ok()
}
