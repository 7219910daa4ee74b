//! What of the application's health is told to the control plane.
//!
//! It decides that our own instance is up only when this sidecar's inbound port is in force *and* the application answers:
//! nobody is sent to a sidecar that would still refuse. An application that was never up is starting, however its check
//! words it; after a takeover what the sidecar before us said stands until there is something better to say. It deliberately
//! asks nobody.
//!
//! Invariant: of one instance only the newest word is told, and only what differs from what was told.

use super::{Own, Report};
use crate::boot::Start;
use crate::health::Verdicts;
use crate::mesh::Mesh;
use crate::snapshot::Snapshot;
use fusewire_model::ServiceName;
use fusewire_model::health::Health;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tokio::sync::mpsc;

type Of = (ServiceName, String);

pub(super) struct Gate {
    mesh: Arc<Mesh>,
    state: State,
}

struct State {
    own: Option<Own>,
    /// As heard from who checks.
    heard: BTreeMap<Of, Report>,
    /// Those of them that the services' own checks speak of.
    checked: BTreeSet<Of>,
    told: BTreeMap<Of, Report>,
    was_up: BTreeSet<ServiceName>,
    /// Of our own, what another sidecar spoke of before us and we have not yet.
    inherited: BTreeSet<ServiceName>,
}

impl Gate {
    pub(super) fn new(mesh: Arc<Mesh>, own: Option<Own>, begun: Start) -> Self {
        Self { mesh, state: State::new(own, begun) }
    }

    /// Until the sidecar ends. `ready`: what the default check found of our own instance.
    pub(super) async fn run(mut self, mut ready: mpsc::Receiver<Report>, tell: mpsc::Sender<Report>) {
        let mut folds = self.mesh.directory.folds();
        let mut verdicts = self.mesh.health.follow();
        let mut asking = true;
        loop {
            tokio::select! {
                report = ready.recv(), if asking => match report {
                    Some(report) => self.state.hear_default(report),
                    None => asking = false,
                },
                changed = verdicts.changed() => match changed {
                    Ok(()) => self.state.judge(&verdicts.borrow_and_update().clone()),
                    Err(_) => return,
                },
                changed = folds.changed() => if changed.is_err() { return },
            }
            let news = self.state.news(&self.mesh.snapshot.load());
            self.mesh.health.have_been_up(&self.state.was_up);
            for report in news {
                if tell.send(report).await.is_err() {
                    return;
                }
            }
        }
    }
}

impl State {
    fn new(own: Option<Own>, begun: Start) -> Self {
        let registered = own.iter().filter(|_| begun == Start::TakingOver);
        let inherited: BTreeSet<ServiceName> =
            registered.flat_map(|own| own.register.ports.values().cloned()).collect();
        Self {
            own,
            heard: BTreeMap::new(),
            checked: BTreeSet::new(),
            told: BTreeMap::new(),
            was_up: inherited.clone(),
            inherited,
        }
    }

    fn hear(&mut self, report: Report) {
        self.heard.insert((report.service.clone(), report.instance.clone()), report);
    }

    /// What the default check found; a service's own check counts instead, where there is one.
    fn hear_default(&mut self, report: Report) {
        if !self.checked.contains(&(report.service.clone(), report.instance.clone())) {
            self.hear(report);
        }
    }

    /// All that the services' own checks say now.
    fn judge(&mut self, verdicts: &Verdicts) {
        let before = std::mem::take(&mut self.checked);
        for verdict in verdicts.values() {
            let Some(instance) = verdict.instance.clone() else { continue };
            let of = (verdict.service.clone(), instance.clone());
            let is_own = self.own.as_ref().is_some_and(|own| own.port_of(&of.0, &of.1).is_some());
            self.checked.insert(of);
            let (service, detail) = (verdict.service.clone(), verdict.detail.clone());
            match verdict.health {
                Health::Up | Health::Down => self.hear(Report { service, instance, health: verdict.health, detail }),
                // a port that takes connections is no answer to the question that the service asks
                Health::Unchecked | Health::Starting if is_own && !self.was_up.contains(&service) => {
                    self.hear(Report { service, instance, health: Health::Starting, detail });
                }
                // nothing is known yet that would change what callers do
                Health::Unchecked | Health::Starting => {}
            }
        }
        for gone in before.difference(&self.checked) {
            let is_own = self.own.as_ref().is_some_and(|own| own.port_of(&gone.0, &gone.1).is_some());
            // of our own instance the default check speaks from here on
            if let Some(report) = self.heard.get_mut(gone).filter(|_| !is_own) {
                (report.health, report.detail) = (Health::Unchecked, String::new());
            }
        }
    }

    /// What is not yet told.
    fn news(&mut self, snapshot: &Snapshot) -> Vec<Report> {
        let mut news = Vec::new();
        for (of, heard) in &self.heard {
            let report = match self.own.as_ref().and_then(|own| own.port_of(&of.0, &of.1)) {
                Some(port) => {
                    let inbound = snapshot.inbound.as_ref().and_then(|ports| ports.get(&port));
                    let unasked = inbound.is_some_and(|port| port.health.is_some()) && !self.checked.contains(of);
                    let report = gated(heard, inbound.is_some() && !unasked, &mut self.was_up);
                    if report.health == Health::Starting && self.inherited.contains(&of.0) {
                        continue;
                    }
                    self.inherited.remove(&of.0);
                    report
                }
                None => heard.clone(),
            };
            if self.told.get(of) != Some(&report) {
                self.told.insert(of.clone(), report.clone());
                news.push(report);
            }
        }
        self.heard.retain(|_, report| report.health != Health::Unchecked);
        self.told.retain(|_, report| report.health != Health::Unchecked);
        news
    }
}

/// Of our own instance, whose inbound port is `open` or not yet.
fn gated(heard: &Report, open: bool, was_up: &mut BTreeSet<ServiceName>) -> Report {
    let starting = |detail: &str| Report { health: Health::Starting, detail: detail.to_owned(), ..heard.clone() };
    match heard.health {
        Health::Up if !open => starting("its sidecar does not let callers in yet, or its check has not answered"),
        Health::Up => {
            was_up.insert(heard.service.clone());
            heard.clone()
        }
        Health::Down if !was_up.contains(&heard.service) => starting(&heard.detail),
        _ => heard.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::Verdict;
    use fusewire_model::node::Register;
    use std::collections::HashMap;

    fn shop() -> ServiceName {
        ServiceName::parse("shop").unwrap()
    }

    fn own() -> Own {
        let register = Register {
            address: [10, 0, 0, 1].into(),
            ports: [(80, shop())].into(),
            id: None,
            weight: 1,
            zone: None,
            labels: BTreeMap::new(),
            ttl: std::time::Duration::from_secs(15),
        };
        Own { id: "shop-1".into(), register, sidecar: ([10, 0, 0, 1], 1).into() }
    }

    fn report(instance: &str, health: Health) -> Report {
        Report { service: shop(), instance: instance.into(), health, detail: String::new() }
    }

    fn verdicts(instance: &str, health: Health) -> Verdicts {
        [(80, Verdict { service: shop(), instance: Some(instance.into()), health, detail: String::new() })].into()
    }

    fn told(state: &mut State, snapshot: &Snapshot) -> Vec<Health> {
        state.news(snapshot).iter().map(|report| report.health).collect()
    }

    #[test]
    fn our_own_instance_is_starting_until_it_was_up_and_its_port_is_in_force() {
        let shut = Snapshot { inbound: Some(HashMap::new()), ..Snapshot::default() };
        let mut state = State::new(Some(own()), Start::Afresh);
        state.hear(report("shop-1", Health::Down));
        assert_eq!(told(&mut state, &shut), [Health::Starting]);
        state.hear(report("shop-1", Health::Up));
        assert_eq!(told(&mut state, &shut), [Health::Starting], "other words for it");
        assert_eq!(told(&mut state, &shut), [], "and then nothing new");
        state.was_up.insert(shop());
        state.hear(report("shop-1", Health::Down));
        assert_eq!(told(&mut state, &shut), [Health::Down]);
    }

    #[test]
    fn a_port_that_takes_connections_is_not_up_while_the_services_own_check_says_nothing_good() {
        let shut = Snapshot { inbound: Some(HashMap::new()), ..Snapshot::default() };
        let mut state = State::new(Some(own()), Start::Afresh);
        state.hear_default(report("shop-1", Health::Up));
        assert_eq!(told(&mut state, &shut), [Health::Starting]);
        // the port is in force, with a check that fails: an application that listens while it warms up
        state.judge(&verdicts("shop-1", Health::Starting));
        state.hear_default(report("shop-1", Health::Up));
        assert!(!told(&mut state, &shut).contains(&Health::Up));
        assert_eq!(
            state.heard[&(shop(), "shop-1".to_owned())].health,
            Health::Starting,
            "the default check is not heard"
        );
        state.was_up.insert(shop());
        state.judge(&verdicts("shop-1", Health::Down));
        assert_eq!(told(&mut state, &shut), [Health::Down]);
    }

    #[test]
    fn after_a_takeover_nothing_is_said_until_there_is_more_to_say_than_that_it_starts() {
        let shut = Snapshot { inbound: Some(HashMap::new()), ..Snapshot::default() };
        let mut state = State::new(Some(own()), Start::TakingOver);
        state.hear(report("shop-1", Health::Up));
        assert_eq!(told(&mut state, &shut), [], "its port is not in force yet, and callers know it as up");
        state.hear(report("shop-1", Health::Down));
        assert_eq!(told(&mut state, &shut), [Health::Down], "not as one that was never up");
        state.hear(report("shop-1", Health::Up));
        assert_eq!(told(&mut state, &shut), [Health::Starting], "and from here on as any other");
    }

    #[test]
    fn of_others_verdicts_pass_as_they_are_and_end_with_their_check() {
        let snapshot = Snapshot::default();
        let mut state = State::new(None, Start::Afresh);
        state.judge(&verdicts("a", Health::Unchecked));
        assert_eq!(told(&mut state, &snapshot), []);
        state.judge(&verdicts("a", Health::Down));
        assert_eq!(told(&mut state, &snapshot), [Health::Down]);
        state.judge(&verdicts("a", Health::Down));
        assert_eq!(told(&mut state, &snapshot), []);
        state.judge(&Verdicts::new());
        assert_eq!(told(&mut state, &snapshot), [Health::Unchecked]);
        state.judge(&Verdicts::new());
        assert_eq!(told(&mut state, &snapshot), []);
    }
}
