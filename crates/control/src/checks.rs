//! Health checks of instances that have no sidecar: nobody else could ask them.
//!
//! It decides who is asked: every plain instance, of whatever source, of a service that has a check. What sidecars say of
//! instances of their own is not kept here but with the registry, by the stream that it came on. It deliberately does not
//! decide what a verdict means; whoever merges the sources reads it ([`Verdicts::get`]).
//!
//! A verdict lasts as long as the instance is asked; a control plane that starts knows none, and takes nobody out before
//! `down` answers of its own. Each replica asks for itself.

use crate::assembly::Marks;
use crate::shared::{InForce, lock};
use fusewire_health::{Checks, Finding, Subject};
use fusewire_model::health::{Health, HealthCheck};
use fusewire_model::resource::Endpoints;
use fusewire_model::service::Instance;
use fusewire_model::{ServiceName, World};
use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use tokio::sync::watch;

/// An instance by service, id and address: another address is another instance.
type Key = (ServiceName, String, SocketAddr);
/// The same within a service.
type Place = (String, SocketAddr);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Verdict {
    health: Health,
    detail: String,
}

/// What was found, by service and instance.
#[derive(Debug)]
pub(crate) struct Verdicts {
    found: Mutex<HashMap<ServiceName, HashMap<Place, Verdict>>>,
    marks: Arc<Marks>,
}

impl Verdicts {
    /// `marks`: told of the services with new verdicts.
    pub(crate) fn new(marks: Arc<Marks>) -> Self {
        Self { found: Mutex::default(), marks }
    }

    /// `None` where it is not asked, or not often enough yet for a verdict.
    pub(crate) fn get(&self, service: &ServiceName, instance: &Instance) -> Option<(Health, String)> {
        let found = lock(&self.found);
        let verdict = found.get(service)?.get(&(instance.id.clone(), instance.address))?;
        if verdict.health == Health::Unchecked {
            return None;
        }
        Some((verdict.health, verdict.detail.clone()))
    }

    fn set(&self, (service, id, address): Key, health: Health, detail: String) {
        let verdict = Verdict { health, detail };
        let mut found = lock(&self.found);
        let of = found.entry(service.clone()).or_default();
        let news = of.get(&(id.clone(), address)) != Some(&verdict);
        of.insert((id, address), verdict);
        if news {
            self.marks.mark([service]);
        }
    }

    /// Forgets all but those.
    fn keep_only(&self, asked: &HashMap<Key, Subject>) {
        lock(&self.found).retain(|service, of| {
            of.retain(|(id, address), _| asked.contains_key(&(service.clone(), id.clone(), *address)));
            !of.is_empty()
        });
    }
}

/// Asks until dropped.
pub(crate) async fn run(verdicts: &Verdicts, mut in_force: watch::Receiver<Arc<InForce>>) {
    let seed = std::time::UNIX_EPOCH.elapsed().map_or(0, |since| since.subsec_nanos().into());
    let mut checks = Checks::new(u64::from(std::process::id()) << 32 ^ seed);
    let mut asked = Asked::default();
    in_force.mark_changed();
    loop {
        tokio::select! {
            changed = in_force.changed() => {
                if changed.is_err() {
                    return;
                }
                let world = in_force.borrow_and_update().world.clone();
                if asked.follow(&world) {
                    let subjects = asked.subjects();
                    verdicts.keep_only(&subjects);
                    checks.set(subjects);
                }
            }
            Finding { key, health, detail } = checks.next() => {
                if health == Health::Down && verdicts.health(&key) != Some(Health::Down) {
                    let (service, id, _) = &key;
                    tracing::warn!(%service, id, detail, "an instance without a sidecar is down by its health check");
                }
                verdicts.set(key, health, detail);
            }
        }
    }
}

impl Verdicts {
    fn health(&self, (service, id, address): &Key) -> Option<Health> {
        lock(&self.found).get(service)?.get(&(id.clone(), *address)).map(|verdict| verdict.health)
    }
}

/// The services that have a check, as they last were; shared objects, so that equal is quickly seen.
#[derive(Default)]
struct Asked(BTreeMap<ServiceName, Ask>);

type Ask = (HealthCheck, Arc<Endpoints>, Vec<Arc<Instance>>);

impl Asked {
    /// Whether anything is different in `world`.
    fn follow(&mut self, world: &World) -> bool {
        let mut now = BTreeMap::new();
        for (name, service) in &world.mesh().services {
            let (Some(check), Some(parts)) = (&service.health, world.service(name)) else { continue };
            now.insert(name.clone(), (check.clone(), parts.endpoints.clone(), parts.hidden.clone()));
        }
        let same = |a: &Ask, b: &Ask| a.0 == b.0 && Arc::ptr_eq(&a.1, &b.1) && a.2 == b.2;
        let unchanged = now.len() == self.0.len()
            && now.iter().all(|(name, new)| self.0.get(name).is_some_and(|old| same(new, old)));
        self.0 = now;
        !unchanged
    }

    fn subjects(&self) -> HashMap<Key, Subject> {
        let mut subjects = HashMap::new();
        for (name, (check, endpoints, hidden)) in &self.0 {
            let hidden = hidden.iter().map(|instance| (instance, Health::Starting));
            let all = endpoints.instances.iter().map(|instance| (instance, Health::Unchecked)).chain(hidden);
            for (instance, from) in all.filter(|(instance, _)| instance.sidecar.is_none()) {
                let key = (name.clone(), instance.id.clone(), instance.address);
                subjects.insert(key, Subject { address: instance.address, check: check.clone(), from });
            }
        }
        subjects
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn world(yaml: &str) -> World {
        let source = fusewire_model::yaml::Source { name: "mesh.yaml".into(), text: yaml.into() };
        World::new(fusewire_model::yaml::parse(&[source]).unwrap().mesh)
    }

    const MESH: &str = "services:\n  a:\n    health: tcp\n    instances:\n      - 10.0.0.1:80\n      \
                        - {id: s, address: 10.0.0.2:80, sidecar: 10.0.0.2:15006}\n  b: {instances: [10.0.0.3:80]}\n";

    #[test]
    fn plain_instances_of_services_with_a_check_are_asked_and_no_others() {
        let mut asked = Asked::default();
        assert!(asked.follow(&world(MESH)));
        let subjects = asked.subjects();
        let ids: Vec<&str> = subjects.keys().map(|(_, id, _)| id.as_str()).collect();
        assert_eq!(ids, ["10.0.0.1:80"]);
    }

    #[test]
    fn the_same_world_is_no_change_and_another_service_none_either() {
        let first = world(MESH);
        let mut asked = Asked::default();
        assert!(asked.follow(&first) && !asked.follow(&first));
        let b = ServiceName::parse("b").unwrap();
        assert!(!asked.follow(&first.with_found([(b, fusewire_model::world::Found::default())])));
        let a = ServiceName::parse("a").unwrap();
        assert!(asked.follow(&first.with_found([(a, fusewire_model::world::Found::default())])));
        assert!(asked.subjects().is_empty());
    }

    #[tokio::test]
    async fn a_verdict_is_marked_when_it_is_news_and_forgotten_with_its_instance() {
        let marks = Arc::<Marks>::default();
        let verdicts = Verdicts::new(marks.clone());
        let mut asked = Asked::default();
        asked.follow(&world(MESH));
        let subjects = asked.subjects();
        let key = subjects.keys().next().unwrap().clone();
        let service = world(MESH).mesh().services[&key.0].clone();
        verdicts.set(key.clone(), Health::Unchecked, "refused".into());
        assert_eq!(verdicts.get(&key.0, &service.instances[0]), None, "one answer is no verdict");
        verdicts.set(key.clone(), Health::Down, "refused".into());
        assert_eq!(marks.take_services().await, std::slice::from_ref(&key.0));
        verdicts.set(key.clone(), Health::Down, "refused".into());
        let again = tokio::time::timeout(std::time::Duration::from_millis(20), marks.take_services()).await;
        assert!(again.is_err(), "{again:?}");
        assert_eq!(verdicts.get(&key.0, &service.instances[0]), Some((Health::Down, "refused".into())));
        assert_eq!(verdicts.get(&key.0, &service.instances[1]), None);
        verdicts.keep_only(&HashMap::new());
        assert_eq!(verdicts.get(&key.0, &service.instances[0]), None);
    }
}
