//! The sidecar's file, which it gets as a variable.
//!
//! It decides what a sidecar in a pod is told at boot; everything else comes from the control plane. `$(POD_UID)` and its
//! like are the kubelet's to replace, so every other `$` is doubled, which the kubelet takes for one.

use super::containers::{DATA_DIR, TOKEN_FILE, TRUST_FILE};
use super::wishes::Wishes;
use super::{Settings, ports};
use crate::yaml;
use serde_json::{Map, Value, json};

/// The variable's name.
pub(super) const VARIABLE: &str = "FUSEWIRE_CONFIG";

/// Kubernetes' own default of `terminationGracePeriodSeconds`.
const GRACE: u64 = 30;
/// Between the end of the drain and the kubelet's patience.
const RESERVE: u64 = 5;
/// The longest that a sidecar takes.
const MAX_DRAIN: u64 = 3_600;

pub(super) fn text(pod: &Value, settings: &Settings, wishes: &Wishes, redirected: bool, probes: &[Value]) -> String {
    let mut sidecar = json!({
        "workload": format!("spiffe://{}/ns/$(POD_NAMESPACE)/sa/$(POD_SERVICE_ACCOUNT)", settings.trust_domain),
        "instance": "$(POD_UID)",
        "zone": "$(POD_ZONE)",
        "control": settings.control,
        "token_file": TOKEN_FILE,
        "trust_file": TRUST_FILE,
        "data_dir": DATA_DIR,
        "outbound": format!("127.0.0.1:{}", ports::PROXY),
        "inbound": format!("[::]:{}", ports::MTLS),
        "admin": {"listen": format!("[::]:{}", ports::ADMIN)},
        "drain_timeout": drain(pod, wishes),
    });
    let entries = super::object(&mut sidecar);
    if redirected {
        let outbound = ["127.0.0.1", "[::1]"].map(|ip| format!("{ip}:{}", ports::OUTBOUND));
        let inbound = format!("[::]:{}", ports::INBOUND);
        let unknown = if wishes.refuse_unknown { "refuse" } else { "allow" };
        entries.insert("intercept".into(), json!({"outbound": outbound, "inbound": inbound, "unknown": unknown}));
    }
    optional(entries, wishes);
    if !probes.is_empty() {
        entries.insert("probes".into(), probes.iter().cloned().map(escaped).collect());
    }
    yaml::write(&[json!({"sidecar": sidecar})])
}

fn optional(entries: &mut Map<String, Value>, wishes: &Wishes) {
    if let Some(log) = &wishes.access_log {
        entries.insert("access_log".into(), log.as_str().into());
    }
    if let Some(sample) = &wishes.sample {
        entries.insert("telemetry".into(), json!({"sample": sample}));
    }
}

/// A little less than the time that the pod has for its end.
fn drain(pod: &Value, wishes: &Wishes) -> String {
    if let Some(wished) = wishes.drain {
        return fusewire_model::yaml::duration_text(wished);
    }
    let grace = pod["spec"]["terminationGracePeriodSeconds"].as_u64().unwrap_or(GRACE);
    format!("{}s", grace.saturating_sub(RESERVE).max(grace / 2).min(MAX_DRAIN))
}

/// The probes that stand in a sidecar's configuration, unescaped; none where it cannot be read.
pub(super) fn probes(text: &str) -> Vec<Value> {
    let mut documents = yaml::read(text).unwrap_or_default();
    let Some(document) = documents.first_mut() else { return Vec::new() };
    match document["sidecar"]["probes"].take() {
        Value::Array(probes) => probes.into_iter().map(unescaped).collect(),
        _ => Vec::new(),
    }
}

fn escaped(value: Value) -> Value {
    mapped(value, &|text| text.replace('$', "$$"))
}

fn unescaped(value: Value) -> Value {
    mapped(value, &|text| text.replace("$$", "$"))
}

fn mapped(value: Value, text: &impl Fn(&str) -> String) -> Value {
    match value {
        Value::String(found) => text(&found).into(),
        Value::Array(items) => items.into_iter().map(|item| mapped(item, text)).collect(),
        Value::Object(entries) => entries.into_iter().map(|(key, value)| (key, mapped(value, text))).collect(),
        other => other,
    }
}
