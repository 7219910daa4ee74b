//! Files taken apart into objects, and objects put over files.

use crate::example::EXAMPLE;
use crate::{lines, parsed, source};
use fusewire_model::yaml::{self, Fault, ObjectKind, ObjectName, Objects, Source};
use fusewire_model::{TrustDomain, World};
use proptest::prelude::*;

fn domain() -> TrustDomain {
    TrustDomain::default()
}

fn name(text: &str) -> ObjectName {
    ObjectName::parse(text).expect(text)
}

/// What is kept after `text` was applied over nothing.
fn kept(text: &str) -> Objects {
    applied(&[], &Objects::new(), text).unwrap_or_else(|faults| panic!("{}", lines(&faults)))
}

fn applied(files: &[Source], objects: &Objects, text: &str) -> Result<Objects, Vec<Fault>> {
    yaml::apply(files, objects, &[source("new.yaml", text)], &domain()).map(|applied| applied.objects)
}

fn without_sidecar(text: &str) -> &str {
    text.split("sidecar:\n  workload").next().expect("a file")
}

#[test]
fn every_object_of_the_example_is_kept_with_what_the_operator_wrote() {
    let text = without_sidecar(EXAMPLE);
    let objects: Objects = yaml::definitions(&[source("a.yaml", text)])
        .into_iter()
        .map(|(name, definition)| (name, definition.yaml.into()))
        .collect();
    let names: Vec<String> = objects.keys().map(ToString::to_string).collect();
    let wanted = [
        "service/catalog",
        "service/catalog-v2",
        "service/db",
        "service/inventory",
        "route/catalog.example",
        "route/checkout",
        "route/shop.example:9000",
        "policy/canary",
        "policy/catalog",
        "policy/default",
        "policy/fast",
        "policy/inventory",
        "policy/legacy",
        "override/db",
        "override/inventory/inventory-2",
    ];
    assert_eq!(names, wanted);
    let file = [source("b.yaml", "trust_domain: shop.local\n")];
    let merged = yaml::merge(&file, &objects).unwrap_or_else(|faults| panic!("{}", lines(&faults)));
    assert_eq!(World::new(merged.mesh).version(), World::new(parsed(text).mesh).version());
    let expected = "\
routes:
  checkout:
    authority:
      - Shop.Example
      - shop.example:8443
    rules:
      - match:
          path:
            prefix: /api
          method:
            - head
            - GET
          headers:
            x-debug:
              present: true
            X-Canary: \"1\"
            x-old:
              present: false
        to:
          - service: catalog
            weight: 90
          - service: catalog-v2
            weight: 10
        policy: fast
      - match:
          path: /health
        to: inventory
      - to: catalog
";
    assert_eq!(&*objects[&name("route/checkout")], expected);
    let expected = "\
overrides:
  - service: inventory
    instance: inventory-2
    breaker: open
    owner: ada
    reason: bad disk
    until: 2026-11-22T18:00:00Z
";
    assert_eq!(&*objects[&name("override/inventory/inventory-2")], expected);
    // texts that are canonical already stay as they are
    let again = yaml::apply(
        &file,
        &objects,
        &[source("c.yaml", &objects[&name("policy/inventory")])],
        &parsed(text).mesh.trust_domain,
    );
    assert_eq!(again.map(|applied| applied.objects), Ok(objects));
}

#[test]
fn names_of_objects_are_read_as_they_are_written() {
    for text in ["service/shop", "route/shop.example:8080", "policy/default", "override/shop", "override/shop/a/b"] {
        assert_eq!(name(text).to_string(), text);
    }
    assert_eq!(name("services/shop"), ObjectName { kind: ObjectKind::Service, name: "shop".into() });
    for text in ["", "service", "service/", "sidecar/x", "/x"] {
        assert_eq!(ObjectName::parse(text), None, "{text}");
    }
}

#[test]
fn an_object_replaces_the_one_of_its_name_and_leaves_the_others() {
    let before = kept("services: {shop: {protocol: http1}, bank: }\nroutes: {web: {to: shop}}\n");
    let after = applied(&[], &before, "services: {shop: {protocol: http2}}").expect("valid");
    assert_eq!(&*after[&name("service/shop")], "services:\n  shop:\n    protocol: http2\n");
    assert_eq!(after[&name("service/bank")], before[&name("service/bank")]);
    assert_eq!(after.len(), 3);
}

#[test]
fn a_files_word_counts() {
    let objects = kept(
        "services: {shop: {protocol: http1}, bank: }\noverrides: [{service: shop, breaker: open, owner: a, reason: b}]\n",
    );
    let files = [source("mesh.yaml", "policies:\n  p:\nservices:\n  shop: {protocol: http2}\n")];
    let merged = yaml::merge(&files, &objects).expect("valid");
    assert_eq!(merged.shadowed.into_iter().collect::<Vec<_>>(), [(name("service/shop"), "mesh.yaml:4".to_owned())]);
    let mesh = merged.mesh;
    assert_eq!((mesh.services.len(), mesh.overrides.len()), (2, 1));
    let protocol =
        |name: &str| mesh.services.values().find(|s| s.name.as_str() == name).map(|s| format!("{:?}", s.protocol));
    assert_eq!(protocol("shop").as_deref(), Some("Http2"));

    let text = "services:\n  other:\n  shop: {protocol: opaque}\npolicies: {q: , p: }\n";
    let faults = applied(&files, &objects, text).expect_err("files define them");
    let wanted = "\
new.yaml:3:3: service/shop is defined by mesh.yaml:4, and a file's word counts (change it there, or take it out of the file first)
new.yaml:4:17: policy/p is defined by mesh.yaml:2, and a file's word counts (change it there, or take it out of the file first)
";
    assert_eq!(lines(&faults), wanted);
}

#[test]
fn all_faults_of_what_is_applied_are_told_at_once_where_they_stand() {
    let text = "\
trust_domain: other.example
servces: {}
services:
  shop: {protocol: htpp, instances: [nowhere]}
  shop: {}
routes:
  web: {to: shp}
overrides:
  - {service: shop}
sidecar:
  workload: web
";
    let faults = lines(&applied(&[], &Objects::new(), text).expect_err("faulty"));
    for wanted in [
        "new.yaml:1:15: trust_domain: must be fusewire.local",
        "new.yaml:2:1: servces: unknown key (did you mean \"services\"?)",
        "new.yaml:4:20: services.shop.protocol: must be",
        "new.yaml:4:38: services.shop.instances[0]: must be ip:port",
        "new.yaml:5:3: services.shop: is already written in line 4",
        "new.yaml:7:13: routes.web.to: service shp is not defined (did you mean \"shop\"?)",
        "new.yaml:9:5: overrides[0].breaker: must be given",
        "new.yaml:11:3: sidecar: is a sidecar's own file",
    ] {
        assert!(faults.contains(wanted), "{wanted}\nis not in\n{faults}");
    }
}

#[test]
fn what_objects_lack_after_a_change_of_files_is_told_by_their_names() {
    let objects = kept("services: {shop: }\nroutes: {web: {to: shop}}\n");
    let without: Objects = objects.into_iter().filter(|(name, _)| name.kind != ObjectKind::Service).collect();
    let faults = yaml::merge(&[source("mesh.yaml", "services: {shoq: }")], &without).expect_err("a route to nowhere");
    assert_eq!(
        lines(&faults),
        "api:route/web:3:9: routes.web.to: service shop is not defined (did you mean \"shoq\"?)\n"
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_can_be_applied_means_what_it_says(
        cuts in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), "[ -~\n]{0,6}"), 0..4),
    ) {
        let mut text: Vec<char> = without_sidecar(EXAMPLE).chars().collect();
        for (at, length, put) in cuts {
            let at = at.index(text.len());
            let end = (at + length.index(12)).min(text.len());
            text.splice(at..end, put.chars());
        }
        let text: String = text.into_iter().collect();
        let sources = [source("a.yaml", &text)];
        let whole = yaml::parse(&sources);
        let domain = whole.as_ref().map(|parsed| parsed.mesh.trust_domain.clone()).unwrap_or_default();
        let files = [source("domain.yaml", &format!("trust_domain: {domain}\n"))];
        let applied = yaml::apply(&files, &Objects::new(), &sources, &domain);
        match (whole, applied) {
            (Ok(whole), Ok(applied)) => {
                let (kept, meant) = (World::new(applied.merged.mesh), World::new(whole.mesh));
                prop_assert_eq!(kept.version(), meant.version());
            }
            (Err(_), Err(_)) => {}
            (Ok(whole), Err(faults)) => prop_assert!(whole.sidecar.is_some(), "{}", lines(&faults)),
            (Err(faults), Ok(_)) => prop_assert!(false, "{}", lines(&faults)),
        }
    }

    #[test]
    fn any_bytes_can_be_applied_or_are_refused(text in ".{0,200}", object in ".{0,100}") {
        let objects = Objects::from([(name("service/shop"), object.into())]);
        let _ = applied(&[], &objects, &text);
        let _ = yaml::definitions(&[source("a.yaml", &text)]);
    }
}
