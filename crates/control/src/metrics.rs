//! The control plane's `/metrics`: what is true at the moment of asking.
//!
//! It decides names and labels. No series has a sidecar or an instance in its labels, so that their number follows the
//! configuration, not the fleet.

use crate::shared::{Shared, lock};
use fusewire_telemetry::exposition::{Family, Sample, encode};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

/// OpenMetrics 1.0.
pub(crate) fn text(shared: &Shared) -> String {
    let mut families = configuration(shared);
    families.extend(registry(shared));
    families.extend(discovery(shared));
    families.extend(shared.trust.families());
    families.extend(shared.traces.families());
    families.push(alerts(shared));
    encode(families)
}

fn configuration(shared: &Shared) -> Vec<Family> {
    let version = shared.in_force.borrow().world.version().to_owned();
    let sidecars = shared.sidecars.list();
    let current = sidecars.iter().filter(|s| s.state().acked_version.as_deref() == Some(version.as_str())).count();
    let valid = u8::from(lock(&shared.configuration).faults.is_empty());
    vec![
        Family::gauge("config_valid", "1 while files and objects have no fault").with([], valid),
        Family::gauge("config_revision", "Of the objects applied by API")
            .with([], shared.in_force.borrow().revision as f64),
        Family::gauge("sidecars_connected", "Sidecars with a configuration stream").with([], sidecars.len() as f64),
        Family::gauge("sidecars_current", "Sidecars that run the version in force").with([], current as f64),
    ]
}

fn registry(shared: &Shared) -> Vec<Family> {
    let (registrations, silent, preserved) = shared.registrations.state();
    let counts = &shared.registrations.counts;
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed) as f64;
    vec![
        Family::gauge("registrations", "Registrations, late ones included").with([], registrations as f64),
        Family::gauge("registrations_silent", "Registrations whose heartbeats are missing").with([], silent as f64),
        Family::gauge(
            "registry_self_preservation",
            "Services, or the whole registry, whose silent registrations are kept",
        )
        .with([], preserved.len() as f64),
        Family::gauge("registry_watchers", "Watches of a service").with([], shared.feeds.watchers() as f64),
        Family::counter("registry_heartbeats", "Heartbeats").with([], count(&counts.heartbeats)),
        Family::counter("registry_registered", "Registrations made or replaced").with([], count(&counts.registered)),
        Family::counter("registry_deregistered", "Registrations ended by their owners")
            .with([], count(&counts.deregistered)),
        Family::counter("registry_expired", "Registrations that ended by silence").with([], count(&counts.expired)),
        Family::counter("registry_refused", "Registrations that were not taken").with([], count(&counts.refused)),
    ]
}

fn discovery(shared: &Shared) -> Vec<Family> {
    let ages = shared.names.ages();
    let in_cluster = shared.kubernetes.as_ref().map(|kubernetes| kubernetes.age());
    let cluster = |value| Sample { labels: vec![("source", "kubernetes".to_owned())], value };
    let labels = |age: &crate::dns::Age| vec![("source", "dns".to_owned()), ("service", age.service.to_string())];
    let seconds = ages.iter().map(|age| Sample { labels: labels(age), value: age.age.as_secs_f64() });
    let seconds = seconds.chain(in_cluster.iter().map(|age| cluster(age.age.as_secs_f64())));
    let failing =
        ages.iter().map(|age| Sample { labels: labels(age), value: f64::from(u8::from(age.failing.is_some())) });
    let failing = failing.chain(in_cluster.iter().map(|age| cluster(f64::from(u8::from(age.failing.is_some())))));
    vec![
        Family::gauge("discovery_age_seconds", "Since what is served was last confirmed").with_all(seconds),
        Family::gauge("discovery_failing", "1 while the source gives no good answer").with_all(failing),
    ]
}

fn alerts(shared: &Shared) -> Family {
    let mut counts: BTreeMap<&str, u32> = BTreeMap::new();
    for alert in shared.alerts.list() {
        *counts.entry(alert.name).or_default() += 1;
    }
    let sample = |(name, count): (&str, u32)| Sample { labels: vec![("alert", name.to_owned())], value: count.into() };
    Family::gauge("alerts", "What somebody should look at; `fusewire status` has the words")
        .with_all(counts.into_iter().map(sample))
}
