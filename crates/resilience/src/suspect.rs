//! Whether it is this sidecar that cannot be reached from, rather than everybody else who is down.
//!
//! When nearly every instance of several services becomes unreachable within seconds, the observer is the likelier cause: its
//! network, its node, its certificate. It decides that and nothing else: circuits stay as they are, since requests fail in any
//! case, and the owner tells the operator and stops bearing witness against others. It deliberately reads statuses for
//! nothing; only connections count, which the sidecar itself may be failing at.
//!
//! Fed with transitions, it is a plain value without clock or lock. Invariant: what it keeps is bounded by the services in
//! use and their instances.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::event::{Transition, TripClass};
use crate::time::Time;
use crate::word::State;

/// So close together must they open, and so lately must a service have been used.
const WITHIN: Duration = Duration::from_secs(10);
/// Percent of the instances of all services in use.
const SHARE: usize = 80;
/// One service that is down as a whole is its own affair.
const SERVICES: usize = 2;

/// What changed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Suspected {
    /// So many of so many instances, of so many services, have become unreachable at once.
    Began { tripped: usize, instances: usize, services: usize },
    /// Enough of them are back.
    Ended,
}

/// One sidecar's doubt about itself.
#[derive(Debug, Default)]
pub struct SelfSuspicion {
    services: BTreeMap<u64, Seen>,
    since: Option<Time>,
}

#[derive(Debug)]
struct Seen {
    instances: usize,
    used: Time,
    /// Instances that became unreachable and have not come back, and when.
    tripped: BTreeMap<u64, Time>,
}

impl SelfSuspicion {
    pub fn new() -> SelfSuspicion {
        SelfSuspicion::default()
    }

    /// A service has had requests since the last call, and has so many instances: one that nobody uses can open no circuit
    /// and says nothing. Call it once a second for each; `service` is any number that names it.
    pub fn used(&mut self, service: u64, instances: usize, now: Time) -> Option<Suspected> {
        let seen = self.services.entry(service).or_insert(Seen { instances, used: now, tripped: BTreeMap::new() });
        (seen.instances, seen.used) = (instances, now);
        self.judge(now)
    }

    /// A service is gone from the configuration.
    pub fn forget(&mut self, service: u64, now: Time) -> Option<Suspected> {
        self.services.remove(&service);
        self.judge(now)
    }

    /// A circuit of an instance changed. `instances`: how many its service has.
    pub fn transition(&mut self, service: u64, instances: usize, change: &Transition) -> Option<Suspected> {
        let unreachable = change.class == Some(TripClass::Connection);
        if change.to == State::Open && unreachable {
            let fresh = Seen { instances, used: change.at, tripped: BTreeMap::new() };
            let seen = self.services.entry(service).or_insert(fresh);
            (seen.instances, seen.used) = (instances, seen.used.max(change.at));
            // A probe that failed changes nothing about when it became unreachable.
            seen.tripped.entry(change.node).or_insert(change.at);
        } else if change.to == State::Closed
            && let Some(seen) = self.services.get_mut(&service)
        {
            seen.tripped.remove(&change.node);
        }
        self.judge(change.at)
    }

    /// Since when; `None` while there is no doubt.
    pub fn since(&self) -> Option<Time> {
        self.since
    }

    fn judge(&mut self, now: Time) -> Option<Suspected> {
        let doubts = self.since.is_some();
        // In doubt nothing is forgotten for want of use: what is unreachable may not be asked for any more.
        self.services.retain(|_, seen| doubts || now.since(seen.used) <= WITHIN);
        for seen in self.services.values_mut() {
            // More instances than there are belong to sets of the past.
            while seen.tripped.len() > seen.instances.max(1) {
                seen.tripped.pop_first();
            }
        }
        let instances: usize = self.services.values().map(|seen| seen.instances).sum();
        let counts = |at: Time| doubts || now.since(at) <= WITHIN;
        let tripped = |seen: &Seen| seen.tripped.values().filter(|at| counts(**at)).count();
        let together: usize = self.services.values().map(tripped).sum();
        let services = self.services.values().filter(|seen| tripped(seen) > 0).count();
        let enough = services >= SERVICES && together * 100 >= SHARE * instances;
        match (self.since, enough) {
            (None, true) => {
                self.since = Some(now);
                Some(Suspected::Began { tripped: together, instances, services })
            }
            (Some(_), false) => {
                self.since = None;
                Some(Suspected::Ended)
            }
            _ => None,
        }
    }
}
