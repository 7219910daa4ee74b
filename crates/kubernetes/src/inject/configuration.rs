//! The sidecar's file, which it gets as a variable.
//!
//! It decides what a sidecar in a pod is told at boot; everything else comes from the control plane. `$(POD_UID)` and its
//! like are the kubelet's to replace, so every other `$` is doubled, which the kubelet takes for one.
//!
//! Invariant: what the sidecar's own parser would refuse is refused here, where the pod's author is told.

use super::containers::{DATA_DIR, TOKEN_FILE, TRUST_FILE};
use super::wishes::Wishes;
use super::{Namespace, Settings, ports};
use crate::{PREFIX, yaml};
use fusewire_model::yaml::{Fault, Source};
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
    if wishes.app_at_pod {
        // calls, health checks and the kubelet's probes alike
        entries.insert("inbound".into(), json!({"listen": entries["inbound"], "app": "$(POD_IP)"}));
    }
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

/// Of what a refusal says.
const MAX_FAULTS: usize = 3;

/// Reads the configuration as the sidecar will, with the pod's values in the places that the kubelet puts them.
///
/// # Errors
/// What the sidecar would refuse, in the words of the pod. `probes`: those that stand in it.
pub(super) fn check(text: &str, pod: &Value, namespace: &Namespace, probes: &[Value]) -> Result<(), String> {
    let account = pod["spec"]["serviceAccountName"].as_str().filter(|account| !account.is_empty());
    let namespace = pod["metadata"]["namespace"].as_str().unwrap_or(&namespace.name);
    let value = |name: &str| match name {
        "POD_NAMESPACE" if namespace.is_empty() => Some("default"),
        "POD_NAMESPACE" => Some(namespace),
        "POD_SERVICE_ACCOUNT" => Some(account.unwrap_or("default")),
        "POD_UID" => Some("00000000-0000-0000-0000-000000000000"),
        "POD_IP" => Some("10.0.0.1"),
        "POD_ZONE" => Some(""),
        _ => None,
    };
    let source = Source { name: VARIABLE.into(), text: expanded(text, value) };
    let Err(faults) = fusewire_model::yaml::parse(&[source]) else { return Ok(()) };
    let mut said: Vec<String> = faults.iter().take(MAX_FAULTS).map(|fault| told(fault, probes)).collect();
    if faults.len() > MAX_FAULTS {
        said.push(format!("and {} more", faults.len() - MAX_FAULTS));
    }
    Err(format!("{}: change that, or annotate the pod with {PREFIX}inject: disabled", said.join("; ")))
}

/// A probe is told by the container that has it.
fn told(fault: &Fault, probes: &[Value]) -> String {
    let remedy = fault.remedy.as_ref().map(|remedy| format!(" ({remedy})")).unwrap_or_default();
    let probe = fault.path.strip_prefix("sidecar.probes[").and_then(|rest| {
        let (index, field) = rest.split_once(']')?;
        let probe = probes.get(index.parse::<usize>().ok()?)?;
        let (kind, container) = (probe["probe"].as_str()?, probe["container"].as_str()?);
        Some(format!("the {kind}Probe of container {container}, {}", field.trim_start_matches('.')))
    });
    let place = probe.unwrap_or_else(|| format!("the sidecar's {}", fault.path));
    format!("{}: {}{remedy}", place.trim_end_matches(", "), fault.message)
}

/// As the kubelet does it; what it does not know it leaves.
fn expanded<'a>(text: &str, value: impl Fn(&str) -> Option<&'a str>) -> String {
    let (mut out, mut rest) = (String::with_capacity(text.len()), text);
    while let Some((before, after)) = rest.split_once('$') {
        out += before;
        rest = after;
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some((name, after)) = rest.strip_prefix('(').and_then(|rest| rest.split_once(')'))
            && let Some(value) = value(name)
        {
            out += value;
            rest = after;
        } else {
            out.push('$');
        }
    }
    out + rest
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
