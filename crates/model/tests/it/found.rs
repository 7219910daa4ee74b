//! Instances that come and go: what changed is folded again, and nothing else.

use crate::parsed;
use fusewire_model::compile::compile;
use fusewire_model::node::Node;
use fusewire_model::resource::{Resource, Subscription};
use fusewire_model::service::{Instance, Sidecar};
use fusewire_model::world::Found;
use fusewire_model::{ServiceName, SpiffeId, World};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::sync::Arc;

const WRITTEN: &str = "\
services:
  a: {allow: [b], instances: [{id: w, address: 10.0.0.1:80, sidecar: 10.0.0.1:15006}]}
  b: {}
policies:
  p: {target: {service: a}}
";

fn name(text: &str) -> ServiceName {
    ServiceName::parse(text).expect("a name")
}

fn instance(id: &str, host: u8, identity: Option<&str>) -> Arc<Instance> {
    let sidecar = identity.map(|path| Sidecar {
        inbound: format!("10.0.0.{host}:15006").parse().expect("an address"),
        identity: SpiffeId::parse(&format!("spiffe://fusewire.local/{path}")).expect("an identity"),
    });
    let address = format!("10.0.0.{host}:80").parse().expect("an address");
    let labels = BTreeMap::new();
    Arc::new(Instance { id: id.into(), address, sidecar, weight: 1, labels, zone: None, down: false })
}

fn found(offered: Vec<Arc<Instance>>) -> Found {
    Found { offered, hidden: Vec::new() }
}

fn node(workload: &str, id: &str) -> Node {
    let workload = SpiffeId::parse(&format!("spiffe://fusewire.local/{workload}")).expect("an identity");
    Node { workload, instance: Some(id.into()) }
}

fn ports(world: &World, workload: &str, id: &str) -> Vec<String> {
    let compiled = compile(world, &node(workload, id), &[]);
    let inbound = compiled.resources.values().find_map(|resource| match resource {
        Resource::Inbound(inbound) => Some(inbound.clone()),
        _ => None,
    });
    inbound.expect("an inbound").ports.iter().map(|p| format!("{} {}", p.port, p.service)).collect()
}

#[test]
fn an_instance_that_is_found_takes_the_place_of_those_written_and_leaves_the_version_alone() {
    let before = World::new(parsed(WRITTEN).mesh);
    let after = before.with_found([(name("a"), found(vec![instance("r", 7, Some("a"))]))]);
    let ids: Vec<&str> =
        after.service(&name("a")).expect("a").endpoints.instances.iter().map(|i| i.id.as_str()).collect();
    assert_eq!(ids, ["r"]);
    assert_eq!(after.version(), before.version());
    assert_eq!(after.service_at("10.0.0.7:80".parse().expect("an address")), Some(&name("a")));
    assert_eq!(after.service_at("10.0.0.1:80".parse().expect("an address")), None);
    assert_eq!(ports(&after, "a", "r"), ["80 a"]);
    assert!(ports(&after, "a", "w").is_empty());
}

#[test]
fn what_did_not_change_is_the_same_allocation() {
    let before = World::new(parsed(WRITTEN).mesh);
    let (one, two) = (instance("1", 1, None), instance("2", 2, None));
    let before = before.with_found([(name("b"), found(vec![one.clone(), two.clone()]))]);
    let copy = Arc::new(Instance::clone(&one));
    let after = before.with_found([(name("b"), found(vec![copy, instance("2", 3, None)]))]);
    let parts = |world: &World, of: &str| world.service(&name(of)).expect("a service").clone();
    assert!(Arc::ptr_eq(&parts(&before, "a"), &parts(&after, "a")));
    let (old, new) = (parts(&before, "b"), parts(&after, "b"));
    assert!(Arc::ptr_eq(&old.settings, &new.settings));
    assert!(!Arc::ptr_eq(&old.endpoints, &new.endpoints));
    assert!(Arc::ptr_eq(&old.endpoints.instances[0], &new.endpoints.instances[0]));
    let written = after.after(Arc::new(parsed(&WRITTEN.replace("[b]", "[c]")).mesh), &BTreeMap::new());
    assert!(Arc::ptr_eq(&parts(&after, "a").endpoints, &before.service(&name("a")).expect("a").endpoints));
    assert_ne!(written.version(), after.version());
}

#[test]
fn a_service_that_nobody_wrote_exists_while_it_has_instances() {
    let world = World::new(parsed(WRITTEN).mesh);
    let with = world.with_found([(name("new"), found(vec![instance("n", 9, Some("new"))]))]);
    assert!(with.service(&name("new")).is_some());
    assert_eq!(ports(&with, "new", "n"), ["80 new"]);
    let without = with.with_found([(name("new"), Found::default())]);
    assert!(without.service(&name("new")).is_none());
    assert!(ports(&without, "new", "n").is_empty());
}

#[test]
fn a_hidden_instance_has_its_port_and_no_callers() {
    let hidden = Found { offered: Vec::new(), hidden: vec![instance("s", 5, Some("b"))] };
    let world = World::new(parsed(WRITTEN).mesh).with_found([(name("b"), hidden)]);
    assert_eq!(ports(&world, "b", "s"), ["80 b"]);
    assert!(world.service(&name("b")).expect("b").endpoints.instances.is_empty());
    assert_eq!(world.service_at("10.0.0.5:80".parse().expect("an address")), None);
}

#[test]
fn an_address_is_the_service_s_whose_instance_proves_itself_there_and_not_who_merely_says_so() {
    let at = "10.0.0.7:80".parse().expect("an address");
    let world = World::new(parsed(WRITTEN).mesh);
    let proven = (name("b"), found(vec![instance("s", 7, Some("b"))]));
    let claimed = (name("aaa"), found(vec![instance("10.0.0.7:80", 7, None)]));
    let both = world.with_found([claimed.clone(), proven.clone()]);
    assert_eq!(both.service_at(at), Some(&name("b")));
    let all = BTreeMap::from([claimed, proven]);
    assert_eq!(world.after(world.mesh().clone(), &all).service_at(at), Some(&name("b")));
    let gone = both.with_found([(name("b"), Found::default())]);
    assert_eq!(gone.service_at(at), Some(&name("aaa")));
}

/// Per change: a service, and its instances as (id, host, identity, hidden).
fn change() -> impl Strategy<Value = (&'static str, Vec<(u8, u8, u8, bool)>)> {
    let service = prop_oneof![Just("a"), Just("b"), Just("c")];
    (service, proptest::collection::vec((0..4_u8, 1..5_u8, 0..3_u8, any::<bool>()), 0..5))
}

fn as_found(instances: &[(u8, u8, u8, bool)]) -> Found {
    let mut all = Found::default();
    let by_id: BTreeMap<u8, _> = instances.iter().map(|i| (i.0, *i)).collect();
    for (id, host, identity, hidden) in by_id.into_values() {
        let identity = [None, Some("a"), Some("x")][usize::from(identity)];
        let made = instance(&format!("i{id}"), host, identity);
        if hidden { all.hidden.push(made) } else { all.offered.push(made) }
    }
    all
}

proptest! {
    #[test]
    fn change_by_change_is_the_same_as_all_at_once(changes in proptest::collection::vec(change(), 0..12)) {
        let first = World::new(parsed(WRITTEN).mesh);
        let (mut stepwise, mut all) = (first.clone(), BTreeMap::new());
        for (service, instances) in &changes {
            let found = as_found(instances);
            stepwise = stepwise.with_found([(name(service), found.clone())]);
            all.insert(name(service), found);
        }
        let whole = first.after(first.mesh().clone(), &all);
        let services = ["a", "b", "c"].map(name);
        let wanted: Vec<Subscription> = services.iter().cloned().map(Subscription::Service)
            .chain((1..5).map(|h| Subscription::Address(format!("10.0.0.{h}:80").parse().expect("an address"))))
            .collect();
        for workload in ["a", "x"] {
            for id in [None, Some("i0"), Some("i1"), Some("w")] {
                let node = Node { instance: id.map(Into::into), ..node(workload, "") };
                prop_assert_eq!(compile(&stepwise, &node, &wanted), compile(&whole, &node, &wanted));
            }
        }
        prop_assert_eq!(stepwise.version(), first.version());
    }
}
