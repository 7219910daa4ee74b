//! What Kubernetes makes of Services and pods: EndpointSlices, and the names of the cluster's DNS.

use crate::probes::number;
use fusewire_testkit::KubeApi;
use fusewire_testkit::dns::{NameServer, Script};
use serde_json::{Value, json};
use std::net::IpAddr;

const SLICES: &str = "discovery.k8s.io/v1/endpointslices";

/// Brings them up to what is in the API server now.
pub(crate) fn run(api: &KubeApi, names: &NameServer) {
    let pods = api.all("pods");
    for service in api.all("services") {
        let slice = slice(&service, &pods);
        let metadata = &service["metadata"];
        let (namespace, name) = (metadata["namespace"].as_str().unwrap(), metadata["name"].as_str().unwrap());
        names.set(&format!("{name}.{namespace}.svc.cluster.local"), addresses(&service, &slice));
        let before = api.get(SLICES, namespace, name).unwrap_or_default();
        if before["endpoints"] != slice["endpoints"] || before["ports"] != slice["ports"] {
            api.put(slice);
        }
    }
}

fn slice(service: &Value, pods: &[Value]) -> Value {
    let metadata = &service["metadata"];
    let selector = service["spec"]["selector"].as_object();
    let selected = |pod: &&Value| {
        let labels = &pod["metadata"]["labels"];
        pod["metadata"]["namespace"] == metadata["namespace"]
            && selector.is_some_and(|selector| selector.iter().all(|(key, value)| labels[key] == *value))
            && pod["status"]["podIP"].is_string()
            && !["Succeeded", "Failed"].contains(&pod["status"]["phase"].as_str().unwrap_or_default())
    };
    let pods: Vec<&Value> = pods.iter().filter(selected).collect();
    let ports = service["spec"]["ports"].as_array().into_iter().flatten().map(|port| {
        let target = port.get("targetPort").unwrap_or(&port["port"]);
        let of_pod = |pod: &&Value| {
            let containers = ["containers", "initContainers"].map(|part| pod["spec"][part].as_array());
            containers.into_iter().flatten().flatten().find_map(|container| number(target, container))
        };
        json!({"name": port["name"], "protocol": "TCP", "port": pods.first().and_then(of_pod), "appProtocol": port["appProtocol"]})
    });
    let ports: Vec<Value> = ports.collect();
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {
            "namespace": metadata["namespace"], "name": metadata["name"],
            "labels": {"kubernetes.io/service-name": metadata["name"]},
        },
        "ports": ports,
        "endpoints": pods.into_iter().map(endpoint).collect::<Vec<_>>(),
    })
}

fn endpoint(pod: &Value) -> Value {
    let conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
    let serving = conditions.into_iter().any(|c| c["type"] == "Ready" && c["status"] == "True");
    let terminating = pod["metadata"]["deletionTimestamp"].is_string();
    json!({
        "addresses": [pod["status"]["podIP"]], "nodeName": pod["spec"]["nodeName"], "zone": "z1",
        "conditions": {"ready": serving && !terminating, "serving": serving, "terminating": terminating},
        "targetRef": {
            "kind": "Pod", "namespace": pod["metadata"]["namespace"], "name": pod["metadata"]["name"],
            "uid": pod["metadata"]["uid"],
        },
    })
}

/// A headless Service is its pods.
fn addresses(service: &Value, slice: &Value) -> Script {
    let address = |ip: &Value| ip.as_str().and_then(|ip| ip.parse::<IpAddr>().ok());
    let ready = slice["endpoints"].as_array().into_iter().flatten().filter(|e| e["conditions"]["ready"] == true);
    match address(&service["spec"]["clusterIP"]) {
        Some(ip) => Script::Addresses(vec![ip], 5),
        None => Script::Addresses(ready.filter_map(|e| address(&e["addresses"][0])).collect(), 5),
    }
}
