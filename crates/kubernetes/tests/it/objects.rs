//! Objects as their controllers write them.

use serde_json::{Value, json};

pub(crate) fn service(namespace: &str, name: &str, spec: Value) -> Value {
    let metadata = json!({"namespace": namespace, "name": name});
    json!({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec})
}

/// With one port, `http` of 8080.
pub(crate) fn slice(namespace: &str, name: &str, of: &str, endpoints: Value) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"namespace": namespace, "name": name, "labels": {"kubernetes.io/service-name": of}},
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}], "endpoints": endpoints,
    })
}

pub(crate) fn endpoint(ip: &str, pod: &str, conditions: Value) -> Value {
    json!({
        "addresses": [ip], "conditions": conditions, "zone": "a",
        "targetRef": {"kind": "Pod", "name": pod, "uid": format!("uid-{pod}")},
    })
}

pub(crate) fn ready() -> Value {
    json!({"ready": true, "serving": true, "terminating": false})
}

/// One that has a sidecar; `a` is at 10.0.0.1, `b` at 10.0.0.2 and so on.
pub(crate) fn pod(namespace: &str, name: &str, account: &str) -> Value {
    let ip = format!("10.0.0.{}", name.as_bytes()[0] - b'a' + 1);
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "namespace": namespace, "name": name, "uid": format!("uid-{name}"), "labels": {"fusewire.io/injected": "true"},
        },
        "spec": {"serviceAccountName": account, "containers": []},
        "status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}]},
    })
}

/// One that has none.
pub(crate) fn plain_pod(namespace: &str, name: &str) -> Value {
    let mut pod = pod(namespace, name, "default");
    pod["metadata"]["labels"] = json!({});
    pod
}

pub(crate) fn of<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}
