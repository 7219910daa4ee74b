//! What the API server checks of a pod's own resources against those of its containers (`validatePodResources`).

use serde_json::{Value, json};

/// What it would refuse, once it has completed what is left out.
pub(crate) fn fault(spec: &Value) -> Option<String> {
    let whole = &spec["resources"];
    for resource in ["cpu", "memory"] {
        let of = |value: &Value, part: &str| value[part].get(resource).map(quantity);
        let asked = together(spec, resource);
        let (mut request, limit) = (of(whole, "requests"), of(whole, "limits"));
        if whole["limits"].is_object() {
            request = request.or((asked > 0).then_some(asked)).or(limit);
        }
        if request.is_some_and(|request| asked > request) {
            return Some(format!("{resource}: the containers ask for {asked}, and the pod for {request:?}"));
        }
        if let (Some(request), Some(limit)) = (request, limit)
            && request > limit
        {
            return Some(format!("{resource}: the pod asks for {request}, and may have {limit}"));
        }
        let most = containers(spec).filter_map(|container| of(&container["resources"], "limits")).max();
        if let (Some(most), Some(limit)) = (most, limit)
            && most > limit
        {
            return Some(format!("{resource}: a container may have {most}, and the pod {limit}"));
        }
    }
    None
}

fn containers(spec: &Value) -> impl Iterator<Item = &Value> {
    ["initContainers", "containers"].iter().flat_map(|part| spec[*part].as_array().into_iter().flatten())
}

/// Of all containers: what runs at once, or the init container that asks for more while it runs.
fn together(spec: &Value, resource: &str) -> u128 {
    let request = |container: &Value| {
        let asked = &container["resources"];
        ["requests", "limits"].iter().find_map(|part| asked[*part].get(resource)).map_or(0, quantity)
    };
    let (mut stays, mut peak) = (0, 0);
    for container in spec["initContainers"].as_array().into_iter().flatten() {
        if container["restartPolicy"] == "Always" {
            stays += request(container);
        } else {
            peak = peak.max(stays + request(container));
        }
    }
    let last: u128 = spec["containers"].as_array().into_iter().flatten().map(request).sum();
    peak.max(stays + last)
}

/// In thousandths.
fn quantity(value: &Value) -> u128 {
    let text = value.as_str().unwrap();
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "m" => 1,
        "" => 1_000,
        "Mi" => 1_000 << 20,
        "Gi" => 1_000 << 30,
        other => panic!("{other} is a unit that no case has had"),
    };
    digits.parse::<u128>().unwrap() * unit
}

#[test]
fn a_sidecar_too_many_is_seen() {
    let mut spec = json!({
        "resources": {"requests": {"cpu": "300m"}, "limits": {"memory": "1Gi"}},
        "initContainers": [{"resources": {"requests": {"cpu": "200m"}}}],
        "containers": [{"resources": {"requests": {"cpu": "100m"}, "limits": {"memory": "512Mi"}}}]
    });
    assert_eq!(fault(&spec), None);
    spec["initContainers"][0]["restartPolicy"] = "Always".into();
    assert_eq!(fault(&spec), None);
    spec["initContainers"][0]["resources"]["limits"]["memory"] = "768Mi".into();
    assert!(fault(&spec).unwrap().contains("memory"));
    spec["initContainers"][0]["resources"] = json!({"requests": {"cpu": "201m"}});
    assert!(fault(&spec).unwrap().contains("cpu"));
}
