//! What this sidecar holds: resources by key, and what each subscription turned out to mean.

use fusewire_model::resource::{Answer, Endpoints, Key, Kind, Resource, Subscription};
use fusewire_resilience::Time;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Names that may be asked for: an application that makes up hosts must not grow us without bound.
pub(crate) const MAX_SUBSCRIPTIONS: usize = 4096;
/// What was not used for this long is forgotten.
pub(crate) const IDLE: Duration = Duration::from_secs(600);

#[derive(Default)]
pub(crate) struct Held {
    pub(crate) version: String,
    pub(crate) resources: BTreeMap<Key, Stored>,
    pub(crate) subscriptions: BTreeMap<Subscription, Standing>,
}

/// What became of a wish.
pub(crate) enum Noted {
    Already,
    New { in_place_of: Option<Subscription> },
}

pub(crate) struct Stored {
    pub(crate) hash: String,
    pub(crate) resource: Resource,
}

pub(crate) struct Standing {
    /// `None` until it is answered.
    pub(crate) answer: Option<Answer>,
    /// When a request last used it.
    pub(crate) used: Arc<AtomicU64>,
}

impl Held {
    /// Notes a wish. A new one may take the place of the longest unused, which then has to be unsubscribed.
    pub(crate) fn subscribe(&mut self, subscription: Subscription, now: Time) -> Noted {
        if self.subscriptions.contains_key(&subscription) {
            return Noted::Already;
        }
        let in_place_of =
            if self.subscriptions.len() >= MAX_SUBSCRIPTIONS { self.forget_longest_unused() } else { None };
        self.subscriptions.insert(subscription, Standing { answer: None, used: Arc::new(AtomicU64::new(now.0)) });
        Noted::New { in_place_of }
    }

    /// Names that mean nothing go first: an application that makes up hosts must not displace those it calls.
    fn forget_longest_unused(&mut self) -> Option<Subscription> {
        let order = |s: &Standing| (s.answer != Some(Answer::NotFound), s.used.load(Ordering::Relaxed));
        let oldest = self.subscriptions.iter().min_by_key(|(_, s)| order(s)).map(|(k, _)| k.clone())?;
        self.subscriptions.remove(&oldest);
        Some(oldest)
    }

    /// Forgets what was not used for [`IDLE`], and names it. `kept` are never forgotten.
    pub(crate) fn forget_idle(&mut self, now: Time, kept: &[Subscription]) -> Vec<Subscription> {
        let idle = |s: &Standing| now.since(Time(s.used.load(Ordering::Relaxed))) >= IDLE;
        let gone: Vec<Subscription> = self
            .subscriptions
            .iter()
            .filter(|(key, s)| idle(s) && !kept.contains(key))
            .map(|(key, _)| key.clone())
            .collect();
        for key in &gone {
            self.subscriptions.remove(key);
        }
        gone
    }

    pub(crate) fn put(&mut self, hash: String, resource: Resource) {
        self.resources.insert(resource.key(), Stored { hash, resource });
    }

    pub(crate) fn remove(&mut self, key: &Key) {
        self.resources.remove(key);
    }

    pub(crate) fn answer(&mut self, subscription: &Subscription, answer: Answer) {
        if let Some(standing) = self.subscriptions.get_mut(subscription) {
            standing.answer = Some(answer);
        }
    }

    pub(crate) fn get(&self, kind: Kind, name: &str) -> Option<&Stored> {
        self.resources.get(&Key { kind, name: name.into() })
    }

    pub(crate) fn endpoints(&self, service: &str) -> Option<(&Arc<Endpoints>, &str)> {
        match self.get(Kind::Endpoints, service)? {
            Stored { hash, resource: Resource::Endpoints(endpoints) } => Some((endpoints, hash)),
            _ => None,
        }
    }
}
