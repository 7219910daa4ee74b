//! AuthorizationPolicies as lists of who may call.
//!
//! It decides that they add up, and that one with a fault lets nobody in: its targets are closed to all but whom others let in.

use super::{Object, Output, Said, Setting, Verdict, read, refs, target};
use fusewire_model::SpiffeId;
use fusewire_model::service::Allow;
use serde_json::{Value, json};

pub(super) fn translate(setting: &Setting<'_>, object: &Object, output: &mut Output) {
    let id = &object.meta.id;
    let verdict = match refs::targets(&object.spec, &target::SERVICES) {
        Err(why) => Verdict::invalid(String::new(), why),
        Ok(targets) => {
            let (services, missing) = setting.services(&id.namespace, &targets);
            let callers = callers(setting, object);
            for service in &services {
                let allow = output.allow.entry(service.clone()).or_insert(Allow::Only(Vec::new()));
                if let (Allow::Only(list), Ok(callers)) = (allow, &callers) {
                    list.extend(callers.iter().cloned());
                    list.sort();
                    list.dedup();
                }
            }
            let mut verdict = match callers {
                Ok(_) => Verdict::accepted(refs::shown(&targets)),
                Err(why) => Verdict::invalid(refs::shown(&targets), format!("{why}; until then it lets nobody in")),
            };
            if !missing.is_empty() {
                verdict.resolved = Said::no("TargetNotFound", read::together(missing.into_iter()));
                if services.is_empty() && verdict.accepted.is_true {
                    verdict.accepted = verdict.resolved.clone();
                }
            }
            verdict.services = services.into_iter().collect();
            verdict
        }
    };
    output.verdicts.insert(id.clone(), verdict);
}

fn callers(setting: &Setting<'_>, object: &Object) -> Result<Vec<SpiffeId>, String> {
    let settings = read::settings(&object.spec, &["targetRefs", "allow"], &[])?;
    if let Some(key) = settings.keys().next() {
        return Err(format!("spec.{key}: unknown key (known here: targetRefs, allow)"));
    }
    let list = object.spec["allow"].as_array().ok_or("spec.allow: must be a list ([] lets nobody in)")?;
    let written = list.iter().enumerate().map(|(index, entry)| {
        caller(entry)
            .ok_or_else(|| format!("spec.allow[{index}]: must have namespace and serviceAccount, or spiffeId alone"))
    });
    let written: Vec<String> = written.collect::<Result<_, _>>()?;
    let document = json!({"services": {"s": {"allow": written}}});
    let mesh = read::mesh(document, setting.input.trust_domain, &[("services.s", "spec")])?;
    match mesh.services.into_values().next().map(|service| service.allow) {
        Some(Allow::Only(list)) => Ok(list),
        _ => Err("spec.allow: must be a list of callers".into()),
    }
}

/// As a file has it. `None`: it is neither.
fn caller(entry: &Value) -> Option<String> {
    let entry = entry.as_object()?;
    let text = |key: &str| entry.get(key).and_then(Value::as_str);
    match (entry.len(), text("namespace"), text("serviceAccount"), text("spiffeId")) {
        (2, Some(namespace), Some(account), None) => Some(format!("ns/{namespace}/sa/{account}")),
        (1, None, None, Some(id)) if id.starts_with("spiffe://") => Some(id.to_owned()),
        _ => None,
    }
}
