//! What the API server does with a new pod: defaults, then the webhooks that are there for it, over TLS.
//!
//! It decides which webhook is called by the namespace's labels. It deliberately knows no CEL: webhooks with `matchConditions`
//! are left out.

use crate::node::Node;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

/// The pod as it is stored, or why it is not.
pub(crate) fn admitted(node: &Node, mut pod: Value) -> Result<Value, String> {
    let spec = pod["spec"].as_object_mut().unwrap();
    spec.entry("serviceAccountName").or_insert("default".into());
    spec.entry("restartPolicy").or_insert("Always".into());
    spec.entry("terminationGracePeriodSeconds").or_insert(30.into());
    let namespace = pod["metadata"]["namespace"].as_str().unwrap();
    let labels = node.api.get("namespaces", "", namespace).unwrap_or_default()["metadata"]["labels"].clone();
    for configuration in node.api.all("admissionregistration.k8s.io/v1/mutatingwebhookconfigurations") {
        for webhook in configuration["webhooks"].as_array().into_iter().flatten() {
            if webhook["matchConditions"].is_null() && selects(&webhook["namespaceSelector"], &labels) {
                call(node, &webhook["clientConfig"], &mut pod)?;
            }
        }
    }
    Ok(pod)
}

fn selects(selector: &Value, labels: &Value) -> bool {
    let mut equal = selector["matchLabels"].as_object().into_iter().flatten();
    let mut terms = selector["matchExpressions"].as_array().into_iter().flatten();
    equal.all(|(key, value)| labels[key] == *value)
        && terms.all(|term| {
            let value = &labels[term["key"].as_str().unwrap()];
            let is_in = term["values"].as_array().is_some_and(|values| values.contains(value));
            match term["operator"].as_str().unwrap() {
                "In" => is_in,
                "NotIn" => !is_in,
                "Exists" => !value.is_null(),
                _ => value.is_null(),
            }
        })
}

fn call(node: &Node, client: &Value, pod: &mut Value) -> Result<(), String> {
    let review = json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "request": {
            "uid": "705ab4f5", "operation": "CREATE", "namespace": pod["metadata"]["namespace"],
            "kind": {"group": "", "version": "v1", "kind": "Pod"}, "object": pod,
        },
    });
    let (service, roots) = (&client["service"], client["caBundle"].as_str().unwrap_or_default());
    let (namespace, name) = (service["namespace"].as_str().unwrap(), service["name"].as_str().unwrap());
    let slice = node.api.get("discovery.k8s.io/v1/endpointslices", namespace, name).unwrap_or_default();
    let ready = slice["endpoints"].as_array().into_iter().flatten().find(|e| e["conditions"]["ready"] == true);
    let address = ready.and_then(|e| e["addresses"][0].as_str()).ok_or("no endpoints available for service")?;
    let dir = tempfile::tempdir_in(node.path()).unwrap();
    let file = |name: &str, content: &[u8]| {
        std::fs::write(dir.path().join(name), content).unwrap();
        dir.path().join(name).display().to_string()
    };
    let roots = file("ca.pem", &STANDARD.decode(roots).unwrap());
    let body = format!("@{}", file("review.json", review.to_string().as_bytes()));
    let host = format!("{name}.{namespace}.svc:{}", service["port"]);
    let to = format!("{host}:{address}:{}", slice["ports"][0]["port"]);
    let url = format!("https://{host}{}", service["path"].as_str().unwrap());
    let json = "content-type: application/json";
    let words = ["-sS", "--fail-with-body", "--max-time", "10", "--cacert", &roots, "--connect-to", &to, "-H", json];
    let out = node.host().run("curl", &[&words[..], &["--data-binary", &body, &url]].concat());
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    if !out.status.success() {
        return Err(format!("failed calling webhook: {said}{}", String::from_utf8_lossy(&out.stderr)));
    }
    let answer: Value = serde_json::from_str(&said).map_err(|e| format!("{e}: {said}"))?;
    let response = &answer["response"];
    if response["allowed"] != true || response["uid"] != review["request"]["uid"] {
        return Err(format!("admission webhook denied the request: {response}"));
    }
    if let Some(patch) = response["patch"].as_str() {
        let patch = serde_json::from_slice(&STANDARD.decode(patch).unwrap()).unwrap();
        fusewire_testkit::kube::json_patch(pod, &patch)?;
    }
    Ok(())
}
