//! The merged view: the instances of a service from all sources together.
//!
//! It decides whose word counts where several sources know one instance (by its id, or by its address): what was written,
//! then what Kubernetes says, what was registered, and what DNS says; that a written instance is offered whatever its check says, and a starting
//! or denied one is not. It deliberately does no I/O and keeps nothing.
//!
//! Invariant: an id is in a view once, and so is an address with its sidecar.

use fusewire_model::SpiffeId;
use fusewire_model::health::Health;
use fusewire_model::service::Instance;
use fusewire_model::world::Found;
use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// Where an instance is known from, in the order in which their word counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Source {
    File,
    Api,
    Kubernetes,
    Registry,
    Dns,
}

impl Source {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Api => "api",
            Self::Kubernetes => "kubernetes",
            Self::Registry => "registry",
            Self::Dns => "dns",
        }
    }
}

/// What one source says of one instance.
#[derive(Clone, Debug)]
pub(crate) struct Said {
    pub(crate) source: Source,
    pub(crate) instance: Instance,
    /// Who registered it, where somebody did.
    pub(crate) owner: Option<SpiffeId>,
    /// `Unchecked` where the source does not know.
    pub(crate) health: Health,
    /// Why, in words.
    pub(crate) detail: String,
    /// Since the source last confirmed it; `None` for what was written.
    pub(crate) age: Option<Duration>,
}

/// An instance as all sources together have it.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) instance: Instance,
    pub(crate) sources: Vec<Source>,
    pub(crate) health: Health,
    pub(crate) detail: String,
    pub(crate) age: Option<Duration>,
    /// Callers are told of it.
    pub(crate) offered: bool,
}

/// `said` in the order in which words count. `checked`: what health checks found of an instance.
pub(crate) fn merge(
    said: impl IntoIterator<Item = Said>,
    checked: impl Fn(&Instance) -> Option<(Health, String)>,
    denied: &BTreeSet<SpiffeId>,
) -> Vec<Seen> {
    let mut seen: Vec<Seen> = Vec::new();
    let mut ids: HashMap<String, usize> = HashMap::new();
    let mut addresses: HashMap<(SocketAddr, Option<SocketAddr>), usize> = HashMap::new();
    let mut owners: Vec<Option<SpiffeId>> = Vec::new();
    for Said { source, instance, owner, health, detail, age } in said {
        // a host may be loopback, beside each of many sidecars
        let address = (instance.address, instance.sidecar.as_ref().map(|sidecar| sidecar.inbound));
        let known = ids.get(&instance.id).or_else(|| addresses.get(&address)).copied();
        match known {
            Some(index) => {
                let first = &mut seen[index];
                first.sources.push(source);
                first.age = first.age.or(age);
                if first.health == Health::Unchecked {
                    (first.health, first.detail) = (health, detail);
                }
            }
            None => {
                ids.insert(instance.id.clone(), seen.len());
                addresses.insert(address, seen.len());
                owners.push(owner);
                seen.push(Seen { instance, sources: vec![source], health, detail, age, offered: true });
            }
        }
    }
    for (seen, owner) in seen.iter_mut().zip(owners) {
        if let Some((health, detail)) = checked(&seen.instance) {
            (seen.health, seen.detail) = (health, detail);
        }
        seen.instance.down = seen.health == Health::Down;
        let proves = seen.instance.sidecar.as_ref().map(|sidecar| &sidecar.identity);
        let shut_out = proves.or(owner.as_ref()).is_some_and(|identity| denied.contains(identity));
        let written = seen.sources[0] <= Source::Api;
        if shut_out {
            seen.detail = "its identity is denied".into();
        }
        seen.offered = !shut_out && (written || seen.health != Health::Starting);
    }
    seen.sort_by(|a, b| a.instance.id.cmp(&b.instance.id));
    seen
}

pub(crate) fn found(seen: &[Seen]) -> Found {
    let mut found = Found::default();
    for Seen { instance, offered, .. } in seen {
        let list = if *offered { &mut found.offered } else { &mut found.hidden };
        list.push(Arc::new(instance.clone()));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use fusewire_model::service::Sidecar;
    use std::collections::BTreeMap;

    fn instance(id: &str, address: &str, identity: Option<&str>) -> Instance {
        let address: SocketAddr = address.parse().unwrap();
        let sidecar = identity.map(|id| Sidecar {
            inbound: SocketAddr::new(address.ip(), 15006),
            identity: SpiffeId::parse(id).unwrap(),
        });
        Instance { id: id.into(), address, sidecar, weight: 1, labels: BTreeMap::new(), zone: None, down: false }
    }

    fn said(source: Source, instance: Instance, health: Health) -> Said {
        Said { source, instance, owner: None, health, detail: String::new(), age: None }
    }

    fn merged(all: Vec<Said>) -> Vec<Seen> {
        merge(all, |_| None, &BTreeSet::new())
    }

    #[test]
    fn what_was_written_counts_and_what_was_registered_of_the_same_instance_adds_its_health() {
        let written = Instance { weight: 7, ..instance("shop-1", "10.0.0.1:80", Some("spiffe://t/shop")) };
        let seen = merged(vec![
            said(Source::File, written.clone(), Health::Unchecked),
            said(Source::Registry, instance("shop-1", "10.0.0.9:80", Some("spiffe://t/shop")), Health::Down),
        ]);
        let [one] = &seen[..] else { panic!("{seen:?}") };
        assert_eq!(one.sources, [Source::File, Source::Registry]);
        assert_eq!(one.instance, Instance { down: true, ..written });
        assert!(one.offered);
    }

    #[test]
    fn one_address_under_two_ids_is_one_instance_but_loopback_beside_two_sidecars_is_two() {
        let seen = merged(vec![
            said(Source::File, instance("a", "10.0.0.1:80", None), Health::Unchecked),
            said(Source::Dns, instance("10.0.0.1:80", "10.0.0.1:80", None), Health::Unchecked),
        ]);
        assert_eq!(seen.len(), 1);
        let beside = |id: &str, inbound: &str| {
            let mut instance = instance(id, "127.0.0.1:80", Some("spiffe://t/a"));
            instance.sidecar.as_mut().unwrap().inbound = inbound.parse().unwrap();
            said(Source::Registry, instance, Health::Up)
        };
        assert_eq!(merged(vec![beside("a", "10.0.0.1:1"), beside("b", "10.0.0.2:1")]).len(), 2);
    }

    #[test]
    fn a_starting_instance_is_hidden_when_it_registered_itself_and_offered_when_it_was_written() {
        let seen = merged(vec![
            said(Source::File, instance("w", "10.0.0.1:80", None), Health::Starting),
            said(Source::Registry, instance("r", "10.0.0.2:80", None), Health::Starting),
        ]);
        let found = found(&seen);
        assert_eq!((found.hidden[0].id.as_str(), found.offered[0].id.as_str()), ("r", "w"));
    }

    #[test]
    fn a_denied_identity_is_offered_by_no_source() {
        let all = vec![said(Source::File, instance("w", "10.0.0.1:80", Some("spiffe://t/bad")), Health::Up)];
        let denied = BTreeSet::from([SpiffeId::parse("spiffe://t/bad").unwrap()]);
        let seen = merge(all, |_| None, &denied);
        assert!(!seen[0].offered);
    }
}
