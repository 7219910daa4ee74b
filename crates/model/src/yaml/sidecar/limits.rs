//! `limits` and `forwarded`: what a sidecar takes from its callers.

use crate::node::{Forwarded, Limits};
use crate::yaml::cursor::{Cursor, Fields};
use std::ops::RangeInclusive;
use std::time::Duration;

pub(super) const FORWARDED: [(&str, Forwarded); 4] = [
    ("append", Forwarded::Append),
    ("replace", Forwarded::Replace),
    ("remove", Forwarded::Remove),
    ("keep", Forwarded::Keep),
];

const LEAST: Duration = Duration::from_millis(100);
const DAY: Duration = Duration::from_secs(24 * 3_600);

pub(super) fn limits(cursor: &Cursor<'_>) -> Limits {
    let mut limits = Limits::default();
    let Some(mut fields) = cursor.map("a mapping such as {connections: 1000}") else { return limits };
    number(&mut fields, "connections", &mut limits.connections, 1..=1_000_000);
    number(&mut fields, "header_bytes", &mut limits.header_bytes, 1_024..=65_536);
    number(&mut fields, "header_count", &mut limits.header_count, 10..=1_000);
    number(&mut fields, "target_bytes", &mut limits.target_bytes, 256..=60_000);
    time(&mut fields, "header_timeout", &mut limits.header_timeout, LEAST..=Duration::from_secs(600));
    time(&mut fields, "idle_timeout", &mut limits.idle_timeout, LEAST..=DAY);
    time(&mut fields, "body_timeout", &mut limits.body_timeout, LEAST..=DAY);
    fields.finish();
    limits
}

fn number(fields: &mut Fields<'_>, name: &'static str, value: &mut usize, range: RangeInclusive<u64>) {
    let read = fields.get(name).and_then(|c| c.integer(range));
    if let Some(read) = read.and_then(|n| usize::try_from(n).ok()) {
        *value = read;
    }
}

fn time(fields: &mut Fields<'_>, name: &'static str, value: &mut Duration, range: RangeInclusive<Duration>) {
    if let Some(read) = fields.get(name).and_then(|c| c.duration(range)) {
        *value = read;
    }
}
