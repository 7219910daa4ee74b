//! Whether a pod can have a sidecar, what its author should know, and the proxied form.

use super::containers::VOLUMES;
use super::restore::CONTAINERS;
use super::wishes::Wishes;
use super::{INTERCEPT, SIDECAR, SIDECAR_UID, containers_mut, list, ports};
use crate::PREFIX;
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// The label of nodes that says what they run.
const OS: &str = "kubernetes.io/os";
pub(super) const PROXY_NAMES: [&str; 2] = ["HTTP_PROXY", "http_proxy"];
pub(super) const NO_PROXY_NAMES: [&str; 2] = ["NO_PROXY", "no_proxy"];
pub(super) const PROXY_URL: &str = "http://127.0.0.1:15002";
/// What is not for the sidecar: this pod, and the API server, which the kubelet names in every container.
pub(super) const NO_PROXY: &str =
    "localhost,127.0.0.1,::1,kubernetes.default,kubernetes.default.svc,$(KUBERNETES_SERVICE_HOST)";

/// # Errors
/// Why this pod could not work with a sidecar.
pub(super) fn refuse(pod: &Value, wishes: &Wishes) -> Result<(), String> {
    let spec = &pod["spec"];
    let without = format!("annotate the pod with {PREFIX}inject: disabled");
    if spec["containers"].as_array().is_none_or(|all| all.is_empty()) {
        return Err("the pod has no containers".into());
    }
    if spec["hostNetwork"] == true {
        return Err(format!(
            "a pod with hostNetwork shares the node's network, whose traffic is not its own: {without}"
        ));
    }
    if is_for_windows(spec) {
        return Err(format!("there is no sidecar for Windows: {without}"));
    }
    let ends = spec["restartPolicy"].as_str().is_some_and(|policy| policy != "Always");
    if ends && !wishes.native {
        let why = "a pod that ends would never end with a sidecar that is no native one";
        return Err(format!("{why}: leave out {PREFIX}native-sidecar: disabled, or {without}"));
    }
    if spec["securityContext"]["runAsUser"] == SIDECAR_UID {
        return Err(same_user("the pod"));
    }
    each(pod).try_for_each(refuse_container)?;
    let mut names = BTreeSet::new();
    // a probe's answer is found by its container's name
    if let Some(twice) = each(pod).filter_map(|c| c["name"].as_str()).find(|name| !names.insert(*name)) {
        return Err(format!("two containers are called {twice}, and Kubernetes wants each name once in a pod"));
    }
    for volume in spec["volumes"].as_array().into_iter().flatten() {
        if let Some(name) = volume["name"].as_str().filter(|name| VOLUMES.contains(name)) {
            return Err(format!("the pod has a volume {name}, which is the name of the sidecar's: give it another"));
        }
    }
    Ok(())
}

/// Whether no other node would do.
fn is_for_windows(spec: &Value) -> bool {
    let required = &spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"];
    let asks = |expression: &Value| {
        let values = expression["values"].as_array();
        expression["key"] == OS
            && expression["operator"] == "In"
            && values.is_some_and(|all| !all.is_empty() && all.iter().all(|value| value == "windows"))
    };
    // a node needs to meet one of the terms, and of that all expressions
    let term = |term: &Value| term["matchExpressions"].as_array().is_some_and(|all| all.iter().any(asks));
    let terms = required["nodeSelectorTerms"].as_array();
    spec["os"]["name"] == "windows"
        || spec["nodeSelector"][OS] == "windows"
        || terms.is_some_and(|all| !all.is_empty() && all.iter().all(term))
}

fn refuse_container(container: &Value) -> Result<(), String> {
    let name = container["name"].as_str().unwrap_or_default();
    if [SIDECAR, INTERCEPT].contains(&name) {
        return Err(format!("the pod has a container {name}, which is the sidecar's name: give it another"));
    }
    if container["securityContext"]["runAsUser"] == SIDECAR_UID {
        return Err(same_user(&format!("container {name}")));
    }
    let declared = container["ports"].as_array().into_iter().flatten();
    match declared.filter_map(|port| port["containerPort"].as_u64()).find(|port| is_ours(*port)) {
        Some(port) => Err(format!("container {name} has port {port}, which is the sidecar's: use another")),
        None => Ok(()),
    }
}

fn same_user(who: &str) -> String {
    format!(
        "{who} runs as user {SIDECAR_UID}, which is the sidecar's and how its own traffic is known: set runAsUser to another"
    )
}

fn is_ours(port: u64) -> bool {
    ports::ALL.iter().any(|ours| u64::from(*ours) == port)
}

fn each(pod: &Value) -> impl Iterator<Item = &Value> {
    CONTAINERS.iter().flat_map(|part| pod["spec"][*part].as_array().into_iter().flatten())
}

/// What works otherwise than one might think.
pub(super) fn warn(pod: &Value, wishes: &Wishes, warnings: &mut Vec<String>) {
    let spec = &pod["spec"];
    if !wishes.native {
        let init = if spec["initContainers"].as_array().is_some_and(|all| !all.is_empty()) {
            "; its init containers run before the sidecar, outside of the mesh"
        } else {
            ""
        };
        warnings.push(format!(
            "without a native sidecar the application may start before the sidecar is ready, and outlive it{init}"
        ));
    }
    if matches!(spec["dnsPolicy"].as_str(), Some("Default" | "None")) {
        warnings
            .push("with this dnsPolicy the sidecar may not find the control plane, whose name is the cluster's".into());
    }
    for container in each(pod) {
        for hook in ["postStart", "preStop"] {
            if container["lifecycle"][hook].get("httpGet").is_some() {
                let name = container["name"].as_str().unwrap_or_default();
                warnings.push(format!(
                    "the {hook} hook of container {name} comes from the node in clear, and is refused unless the policy \
                     says plain: allow: use exec, or exclude its port by {PREFIX}skip-inbound-ports"
                ));
            }
        }
    }
}

/// Tells applications of the sidecar instead of redirecting their traffic.
pub(super) fn proxied(pod: &mut Value, why: &str, warnings: &mut Vec<String>) {
    warnings.push(format!(
        "{why}: applications are told of the sidecar by HTTP_PROXY, which answers 404 for what the mesh does not know; what \
         does not heed it, is no HTTP in clear, or comes in without mTLS passes the sidecar by"
    ));
    for part in CONTAINERS {
        for container in containers_mut(pod, part) {
            let kept = tell(container);
            if !kept.is_empty() {
                let name = container["name"].as_str().unwrap_or_default();
                warnings.push(format!("container {name} sets {} itself, which stays as it is", kept.join(" and ")));
            }
        }
    }
}

/// What the container sets itself.
fn tell(container: &mut Value) -> Vec<&'static str> {
    let mut kept = Vec::new();
    let variables = list(container, "env");
    for (names, value) in [(PROXY_NAMES, PROXY_URL), (NO_PROXY_NAMES, NO_PROXY)] {
        for name in names {
            if variables.iter().any(|variable| variable["name"] == name) {
                kept.push(name);
            } else {
                variables.push(json!({"name": name, "value": value}));
            }
        }
    }
    kept
}
