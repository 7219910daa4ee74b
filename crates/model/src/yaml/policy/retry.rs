//! `retry`: what is sent again, how often, and who pays.

use super::{HOUR, MINUTE, MS, SECOND, faults, set, small};
use crate::policy::Retry;
use crate::yaml::cursor::Cursor;
use crate::yaml::scalar;
use fusewire_resilience::retry::{BackoffPolicy, BudgetConfig, HedgePolicy, MAX_ATTEMPTS, On, Repeat};

/// `off`, or `{attempts: 3, on: [connect, reset], per_try_timeout: 1s, backoff: {...}, budget: {...}, hedge: {...}}`.
pub(super) fn retry(cursor: &Cursor<'_>) -> Retry {
    let mut retry = Retry::default();
    if cursor.as_text() == Some("off") {
        retry.policy.attempts = 1;
        return retry;
    }
    let Some(mut fields) = cursor.map("`off` or a mapping") else { return retry };
    set(&mut retry.policy.attempts, fields.get("attempts"), |c| small(c, 1, MAX_ATTEMPTS));
    if let Some(cursor) = fields.get("on") {
        let causes = cursor.one_or_list("a cause or a list of causes");
        retry.policy.on = causes.iter().filter_map(|c| c.choice(&On::NAMES)).fold(On::NOTHING, |all, one| all | one);
    }
    retry.per_try_timeout = fields.get("per_try_timeout").and_then(|c| c.duration(MS..=24 * HOUR));
    if let Some(cursor) = fields.get("backoff") {
        backoff(&cursor, &mut retry.policy.backoff);
    }
    if let Some(cursor) = fields.get("budget") {
        budget(&cursor, &mut retry.budget);
    }
    let repeats = [("true", Repeat::Idempotent), ("false", Repeat::Unsafe)];
    retry.repeat = fields.get("idempotent").and_then(|c| c.choice(&repeats));
    if let Some(cursor) = fields.get("hedge") {
        hedge(&cursor, &mut retry.hedge);
    }
    fields.finish();
    retry
}

/// `{initial: 25ms, max: 250ms}`.
fn backoff(cursor: &Cursor<'_>, config: &mut BackoffPolicy) {
    let Some(mut fields) = cursor.map("a mapping such as {initial: 25ms, max: 250ms}") else { return };
    let before = cursor.sink().count();
    set(&mut config.initial, fields.get("initial"), |c| c.duration(MS..=10 * SECOND));
    // where only the first was written
    config.max = config.max.max(config.initial);
    set(&mut config.max, fields.get("max"), |c| c.duration(MS..=MINUTE));
    fields.finish();
    if cursor.sink().count() == before {
        faults(cursor, config.validate());
    }
}

/// `{ratio: 20%, min_per_second: 1, start: 10, cap: 100, active: 20%, active_min: 3}`.
fn budget(cursor: &Cursor<'_>, config: &mut BudgetConfig) {
    let Some(mut fields) = cursor.map("a mapping such as {ratio: 20%, min_per_second: 1}") else { return };
    let before = cursor.sink().count();
    let thousandths = |c: &Cursor<'_>| c.parse("a number, to the thousandth", scalar::parse_thousandths).map(u64::from);
    set(&mut config.per_success, fields.get("ratio"), |c| {
        c.parse("a share 0..1 or 0%..100%", |text| scalar::parse_millionths(text).filter(|m| *m <= 1_000_000))
            .map(|millionths| u64::from(millionths / 1000))
    });
    set(&mut config.per_second, fields.get("min_per_second"), thousandths);
    set(&mut config.cap, fields.get("cap"), thousandths);
    // where only the other was written
    config.start = config.start.min(config.cap);
    set(&mut config.start, fields.get("start"), thousandths);
    set(&mut config.active_percent, fields.get("active"), |c| c.percent(0..=100).map(u32::from));
    set(&mut config.active_min, fields.get("active_min"), |c| u32::try_from(c.integer(0..=100_000)?).ok());
    fields.finish();
    if cursor.sink().count() == before {
        for (field, message) in config.validate().err().unwrap_or_default() {
            let field = match field {
                "per_success" => "ratio",
                "per_second" => "min_per_second",
                "active_percent" => "active",
                field => field,
            };
            cursor.sink().fault(&cursor.place_of(&[field]), format!("{message}, in thousandths"), None);
        }
    }
}

/// `off`, `on`, or `{extra: 1, min_delay: 10ms}`.
fn hedge(cursor: &Cursor<'_>, config: &mut HedgePolicy) {
    if cursor.as_text().is_some() {
        set(&mut config.extra, Some(cursor.clone()), |c| c.choice(&[("off", 0), ("on", 1)]));
        return;
    }
    let Some(mut fields) = cursor.map("off, on, or a mapping such as {min_delay: 10ms}") else { return };
    config.extra = 1;
    set(&mut config.extra, fields.get("extra"), |c| small(c, 0, 1));
    set(&mut config.min_delay, fields.get("min_delay"), |c| c.duration(MS..=MINUTE));
    fields.finish();
}
