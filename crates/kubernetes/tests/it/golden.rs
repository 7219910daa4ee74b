//! `tests/golden/NAME.yaml` becomes `tests/golden/injected/NAME.yaml`. `UPDATE_EXPECT=1 cargo test` writes what is new.

use crate::{resources, schema};
use expect_test::expect_file;
use fusewire_kubernetes::{Namespace, Settings, inject_manifests, uninject_manifests, yaml};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

pub(crate) fn settings() -> Settings {
    // a version that does not change with ours
    Settings { version: "0.0.0".into(), ..Settings::new("fusewire:test", "fusewire-system", "cluster.local") }
}

fn cases() -> Vec<(String, String)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let files = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> = files.filter(|path| path.extension().is_some_and(|e| e == "yaml")).collect();
    files.sort();
    assert!(files.len() >= 20, "only {} cases", files.len());
    let name = |path: &Path| path.file_stem().unwrap().to_str().unwrap().to_owned();
    files.iter().map(|path| (name(path), std::fs::read_to_string(path).unwrap())).collect()
}

#[test]
fn real_pods_get_the_sidecar_that_they_should() {
    for (name, text) in cases() {
        let injection = inject_manifests(&text, &Namespace::default(), &settings()).unwrap();
        let mut shown = String::new();
        let told =
            [("injected", &injection.injected), ("warning", &injection.warnings), ("refused", &injection.refused)];
        for (word, all) in told {
            all.iter().for_each(|one| shown += &format!("# {word}: {one}\n"));
        }
        expect_file![format!("../golden/injected/{name}.yaml")].assert_eq(&(shown + &injection.text));
    }
}

#[test]
fn to_inject_twice_is_to_inject_once() {
    for (name, text) in cases() {
        let once = inject_manifests(&text, &Namespace::default(), &settings()).unwrap();
        let twice = inject_manifests(&once.text, &Namespace::default(), &settings()).unwrap();
        assert_eq!(twice.text, once.text, "{name}");
        assert_eq!(twice.warnings, once.warnings, "{name}");
    }
}

#[test]
fn what_is_taken_out_again_leaves_nothing_that_is_injected() {
    for (name, text) in cases() {
        let injected = inject_manifests(&text, &Namespace::default(), &settings()).unwrap().text;
        let out = uninject_manifests(&injected).unwrap();
        for ours in ["FUSEWIRE_CONFIG", "fusewire:test", "app-health", "127.0.0.1:15002", "fusewire-token"] {
            assert!(!out.contains(ours), "{name}: {ours} in\n{out}");
        }
        let again = inject_manifests(&out, &Namespace::default(), &settings()).unwrap();
        assert_eq!(again.text, injected, "{name}");
    }
}

#[test]
fn injected_manifests_are_valid_by_kubernetes_own_schemas() {
    let mut documents = Vec::new();
    for (_, text) in cases() {
        let injected = inject_manifests(&text, &Namespace::default(), &settings()).unwrap().text;
        documents.extend(yaml::read(&injected).unwrap());
    }
    schema::validate(&documents);
}

/// The sidecar's own parser reads what the injector wrote, once the kubelet has put the pod's values in.
#[test]
fn the_sidecar_understands_its_configuration() {
    let mut seen = 0;
    for (name, text) in cases() {
        let injected = inject_manifests(&text, &Namespace::default(), &settings()).unwrap().text;
        for document in yaml::read(&injected).unwrap() {
            for configuration in configurations(&document) {
                for (zone, ip) in [("eu-1a", "10.0.0.7"), ("", "fd00::7")] {
                    let text = expanded(&configuration, zone, ip);
                    let source = fusewire_model::yaml::Source { name: name.clone(), text: text.clone() };
                    let parsed =
                        fusewire_model::yaml::parse(&[source]).unwrap_or_else(|e| panic!("{name}: {e:?}\n{text}"));
                    let sidecar = parsed.sidecar.unwrap();
                    assert_eq!(sidecar.workload.as_str(), "spiffe://cluster.local/ns/shop/sa/web", "{name}");
                    let inbound = sidecar.inbound.unwrap();
                    let app = if text.contains("app:") { ip } else { "127.0.0.1" };
                    assert_eq!((inbound.listen.port(), inbound.app.to_string()), (15_008, app.into()), "{name}");
                    assert_eq!(sidecar.zone.as_deref(), Some(zone).filter(|zone| !zone.is_empty()), "{name}");
                    seen += 1;
                }
            }
        }
    }
    assert!(seen > 30, "{seen}");
}

/// As `kubectl get namespaces,pods -o yaml` prints them.
#[test]
fn namespaces_in_lists_count_for_the_pods_beside_them() {
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web", "namespace": "tight"},
        "spec": {"containers": [{"name": "web", "image": "web"}]},
    });
    let labels = json!({"pod-security.kubernetes.io/enforce": "restricted"});
    let namespace = |kind: Value| json!({"kind": kind, "metadata": {"name": "tight", "labels": labels}});
    for list in [
        json!({"apiVersion": "v1", "kind": "List", "items": [pod, namespace("Namespace".into())]}),
        json!({"kind": "List", "items": [{"kind": "NamespaceList", "items": [namespace(Value::Null)]}, pod]}),
    ] {
        let injected = inject_manifests(&yaml::write(&[list]), &Namespace::default(), &settings()).unwrap();
        assert!(injected.text.contains("HTTP_PROXY") && !injected.text.contains("NET_ADMIN"), "{}", injected.text);
    }
}

/// The API server refuses others.
#[test]
fn no_pod_asks_for_more_than_it_has_as_a_whole() {
    let mut seen = 0;
    for (name, text) in cases() {
        let injected = inject_manifests(&text, &Namespace::default(), &settings()).unwrap().text;
        for pod in yaml::read(&injected).unwrap().iter().filter(|document| document["kind"] == "Pod") {
            let fault = resources::fault(&pod["spec"]);
            assert_eq!(fault, None, "{name}: {}", pod["metadata"]["name"]);
            seen += usize::from(pod["spec"]["resources"].is_object());
        }
    }
    assert!(seen >= 5, "{seen}");
}

fn configurations(value: &serde_json::Value) -> Vec<String> {
    match value {
        serde_json::Value::Array(all) => all.iter().flat_map(configurations).collect(),
        serde_json::Value::Object(entries) if value["name"] == "FUSEWIRE_CONFIG" => {
            vec![entries["value"].as_str().unwrap().to_owned()]
        }
        serde_json::Value::Object(entries) => entries.values().flat_map(configurations).collect(),
        _ => Vec::new(),
    }
}

/// As the kubelet does it (k8s.io/kubernetes/third_party/forked/golang/expansion).
fn expanded(text: &str, zone: &str, ip: &str) -> String {
    let values = [
        ("POD_NAME", "web-1"),
        ("POD_NAMESPACE", "shop"),
        ("POD_UID", "0f8fad5b-d9cb-469f-a165-70867728950e"),
        ("POD_IP", ip),
        ("POD_SERVICE_ACCOUNT", "web"),
        ("POD_ZONE", zone),
    ];
    let (mut out, mut rest) = (String::new(), text);
    while let Some(at) = rest.find('$') {
        out += &rest[..at];
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some((name, after)) = rest.strip_prefix('(').and_then(|rest| rest.split_once(')')) {
            let value = values.iter().find(|(known, _)| *known == name);
            out += value.unwrap_or_else(|| panic!("$({name}) is the application's, and must not be replaced")).1;
            rest = after;
        } else {
            out.push('$');
        }
    }
    out + rest
}
