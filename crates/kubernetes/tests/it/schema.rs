//! Manifests by the schemas of a released Kubernetes, as `kubernetes-validate` carries them: code that is not ours.

use fusewire_testkit::process::python;
use serde_json::Value;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

/// Fails with every fault of every document, unknown fields included.
pub(crate) fn validate(documents: &[Value]) {
    ask("validate_manifests.py", &documents.into());
}

/// The same for objects of our own kinds, by the schemas of their definitions.
pub(crate) fn validate_custom(definitions: &[Value], objects: &[Value]) {
    ask("validate_custom.py", &serde_json::json!({"definitions": definitions, "objects": objects}));
}

fn ask(script: &str, about: &Value) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/python").join(script);
    let mut command = Command::new(python());
    command.arg(script).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let text = serde_json::to_vec(about).unwrap();
    child.stdin.take().unwrap().write_all(&text).unwrap();
    let out = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{said}");
}

#[test]
fn a_field_that_kubernetes_does_not_know_is_found() {
    let pod = serde_json::json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "spec": {"containers": [{"name": "a", "imagee": "x"}]}
    });
    assert!(std::panic::catch_unwind(|| validate(&[pod])).is_err());
}
