//! Several replicas' answers as one.
//!
//! It decides that a sidecar counts once, where it connected last (a replica may take a while to notice that a sidecar has
//! left), and that it is current where it runs what is in force at the replica that was asked.

use fusewire_api::v1;
use jiff::Timestamp;
use std::cmp::Reverse;
use std::collections::BTreeSet;

/// Adds what the replica `name` said to what this one says.
pub(super) fn add(whole: &mut v1::StatusResponse, name: &str, theirs: v1::StatusResponse) {
    whole.sidecars.extend(theirs.sidecars);
    for alert in theirs.alerts {
        let known = whole.alerts.iter().any(|known| (&known.name, &known.about) == (&alert.name, &alert.about));
        if !known {
            whole.alerts.push(v1::Alert { message: format!("{} (replica {name})", alert.message), ..alert });
        }
    }
    let ours = whole.registry.get_or_insert_default();
    if let Some(registry) = theirs.registry {
        // all know of all, but each hears its own
        ours.registrations = ours.registrations.max(registry.registrations);
        ours.silent += registry.silent;
        ours.preserved.extend(registry.preserved);
    }
    for source in theirs.sources {
        let same = |s: &&mut v1::SourceStatus| (&s.source, &s.service) == (&source.source, &source.service);
        match whole.sources.iter_mut().find(same) {
            Some(known) if source.age_ms > known.age_ms => *known = source,
            Some(_) => {}
            None => whole.sources.push(source),
        }
    }
    let valid = theirs.configuration.as_ref().is_none_or(|configuration| configuration.valid);
    if let (Some(ours), Some(theirs)) = (&mut whole.configuration, theirs.configuration)
        && !valid
    {
        ours.valid = false;
        ours.faults.extend(theirs.faults.into_iter().filter(|fault| !ours.faults.contains(fault)).collect::<Vec<_>>());
    }
}

/// Once all are added.
pub(super) fn settle(whole: &mut v1::StatusResponse) {
    if let Some(registry) = &mut whole.registry {
        registry.preserved.sort();
        registry.preserved.dedup();
    }
    let in_force = whole.configuration.as_ref().map(|configuration| configuration.version.as_str());
    whole.sidecars.sort_by_cached_key(|s| {
        let since = s.connected_since.parse::<Timestamp>().ok();
        (s.workload.clone(), s.instance.clone(), Reverse(since), s.replica.clone())
    });
    let mut seen = BTreeSet::new();
    whole.sidecars.retain(|s| s.instance.is_none() || seen.insert((s.workload.clone(), s.instance.clone())));
    for sidecar in &mut whole.sidecars {
        sidecar.current = sidecar.acked_version.is_some() && sidecar.acked_version.as_deref() == in_force;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sidecar(instance: Option<&str>, since: &str, replica: &str, acked: &str) -> v1::SidecarStatus {
        v1::SidecarStatus {
            workload: "spiffe://t/web".into(),
            instance: instance.map(Into::into),
            connected_since: since.into(),
            replica: replica.into(),
            acked_version: Some(acked.into()),
            ..v1::SidecarStatus::default()
        }
    }

    fn answer(sidecars: Vec<v1::SidecarStatus>) -> v1::StatusResponse {
        let configuration = v1::ConfigurationStatus { version: "v2".into(), valid: true, ..Default::default() };
        let registry = v1::RegistryStatus { registrations: 3, silent: 1, preserved: vec!["all".into()] };
        v1::StatusResponse {
            sidecars,
            configuration: Some(configuration),
            registry: Some(registry),
            ..v1::StatusResponse::default()
        }
    }

    #[test]
    fn a_sidecar_counts_once_where_it_connected_last() {
        let early = "2026-11-26T12:00:00Z";
        let late = "2026-11-26T12:00:01Z";
        let mut whole = answer(vec![sidecar(Some("1"), early, "a", "v2"), sidecar(None, early, "a", "v2")]);
        add(&mut whole, "b", answer(vec![sidecar(Some("1"), late, "b", "v1"), sidecar(None, late, "b", "v2")]));
        settle(&mut whole);
        let told: Vec<_> =
            whole.sidecars.iter().map(|s| (s.instance.as_deref(), s.replica.as_str(), s.current)).collect();
        assert_eq!(told, [(None, "b", true), (None, "a", true), (Some("1"), "b", false)]);
        let registry = whole.registry.unwrap();
        assert_eq!((registry.registrations, registry.silent, registry.preserved.len()), (3, 2, 1));
    }

    #[test]
    fn what_is_wrong_at_another_replica_is_wrong() {
        let mut whole = answer(Vec::new());
        let mut theirs = answer(Vec::new());
        theirs.alerts = vec![v1::Alert { name: "discovery-stale".into(), message: "old".into(), ..Default::default() }];
        let configuration = theirs.configuration.as_mut().unwrap();
        configuration.valid = false;
        configuration.faults = vec![v1::ConfigFault { message: "no".into(), ..Default::default() }];
        add(&mut whole, "b", theirs.clone());
        add(&mut whole, "c", theirs);
        assert_eq!(whole.alerts.len(), 1);
        assert_eq!(whole.alerts[0].message, "old (replica b)");
        let configuration = whole.configuration.unwrap();
        assert!(!configuration.valid);
        assert_eq!(configuration.faults.len(), 1);
    }
}
