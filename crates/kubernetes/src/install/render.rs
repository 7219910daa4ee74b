//! `kubectl kustomize deploy/kubernetes`, for what our own kustomizations use: resources, images, replicas and ConfigMaps
//! from files. What else one says is an error, so that a kustomization cannot quietly mean less here than there.

use crate::yaml;
use serde_json::{Map, Value, json};

macro_rules! embedded {
    ($($path:literal,)*) => { &[$(($path, include_str!(concat!("../../../../deploy/kubernetes/", $path)))),*] };
}

/// Every file that a kustomization names, by its path below `deploy/kubernetes`.
pub const FILES: &[(&str, &str)] = embedded![
    "kustomization.yaml",
    "base/kustomization.yaml",
    "base/namespace.yaml",
    "base/crds/kustomization.yaml",
    "base/crds/authorizationpolicies.yaml",
    "base/crds/breakeroverrides.yaml",
    "base/crds/externalservices.yaml",
    "base/crds/resiliencepolicies.yaml",
    "base/rbac.yaml",
    "base/control-plane.yaml",
    "base/injector.yaml",
    "base/network-policies.yaml",
    "overlays/single-replica/kustomization.yaml",
    "overlays/observability/kustomization.yaml",
    "overlays/observability/alerts.yaml",
    "overlays/observability/scrape.yaml",
    "overlays/observability/collector.yaml",
    "overlays/observability/dashboards/fleet.json",
    "overlays/observability/dashboards/service.json",
];

/// The name by which our manifests call the image.
const IMAGE: &str = "fusewire";

/// The documents of the kustomization in `folder`, in the order in which it names them. `image`: in place of ours.
///
/// # Errors
/// What is missing, or what this renderer does not know.
pub fn render(folder: &str, image: Option<&str>) -> Result<Vec<Value>, String> {
    let path = join(folder, "kustomization.yaml");
    let kustomization = yaml::read(file(&path).ok_or(format!("{path} is not there"))?);
    let kustomization = kustomization.map_err(|e| format!("{path}: {e}"))?.pop().unwrap_or_default();
    let mut documents = Vec::new();
    for (key, value) in kustomization.as_object().into_iter().flatten() {
        match key.as_str() {
            "apiVersion" | "kind" | "generatorOptions" | "images" | "replicas" => {}
            "resources" => resources(folder, value, image, &mut documents)?,
            "configMapGenerator" => {
                let options = &kustomization["generatorOptions"];
                for generator in value.as_array().into_iter().flatten() {
                    documents.push(config_map(folder, generator, options)?);
                }
            }
            other => return Err(format!("{path}: {other} is not known here")),
        }
    }
    for replicas in kustomization["replicas"].as_array().into_iter().flatten() {
        let named =
            documents.iter_mut().filter(|d| d["kind"] == "Deployment" && d["metadata"]["name"] == replicas["name"]);
        named.for_each(|document| document["spec"]["replicas"] = replicas["count"].clone());
    }
    for known in kustomization["images"].as_array().into_iter().flatten() {
        let name = known["name"].as_str().unwrap_or_default();
        let part = |key: &str| known[key].as_str().unwrap_or(name).to_owned();
        let wanted = match image {
            Some(image) if name == IMAGE => image.to_owned(),
            _ => format!("{}:{}", part("newName"), part("newTag")),
        };
        documents.iter_mut().for_each(|document| set_image(document, name, &wanted));
    }
    Ok(documents)
}

fn resources(folder: &str, named: &Value, image: Option<&str>, documents: &mut Vec<Value>) -> Result<(), String> {
    for resource in named.as_array().into_iter().flatten().filter_map(Value::as_str) {
        let path = join(folder, resource);
        match file(&path) {
            Some(text) => documents.extend(yaml::read(text).map_err(|e| format!("{path}: {e}"))?),
            None => documents.extend(render(&path, image)?),
        }
    }
    Ok(())
}

fn config_map(folder: &str, generator: &Value, options: &Value) -> Result<Value, String> {
    if options["disableNameSuffixHash"] != true {
        return Err("a ConfigMap from files needs generatorOptions.disableNameSuffixHash here".into());
    }
    let mut data = Map::new();
    for name in generator["files"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        let path = join(folder, name);
        let text = file(&path).ok_or(format!("{path} is not there"))?;
        data.insert(name.rsplit('/').next().unwrap_or(name).into(), text.into());
    }
    let mut metadata = json!({"name": generator["name"], "labels": options["labels"]});
    if let Some(namespace) = generator.get("namespace") {
        metadata["namespace"] = namespace.clone();
    }
    Ok(json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}))
}

fn set_image(value: &mut Value, name: &str, wanted: &str) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(|item| set_image(item, name, wanted)),
        Value::Object(entries) => {
            for (key, value) in entries {
                match value {
                    Value::String(image) if key == "image" && image == name => wanted.clone_into(image),
                    _ => set_image(value, name, wanted),
                }
            }
        }
        _ => {}
    }
}

fn file(path: &str) -> Option<&'static str> {
    FILES.iter().find(|(known, _)| *known == path).map(|(_, text)| *text)
}

/// `a/b` and `../c` are `a/c`.
fn join(folder: &str, path: &str) -> String {
    let mut parts: Vec<&str> = folder.split('/').filter(|part| !part.is_empty()).collect();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}
