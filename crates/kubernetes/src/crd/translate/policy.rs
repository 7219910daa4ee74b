//! ResiliencePolicies as policies of the mesh: one for each service that they are in force for, and one for their routes.
//!
//! It decides who wins: of several for one target the oldest; a policy for a port before one for its whole Service. Policies are
//! not merged: one object holds everything.

use super::refs::{self, Found};
use super::{Object, Output, RouteTarget, Said, Setting, TargetRef, Verdict, read, target};
use crate::crd::object::ObjectId;
use fusewire_model::policy::{Policy, Target};
use fusewire_model::{PolicyName, ServiceName};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// An object without faults.
struct Draft<'a> {
    id: &'a ObjectId,
    policy: Policy,
    verdict: Verdict,
    /// The targets that it has, and what each leads to.
    won: Vec<(&'a TargetRef, Found)>,
    /// What it is in force for.
    services: Vec<ServiceName>,
}

pub(super) fn translate(setting: &Setting<'_>, objects: &[&Object], output: &mut Output) {
    let refs: Vec<_> = objects.iter().map(|object| refs::targets(&object.spec, &target::POLICY)).collect();
    let mut claims: BTreeMap<(&str, &TargetRef), &ObjectId> = BTreeMap::new();
    let mut drafts = Vec::new();
    for (object, refs) in objects.iter().zip(&refs) {
        let id = &object.meta.id;
        let invalid = |targets, message| Verdict::invalid(targets, message);
        let refused = match refs {
            Err(why) => invalid(String::new(), why.clone()),
            Ok(refs) => match draft(setting, object, refs, &mut claims) {
                Ok(draft) => {
                    drafts.push(draft);
                    continue;
                }
                Err(why) => invalid(refs::shown(refs), why),
            },
        };
        output.verdicts.insert(id.clone(), refused);
    }
    spread(&mut drafts);
    drafts.into_iter().for_each(|draft| finish(draft, output));
}

fn draft<'a>(
    setting: &Setting<'_>,
    object: &'a Object,
    refs: &'a [TargetRef],
    claims: &mut BTreeMap<(&'a str, &'a TargetRef), &'a ObjectId>,
) -> Result<Draft<'a>, String> {
    let id = &object.meta.id;
    let namespace = id.namespace.as_str();
    let found = refs.iter().map(|wanted| (wanted, setting.find(namespace, wanted)));
    let (mut leads, mut missing) = (Vec::new(), Vec::new());
    for (wanted, found) in found {
        match found {
            Ok(found) => leads.push((wanted, found)),
            Err(why) => missing.push(why),
        }
    }
    let (policy, absent) = settings(setting, object, &leads)?;
    let mut verdict = Verdict::accepted(refs::shown(refs));
    if !missing.is_empty() {
        verdict.resolved = Said::no("TargetNotFound", read::together(missing.into_iter()));
    } else if !absent.is_empty() {
        verdict.resolved = Said::no("BackendNotFound", read::together(absent.into_iter()));
    }
    if leads.is_empty() {
        verdict.accepted = Said { is_true: false, ..verdict.resolved.clone() };
    }
    let mut lost = Vec::new();
    leads.retain(|(wanted, _)| match claims.get(&(namespace, *wanted)) {
        Some(older) => {
            lost.push(format!("{wanted} has the older {older}"));
            false
        }
        None => {
            claims.insert((namespace, wanted), id);
            true
        }
    });
    if !lost.is_empty() {
        let message = read::together(lost.into_iter());
        if leads.is_empty() {
            verdict.accepted = Said::no("Conflicted", message.clone());
        }
        verdict.conflicted = Some(message);
    }
    Ok(Draft { id, policy, verdict, won: leads, services: Vec::new() })
}

/// The policy without its target, and the fallbacks that do not exist.
fn settings(
    setting: &Setting<'_>,
    object: &Object,
    leads: &[(&TargetRef, Found)],
) -> Result<(Policy, Vec<String>), String> {
    let id = &object.meta.id;
    if !target::is_label(&id.name) {
        return Err("metadata.name: must be a DNS label, since NAME.NAMESPACE is what it is called".into());
    }
    let own = id.mesh_name();
    let mut settings = read::settings(&object.spec, &["targetRefs"], &["target"])?;
    let (mut services, mut absent) = (Map::new(), Vec::new());
    for name in fallbacks(&mut settings, &id.namespace) {
        if !setting.names.contains(&name) {
            absent.push(format!("spec.fallback: service {name} does not exist"));
        }
        services.insert(name.as_str().to_owned(), Value::Null);
    }
    let targets = leads.iter().filter_map(|(_, found)| match found {
        Found::Services(services) => Some(services),
        Found::Route(_) => None,
    });
    let is_checked = |name: &ServiceName| setting.externals.get(name).is_some_and(|service| service.health.is_some());
    // one that has no health check, if there is one: `probe: check` would have nothing to ask
    if let Some(name) = targets.flatten().min_by_key(|name| is_checked(name)) {
        let health = if is_checked(name) { json!("tcp") } else { Value::Null };
        services.insert(name.as_str().to_owned(), if health.is_null() { health } else { json!({"health": health}) });
        settings.insert("target".into(), json!({"service": name.as_str()}));
    }
    let document = json!({"services": services, "policies": {own.as_str(): settings}});
    let (policy_at, target_at) = (format!("policies[{own:?}]"), format!("policies[{own:?}].target"));
    let places = [(target_at.as_str(), "spec.targetRefs"), (policy_at.as_str(), "spec")];
    let mesh = read::mesh(document, setting.input.trust_domain, &places)?;
    let policy = mesh.policies.into_values().next().ok_or("spec: must be a policy")?;
    Ok((Policy { target: None, ..policy }, absent))
}

/// The services that are fallen back to; a name without a dot is one of this namespace, and is written out.
fn fallbacks(settings: &mut Map<String, Value>, namespace: &str) -> BTreeSet<ServiceName> {
    let mut all = BTreeSet::new();
    for fallback in settings.get_mut("fallback").and_then(Value::as_array_mut).into_iter().flatten() {
        let Some(Value::String(name)) = fallback.get_mut("service") else { continue };
        if !name.contains('.') {
            name.push_str(&format!(".{namespace}"));
        }
        all.extend(ServiceName::parse(name));
    }
    all
}

/// Gives each service to the policy of its port, else to that of its Service.
fn spread(drafts: &mut [Draft<'_>]) {
    let mut owners: BTreeMap<&ServiceName, (usize, &TargetRef)> = BTreeMap::new();
    for (index, draft) in drafts.iter().enumerate() {
        for (wanted, found) in &draft.won {
            let Found::Services(services) = found else { continue };
            for service in services {
                let owner = owners.entry(service).or_insert((index, wanted));
                if owner.1.section.is_none() && wanted.section.is_some() {
                    *owner = (index, wanted);
                }
            }
        }
    }
    let owned: Vec<(usize, ServiceName)> = owners.into_iter().map(|(name, (index, _))| (index, name.clone())).collect();
    for (index, service) in owned {
        if let Some(draft) = drafts.get_mut(index) {
            draft.services.push(service);
        }
    }
}

fn finish(draft: Draft<'_>, output: &mut Output) {
    let Draft { id, policy, mut verdict, won, services } = draft;
    let routes = won.iter().filter_map(|(_, found)| match found {
        Found::Route(route) => Some(route.clone()),
        Found::Services(_) => None,
    });
    let routes: BTreeSet<RouteTarget> = routes.collect();
    if !routes.is_empty() {
        output.route_policies.extend(routes.iter().map(|route| (route.clone(), policy.name.clone())));
        verdict.policies.insert(policy.name.clone());
        output.policies.push(policy.clone());
    }
    if !won.is_empty() && routes.is_empty() && services.is_empty() {
        verdict.accepted = Said::no("Conflicted", "every port of its targets has a policy of its own");
    }
    for (index, service) in services.iter().enumerate() {
        // the first has the object's name, and there is one for each service: a policy has one target
        let name = if index == 0 { id.mesh_name() } else { format!("{}.{}", id.mesh_name(), index + 1) };
        let Ok(name) = PolicyName::parse(&name) else { continue };
        verdict.policies.insert(name.clone());
        let target = Some(Target { service: service.clone(), labels: BTreeMap::new() });
        output.policies.push(Policy { name, target, ..policy.clone() });
    }
    verdict.services = services.into_iter().collect();
    verdict.routes = routes;
    output.verdicts.insert(id.clone(), verdict);
}
