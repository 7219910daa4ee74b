//! A version changes when the meaning does, and only then.

use crate::{parsed, source};
use fusewire_model::{World, yaml};

fn version(text: &str) -> String {
    World::new(parsed(text).mesh).version().to_owned()
}

const BASE: &str = "\
services:
  a: {allow: [x, y], instances: [{id: '1', address: 10.0.0.1:80, sidecar: 10.0.0.1:15006}, {id: '2', address: 10.0.0.2:80}]}
  b: {}
routes:
  r: {authority: shop, rules: [{match: {path: /x, method: [GET, PUT]}, to: a}, {to: b}]}
  s: {authority: other, to: b}
policies:
  p: {target: {service: a}, timeout: {request: 1s}}
overrides:
  - {service: a, breaker: open, owner: ada, reason: disk}
  - {service: a, instance: '1', breaker: open, owner: ada, reason: disk}
";

#[test]
fn the_order_of_keys_and_the_cut_into_files_change_nothing() {
    let reordered = "\
overrides:
  - {owner: ada, instance: '1', service: a, reason: disk, breaker: open}
  - {owner: ada, service: a, reason: disk, breaker: open}
policies:
  p: {timeout: {request: 1000ms}, target: {service: a}}
routes:
  s: {rules: [{to: [{service: b}]}], authority: [Other]}
  r: {rules: [{to: a, match: {method: [put, GET], path: {exact: /x}}}, {to: b}], authority: shop}
services:
  b:
  a: {instances: [{id: '2', address: 10.0.0.2:80}, {sidecar: 10.0.0.1:15006, id: '1', address: 10.0.0.1:80, weight: 1}], allow: [y, x, x]}
";
    assert_eq!(version(BASE), version(reordered));
    let (services, rest) = BASE.split_at(BASE.find("routes").expect("routes"));
    let split = yaml::parse(&[source("b", rest), source("a", services)]).expect("two files").mesh;
    assert_eq!(version(BASE), World::new(split).version());
    assert_eq!(version(BASE).len(), 32);
}

#[test]
fn every_change_of_meaning_changes_it() {
    let changes = [
        ("[x, y]", "[x]"),
        ("10.0.0.2:80", "10.0.0.2:81"),
        ("id: '2'", "id: '3'"),
        ("10.0.0.1:15006}", "10.0.0.1:15006, weight: 2}"),
        ("10.0.0.1:15006}", "10.0.0.1:15006, labels: {a: b}}"),
        ("10.0.0.1:15006}", "10.0.0.1:15006, identity: c}"),
        ("b: {}", "b: {protocol: http2}"),
        ("b: {}", "c: {}\n  b: {}"),
        ("path: /x", "path: {prefix: /x}"),
        ("GET", "POST"),
        ("shop", "shop:80"),
        (
            "{match: {path: /x, method: [GET, PUT]}, to: a}, {to: b}",
            "{to: b}, {match: {path: /x, method: [GET, PUT]}, to: a}",
        ),
        ("request: 1s", "request: 2s"),
        ("request: 1s", "idle: 1s"),
        ("target: {service: a}", "target: {service: b}"),
        ("reason: disk}\n  -", "reason: dusk}\n  -"),
        ("breaker: open", "breaker: closed"),
        ("services:", "trust_domain: x\nservices:"),
    ];
    let mut seen = vec![version(BASE)];
    for (from, to) in changes {
        let changed = BASE.replacen(from, to, 1);
        assert_ne!(changed, BASE, "{from}");
        let version = version(&changed);
        assert!(!seen.contains(&version), "{from} -> {to}");
        seen.push(version);
    }
}
