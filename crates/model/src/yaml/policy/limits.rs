//! `limit`: how much at once, and how many in a time.

use super::{HOUR, MINUTE, MS, SECOND, faults, request_key, set};
use crate::policy::{Concurrency, InboundLimits, Limits, RateLimit};
use crate::yaml::cursor::{Cursor, Fields};
use fusewire_resilience::limit::{AimdConfig, Gradient2Config, GuardConfig};
use fusewire_resilience::rate::RateConfig;
use std::time::Duration;

const MAX: u64 = 1_000_000;

pub(super) fn limits(cursor: &Cursor<'_>) -> Limits {
    let mut limits = Limits::default();
    let Some(mut fields) = cursor.map("a mapping such as {requests: 1024}") else { return limits };
    if let Some(cursor) = fields.get("inbound") {
        limits.inbound = inbound(&cursor);
    }
    let bulkhead = &mut limits.bulkhead;
    set(&mut bulkhead.max_connections, fields.get("connections"), |c| count(c, 1, MAX));
    set(&mut bulkhead.max_pending, fields.get("pending"), |c| count(c, 1, MAX));
    set(&mut bulkhead.max_requests, fields.get("requests"), |c| count(c, 1, MAX));
    limits.rate = fields.get("rate").and_then(|c| rate(&c));
    fields.finish();
    limits
}

fn count(cursor: &Cursor<'_>, least: u64, most: u64) -> Option<u32> {
    u32::try_from(cursor.integer(least..=most)?).ok()
}

/// `off`, `queue_guard`, or `{algorithm: queue_guard, target: 100ms, queue: 50ms, min: 4, rate: {...}}`.
fn inbound(cursor: &Cursor<'_>) -> InboundLimits {
    let words = [
        ("queue_guard", Concurrency::default as fn() -> Concurrency),
        ("gradient2", || Concurrency::Gradient2(Gradient2Config::default())),
        ("aimd", || Concurrency::Aimd(AimdConfig::default())),
        ("off", || Concurrency::Off),
    ];
    let mut limits = InboundLimits::default();
    if cursor.as_text().is_some() {
        limits.concurrency = cursor.choice(&words).map_or(limits.concurrency, |make| make());
        return limits;
    }
    let Some(mut fields) = cursor.map("a word, or a mapping such as {algorithm: queue_guard}") else { return limits };
    let algorithm = fields.get("algorithm").and_then(|c| c.choice(&words));
    limits.concurrency = algorithm.map_or(limits.concurrency, |make| make());
    match &mut limits.concurrency {
        Concurrency::Off => {}
        Concurrency::QueueGuard(config) => queue_guard(cursor, &mut fields, config),
        Concurrency::Gradient2(config) => {
            let mut bounds =
                Bounds { least: config.min as u32, initial: config.initial as u32, most: config.max as u32 };
            bounds.read(cursor, &mut fields);
            (config.min, config.initial, config.max) = (bounds.least.into(), bounds.initial.into(), bounds.most.into());
        }
        Concurrency::Aimd(config) => {
            let mut bounds = Bounds { least: config.min, initial: config.initial, most: config.max };
            bounds.read(cursor, &mut fields);
            (config.min, config.initial, config.max) = (bounds.least, bounds.initial, bounds.most);
            set(&mut config.timeout, fields.get("timeout"), |c| c.duration(MS..=MINUTE));
        }
    }
    limits.rate = fields.get("rate").and_then(|c| rate(&c));
    fields.finish();
    limits
}

fn queue_guard(cursor: &Cursor<'_>, fields: &mut Fields<'_>, config: &mut GuardConfig) {
    set(&mut config.target, fields.get("target"), |c| c.duration(MS..=MINUTE));
    set(&mut config.queue, fields.get("queue"), |c| c.duration(Duration::ZERO..=10 * SECOND));
    set(&mut config.min, fields.get("min"), |c| count(c, 1, 10_000));
    faults(cursor, config.validate());
}

struct Bounds {
    least: u32,
    initial: u32,
    most: u32,
}

impl Bounds {
    fn read(&mut self, cursor: &Cursor<'_>, fields: &mut Fields<'_>) {
        let before = cursor.sink().count();
        set(&mut self.least, fields.get("min"), |c| count(c, 1, 100_000));
        set(&mut self.most, fields.get("max"), |c| count(c, 1, 100_000));
        // between the two, where it was not written
        self.initial = self.initial.max(self.least).min(self.most.max(self.least));
        set(&mut self.initial, fields.get("initial"), |c| count(c, 1, 100_000));
        let ordered = self.least <= self.initial && self.initial <= self.most;
        if !ordered && cursor.sink().count() == before {
            let message = format!(
                "must be min <= initial <= max, got min {}, initial {}, max {}",
                self.least, self.initial, self.most
            );
            cursor.fault(message);
        }
    }
}

/// `{requests: 100, per: 1s, burst: 200, key: {header: x-tenant}}`.
fn rate(cursor: &Cursor<'_>) -> Option<RateLimit> {
    let mut fields = cursor.map("a mapping such as {requests: 100, per: 1s}")?;
    let requests = fields.required("requests", "how many").and_then(|c| count(&c, 1, MAX));
    let per = fields.get("per").map_or(Some(SECOND), |c| c.duration(MS..=24 * HOUR));
    let burst = fields.get("burst").map_or(requests, |c| count(&c, 1, MAX));
    let key = fields.get("key").map(|c| request_key(&c));
    fields.finish();
    let key = key.map_or(Some(None), |key| key.map(Some))?;
    Some(RateLimit { rate: RateConfig { requests: requests?, per: per?, burst: burst? }, key })
}
