//! `PUT` and `DELETE /breakers/{scope}/{service}[/{instance}]/override`: an operator holds a circuit, or resets it.
//!
//! It decides what may be asked and who asked it. The override lives with the instance, survives every configuration that
//! still has it, and ends by itself. It deliberately does not touch what the configuration holds: that would come back
//! with the next change, and nobody would know why.
//!
//! Invariant: nothing is held without an owner that the kernel names, a reason, and an end, unless "no end" was written.

use super::breakers::{self, Found};
use super::{Circuit, Part, Refusal, Scope, refused, scopes};
use crate::admin::owner::owner;
use crate::mesh::Mesh;
use crate::snapshot::Whole;
use crate::upstream::instance::Holder;
use fusewire_resilience::{Forced, Member, Override, ServiceScope, Time};
use fusewire_telemetry::admin::{Answer, Asked, json, text};
use http::{Method, StatusCode};
use serde_json::{Value, json as value};
use std::sync::Arc;
use std::time::Duration;

/// Without `ttl_seconds`.
const TTL: u64 = 3_600;
const MAX_TTL: u64 = 30 * 86_400;
/// Of a reason, in characters.
const MAX_REASON: usize = 256;

/// What is asked for.
#[derive(Debug, PartialEq, Eq)]
struct Wanted {
    to: Forced,
    /// `None`: until it is cleared.
    ttl: Option<Duration>,
    reason: String,
}

/// One thing that is wrong with the body.
#[derive(Debug, PartialEq, Eq)]
struct Fault {
    path: String,
    error: String,
    remedy: String,
}

pub(super) fn answer(mesh: &Mesh, circuit: &Circuit, asked: &Asked) -> Answer {
    if circuit.part != Part::Override || ![Method::PUT, Method::DELETE].contains(&asked.method) {
        return text(StatusCode::METHOD_NOT_ALLOWED, "text/plain", "use GET, or PUT and DELETE on .../override\n");
    }
    let target = match circuit.scope {
        Scope::Instance => breakers::find(mesh, circuit).map(Target::Instance),
        Scope::Whole(whole) => scopes::find(mesh, whole, &circuit.service).map(|scope| Target::Whole(whole, scope)),
    };
    let target = match target {
        Ok(target) => target,
        Err(unknown) => return unknown.answer(),
    };
    let to = if asked.method == Method::DELETE {
        None
    } else {
        match wanted(&asked.body) {
            Ok(wanted) => Some(wanted),
            Err(faults) => return faulty(&faults),
        }
    };
    if let Target::Instance(found) = &target
        && let Some(held) = found.member().node().held().filter(|_| found.member().held_by_hand().is_none())
    {
        return refused(&Refusal {
            status: StatusCode::CONFLICT,
            path: "",
            error: format!("the configuration holds this circuit, by {}: {}", held.owner, held.reason),
            remedy: "change or remove it under overrides: in the mesh's configuration",
        });
    }
    let now = mesh.clock.now();
    let owner = owner(asked.uid);
    let shown = match &target {
        Target::Instance(found) => {
            hold(found, to, &owner, now);
            breakers::one(mesh, found, now)
        }
        Target::Whole(whole, scope) => {
            match to {
                None => drop(scope.reset(&owner, now)),
                Some(wanted) => drop(scope.set_override(Some(wanted.by(&owner, now)), now)),
            }
            scopes::shown(*whole, scope, now)
        }
    };
    json(StatusCode::OK, &shown)
}

enum Target {
    Instance(Found),
    Whole(Whole, Arc<ServiceScope>),
}

impl Wanted {
    fn by(self, owner: &str, now: Time) -> Override {
        let until = self.ttl.map(|ttl| now + ttl);
        Override { forced: self.to, owner: owner.into(), reason: self.reason, until }
    }
}

fn hold(found: &Found, to: Option<Wanted>, owner: &str, now: Time) {
    let set = &found.upstream.set;
    match to {
        None => {
            set.reset(found.index, owner, now);
        }
        Some(wanted) => {
            found.member().will_be_held(Holder::Operator);
            set.set_override(found.index, Some(wanted.by(owner, now)), now);
        }
    }
}

fn faulty(faults: &[Fault]) -> Answer {
    let said = |f: &Fault| format!("{}: {} ({})", f.path, f.error, f.remedy);
    let error: Vec<String> = faults.iter().map(said).collect();
    let all: Vec<Value> =
        faults.iter().map(|f| value!({ "path": f.path, "error": f.error, "remedy": f.remedy })).collect();
    json(StatusCode::BAD_REQUEST, &value!({ "error": error.join("; "), "faults": all }))
}

/// `{"to": "open" | "closed", "reason": TEXT, "ttl_seconds": N}`, or everything that is wrong with it.
fn wanted(body: &[u8]) -> Result<Wanted, Vec<Fault>> {
    let mut faults = Vec::new();
    let mut fault = |path: &str, error: &str, remedy: &str| {
        faults.push(Fault { path: path.into(), error: error.into(), remedy: remedy.into() });
    };
    let Ok(Value::Object(fields)) = serde_json::from_slice(body) else {
        fault("body", "must be a JSON object", "write {\"to\": \"open\", \"reason\": \"why\", \"ttl_seconds\": 3600}");
        return Err(faults);
    };
    for name in fields.keys().filter(|name| !["to", "reason", "ttl_seconds"].contains(&name.as_str())) {
        let name: String = name.chars().filter(|c| !c.is_control()).take(80).collect();
        fault(&name, "is not known", "there are to, reason and ttl_seconds");
    }
    let to = match fields.get("to").and_then(Value::as_str) {
        Some("open") => Some(Forced::Open),
        Some("closed") => Some(Forced::Closed),
        _ => {
            fault("to", "must be open or closed", "open keeps requests away, closed lets them through");
            None
        }
    };
    let reason = fields.get("reason").and_then(Value::as_str).map(str::trim).unwrap_or_default();
    let printable = reason.chars().all(|c| !c.is_control());
    if reason.is_empty() || reason.chars().count() > MAX_REASON || !printable {
        let error = format!("must be 1 to {MAX_REASON} printable characters");
        fault("reason", &error, "say why, for those who find the circuit held");
    }
    let ttl = match fields.get("ttl_seconds") {
        None => TTL,
        Some(n) => n.as_u64().filter(|n| *n <= MAX_TTL).unwrap_or_else(|| {
            let remedy = "leave it out for an hour; 0 holds it until somebody resets it";
            fault("ttl_seconds", &format!("must be 0 to {MAX_TTL}, which is 30 days"), remedy);
            0
        }),
    };
    let ttl = (ttl > 0).then(|| Duration::from_secs(ttl));
    match to {
        Some(to) if faults.is_empty() => Ok(Wanted { to, ttl, reason: reason.into() }),
        _ => Err(faults),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(body: &str) -> Vec<String> {
        wanted(body.as_bytes()).err().unwrap_or_default().into_iter().map(|fault| fault.path).collect()
    }

    #[test]
    fn an_override_ends_after_an_hour_unless_another_end_or_none_is_written() {
        let ttl = |more: &str| {
            let body = format!(r#"{{"to": "open", "reason": " a drill "{more}}}"#);
            let wanted = wanted(body.as_bytes()).unwrap();
            assert_eq!((wanted.to, wanted.reason.as_str()), (Forced::Open, "a drill"));
            wanted.ttl.map(|ttl| ttl.as_secs())
        };
        assert_eq!(ttl(""), Some(3600));
        assert_eq!(ttl(r#", "ttl_seconds": 5"#), Some(5));
        assert_eq!(ttl(r#", "ttl_seconds": 2592000"#), Some(2_592_000));
        assert_eq!(ttl(r#", "ttl_seconds": 0"#), None);
    }

    #[test]
    fn everything_that_is_wrong_is_said_at_once_with_its_path() {
        assert_eq!(paths("{}"), ["to", "reason"]);
        let all = r#"{"to": "shut", "reason": "", "ttl_seconds": 2592001, "owner": "root"}"#;
        assert_eq!(paths(all), ["owner", "to", "reason", "ttl_seconds"]);
        let long = "x".repeat(257);
        for reason in ["a\\nb", "\\u0007", "  ", long.as_str()] {
            assert_eq!(paths(&format!(r#"{{"to": "open", "reason": "{reason}"}}"#)), ["reason"], "{reason}");
        }
        assert_eq!(paths(&format!(r#"{{"to": "closed", "reason": "{}"}}"#, "ä".repeat(256))), [""; 0]);
        for ttl in ["-1", "1.5", "\"1h\"", "null", "99999999999999999999"] {
            assert_eq!(paths(&format!(r#"{{"to": "open", "reason": "r", "ttl_seconds": {ttl}}}"#)), ["ttl_seconds"]);
        }
        for body in ["", "[]", "\"open\"", "{", "null"] {
            assert_eq!(paths(body), ["body"], "{body}");
        }
    }
}
