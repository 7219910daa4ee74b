//! Objects of our own kinds: the definitions that are checked in, and the examples that people copy.

use crate::schema::validate_custom;
use fusewire_kubernetes::crd::{Kind, Object, Objects, Output, manifests, translate};
use fusewire_kubernetes::{KnownService, Port, RouteId, RouteKind, yaml};
use fusewire_model::TrustDomain;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

fn deploy(below: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/kubernetes").join(below)
}

fn definitions() -> Vec<Value> {
    Kind::ALL.into_iter().map(Kind::definition).collect()
}

fn examples() -> Vec<Value> {
    let files = std::fs::read_dir(deploy("examples")).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> = files.collect();
    files.sort();
    files.iter().flat_map(|file| yaml::read(&std::fs::read_to_string(file).unwrap()).unwrap()).collect()
}

/// With what the examples speak of in the cluster.
fn translated(documents: &[Value]) -> Output {
    let objects: Vec<Object> = documents.iter().map(|document| Object::of(document).unwrap()).collect();
    let port = |name: &str, number| Port { name: name.into(), number, is_opaque: false };
    let pods = BTreeMap::from([("checkout-6f9c-abcde".to_owned(), "0c0f".to_owned())]);
    let checkout =
        KnownService { ports: vec![port("http", 80), port("admin", 9090)], instances: pods, ..KnownService::default() };
    let front = RouteId { kind: RouteKind::Http, namespace: "shop".into(), name: "front".into() };
    translate(&Objects {
        objects: &objects,
        services: &BTreeMap::from([(("shop".to_owned(), "checkout".to_owned()), checkout)]),
        routes: &BTreeMap::from([(front, vec!["search".to_owned()])]),
        trust_domain: &TrustDomain::default(),
        cluster_domain: "cluster.local",
        is_taken: &|_| false,
        now: 1_790_000_000,
    })
}

#[test]
fn the_definitions_that_are_checked_in_are_those_of_the_code() {
    for (name, text) in manifests() {
        let written = std::fs::read_to_string(deploy("base/crds").join(&name)).unwrap();
        assert!(
            written == text,
            "deploy/kubernetes/base/crds/{name} is not what the code says: run `cargo xtask crds`"
        );
    }
}

#[test]
fn the_examples_are_in_force_and_have_every_kind() {
    let examples = examples();
    validate_custom(&definitions(), &examples);
    let output = translated(&examples);
    for (id, verdict) in &output.verdicts {
        assert!(
            verdict.accepted.is_true && verdict.resolved.is_true && verdict.conflicted.is_none(),
            "{id}: {verdict:?}"
        );
    }
    assert_eq!(output.verdicts.len(), examples.len());
    assert!(Kind::ALL.iter().all(|kind| output.verdicts.keys().any(|id| id.kind == *kind)));
}

#[test]
fn what_is_wrong_in_an_object_is_refused_by_the_parser_and_most_of_it_by_the_schema() {
    let examples = examples();
    let has = |example: &Value, at: &str| example.pointer(&format!("/spec{at}")).is_some();
    let of =
        |kind: &str, at: &str| examples.iter().find(|example| example["kind"] == kind && has(example, at)).unwrap();
    // a kind, where in its spec, what is put there, and whether the schema refuses it too or a rule does
    let bad = [
        ("ResiliencePolicy", "/timeout", json!({"request": "5"}), true),
        ("ResiliencePolicy", "/timeout", json!({"request": "25h"}), false),
        ("ResiliencePolicy", "/timeout", json!({"requests": "5s"}), true),
        ("ResiliencePolicy", "/timeout", json!("5s"), true),
        ("ResiliencePolicy", "/breaker/instance/open", json!({"base": "2m"}), false),
        ("ResiliencePolicy", "/breaker/instance/failure_rate", json!("140%"), true),
        ("ResiliencePolicy", "/breaker/classify/hard", json!(["5xx"]), true),
        ("ResiliencePolicy", "/retry/on", json!(["conect"]), true),
        ("ResiliencePolicy", "/retry/budget/ratio", json!("2"), true),
        ("ResiliencePolicy", "/limit/inbound/algorithm", json!("gradient3"), true),
        ("ResiliencePolicy", "/limit/inbound/algorithm", json!("aimd"), false),
        ("ResiliencePolicy", "/limit/rate/key", json!({"type": "header"}), false),
        ("ResiliencePolicy", "/fallback", json!([{"type": "stale"}]), false),
        ("ResiliencePolicy", "/targetRefs", json!([]), true),
        ("ExternalService", "/dns", json!({"name": "db.example"}), false),
        ("ExternalService", "/health", json!({"tcp": {}, "http": "/"}), false),
        ("ExternalService", "/hosts", json!(["a b"]), true),
        ("ExternalService", "/hosts", json!(["checkout.shop"]), false),
        ("ExternalService", "/protocol", json!("smtp"), true),
        ("AuthorizationPolicy", "/allow", json!([{"namespace": "web"}]), false),
        ("AuthorizationPolicy", "/allow", json!(null), true),
        ("AuthorizationPolicy", "/allow", json!([{"spiffeId": "web"}]), true),
        ("BreakerOverride", "/breaker", json!("ajar"), true),
        ("BreakerOverride", "/reason", json!(" "), true),
        ("BreakerOverride", "/until", json!("soon"), false),
    ];
    for (kind, at, value, by_schema) in bad {
        let mut object = of(kind, at).clone();
        let told = format!("{kind} {at} {value}");
        let is_another_s = value == json!(["checkout.shop"]);
        *object.pointer_mut(&format!("/spec{at}")).unwrap() = value;
        let output = translated(std::slice::from_ref(&object));
        let verdict = output.verdicts.values().next().unwrap();
        if is_another_s {
            // what is wrong only because of others is no fault of its own
            let conflicted = verdict.conflicted.as_ref().is_some_and(|said| said.contains("checkout.shop"));
            assert!(conflicted && output.routes.is_empty(), "{verdict:?}");
            continue;
        }
        assert!(!verdict.accepted.is_true && verdict.accepted.reason == "Invalid", "{told}: {verdict:?}");
        let first = at.split('/').nth(1).unwrap();
        assert!(verdict.accepted.message.contains(&format!("spec.{first}")), "{told}: {verdict:?}");
        if by_schema {
            let refused = std::panic::catch_unwind(|| validate_custom(&definitions(), std::slice::from_ref(&object)));
            assert!(refused.is_err(), "{told} is taken by the schema");
        }
    }
}
