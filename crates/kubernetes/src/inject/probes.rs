//! The kubelet's probes, which come from the node in clear and would be refused under strict mTLS.
//!
//! It decides that they go to the sidecar's admin port, which asks the application in the kubelet's place, over loopback and
//! with the same path, headers, scheme and time; what it may ask stands in its configuration, so that nobody can make it ask
//! for anything else. To let them pass instead would open the application's port to everybody on it. `exec` is untouched, and
//! so is a probe of another host, which is not the pod's to answer.
//!
//! A pod's own periods and thresholds stay where they are: the kubelet goes on counting.

use super::restore::CONTAINERS;
use super::{containers_mut, object, ports};
use serde_json::{Map, Value, json};

/// The field in a container, the word in the configuration, and the last part of the path.
const KINDS: [(&str, &str, &str); 3] = [
    ("livenessProbe", "liveness", "livez"),
    ("readinessProbe", "readiness", "readyz"),
    ("startupProbe", "startup", "startupz"),
];
const HANDLERS: [&str; 3] = ["httpGet", "tcpSocket", "grpc"];

/// Turns the probes of all containers towards the sidecar; what it is to ask, for its configuration.
///
/// # Errors
/// A port that is no port, or a name that no container's port has.
pub(super) fn rewrite(pod: &mut Value, warnings: &mut Vec<String>) -> Result<Vec<Value>, String> {
    let mut asked = Vec::new();
    for part in CONTAINERS {
        for container in containers_mut(pod, part) {
            let name = container["name"].as_str().unwrap_or_default().to_owned();
            let declared = container["ports"].clone();
            for (field, kind, path) in KINDS {
                let Some(probe) = container.get_mut(field).filter(|probe| probe.is_object()) else { continue };
                let Some((handler, what)) = HANDLERS.iter().find_map(|h| Some((*h, probe.get(*h)?.clone()))) else {
                    continue;
                };
                let place = format!("{field} of container {name}");
                if let Some(host) = what["host"].as_str().filter(|host| !host.is_empty()) {
                    warnings.push(format!("the {place} asks the host {host} and not the pod: it stays as it is"));
                    continue;
                }
                let port = port(&what["port"], &declared).ok_or_else(|| unknown_port(&place, &what["port"]))?;
                let timeout = probe["timeoutSeconds"].as_u64().unwrap_or(1).clamp(1, 600);
                let mut entry =
                    json!({"container": name, "probe": kind, "port": port, "timeout": format!("{timeout}s")});
                object(&mut entry).extend(question(handler, &what));
                asked.push(entry);
                turn(probe, handler, &format!("/app-health/{name}/{path}"));
            }
        }
    }
    Ok(asked)
}

fn unknown_port(place: &str, port: &Value) -> String {
    format!("the {place} names the port {port}, which the container does not declare: add it to the container's ports")
}

fn port(port: &Value, declared: &Value) -> Option<u16> {
    let number = match port {
        Value::String(text) if text.parse::<u16>().is_ok() => text.parse().ok(),
        Value::String(name) => {
            let named = declared.as_array()?.iter().find(|port| port["name"] == *name)?;
            named["containerPort"].as_u64()
        }
        other => other.as_u64(),
    };
    number.and_then(|number| u16::try_from(number).ok()).filter(|port| *port > 0)
}

/// What distinguishes it, in the words of the sidecar's configuration.
fn question(handler: &str, what: &Value) -> Map<String, Value> {
    let text = |key: &str| what[key].as_str().unwrap_or_default();
    let mut entry = Map::new();
    match handler {
        "grpc" => drop(entry.insert("grpc".into(), text("service").into())),
        "tcpSocket" => drop(entry.insert("tcp".into(), Value::Null)),
        _ => {
            let path = encoded(text("path"));
            let path = if path.starts_with('/') { path } else { format!("/{path}") };
            let scheme = if text("scheme").eq_ignore_ascii_case("https") { "https" } else { "http" };
            entry.insert(scheme.into(), path.into());
            let headers = what["httpHeaders"].as_array().into_iter().flatten();
            let headers: Vec<Value> = headers
                .filter_map(|h| Some(json!({"name": h["name"].as_str()?, "value": h["value"].as_str()?})))
                .collect();
            if !headers.is_empty() {
                entry.insert("headers".into(), headers.into());
            }
        }
    }
    entry
}

/// As the kubelet sends it: without a fragment, and with what no request line may hold encoded.
fn encoded(path: &str) -> String {
    let path = path.split('#').next().unwrap_or_default();
    let mut out = String::with_capacity(path.len());
    for byte in path.bytes() {
        if byte.is_ascii_graphic() {
            out.push(char::from(byte));
        } else {
            out += &format!("%{byte:02X}");
        }
    }
    out
}

fn turn(probe: &mut Value, handler: &str, path: &str) {
    let entries = object(probe);
    entries.shift_remove(handler);
    entries.insert("httpGet".into(), json!({"path": path, "port": ports::ADMIN}));
}

/// Turns them back to the application, as `asked` says.
pub(super) fn restore(pod: &mut Value, asked: &[Value]) {
    for part in CONTAINERS {
        for container in containers_mut(pod, part) {
            let name = container["name"].as_str().unwrap_or_default().to_owned();
            for (field, kind, path) in KINDS {
                let Some(probe) = container.get_mut(field) else { continue };
                if probe["httpGet"]["path"] != format!("/app-health/{name}/{path}") {
                    continue;
                }
                let Some(entry) = asked.iter().find(|e| e["container"] == *name && e["probe"] == kind) else {
                    continue;
                };
                let entries = object(probe);
                entries.shift_remove("httpGet");
                entries.extend(handler(entry));
            }
        }
    }
}

fn handler(entry: &Value) -> Option<(String, Value)> {
    let port = entry["port"].clone();
    if let Some(service) = entry["grpc"].as_str() {
        let mut grpc = json!({"port": port});
        if !service.is_empty() {
            grpc["service"] = service.into();
        }
        return Some(("grpc".into(), grpc));
    }
    if entry.get("tcp").is_some() {
        return Some(("tcpSocket".into(), json!({"port": port})));
    }
    let (scheme, path) = ["http", "https"].iter().find_map(|scheme| Some((*scheme, entry.get(*scheme)?.clone())))?;
    let mut http = json!({"path": path, "port": port});
    if scheme == "https" {
        http["scheme"] = "HTTPS".into();
    }
    if let Some(headers) = entry.get("headers") {
        http["httpHeaders"] = headers.clone();
    }
    Some(("httpGet".into(), http))
}
