//! What `deploy/kubernetes` says, as this binary renders it.

use crate::schema;
use expect_test::expect;
use fusewire_kubernetes::install::{FILES, Overlay, Wishes, apply, manifests};
use fusewire_kubernetes::{Client, yaml};
use fusewire_model::TrustDomain;
use fusewire_testkit::KubeApi;
use kube::config::{Config, KubeConfigOptions, Kubeconfig};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

const OVERLAYS: [Overlay; 3] = [Overlay::None, Overlay::SingleReplica, Overlay::Observability];

fn all(overlay: Overlay) -> Vec<Value> {
    manifests(overlay, Some("registry.example/fusewire:1"), "fusewire-system").unwrap()
}

fn of<'a>(documents: &'a [Value], kind: &str) -> impl Iterator<Item = &'a Value> {
    documents.iter().filter(move |document| document["kind"] == kind)
}

#[test]
fn everything_that_is_installed_is_valid_by_kubernetes_own_schemas() {
    for overlay in OVERLAYS {
        schema::validate(&all(overlay));
    }
}

/// A pod's address has no brackets, whatever its family: with a port behind it an IPv6 one would be none.
#[test]
fn the_control_plane_is_reached_in_clusters_of_either_family() {
    for document in OVERLAYS.iter().flat_map(|overlay| all(*overlay)).filter(|d| d["kind"] == "Deployment") {
        for container in document["spec"]["template"]["spec"]["containers"].as_array().unwrap() {
            for argument in
                container["args"].as_array().into_iter().flatten().map(|argument| argument.as_str().unwrap())
            {
                assert!(!argument.contains("$(POD_IP):"), "{argument}");
                assert!(!argument.contains("0.0.0.0"), "{argument} is one family");
            }
        }
    }
}

#[test]
fn every_file_is_in_this_binary() {
    fn files(dir: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
            if entry.is_dir() { files(&entry, found) } else { found.push(entry) }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/kubernetes");
    let mut found = Vec::new();
    files(&root, &mut found);
    let name = |path: &PathBuf| path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
    let there: BTreeSet<String> =
        found.iter().map(name).filter(|name| !name.ends_with(".md") && !name.starts_with("examples/")).collect();
    let embedded: BTreeSet<String> = FILES.iter().map(|(path, _)| (*path).to_owned()).collect();
    assert_eq!(there, embedded);
}

#[test]
fn what_runs_asks_for_nothing_that_the_restricted_standard_forbids() {
    for document in OVERLAYS.iter().flat_map(|overlay| all(*overlay)).filter(|d| d["kind"] == "Deployment") {
        let pod = &document["spec"]["template"]["spec"];
        assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
        assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
        for container in pod["containers"].as_array().unwrap() {
            let security = &container["securityContext"];
            assert_eq!(security["allowPrivilegeEscalation"], false, "{container}");
            assert_eq!(security["readOnlyRootFilesystem"], true);
            assert_eq!(security["capabilities"]["drop"][0], "ALL");
            assert!(container["resources"]["requests"]["cpu"].is_string() && container["readinessProbe"].is_object());
        }
    }
}

#[test]
fn a_webhook_never_stands_in_the_way_of_the_control_plane_or_the_system() {
    let documents = all(Overlay::None);
    let configuration = of(&documents, "MutatingWebhookConfiguration").next().unwrap();
    for webhook in configuration["webhooks"].as_array().unwrap() {
        let excluded = webhook["namespaceSelector"]["matchExpressions"].as_array().unwrap();
        let excluded = excluded.iter().find(|e| e["key"] == "kubernetes.io/metadata.name").unwrap();
        assert_eq!(excluded["values"], serde_json::json!(["kube-system", "fusewire-system"]), "{webhook}");
        assert!(webhook["failurePolicy"].is_string() && webhook["reinvocationPolicy"] == "IfNeeded");
        assert!(webhook["clientConfig"].get("caBundle").is_none(), "to apply it again must not undo what was put in");
    }
}

#[test]
fn the_control_plane_may_do_nothing_to_everything() {
    let documents = all(Overlay::Observability);
    for role in of(&documents, "ClusterRole").chain(of(&documents, "Role")) {
        for rule in role["rules"].as_array().unwrap() {
            let words = |key: &str| -> Vec<&str> {
                rule[key].as_array().into_iter().flatten().filter_map(Value::as_str).collect()
            };
            assert!(!words("verbs").contains(&"*") && !words("apiGroups").contains(&"*"), "{rule}");
            let changes = words("verbs").iter().any(|verb| ["update", "patch", "delete"].contains(verb));
            let own = words("apiGroups").iter().all(|g| ["coordination.k8s.io", "events.k8s.io"].contains(g));
            let status = words("resources").iter().all(|resource| resource.ends_with("/status"));
            assert!(!changes || own || status || !words("resourceNames").is_empty(), "{rule} is not bound to a name");
        }
    }
}

/// Nothing that it never does: who adds a call adds its verb here and there.
#[test]
fn the_control_planes_verbs_are_these_and_no_others() {
    let documents = all(Overlay::None);
    let mut rights = String::new();
    for role in of(&documents, "Role").chain(of(&documents, "ClusterRole")) {
        for rule in role["rules"].as_array().unwrap() {
            let words = |key: &str| {
                let all = rule[key].as_array().into_iter().flatten().filter_map(Value::as_str);
                all.collect::<Vec<_>>().join(" ")
            };
            let (group, names) = (words("apiGroups"), words("resourceNames"));
            for resource in words("resources").split(' ') {
                let place = [role["kind"].as_str().unwrap(), &group, resource, &names];
                let place = place.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ");
                rights += &format!("{place}: {}\n", words("verbs"));
            }
        }
    }
    expect![[r#"
        Role secrets fusewire-store: get list watch update
        Role secrets: create
        Role coordination.k8s.io leases: get list create update patch delete
        ClusterRole pods: get list watch
        ClusterRole namespaces: get list watch
        ClusterRole services: list watch
        ClusterRole discovery.k8s.io endpointslices: list watch
        ClusterRole fusewire.io resiliencepolicies: list watch
        ClusterRole fusewire.io externalservices: list watch
        ClusterRole fusewire.io authorizationpolicies: list watch
        ClusterRole fusewire.io breakeroverrides: list watch
        ClusterRole fusewire.io resiliencepolicies/status: patch
        ClusterRole fusewire.io externalservices/status: patch
        ClusterRole fusewire.io authorizationpolicies/status: patch
        ClusterRole fusewire.io breakeroverrides/status: patch
        ClusterRole gateway.networking.k8s.io httproutes: get list watch
        ClusterRole gateway.networking.k8s.io grpcroutes: get list watch
        ClusterRole gateway.networking.k8s.io referencegrants: list watch
        ClusterRole gateway.networking.k8s.io httproutes/status: update
        ClusterRole gateway.networking.k8s.io grpcroutes/status: update
        ClusterRole authentication.k8s.io tokenreviews: create
        ClusterRole configmaps fusewire-trust: list watch patch
        ClusterRole configmaps: create
        ClusterRole admissionregistration.k8s.io mutatingwebhookconfigurations fusewire-injector: get patch
        ClusterRole events.k8s.io events: create
    "#]]
    .assert_eq(&rights);
}

/// What an operator wrote, and how far somebody scaled it.
#[tokio::test]
async fn installed_again_it_leaves_what_its_operators_set() {
    let server = KubeApi::start();
    let kubeconfig = Kubeconfig::from_yaml(&server.kubeconfig()).unwrap();
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
    let client = Client::try_from(config).unwrap();
    let mut told = Vec::new();
    apply(&client, &all(Overlay::None), &Wishes::default(), |what| told.push(what.to_owned())).await.unwrap();
    assert!(told.contains(&"ConfigMap fusewire-system/fusewire-mesh: made".to_owned()), "{told:?}");
    let mut mesh = server.get("configmaps", "fusewire-system", "fusewire-mesh").unwrap();
    mesh["data"] = json!({"mesh.yaml": "trust_domain: shop.example\n", "policies.yaml": "policies: {}\n"});
    let mesh = server.put(mesh);
    let control = || server.get("apps/v1/deployments", "fusewire-system", "fusewire-control").unwrap();
    let mut scaled = control();
    scaled["spec"]["replicas"] = 3.into();
    let fields = json!({"f:spec": {"f:replicas": {}}});
    let by = json!({"manager": "kubectl", "operation": "Update", "subresource": "scale", "fieldsV1": fields});
    scaled["metadata"]["managedFields"] = json!([by]);
    server.put(scaled);
    told.clear();
    apply(&client, &all(Overlay::None), &Wishes::default(), |what| told.push(what.to_owned())).await.unwrap();
    assert_eq!(server.get("configmaps", "fusewire-system", "fusewire-mesh").unwrap(), mesh);
    assert_eq!(control()["spec"]["replicas"], 3);
    for what in
        ["fusewire-mesh: is there already, and left as it is", "applied, at the 3 replicas that it was scaled to"]
    {
        assert!(told.iter().any(|told| told.ends_with(what)), "{told:?}");
    }
    let told = Wishes { trust_domain: TrustDomain::parse("other.example").ok(), replicas: true };
    let refused = apply(&client, &all(Overlay::SingleReplica), &told, |_| ()).await.unwrap_err().to_string();
    assert!(refused.contains("shop.example") && control()["spec"]["replicas"] == 3, "{refused}");
    let told = Wishes { trust_domain: TrustDomain::parse("shop.example").ok(), replicas: true };
    apply(&client, &all(Overlay::SingleReplica), &told, |_| ()).await.unwrap();
    assert_eq!(control()["spec"]["replicas"], 1, "where that is asked for");
    // what nobody else set is what was asked for
    let mut own = control();
    own["metadata"]["managedFields"][0]["subresource"].take();
    server.put(own);
    apply(&client, &all(Overlay::SingleReplica), &Wishes::default(), |_| ()).await.unwrap();
    assert_eq!(control()["spec"]["replicas"], 1);
}

#[test]
fn image_and_namespace_are_what_was_asked_for_everywhere() {
    let documents = manifests(Overlay::Observability, Some("registry.example/fusewire:1"), "mesh").unwrap();
    let text = yaml::write(&documents);
    assert!(!text.contains("image: fusewire") && text.contains("image: registry.example/fusewire:1"));
    for document in &documents {
        assert!(document["metadata"]["namespace"].as_str().is_none_or(|namespace| namespace == "mesh"), "{document}");
    }
    let webhooks = of(&documents, "MutatingWebhookConfiguration").next().unwrap();
    assert_eq!(webhooks["webhooks"][0]["clientConfig"]["service"]["namespace"], "mesh");
    let latest = manifests(Overlay::SingleReplica, None, "fusewire-system").unwrap();
    let control = of(&latest, "Deployment").next().unwrap();
    assert_eq!(control["spec"]["replicas"], 1);
    assert_eq!(control["spec"]["template"]["spec"]["containers"][0]["image"], "fusewire:latest");
}

/// Series that dashboards and alerts ask for exist under these names; the sidecar's own tests say what is in them.
#[test]
fn dashboards_and_alerts_ask_for_series_that_there_are() {
    let read = |path: &str| std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap();
    let sources = ["../telemetry/src/metrics.rs", "../control/src/metrics.rs", "../control/src/trust/metrics.rs"];
    let mut known = sources.map(read).concat();
    known += &read("../control/src/traces/mod.rs");
    let asked = FILES.iter().filter(|(path, _)| path.ends_with(".json") || path.ends_with("alerts.yaml"));
    let mut seen = 0;
    for (path, text) in asked {
        for part in text.split("fusewire_").skip(1) {
            let name: String = part.chars().take_while(|c| c.is_ascii_lowercase() || *c == '_').collect();
            let bare =
                ["_total", "_bucket"].iter().fold(name.as_str(), |name, end| name.strip_suffix(end).unwrap_or(name));
            let bare = [bare, bare.trim_end_matches("_seconds"), bare.trim_end_matches("_bytes")];
            assert!(bare.iter().any(|bare| known.contains(&format!("\"{bare}\""))), "{path}: fusewire_{name}");
            seen += 1;
        }
    }
    assert!(seen > 25, "{seen}");
}
