//! What an operator should look at now.
//!
//! It decides what is worth an alert: whoever finds something wrong says when it begins and when it is over, and what only
//! shows in a look is looked at each second. It deliberately keeps no history (beginnings and ends are in the log) and acts on
//! nothing: what was good stays in force by itself.
//!
//! Invariant: one alert for each name and object, with the time at which it began.

use crate::shared::{Shared, lock};
use jiff::Timestamp;
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;
use tokio::time::MissedTickBehavior;

/// Objects that may be alerted about at once; more of them say nothing new.
const MAX: usize = 1_000;
const LOOK: Duration = Duration::from_secs(1);
/// A name server may be restarted without anybody being told.
const STALE: Duration = Duration::from_secs(10);

#[derive(Clone, Debug)]
pub(crate) struct Alert {
    /// One word, such as `root-expires`.
    pub(crate) name: &'static str,
    pub(crate) about: String,
    pub(crate) message: String,
    pub(crate) since: Timestamp,
}

#[derive(Debug, Default)]
pub(crate) struct Alerts(Mutex<BTreeMap<(&'static str, String), Alert>>);

impl Alerts {
    /// It is so, whether or not it was before.
    pub(crate) fn raise(&self, name: &'static str, about: &str, message: String) {
        let mut alerts = lock(&self.0);
        let key = (name, about.to_owned());
        if let Some(known) = alerts.get_mut(&key) {
            known.message = message;
            return;
        }
        if alerts.len() >= MAX {
            return;
        }
        tracing::warn!(alert = name, about, "{message}");
        let alert = Alert { name, about: about.to_owned(), message, since: Timestamp::now() };
        alerts.insert(key, alert);
    }

    /// It is not so, whether or not it was before.
    pub(crate) fn end(&self, name: &'static str, about: &str) {
        if lock(&self.0).remove(&(name, about.to_owned())).is_some() {
            tracing::info!(alert = name, about, "over");
        }
    }

    /// Of those named `name`, only the ones about `still` stay.
    pub(crate) fn end_others(&self, name: &'static str, still: &[String]) {
        let over: Vec<String> = lock(&self.0)
            .keys()
            .filter(|(of, about)| *of == name && !still.contains(about))
            .map(|(_, about)| about.clone())
            .collect();
        over.iter().for_each(|about| self.end(name, about));
    }

    /// Of those named `name`, `now` are all there are: what each is about, and its message.
    pub(crate) fn put(&self, name: &'static str, now: impl IntoIterator<Item = (String, String)>) {
        let mut still = Vec::new();
        for (about, message) in now {
            self.raise(name, &about, message);
            still.push(about);
        }
        self.end_others(name, &still);
    }

    pub(crate) fn list(&self) -> Vec<Alert> {
        lock(&self.0).values().cloned().collect()
    }
}

/// What only a look from time to time finds out; until dropped.
pub(crate) async fn run(shared: &Shared) {
    let mut looks = tokio::time::interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        let store = shared.store.healthy().await.err().map(|error| {
            let what = "what is applied, registered or signed now may have to wait";
            (String::new(), format!("{what}: {error}"))
        });
        shared.alerts.put("store-unavailable", store);
        shared.alerts.put("configuration-refused", configuration(shared));
        shared.alerts.put("resource-refused", resources(shared));
        shared.alerts.put("discovery-stale", discovery(shared));
        let preserved = shared.registrations.state().2.into_iter().map(|preservation| {
            let about = preservation.service.as_ref().map(ToString::to_string).unwrap_or_default();
            (about, preservation.to_string())
        });
        shared.alerts.put("registry-self-preservation", preserved);
    }
}

fn configuration(shared: &Shared) -> Option<(String, String)> {
    let faults = lock(&shared.configuration).faults.len();
    let message = format!("{faults} faults in the configuration; the last good one stays in force");
    (faults > 0).then_some((String::new(), message))
}

fn resources(shared: &Shared) -> Vec<(String, String)> {
    let refused = |sidecar: std::sync::Arc<crate::sidecars::Sidecar>| {
        let (key, nack) = sidecar.state().nacks.into_iter().next()?;
        let about = format!("{} {}", sidecar.workload, sidecar.instance.as_deref().unwrap_or_default());
        Some((about.trim_end().to_owned(), format!("refused {:?} {}: {}", key.kind, key.name, nack.message)))
    };
    shared.sidecars.list().into_iter().filter_map(refused).collect()
}

fn discovery(shared: &Shared) -> Vec<(String, String)> {
    let stale = |age: crate::dns::Age| {
        let why = age.failing.filter(|_| age.age >= STALE)?;
        let seconds = age.age.as_secs();
        let message = format!("the last good answer is {seconds} s old and stays in force: {why}");
        Some((format!("dns {}", age.service), message))
    };
    let in_cluster = shared.kubernetes.as_ref().and_then(|kubernetes| {
        let age = kubernetes.age();
        let why = age.failing.filter(|_| age.age >= STALE)?;
        let seconds = age.age.as_secs();
        let message =
            format!("the cluster was last heard of {seconds} s ago, and what was known then stays in force: {why}");
        Some(("kubernetes".to_owned(), message))
    });
    shared.names.ages().into_iter().filter_map(stale).chain(in_cluster).collect()
}
