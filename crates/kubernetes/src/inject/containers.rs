//! The sidecar, the init container before it, and their volumes.
//!
//! It decides where they stand: both before the application's own init containers, so that those have the network of the
//! mesh, or, without native sidecars, the rules after them and the sidecar first among the containers. Both have all that
//! the pod security standard `restricted` asks for, but for what redirection needs.

use super::configuration::VARIABLE;
use super::others::{Earlier, SUM, sum};
use super::wishes::{Bounds, Wishes};
use super::{AUDIENCE, INTERCEPT, SIDECAR, SIDECAR_UID, Settings, TRUST, list, ports};
use crate::PREFIX;
use serde_json::{Map, Value, json};

const TOKEN_VOLUME: &str = "fusewire-token";
const TRUST_VOLUME: &str = "fusewire-trust";
const DATA_VOLUME: &str = "fusewire-data";
/// Names that are ours.
pub(super) const VOLUMES: [&str; 3] = [TOKEN_VOLUME, TRUST_VOLUME, DATA_VOLUME];

const TOKEN_DIR: &str = "/var/run/secrets/fusewire";
const TRUST_DIR: &str = "/var/run/fusewire/trust";
pub(super) const TOKEN_FILE: &str = "/var/run/secrets/fusewire/token";
pub(super) const TRUST_FILE: &str = "/var/run/fusewire/trust/ca.pem";
pub(super) const DATA_DIR: &str = "/var/lib/fusewire";
const PROGRAM: &str = "/usr/bin/fusewire";

/// `earlier`: what of ours was there. What was put in, for the next time.
pub(super) fn add(
    pod: &mut Value,
    settings: &Settings,
    wishes: &Wishes,
    (redirected, configuration): (bool, &str),
    earlier: &Earlier,
) -> String {
    let ours = |whole: &Value, configuration: &str| {
        let intercept = redirected.then(|| intercept(settings, wishes, whole));
        (intercept, sidecar(settings, wishes, whole, configuration))
    };
    let volumes = volumes();
    // the API server completes the pod's own resources between two calls, from ours among others: like the configuration,
    // what we leave to them does not count
    let (by_itself, unconfigured) = ours(&Value::Null, "");
    let sum = sum(by_itself.iter().chain([&unconfigured]).chain(&volumes));
    let same = pod["metadata"]["annotations"][format!("{PREFIX}{SUM}")] == *sum;
    let (intercept, sidecar) = ours(&pod["spec"]["resources"], configuration);
    let sidecar = earlier.container(sidecar, same);
    let spec = &mut pod["spec"];
    if wishes.native {
        list(spec, "initContainers").insert(0, sidecar);
    } else {
        list(spec, "containers").insert(0, sidecar);
    }
    if let Some(intercept) = intercept {
        let init = list(spec, "initContainers");
        let at = if wishes.native { 0 } else { init.len() };
        init.insert(at, earlier.container(intercept, same));
    }
    let all = list(spec, "volumes");
    all.extend(volumes.map(|volume| earlier.volume(volume, same)));
    earlier.in_order(all);
    sum
}

fn sidecar(settings: &Settings, wishes: &Wishes, whole: &Value, configuration: &str) -> Value {
    let mut container = json!({
        "name": SIDECAR,
        "image": settings.image,
        "imagePullPolicy": "IfNotPresent",
        "command": [PROGRAM],
        "args": ["sidecar"],
        "env": environment(wishes, configuration),
        "ports": [
            {"name": "fusewire-mtls", "containerPort": ports::MTLS, "protocol": "TCP"},
            {"name": "fusewire-admin", "containerPort": ports::ADMIN, "protocol": "TCP"}
        ],
        // green only once configuration and identity are there; what follows waits for it
        "startupProbe": asks("/ready", 1, 300),
        "readinessProbe": asks("/ready", 5, 3),
        "livenessProbe": asks("/live", 10, 6),
        "resources": resources(wishes, whole),
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "capabilities": {"drop": ["ALL"]},
            "privileged": false,
            "readOnlyRootFilesystem": true,
            "runAsGroup": SIDECAR_UID,
            "runAsNonRoot": true,
            "runAsUser": SIDECAR_UID,
            "seccompProfile": {"type": "RuntimeDefault"}
        },
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [
            {"name": TOKEN_VOLUME, "mountPath": TOKEN_DIR, "readOnly": true},
            {"name": TRUST_VOLUME, "mountPath": TRUST_DIR, "readOnly": true},
            {"name": DATA_VOLUME, "mountPath": DATA_DIR}
        ]
    });
    if wishes.native {
        container["restartPolicy"] = "Always".into();
    }
    container
}

fn asks(path: &str, period: u32, failures: u32) -> Value {
    json!({
        "httpGet": {"path": path, "port": ports::ADMIN},
        "periodSeconds": period,
        "failureThreshold": failures,
        "timeoutSeconds": 2
    })
}

/// The kubelet puts what stands before a variable into it: `$(POD_UID)` in the configuration is the pod's.
fn environment(wishes: &Wishes, configuration: &str) -> Value {
    let field = |name: &str, path: &str| json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}});
    let mut variables = vec![
        field("POD_NAME", "metadata.name"),
        field("POD_NAMESPACE", "metadata.namespace"),
        field("POD_UID", "metadata.uid"),
        field("POD_IP", "status.podIP"),
        field("POD_SERVICE_ACCOUNT", "spec.serviceAccountName"),
        // empty on clusters that do not label pods by their nodes
        field("POD_ZONE", "metadata.labels['topology.kubernetes.io/zone']"),
    ];
    if let Some(level) = &wishes.log_level {
        variables.push(json!({"name": "RUST_LOG", "value": level}));
    }
    variables.push(json!({"name": VARIABLE, "value": configuration}));
    variables.into()
}

/// Of both containers: what a LimitRange or a quota demands of one it demands of the other. The init container is over before the
/// sidecar begins, so that the pod asks for no more by it.
///
/// `whole`: the pod's own resources, which all its containers share. What they bound is left to them, limits too (a request would
/// be made of one): requests of containers may not be more together, and their author counted without ours. What the pod's own
/// annotations say is asked for all the same.
fn resources(wishes: &Wishes, whole: &Value) -> Value {
    let (mut requests, mut limits) = (Map::new(), Map::new());
    for (name, Bounds { request, limit }) in [("cpu", &wishes.cpu), ("memory", &wishes.memory)] {
        let is_shared = ["requests", "limits"].iter().any(|part| whole[*part].get(name).is_some());
        let wished = |part: &str| !is_shared || wishes.own.contains(&format!("proxy-{name}-{part}"));
        if wished("request") || wished("limit") {
            requests.insert(name.into(), request.as_str().into());
        }
        if let Some(limit) = limit.as_ref().filter(|_| wished("limit")) {
            limits.insert(name.into(), limit.as_str().into());
        }
    }
    let parts =
        [("requests", requests), ("limits", limits)].into_iter().filter(|(_, quantities)| !quantities.is_empty());
    parts.map(|(part, quantities)| (part.to_owned(), quantities.into())).collect::<Map<_, _>>().into()
}

fn intercept(settings: &Settings, wishes: &Wishes, whole: &Value) -> Value {
    let own = format!("{},{}", ports::MTLS, ports::ADMIN);
    let inbound = [Some(own), wishes.skip_inbound.clone()].into_iter().flatten().collect::<Vec<_>>().join(",");
    let uid = SIDECAR_UID.to_string();
    let mut arguments = vec!["intercept", "up", "--uid", &uid, "--exclude-inbound-ports", &inbound];
    if let Some(outbound) = &wishes.skip_outbound {
        arguments.extend(["--exclude-outbound-ports", outbound]);
    }
    json!({
        "name": INTERCEPT,
        "image": settings.image,
        "imagePullPolicy": "IfNotPresent",
        "command": [PROGRAM],
        "args": arguments,
        "resources": resources(wishes, whole),
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "capabilities": {"add": ["NET_ADMIN", "NET_RAW"], "drop": ["ALL"]},
            "privileged": false,
            "readOnlyRootFilesystem": true,
            "runAsGroup": 0,
            "runAsNonRoot": false,
            "runAsUser": 0,
            "seccompProfile": {"type": "RuntimeDefault"}
        },
        "terminationMessagePolicy": "FallbackToLogsOnError"
    })
}

fn volumes() -> [Value; 3] {
    let token = json!({"path": "token", "audience": AUDIENCE, "expirationSeconds": 3600});
    [
        json!({"name": TOKEN_VOLUME, "projected": {"sources": [{"serviceAccountToken": token}]}}),
        json!({"name": TRUST_VOLUME, "configMap": {"name": TRUST, "items": [{"key": "ca.pem", "path": "ca.pem"}]}}),
        // the key and the last configuration: they outlive a restart of the container and never a node's disk
        json!({"name": DATA_VOLUME, "emptyDir": {"medium": "Memory"}}),
    ]
}
