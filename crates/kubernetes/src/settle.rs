//! What became of the facts: which of the mesh's services changed, and the instances of one.
//!
//! It decides what is translated and when: a Service once when it is dirty, and once more when its instances are asked
//! for, however many services it is (a StatefulSet of a thousand pods is a thousand and one). It deliberately keeps what
//! was translated of one Service alone, the last; who asks for many does so Service by Service ([`Facts::grouped`]).
//!
//! Invariant: what is kept is what a translation would be now.

use crate::facts::Id;
use crate::index::Facts;
use crate::translate::{Endpoint, Found, Setting, Translated, has_two_meanings, translated};
use fusewire_model::ServiceName;
use fusewire_model::service::Service;
use std::collections::{BTreeMap, BTreeSet};

/// The instances of the Service that was translated last.
#[derive(Debug, Default)]
pub(crate) struct Last {
    of: Option<Id>,
    endpoints: BTreeMap<ServiceName, Vec<Endpoint>>,
    #[cfg(test)]
    made: usize,
}

impl Last {
    /// Forgets it where it is of `id`.
    pub(crate) fn forget(&mut self, id: &Id) {
        if self.of.as_ref() == Some(id) {
            self.of = None;
            self.endpoints.clear();
        }
    }
}

/// What changed.
#[derive(Debug, Default)]
pub(crate) struct Settled {
    /// `None`: there is no such service any more.
    pub(crate) updates: BTreeMap<ServiceName, Option<Service>>,
    /// Those with other instances.
    pub(crate) changed: BTreeSet<ServiceName>,
}

impl Facts {
    /// Looks at what is dirty.
    pub(crate) fn settle(&mut self, setting: &Setting) -> Settled {
        let mut settled = Settled::default();
        for id in self.take_dirty() {
            self.note_others(&id);
            let services = self.translate(setting, &id);
            let names: BTreeSet<ServiceName> = services.iter().map(|service| service.name.clone()).collect();
            let had = self.names.remove(&id).unwrap_or_default();
            if had.is_empty() && has_two_meanings(&id.namespace) && names.len() > self.ports(&id) {
                tracing::warn!(
                    namespace = %id.namespace, service = %id.name,
                    "its pods are called HOST.SERVICE.NAMESPACE.PORT in the mesh: without the port it could be the name \
                     of another namespace's Service, since this namespace is called as it is"
                );
            }
            for gone in had.difference(&names) {
                self.owner.remove(gone);
                settled.updates.insert(gone.clone(), None);
            }
            settled.changed.extend(had);
            for service in services {
                settled.changed.insert(service.name.clone());
                self.owner.insert(service.name.clone(), id.clone());
                settled.updates.insert(service.name.clone(), Some(service));
            }
            if !names.is_empty() {
                self.names.insert(id, names);
            }
        }
        settled
    }

    /// The instances of a service.
    pub(crate) fn endpoints(&mut self, setting: &Setting, name: &ServiceName) -> Vec<Endpoint> {
        let Some(id) = self.owner.get(name).cloned() else { return Vec::new() };
        if self.last.of.as_ref() != Some(&id) {
            self.translate(setting, &id);
        }
        self.last.endpoints.get(name).cloned().unwrap_or_default()
    }

    /// In an order in which services of one Service follow each other.
    pub(crate) fn grouped(&self, names: BTreeSet<ServiceName>) -> Vec<ServiceName> {
        let mut names: Vec<ServiceName> = names.into_iter().collect();
        names.sort_by_cached_key(|name| self.owner.get(name).cloned());
        names
    }

    fn ports(&self, id: &Id) -> usize {
        self.services.get(id).map_or(0, |service| service.ports.len())
    }

    /// The services that a Service is; their instances are kept.
    fn translate(&mut self, setting: &Setting, id: &Id) -> Vec<Service> {
        let all = self.translated(setting, id);
        #[cfg(test)]
        {
            self.last.made += 1;
        }
        self.last.of = Some(id.clone());
        self.last.endpoints.clear();
        let each = all.into_iter().map(|Translated { service, endpoints }| {
            self.last.endpoints.insert(service.name.clone(), endpoints);
            service
        });
        each.collect()
    }

    fn translated(&self, setting: &Setting, id: &Id) -> Vec<Translated> {
        let Some(service) = self.services.get(id) else { return Vec::new() };
        let slices = self.slices_of(id).collect();
        let namespace = self.namespaces.get(&id.namespace);
        let plain = Some(&self.others.plain);
        translated(setting, &Found { id, service, namespace, slices, pods: &self.pods, plain })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::{ServiceFacts, SliceFacts};
    use crate::follow::Told;
    use crate::index::Other;
    use crate::translate::Standing;
    use fusewire_model::TrustDomain;
    use serde_json::{Value, json};

    const PODS: usize = 1_000;

    fn setting() -> Setting {
        Setting { trust_domain: TrustDomain::parse("t.example").unwrap(), cluster_domain: "cluster.local".into() }
    }

    fn of<T: serde::de::DeserializeOwned>(value: Value) -> T {
        serde_json::from_value(value).unwrap()
    }

    fn headless(namespace: &str) -> (Id, ServiceFacts) {
        let spec = json!({"clusterIP": "None", "ports": [{"name": "http", "port": 80}]});
        ServiceFacts::of(of(json!({"metadata": {"namespace": namespace, "name": "db"}, "spec": spec}))).unwrap()
    }

    /// The `n`th pod of a namespace; all that share a number have one hostname.
    fn endpoint(namespace: &str, n: usize) -> Value {
        json!({
            "addresses": [format!("10.{}.{}.{}", namespace.len(), n / 250, n % 250)], "hostname": format!("db-{n}"),
            "conditions": {"ready": true},
            "targetRef": {"kind": "Pod", "name": format!("db-{n}"), "uid": format!("{namespace}-{n}")},
        })
    }

    fn slice(namespace: &str, name: usize, pods: std::ops::Range<usize>) -> Told<SliceFacts> {
        let labels = json!({"kubernetes.io/service-name": "db"});
        let slice = json!({
            "metadata": {"namespace": namespace, "name": format!("db-{name}"), "labels": labels}, "addressType": "IPv4",
            "ports": [{"name": "http", "port": 8080}],
            "endpoints": pods.map(|n| endpoint(namespace, n)).collect::<Vec<_>>(),
        });
        let (id, facts) = SliceFacts::of(of(slice)).unwrap();
        Told::Put(id, facts)
    }

    fn large(namespaces: &[&str]) -> Facts {
        let mut facts = Facts::default();
        for namespace in namespaces {
            let (id, service) = headless(namespace);
            facts.service(Told::Put(id, service));
            for n in 0..PODS / 100 {
                facts.slice(slice(namespace, n, n * 100..(n + 1) * 100));
            }
        }
        facts
    }

    #[test]
    fn a_change_of_one_pod_in_a_thousand_that_have_names_costs_a_translation_or_two() {
        let mut facts = large(&["a", "bb"]);
        let first = facts.settle(&setting());
        assert_eq!((first.changed.len(), facts.last.made), (2 * (PODS + 1), 2));
        facts.slice(slice("a", 0, 1..100)); // db-0 went
        let settled = facts.settle(&setting());
        assert_eq!((settled.changed.len(), facts.last.made), (PODS + 1, 3));
        assert_eq!(settled.updates.iter().filter(|(_, now)| now.is_none()).count(), 1);
        for name in &settled.changed {
            assert_eq!(
                facts.endpoints(&setting(), name).len(),
                match name.as_str() {
                    "db.a" => PODS - 1,
                    "db-0.db.a" => 0,
                    _ => 1,
                }
            );
        }
        assert_eq!(facts.last.made, 3, "what was looked at last is not looked at again");
        // by name two Services alternate
        let all = facts.grouped(first.changed);
        all.iter().for_each(|name| drop(facts.endpoints(&setting(), name)));
        assert!(facts.last.made <= 5, "{}", facts.last.made);
    }

    #[test]
    fn what_is_kept_of_a_service_is_forgotten_with_its_next_change() {
        let mut facts = large(&["a"]);
        facts.settle(&setting());
        let name = ServiceName::parse("db-7.db.a").unwrap();
        let standing = |facts: &mut Facts| facts.endpoints(&setting(), &name)[0].standing;
        assert_eq!(standing(&mut facts), Standing::Unknown);
        let ip = "10.1.0.7".parse().unwrap();
        facts.other(&Id::new("a", "db-7"), "a-7", Other::Plain([ip].into()));
        assert_eq!(standing(&mut facts), Standing::Ready, "also before it is settled");
        assert!(facts.settle(&setting()).changed.contains(&name));
        assert_eq!(standing(&mut facts), Standing::Ready);
    }

    #[test]
    fn a_pod_that_has_a_name_has_the_address_only_where_the_api_server_says_so_too() {
        let mut facts = large(&["a"]);
        facts.settle(&setting());
        for (n, ip) in [(7, "10.1.0.7"), (8, "10.96.0.1")] {
            let is = Other::Plain([ip.parse().unwrap()].into());
            facts.other(&Id::new("a", &format!("db-{n}")), &format!("a-{n}"), is);
        }
        let settled = facts.settle(&setting());
        let addresses = |name: &str| {
            let service = settled.updates[&ServiceName::parse(name).unwrap()].as_ref().unwrap();
            service.addresses.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(addresses("db-7.db.a"), ["10.1.0.7:8080"]);
        assert_eq!(addresses("db-8.db.a"), [""; 0], "a slice may say of a pod what it likes");
        assert_eq!(addresses("db-9.db.a"), [""; 0], "nobody was asked yet");
    }
}
