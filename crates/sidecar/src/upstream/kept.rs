//! The application as each of its callers' addresses reaches it (`intercept.tproxy`): one instance for each caller, with
//! connections that come from its address and that nobody else's requests are sent on.
//!
//! It decides whose address is kept, and how many callers are known at once; past that a new caller takes the place of one
//! that has nothing under way, or goes by an instance that is gone with its last request. It deliberately knows nothing of ports:
//! the source port is not the caller's.
//!
//! Invariant: a connection made from one caller's address carries nobody else's requests.

use super::instance::Instance;
use crate::mesh::Mesh;
use fusewire_net::canonical;
use fusewire_resilience::Time;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Callers known at once, of one of the application's ports.
const MAX_CALLERS: usize = 256;
/// Idle HTTP/1.1 connections kept for each and in each worker: 2,048 together.
pub(super) const MAX_IDLE: usize = 8;

/// The addresses at the two ends of a caller's connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Ends {
    pub(crate) caller: IpAddr,
    /// Where the application is called: answers from loopback to anybody else would not be sent.
    pub(crate) called: IpAddr,
}

impl Ends {
    /// `None`: the address is not kept. It says nothing where it is loopback's, and without its link where it is link-local.
    pub(crate) fn of(mesh: &Mesh, caller: SocketAddr, called: Option<SocketAddr>) -> Option<Self> {
        mesh.settings.intercept.as_ref().filter(|intercept| intercept.tproxy)?;
        let (caller, called) = (canonical(caller).ip(), canonical(called?).ip());
        let says = |ip: IpAddr| match ip {
            IpAddr::V4(v4) => !v4.is_loopback() && !v4.is_unspecified() && !v4.is_link_local(),
            IpAddr::V6(v6) => !v6.is_loopback() && !v6.is_unspecified() && !v6.is_unicast_link_local(),
        };
        (says(caller) && says(called) && caller.is_ipv4() == called.is_ipv4()).then_some(Self { caller, called })
    }
}

/// Of one instance.
#[derive(Default)]
pub(super) struct Kept(Mutex<HashMap<Ends, Arc<Instance>>>);

impl Kept {
    fn lock(&self) -> MutexGuard<'_, HashMap<Ends, Arc<Instance>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The instance for `ends`, made by `make` where it is not known.
    pub(super) fn of(&self, ends: Ends, make: impl FnOnce() -> Instance) -> Arc<Instance> {
        let mut known = self.lock();
        if let Some(instance) = known.get(&ends) {
            return instance.clone();
        }
        let made = Arc::new(make());
        if known.len() >= MAX_CALLERS {
            let idle = known.iter().find(|(_, instance)| Arc::strong_count(instance) == 1).map(|(ends, _)| *ends);
            let Some(idle) = idle else { return made };
            known.remove(&idle);
        }
        known.insert(ends, made.clone());
        made
    }

    pub(super) fn tidy(&self, now: Time) {
        self.lock().retain(|_, instance| {
            instance.tidy(now);
            instance.connections() > 0 || Arc::strong_count(instance) > 1
        });
    }

    pub(super) fn drop_idle_h1(&self, worker: usize) {
        self.lock().values().for_each(|instance| instance.drop_idle_h1(worker));
    }

    pub(super) fn connections(&self) -> usize {
        self.lock().values().map(|instance| instance.connections()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bounds::Bounds;
    use crate::clock::Clock;
    use crate::upstream::instance::InstanceKey;
    use fusewire_telemetry::metrics::Direction;
    use std::hash::RandomState;

    fn application() -> Instance {
        let bounds = Arc::new(Bounds::new(Direction::Inbound, Clock::start(), RandomState::new()));
        let key = InstanceKey { id: "app".into(), address: "127.0.0.1:8080".parse().unwrap(), sidecar: None };
        Instance::new((key, None), 2, None, bounds, None, Time(1))
    }

    fn ends(n: u32) -> Ends {
        Ends { caller: IpAddr::from(n.to_be_bytes()), called: "10.0.0.2".parse().unwrap() }
    }

    #[test]
    fn each_caller_has_an_instance_of_its_own_at_the_address_that_it_called() {
        let app = application();
        let [one, same, other] = [1, 1, 2].map(|n| app.kept_for(ends(n), Time(2)));
        assert!(Arc::ptr_eq(&one, &same) && !Arc::ptr_eq(&one, &other));
        assert_eq!(one.dial_address(), "10.0.0.2:8080".parse().unwrap());
        assert_eq!((one.ends(), app.ends()), (Some(ends(1)), None));
    }

    #[test]
    fn so_many_callers_are_known_and_one_that_has_nothing_under_way_makes_room() {
        let app = application();
        let busy: Vec<_> = (0..MAX_CALLERS as u32).map(|n| app.kept_for(ends(n), Time(2))).collect();
        let [past, again] = [0, 0].map(|_| app.kept_for(ends(9999), Time(2)));
        assert!(!Arc::ptr_eq(&past, &again), "all have something under way: nothing is kept for one more");
        drop(busy);
        let [known, again] = [0, 0].map(|_| app.kept_for(ends(9999), Time(2)));
        assert!(Arc::ptr_eq(&known, &again), "now somebody's place was free");
        app.tidy(Time(3));
        let later = app.kept_for(ends(1), Time(3));
        assert!(Arc::ptr_eq(&known, &app.kept_for(ends(9999), Time(3))), "what is in use stays");
        drop(later);
    }
}
