//! BreakerOverrides as overrides of the mesh: one for each service that the target is.

use super::{Object, Output, Said, Setting, Verdict, read, refs, target};
use crate::crd::object::ObjectId;
use fusewire_model::ServiceName;
use fusewire_model::service::Override;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// What is held, and by whom.
pub(super) type Held = BTreeMap<(ServiceName, Option<String>), ObjectId>;

pub(super) fn translate(setting: &Setting<'_>, object: &Object, held: &mut Held, output: &mut Output) {
    let id = &object.meta.id;
    let read = target::read(&object.spec["targetRef"], &target::SERVICES);
    let verdict = match read {
        Err(why) => Verdict::invalid(String::new(), format!("spec.targetRef: {why}")),
        Ok(wanted) => {
            let targets = [wanted];
            let shown = refs::shown(&targets);
            match hold(setting, object) {
                Err(why) => Verdict::invalid(shown, why),
                Ok(one) if one.until.is_some_and(|until| until <= setting.input.now) => {
                    let accepted = Said::no("Expired", "its time is over: delete it, or give it another spec.until");
                    Verdict { accepted, ..Verdict::accepted(shown) }
                }
                Ok(one) => {
                    let (services, missing) = setting.services(&id.namespace, &targets);
                    let mut verdict = Verdict::accepted(shown);
                    if !missing.is_empty() {
                        verdict.resolved = Said::no("TargetNotFound", read::together(missing.into_iter()));
                        verdict.accepted = verdict.resolved.clone();
                    }
                    put(setting, (id, &one), services, held, (&mut verdict, output));
                    verdict
                }
            }
        }
    };
    output.verdicts.insert(id.clone(), verdict);
}

/// For a service that stands for all.
fn hold(setting: &Setting<'_>, object: &Object) -> Result<Override, String> {
    let mut settings = read::settings(&object.spec, &["targetRef", "instance"], &["service"])?;
    let instance = match object.spec.get("instance") {
        None | Some(Value::Null) => None,
        Some(Value::String(name)) => Some(name.clone()),
        Some(_) => return Err("spec.instance: must be the name of a pod, or an instance's id".into()),
    };
    settings.insert("service".into(), "s".into());
    let document = json!({"services": {"s": null}, "overrides": [settings]});
    let mesh = read::mesh(document, setting.input.trust_domain, &[("overrides[0]", "spec")])?;
    let one = mesh.overrides.into_iter().next().ok_or("spec: must be an override")?;
    Ok(Override { instance, ..one })
}

fn put(
    setting: &Setting<'_>,
    (id, one): (&ObjectId, &Override),
    services: Vec<ServiceName>,
    held: &mut Held,
    (verdict, output): (&mut Verdict, &mut Output),
) {
    let (mut lost, mut without) = (Vec::new(), Vec::new());
    for service in services {
        let instance = match &one.instance {
            None => None,
            Some(wanted) => match setting.instance(&service, &id.namespace, wanted) {
                Some(instance) => Some(instance),
                None => {
                    without.push(format!("service {service} has no instance {}", shown(wanted)));
                    continue;
                }
            },
        };
        let key = (service.clone(), instance.clone());
        if let Some(older) = held.get(&key) {
            lost.push(format!("{older} is older, and holds service {service}"));
            continue;
        }
        held.insert(key, id.clone());
        output.overrides.push(Override { service: service.clone(), instance, ..one.clone() });
        verdict.services.insert(service);
    }
    let nothing = verdict.services.is_empty();
    if !without.is_empty() {
        verdict.resolved = Said::no("InstanceNotFound", read::together(without.into_iter()));
        if nothing {
            verdict.accepted = verdict.resolved.clone();
        }
    }
    if !lost.is_empty() {
        let message = read::together(lost.into_iter());
        if nothing {
            verdict.accepted = Said::no("Conflicted", message.clone());
        }
        verdict.conflicted = Some(message);
    }
}

fn shown(text: &str) -> String {
    text.chars().take(80).collect()
}

impl Setting<'_> {
    /// The id of an instance by its pod's name, or by itself.
    fn instance(&self, service: &ServiceName, namespace: &str, wanted: &str) -> Option<String> {
        if let Some(external) = self.externals.get(service) {
            // who else serves it is known only at run time
            let known = external.dns.is_some() || external.instances.iter().any(|instance| instance.id == wanted);
            return known.then(|| wanted.to_owned());
        }
        // NAME.NAMESPACE or NAME.NAMESPACE.PORT: a Service's name has no dots
        let name = service.as_str().split('.').next()?;
        let known = self.input.services.get(&(namespace.to_owned(), name.to_owned()))?;
        let by_id = || known.instances.values().find(|id| *id == wanted);
        known.instances.get(wanted).or_else(by_id).cloned()
    }
}
