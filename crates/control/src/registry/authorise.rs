//! What a peer may register.
//!
//! It decides by the peer's proven identity alone: the instances of a service belong to the service's identity, so only
//! that may add one; operators may add instances that prove nothing, which callers are told of as plain. It deliberately
//! does not know the registry: an identity touches only its own registrations.

use super::wire::Faults;
use crate::listen::Role;
use fusewire_discovery::registry::Registration;
use fusewire_model::{ServiceName, SpiffeId, World};

/// Of a whole registration; every fault at once.
pub(super) fn may_register(world: &World, peer: &SpiffeId, wanted: &Registration) -> Result<(), Faults> {
    let mut faults = Faults::default();
    let operator = Role::of(peer, world.trust_domain()) >= Role::Operator;
    if operator && wanted.sidecar.is_some() {
        let said = "an operator registers plain instances only, since a sidecar proves the identity of its service: \
                    leave it out, or let the sidecar register (sidecar.register in its file)";
        faults.add("sidecar", said);
    }
    for service in wanted.ports.keys().filter(|_| !operator) {
        match identity_of(world, service) {
            Some(identity) if identity == *peer => {}
            Some(identity) => faults.add(
                "ports",
                format_args!(
                    "service {service} is served by {identity}, and you are {peer}: join with a token for that identity, \
                     or set services.{service}.identity"
                ),
            ),
            None => faults.add("ports", format_args!("{service} cannot be an identity's path in this trust domain")),
        }
    }
    if faults.0.is_empty() { Ok(()) } else { Err(faults) }
}

/// Of a service that is defined nowhere: the one with its name.
pub(crate) fn identity_of(world: &World, service: &ServiceName) -> Option<SpiffeId> {
    match world.mesh().services.get(service) {
        Some(service) => Some(service.identity.clone()),
        None => SpiffeId::of(world.trust_domain(), service.as_str()).ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn judged(peer: &str, services: &[&str], sidecar: bool) -> Result<(), String> {
        let yaml = "trust_domain: t\nservices:\n  shop: {identity: stock/shop}\n  cart: \n";
        let source = fusewire_model::yaml::Source { name: "mesh.yaml".into(), text: yaml.into() };
        let world = World::new(fusewire_model::yaml::parse(&[source]).unwrap().mesh);
        let peer = SpiffeId::parse(&format!("spiffe://{peer}")).unwrap();
        let registration = Registration {
            host: [10, 0, 0, 1].into(),
            ports: services.iter().map(|s| (ServiceName::parse(s).unwrap(), 80)).collect(),
            sidecar: sidecar.then(|| ([10, 0, 0, 1], 1).into()),
            weight: 1,
            zone: None,
            labels: BTreeMap::new(),
            ttl: std::time::Duration::from_secs(1),
        };
        may_register(&world, &peer, &registration).map_err(|faults| faults.0.join("; "))
    }

    #[test]
    fn an_identity_registers_for_what_is_its_own() {
        for (peer, services, sidecar, told) in [
            ("t/stock/shop", &["shop"][..], true, None),
            ("t/cart", &["cart"], true, None),
            ("t/bank", &["bank"], false, None), // defined nowhere
            ("t/shop", &["shop"], true, Some("service shop is served by spiffe://t/stock/shop")),
            ("other/cart", &["cart"], true, Some("served by spiffe://t/cart, and you are spiffe://other/cart")),
            ("t/cart", &["bank", "cart"], true, Some("bank is served by spiffe://t/bank")),
            ("t/fusewire/operator/ann", &["cart", "bank", "shop"], false, None),
            ("t/fusewire/admin/ann", &["cart"], false, None),
            ("t/fusewire/admin/ann", &["cart"], true, Some("plain instances only")),
            ("t/fusewire/viewer/ann", &["cart"], false, Some("served by spiffe://t/cart")),
            ("other/fusewire/admin/ann", &["cart"], false, Some("served by spiffe://t/cart")),
        ] {
            match (judged(peer, services, sidecar), told) {
                (Ok(()), None) => {}
                (Err(said), Some(part)) => assert!(said.contains(part), "{peer}: {said}"),
                (judged, _) => panic!("{peer} {services:?}: {judged:?}"),
            }
        }
    }
}
