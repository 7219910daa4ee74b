//! What a sidecar is given for what it asks.

use crate::{example::EXAMPLE, parsed};
use expect_test::{Expect, expect};
use fusewire_model::compile::{Compiled, compile};
use fusewire_model::node::Node;
use fusewire_model::resource::{Answer, Key, Kind, Resource, Subscription};
use fusewire_model::route::Authority;
use fusewire_model::service::Allow;
use fusewire_model::{ServiceName, SpiffeId, TrustDomain, World};
use std::fmt::Write;
use std::sync::Arc;

fn world(text: &str) -> World {
    World::new(parsed(text).mesh)
}

fn node(workload: &str, instance: Option<&str>) -> Node {
    Node { workload: SpiffeId::parse(workload).expect("an identity"), instance: instance.map(Into::into) }
}

fn authority(text: &str) -> Subscription {
    Subscription::Authority(Authority::parse(text).expect("an authority"))
}

fn service(name: &str) -> Subscription {
    Subscription::Service(ServiceName::parse(name).expect("a name"))
}

fn address(text: &str) -> Subscription {
    Subscription::Address(text.parse().expect("an address"))
}

fn web(world: &World, wanted: &[Subscription]) -> Compiled {
    compile(world, &node("spiffe://shop.local/web", None), wanted)
}

/// Whether everything that is referred to is there, and goes before what refers to it.
pub(crate) fn assert_closed(compiled: &Compiled) {
    let has = |kind: Kind, name: &dyn std::fmt::Display, before: &Key| {
        let key = Key { kind, name: name.to_string() };
        assert!(compiled.resources.contains_key(&key) && key < *before, "{before:?} refers to {key:?}");
    };
    for (key, resource) in &compiled.resources {
        match resource {
            Resource::Route(table) => {
                for rule in &table.rules {
                    rule.policy.iter().for_each(|policy| has(Kind::Policy, policy, key));
                    let backends = rule.backends.iter().filter_map(|backend| backend.service.as_ref());
                    for service in backends.chain(rule.mirrors().iter().map(|mirror| &mirror.service)) {
                        has(Kind::Service, service, key);
                        has(Kind::Endpoints, service, key);
                    }
                }
            }
            Resource::Service(settings) => {
                let policies = settings.subsets.iter().map(|subset| &subset.policy).chain(&settings.policy);
                policies.for_each(|policy| has(Kind::Policy, policy, key));
            }
            _ => {}
        }
    }
    for (subscription, answer) in &compiled.answers {
        if let Answer::Found(key) = answer {
            assert!(compiled.resources.contains_key(key), "{subscription:?}");
        }
    }
    let inbound = compiled.resources.keys().filter(|key| key.kind == Kind::Inbound).count();
    assert_eq!(inbound, 1, "each sidecar has its own inbound and nobody else's");
}

/// The answers and the names of the resources.
fn outline(compiled: &Compiled) -> String {
    assert_closed(compiled);
    let mut text = String::new();
    for (subscription, answer) in &compiled.answers {
        let answer = match answer {
            Answer::Found(key) => format!("{:?} {}", key.kind, key.name),
            Answer::NotFound => "not found".into(),
        };
        let _ = match subscription {
            Subscription::Service(name) => writeln!(text, "{name} -> {answer}"),
            Subscription::Authority(name) => writeln!(text, "http://{name} -> {answer}"),
            Subscription::Address(name) => writeln!(text, "tcp://{name} -> {answer}"),
        };
    }
    for (key, resource) in &compiled.resources {
        assert_eq!(*key, resource.key());
        let _ = writeln!(text, "{:?} {}", key.kind, key.name);
    }
    text
}

fn check(compiled: &Compiled, wanted: &Expect) {
    wanted.assert_eq(&outline(compiled));
}

fn inbound(compiled: &Compiled) -> String {
    let mut text = String::new();
    for resource in compiled.resources.values() {
        let Resource::Inbound(inbound) = resource else { continue };
        let _ = writeln!(text, "{}", inbound.workload);
        for port in &inbound.ports {
            let allow = match &port.allow {
                Allow::Mesh => "mesh".into(),
                Allow::Only(list) => list.iter().map(|id| format!("{id} ")).collect::<String>(),
            };
            let _ = writeln!(text, "  {} {} {} [{}]", port.port, port.service, port.protocol.as_str(), allow.trim());
        }
    }
    text
}

#[test]
fn who_asks_for_nothing_is_given_only_its_own_inbound() {
    check(
        &web(&world(EXAMPLE), &[]),
        &expect![[r#"
        Inbound spiffe://shop.local/web
    "#]],
    );
}

#[test]
fn an_authority_brings_everything_that_its_route_refers_to() {
    check(
        &web(&world(EXAMPLE), &[authority("shop.example")]),
        &expect![[r#"
        http://shop.example -> Route shop.example
        Policy canary
        Policy catalog
        Policy default
        Policy fast
        Policy inventory
        Service catalog
        Service catalog-v2
        Service inventory
        Endpoints catalog
        Endpoints catalog-v2
        Endpoints inventory
        Override inventory
        Inbound spiffe://shop.local/web
        Route shop.example
    "#]],
    );
}

#[test]
fn a_service_brings_its_policies_subsets_endpoints_and_overrides() {
    let world = world(EXAMPLE);
    check(
        &web(&world, &[service("inventory")]),
        &expect![[r#"
            inventory -> Service inventory
            Policy canary
            Policy catalog
            Policy inventory
            Service catalog
            Service inventory
            Endpoints catalog
            Endpoints inventory
            Override inventory
            Inbound spiffe://shop.local/web
        "#]],
    );
    check(
        &web(&world, &[service("db")]),
        &expect![[r#"
        db -> Service db
        Policy default
        Service db
        Endpoints db
        Override db
        Inbound spiffe://shop.local/web
    "#]],
    );
}

#[test]
fn the_most_exact_authority_wins() {
    let world = world(
        "
services: {a: , b: , c: , shop: }
routes:
  r1: {authority: 'shop:8080', to: a}
  r2: {authority: shop, to: b}
",
    );
    let answers = web(&world, &["shop:8080", "shop:9090", "SHOP.", "c", "c:80", "d", "[::1]:80"].map(authority));
    expect![[r#"
        http://shop:8080 -> Route shop:8080
        http://shop:9090 -> Route shop
        http://shop -> Route shop
        http://c -> Route c
        http://c:80 -> Route c
        http://d -> not found
        http://[::1]:80 -> not found
        Service a
        Service b
        Service c
        Endpoints a
        Endpoints b
        Endpoints c
        Inbound spiffe://shop.local/web
        Route c
        Route shop
        Route shop:8080
    "#]]
    .assert_eq(&outline(&answers));
}

#[test]
fn routes_of_one_authority_are_one_table_in_the_order_of_writing() {
    let world = world(
        "
services: {a: , b: , c: }
routes:
  zz: {authority: [shop, other], match: {path: /z}, to: a}
  aa: {authority: shop, rules: [{match: {path: /a}, to: b}, {to: c}]}
",
    );
    let compiled = web(&world, &[authority("shop"), authority("other")]);
    let rules: Vec<String> = compiled
        .resources
        .values()
        .filter_map(|resource| match resource {
            Resource::Route(table) => {
                let names: Vec<_> = table.rules.iter().map(|rule| rule.name.as_str()).collect();
                Some(format!("{}: {}", table.authority, names.join(" ")))
            }
            _ => None,
        })
        .collect();
    assert_eq!(rules, ["other: zz[0]", "shop: zz[0] aa[0] aa[1]"]);
}

#[test]
fn an_address_is_the_service_that_has_an_instance_there() {
    let wanted = ["127.0.0.1:7002", "[::1]:7001", "127.0.0.1:15007", "127.0.0.1:7003"].map(address);
    check(
        &web(&world(EXAMPLE), &wanted),
        &expect![[r#"
        tcp://127.0.0.1:7002 -> Service catalog
        tcp://[::1]:7001 -> Service inventory
        tcp://127.0.0.1:15007 -> not found
        tcp://127.0.0.1:7003 -> not found
        Policy canary
        Policy catalog
        Policy inventory
        Service catalog
        Service inventory
        Endpoints catalog
        Endpoints inventory
        Override inventory
        Inbound spiffe://shop.local/web
    "#]],
    );
}

#[test]
fn no_such_thing_is_an_answer() {
    let compiled =
        web(&World::empty(TrustDomain::default()), &[service("x"), authority("x:80"), address("10.0.0.1:1")]);
    check(
        &compiled,
        &expect![[r#"
        x -> not found
        http://x:80 -> not found
        tcp://10.0.0.1:1 -> not found
        Inbound spiffe://shop.local/web
    "#]],
    );
}

#[test]
fn a_service_takes_its_own_policy_then_the_one_that_targets_it_then_the_default() {
    let world = world(
        "
services: {own: {policy: p}, targeted: , neither: }
policies: {p: , t1: {target: {service: own}}, t2: {target: {service: targeted}}, default: }
",
    );
    let policies: Vec<_> = world
        .services()
        .map(|(name, parts)| format!("{name} {:?}", parts.settings.policy.as_ref().map(|p| p.as_str())))
        .collect();
    assert_eq!(policies, [r#"neither Some("default")"#, r#"own Some("p")"#, r#"targeted Some("t2")"#]);
    assert_eq!(World::new(parsed("services: {a: }").mesh).services().next().expect("a").1.settings.policy, None);
}

#[test]
fn narrower_subsets_come_first_whatever_the_order_of_writing() {
    let world = world(
        "
services: {a: }
policies:
  b: {target: {service: a, labels: {x: '1'}}}
  a: {target: {service: a, labels: {y: '1'}}}
  c: {target: {service: a, labels: {x: '1', y: '1'}}}
",
    );
    let subsets = &world.services().next().expect("a").1.settings.subsets;
    let names: Vec<_> = subsets.iter().map(|subset| subset.policy.as_str()).collect();
    assert_eq!(names, ["c", "a", "b"]);
}

#[test]
fn a_workload_lets_in_what_its_own_instances_serve() {
    let world = world(EXAMPLE);
    let given = |workload: &str, instance: Option<&str>| inbound(&compile(&world, &node(workload, instance), &[]));
    let mut all = String::new();
    for (workload, instance) in [
        ("spiffe://shop.local/inventory-blue", None),
        ("spiffe://shop.local/stock/inventory", None),
        ("spiffe://shop.local/stock/inventory", Some("inventory-2")),
        ("spiffe://shop.local/stock/inventory", Some("inventory-1")),
        ("spiffe://shop.local/catalog", None),
        ("spiffe://shop.local/db", None),
        ("spiffe://other.local/catalog", None),
    ] {
        all.push_str(&given(workload, instance));
    }
    expect![[r#"
        spiffe://shop.local/inventory-blue
          7001 inventory http2 [spiffe://partner.example/orders spiffe://shop.local/catalog spiffe://shop.local/web]
        spiffe://shop.local/stock/inventory
          7001 inventory http2 [spiffe://partner.example/orders spiffe://shop.local/catalog spiffe://shop.local/web]
        spiffe://shop.local/stock/inventory
          7001 inventory http2 [spiffe://partner.example/orders spiffe://shop.local/catalog spiffe://shop.local/web]
        spiffe://shop.local/stock/inventory
        spiffe://shop.local/catalog
          7002 catalog http [mesh]
        spiffe://shop.local/db
        spiffe://other.local/catalog
    "#]]
    .assert_eq(&all);
}

#[test]
fn services_that_share_an_identity_and_a_port_let_in_who_may_call_all_of_them() {
    let world = world("
services:
  a: {allow: [x, y], instances: [{id: a1, address: 10.0.0.1:80, sidecar: 10.0.0.1:1}, {id: a2, address: 10.0.0.2:81, sidecar: 10.0.0.2:1}]}
  b: {identity: a, allow: [y, z], instances: [{id: b1, address: 10.0.0.3:80, sidecar: 10.0.0.3:1}]}
  c: {identity: a, instances: [{id: c1, address: 10.0.0.4:80, sidecar: 10.0.0.4:1}]}
");
    let a = "spiffe://fusewire.local/a";
    let all: String =
        [None, Some("a1"), Some("b1"), Some("c1")].map(|id| inbound(&compile(&world, &node(a, id), &[]))).concat();
    expect![[r#"
        spiffe://fusewire.local/a
          80 a http [spiffe://fusewire.local/y]
          81 a http [spiffe://fusewire.local/x spiffe://fusewire.local/y]
        spiffe://fusewire.local/a
          80 a http [spiffe://fusewire.local/x spiffe://fusewire.local/y]
        spiffe://fusewire.local/a
          80 b http [spiffe://fusewire.local/y spiffe://fusewire.local/z]
        spiffe://fusewire.local/a
          80 c http [mesh]
    "#]]
    .assert_eq(&all);
}

#[test]
fn what_two_sidecars_are_given_alike_is_one_allocation() {
    let world = world(EXAMPLE);
    let one = web(&world, &[authority("shop.example")]);
    let two = compile(&world, &node("spiffe://shop.local/db", None), &[service("catalog")]);
    let shared = |compiled: &Compiled, kind: Kind| match compiled.resources.iter().find(|(key, _)| key.kind == kind) {
        Some((_, Resource::Endpoints(endpoints))) => Arc::as_ptr(endpoints).addr(),
        Some((_, Resource::Service(settings))) => Arc::as_ptr(settings).addr(),
        _ => 0,
    };
    for kind in [Kind::Endpoints, Kind::Service] {
        assert_eq!(shared(&one, kind), shared(&two, kind));
        assert_ne!(shared(&one, kind), 0);
    }
}

#[test]
fn what_something_refers_to_is_sent_before_it() {
    let compiled = web(&world(EXAMPLE), &[authority("shop.example")]);
    let place = |kind: Kind| compiled.resources.keys().position(|key| key.kind == kind).expect("of this kind");
    assert!(place(Kind::Policy) < place(Kind::Service));
    assert!(place(Kind::Service) < place(Kind::Route) && place(Kind::Endpoints) < place(Kind::Route));
}
