//! What refers to what, once everything has been read.
//!
//! It decides whether every name means something, and whether two objects claim the same thing. What has a fault of its own
//! is not held against what refers to it.

use super::mesh::Draft;
use super::place::{Place, Sink};
use super::scalar::did_you_mean;
use crate::name::{PolicyName, ServiceName};
use crate::policy::Probe;
use std::collections::{BTreeMap, BTreeSet};

pub(super) fn check(draft: &Draft, sink: &Sink) {
    for (place, name) in draft.service_refs.iter().filter(|(_, name)| !draft.services.contains_key(name)) {
        let near = near(sink, name.as_str(), draft.services.keys().map(|n| n.as_str()));
        let remedy = near.unwrap_or_else(|| "add it under services, or correct the name".into());
        sink.fault(place, format!("service {name} is not defined"), Some(remedy));
    }
    for (place, name) in draft.policy_refs.iter().filter(|(_, name)| !draft.policies.contains_key(name)) {
        let near = near(sink, name.as_str(), draft.policies.keys().map(|n| n.as_str()));
        let remedy = near.unwrap_or_else(|| "add it under policies, or correct the name".into());
        sink.fault(place, format!("policy {name} is not defined"), Some(remedy));
    }
    overrides(draft, sink);
    targets(draft, sink);
    probes(draft, sink);
}

/// Sought only for faults that will be told: it looks at every name.
fn near<'a>(sink: &Sink, name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<String> {
    if sink.is_full() { None } else { did_you_mean(name, known) }
}

fn overrides(draft: &Draft, sink: &Sink) {
    let mut ids: BTreeMap<&ServiceName, BTreeSet<&str>> = BTreeMap::new();
    let mut taken: BTreeMap<(&ServiceName, Option<&str>), &Place> = BTreeMap::new();
    for (place, held) in &draft.overrides {
        let key = (&held.service, held.instance.as_deref());
        if let Some(first) = taken.insert(key, place) {
            let message = format!("holds what the override in {} holds", first.line_text());
            sink.fault(place, message, Some("keep one".into()));
        }
        let (Some(instance), Some(service)) = (&held.instance, draft.services.get(&held.service)) else { continue };
        let ids = ids
            .entry(&held.service)
            .or_insert_with(|| service.value.instances.iter().map(|instance| instance.id.as_str()).collect());
        // who else serves it is known only at run time
        let all_written = service.whole && service.value.dns.is_none();
        if all_written && !ids.contains(instance.as_str()) {
            let remedy = near(sink, instance, ids.iter().copied())
                .unwrap_or_else(|| format!("its instances are defined in {}", service.place.line_text()));
            let message = format!("service {} has no instance {instance}", held.service);
            sink.fault(&place.below("instance"), message, Some(remedy));
        }
    }
}

/// A service has one policy, and a labelled subset has one.
fn targets(draft: &Draft, sink: &Sink) {
    let mut taken: BTreeMap<(&ServiceName, &BTreeMap<String, String>), &Place> = BTreeMap::new();
    for named in draft.policies.values() {
        let Some(target) = &named.value.target else { continue };
        let Some(first) = taken.insert((&target.service, &target.labels), &named.place) else { continue };
        let what = if target.labels.is_empty() { "" } else { " and the same labels" };
        let message = format!("targets service {}{what}, as the policy in {} does", target.service, first.line_text());
        sink.fault(&named.place.below("target"), message, Some("merge the two: one object holds everything".into()));
    }
}

/// `probe: check` says that no request tests a circuit. Where a service asks for that and has no check, its requests would
/// after all; through the policy named default it was not asked for.
fn probes(draft: &Draft, sink: &Sink) {
    let by_check = |name: &PolicyName| draft.policies.get(name).is_some_and(|p| p.value.probe == Probe::Check);
    let without = |name: &ServiceName| draft.services.get(name).filter(|s| s.whole && s.value.health.is_none());
    let tell = |place: &Place, policy: &PolicyName, service: &ServiceName| {
        let message = format!("policy {policy} probes by the health check, and service {service} has none");
        sink.fault(place, message, Some("add `health` to the service, or write `probe: request`".into()));
    };
    for (name, named) in &draft.services {
        if let Some(policy) = named.value.policy.as_ref().filter(|p| by_check(p) && without(name).is_some()) {
            tell(&named.place.below("policy"), policy, name);
        }
    }
    for (policy, named) in &draft.policies {
        let target = named.value.target.as_ref().map(|target| &target.service);
        if let Some(service) = target.filter(|service| by_check(policy) && without(service).is_some()) {
            tell(&named.place.below("target"), policy, service);
        }
    }
}
