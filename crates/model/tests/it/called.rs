//! Services by further names and by virtual addresses.

#![allow(clippy::unwrap_used)]

use crate::parsed;
use fusewire_model::compile::compile;
use fusewire_model::node::Node;
use fusewire_model::policy::{Plain, PlainRules};
use fusewire_model::resource::{Answer, Kind, Subscription};
use fusewire_model::route::Authority;
use fusewire_model::{SpiffeId, World};

const MESH: &str = "
services:
  web.shop:
    authorities: [web.shop.svc.cluster.local:80, web.shop.svc:80, web.shop:80, web.shop.svc.cluster.local, web.shop]
    addresses: 10.96.0.1:80
    instances: [10.0.0.1:8080]
  web.shop.9090:
    authorities: [web.shop.svc.cluster.local:9090, web.shop.svc:9090, web.shop:9090, web.shop.9090]
    addresses: ['10.96.0.1:9090', '[fd00::1]:9090']
  canary: {instances: [10.0.0.2:8080]}
";

fn world(more: &str) -> World {
    World::new(parsed(&format!("{MESH}{more}")).mesh)
}

/// Kind and name of what `asked` means to a workload of `identity`.
fn meant(world: &World, identity: &str, asked: Subscription) -> Option<(Kind, String)> {
    let node = Node { workload: SpiffeId::parse(identity).unwrap(), instance: None };
    let compiled = compile(world, &node, &[asked]);
    match compiled.answers.into_iter().next().unwrap().1 {
        Answer::Found(key) => {
            assert!(compiled.resources.contains_key(&key), "{key:?}");
            Some((key.kind, key.name))
        }
        Answer::NotFound => None,
    }
}

fn called(world: &World, authority: &str) -> Option<String> {
    let asked = Subscription::Authority(Authority::parse(authority).unwrap());
    meant(world, "spiffe://fusewire.local/ns/shop/sa/front", asked).map(|(kind, name)| {
        assert_eq!(kind, Kind::Route);
        name
    })
}

fn at(world: &World, address: &str) -> Option<(Kind, String)> {
    let asked = Subscription::Address(address.parse().unwrap());
    meant(world, "spiffe://fusewire.local/ns/shop/sa/front", asked)
}

#[test]
fn a_service_is_found_by_each_of_its_authorities_and_by_no_other_port() {
    let world = world("");
    for name in ["web.shop", "web.shop:80", "web.shop.svc:80", "web.shop.svc.cluster.local"] {
        assert_eq!(called(&world, name).as_deref(), Some("web.shop"), "{name}");
    }
    for name in ["web.shop:9090", "web.shop.svc.cluster.local:9090", "web.shop.9090"] {
        assert_eq!(called(&world, name).as_deref(), Some("web.shop.9090"), "{name}");
    }
    for name in ["web.shop:81", "web.shop.svc.cluster.local:81"] {
        assert_eq!(called(&world, name), None, "{name}");
    }
    // one without further names is meant whatever the port, as ever
    assert_eq!(called(&world, "canary:1234").as_deref(), Some("canary"));
}

#[test]
fn a_virtual_address_has_the_services_routes_and_an_instances_own_is_its_service() {
    let world = world("");
    assert_eq!(at(&world, "10.96.0.1:80"), Some((Kind::Route, "web.shop".into())));
    assert_eq!(at(&world, "[fd00::1]:9090"), Some((Kind::Route, "web.shop.9090".into())));
    assert_eq!(at(&world, "10.96.0.1:81"), None);
    assert_eq!(at(&world, "10.0.0.1:8080"), Some((Kind::Service, "web.shop".into())));
}

#[test]
fn a_route_for_one_name_is_for_all_that_have_none_of_their_own() {
    let world = world(
        "routes:\n  all: {authority: web.shop.svc.cluster.local, to: canary}\n  own: {authority: 'web.shop:80', to: canary}\n",
    );
    let long = "web.shop.svc.cluster.local";
    assert_eq!(called(&world, "web.shop:80").as_deref(), Some("web.shop:80"));
    // its authorities are looked through in their order, and this one is the first with a route
    assert_eq!(called(&world, "web.shop.svc:80").as_deref(), Some("web.shop:80"));
    assert_eq!(called(&world, long).as_deref(), Some(long));
    assert_eq!(at(&world, "10.96.0.1:80"), Some((Kind::Route, "web.shop:80".into())));
    assert_eq!(called(&world, "web.shop:9090").as_deref(), Some("web.shop.9090"), "the other port is another service");
}

#[test]
fn a_name_without_dots_is_of_the_callers_own_namespace_where_the_mesh_has_none() {
    let world = world("");
    assert_eq!(called(&world, "web").as_deref(), Some("web.shop"));
    assert_eq!(called(&world, "web:9090").as_deref(), Some("web.shop.9090"));
    assert_eq!(called(&world, "canary").as_deref(), Some("canary"));
    let asked = || Subscription::Authority(Authority::parse("web").unwrap());
    for identity in ["spiffe://fusewire.local/ns/bank/sa/front", "spiffe://fusewire.local/front"] {
        assert_eq!(meant(&world, identity, asked()), None, "{identity}");
    }
}

#[test]
fn what_comes_in_clear_and_what_is_spoken_to_in_clear_are_said_together_or_apart() {
    let rules = |text: &str| {
        let mesh = parsed(&format!("policies: {{p: {{{text}}}}}")).mesh;
        mesh.policies.into_values().next().unwrap().plain
    };
    assert_eq!(rules(""), PlainRules { callers: None, instances: None });
    assert_eq!(rules("plain: allow"), PlainRules::both(Plain::Allow));
    assert_eq!(rules("plain: deny"), PlainRules::both(Plain::Deny));
    let apart = PlainRules { callers: Some(Plain::Deny), instances: Some(Plain::Allow) };
    assert_eq!(rules("plain: {callers: deny, instances: allow}"), apart);
    assert_eq!(rules("plain: {instances: allow}"), PlainRules { callers: None, instances: Some(Plain::Allow) });
}
