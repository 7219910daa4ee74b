//! Taking out what an earlier injection put in.
//!
//! It decides what is ours: what bears our names in a pod that has our sidecar, by its configuration variable. A container
//! that only shares the name is its author's, and refused elsewhere. The probes come back from the sidecar's configuration,
//! where they were written down.

use super::configuration::{self, VARIABLE};
use super::containers::VOLUMES;
use super::form::{NO_PROXY, NO_PROXY_NAMES, PROXY_NAMES, PROXY_URL};
use super::others::Earlier;
use super::probes;
use super::{INTERCEPT, SIDECAR};
use serde_json::Value;

/// Where containers stand in a pod.
pub(super) const CONTAINERS: [&str; 2] = ["initContainers", "containers"];

/// What was taken out.
pub(super) fn restore(pod: &mut Value) -> Earlier {
    let mut earlier = Earlier::default();
    let Some(text) = sidecar(pod).and_then(configuration_of).map(str::to_owned) else { return earlier };
    let Some(spec) = pod.get_mut("spec") else { return earlier };
    for part in CONTAINERS {
        let Some(containers) = array_mut(spec, part) else { continue };
        let before = containers.len();
        let ours = containers.extract_if(.., |c| matches!(c["name"].as_str(), Some(SIDECAR | INTERCEPT)));
        earlier.containers.extend(ours);
        for container in containers.iter_mut() {
            without_proxy(container);
        }
        // an empty list that was there before us is not ours to take out
        if containers.len() < before && part == "initContainers" {
            drop_empty(spec, part);
        }
    }
    if let Some(volumes) = array_mut(spec, "volumes") {
        earlier.order = volumes.iter().filter_map(|volume| volume["name"].as_str()).map(str::to_owned).collect();
        let is_ours = |volume: &mut Value| volume["name"].as_str().is_some_and(|name| VOLUMES.contains(&name));
        earlier.volumes = volumes.extract_if(.., is_ours).collect();
    }
    drop_empty(spec, "volumes");
    probes::restore(pod, &configuration::probes(&text));
    earlier
}

/// Our container, if it is there.
pub(super) fn sidecar(pod: &Value) -> Option<&Value> {
    let all = CONTAINERS.iter().flat_map(|part| pod["spec"][*part].as_array().into_iter().flatten());
    all.into_iter().find(|c| c["name"] == SIDECAR && configuration_of(c).is_some())
}

fn configuration_of(container: &Value) -> Option<&str> {
    let variables = container["env"].as_array()?;
    variables.iter().find(|variable| variable["name"] == VARIABLE)?["value"].as_str()
}

fn array_mut<'a>(of: &'a mut Value, key: &str) -> Option<&'a mut Vec<Value>> {
    of.get_mut(key)?.as_array_mut()
}

fn without_proxy(container: &mut Value) {
    let Some(variables) = array_mut(container, "env") else { return };
    let before = variables.len();
    variables.retain(|variable| {
        let (name, value) = (variable["name"].as_str().unwrap_or_default(), variable["value"].as_str());
        let ours = (PROXY_NAMES.contains(&name) && value == Some(PROXY_URL))
            || (NO_PROXY_NAMES.contains(&name) && value == Some(NO_PROXY));
        !ours
    });
    // nor here
    if variables.len() < before {
        drop_empty(container, "env");
    }
}

fn drop_empty(of: &mut Value, key: &str) {
    if of[key].as_array().is_some_and(Vec::is_empty)
        && let Some(entries) = of.as_object_mut()
    {
        entries.remove(key);
    }
}
