//! The sidecar's words and numbers, in plain English.

use fusewire_model::yaml::duration_text;
use serde_json::Value;
use std::time::Duration;

/// `320ms`, `4.2s`, `59m58s`.
pub(super) fn span(ms: u64) -> String {
    match ms {
        0..1_000 => format!("{ms}ms"),
        1_000..120_000 => format!("{:.1}s", ms as f64 / 1e3).replace(".0s", "s"),
        _ => duration_text(Duration::from_secs(ms / 1_000)),
    }
}

pub(super) fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or(0)
}

pub(super) fn word(value: &Value) -> &str {
    value.as_str().unwrap_or("-")
}

/// `1 call`, `2 calls`.
pub(super) fn some(count: u64, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}

/// `5 of 10`, as percent.
pub(super) fn percent(part: u64, whole: u64) -> String {
    if whole == 0 { "0 %".into() } else { format!("{:.0} %", 100.0 * part as f64 / whole as f64) }
}

/// What a window holds: `12 calls in 10s: 5 hard failures and 1 soft (50 %)`. `over`: where `window_ms` or `window_calls` is.
pub(super) fn evidence(counts: &Value, over: &Value) -> String {
    let (total, hard, soft) = (number(&counts["total"]), number(&counts["hard"]), number(&counts["soft"]));
    let window = match over["window_calls"].as_u64() {
        Some(calls) => format!("the last {calls}"),
        None => span(number(&over["window_ms"])),
    };
    let mut text = format!("{} in {window}: {} and {soft} soft", some(total, "call"), some(hard, "hard failure"));
    if total > 0 {
        text += &format!(" ({})", percent(hard + soft, total));
    }
    let slow = number(&counts["slow"]);
    if slow > 0 {
        text += &format!(", {slow} slow");
    }
    text
}

/// What made a circuit change, for a sentence: `opened on ...`.
pub(super) fn trip(reason: &str) -> &str {
    match reason {
        "consecutive" => "hard failures in a row",
        "rate" => "too large a share of hard failures",
        "unresponsive" => "timeouts in a row, without one answer between them",
        "slow" => "too large a share of slow calls",
        "peer" => "failing more than its peers",
        other => other,
    }
}

/// Why that evidence was enough.
pub(super) fn ground(ground: &str) -> Option<&'static str> {
    Some(match ground {
        "connections" => "connections could not be had or broke, which needs no comparison with peers",
        "status" => "the answers were failures, and its peers did better or there was none to compare with",
        "silence" => "it did not answer while its peers did",
        "slow" => "calls took longer than the policy's limit",
        "outlier" => "it failed more than the median of its peers, by more than chance",
        _ => return None,
    })
}

/// Each service once, as `breakers` has them.
pub(super) fn services(circuits: &[Value]) -> Vec<String> {
    let mut names: Vec<String> = circuits.iter().filter_map(|b| b["service"].as_str().map(str::to_owned)).collect();
    names.sort();
    names.dedup();
    names
}
