//! What others did to our containers and volumes since we put them in: admission between two calls of the webhook
//! (LimitRanger's defaults, mounts of service account tokens, AlwaysPullImages), a mirror's image, a
//! VerticalPodAutoscaler's requests.
//!
//! It decides what of it stays. Where we would put in now what we put in then ([`sum`], kept as an annotation), all of it
//! does, but for the sidecar's configuration, which is made of the pod as it is. Where we would not (another version,
//! another image, an annotation that came later), what we set is ours again, and what we leave open stays as it was found.
//! It deliberately does not look at files so: what is injected into them anew is as if it were for the first time.
//!
//! Invariant: where nobody did anything, ours are what they would be in a pod that never had them.

use super::configuration::VARIABLE;
use super::containers::VOLUMES;
use super::quantity;
use super::{list, object};
use serde_json::{Map, Value};

/// The annotation.
pub(super) const SUM: &str = "sum";

/// Fields that say what a container is: ours, whether we set them or not.
const WHOLE: [&str; 11] = [
    "name",
    "image",
    "command",
    "args",
    "restartPolicy",
    "restartPolicyRules",
    "lifecycle",
    "ports",
    "startupProbe",
    "readinessProbe",
    "livenessProbe",
];
/// A variable that we set only where somebody wishes it.
const LEVEL: &str = "RUST_LOG";

/// What of ours was in a pod before it was taken out.
#[derive(Debug, Default)]
pub(super) struct Earlier {
    pub(super) containers: Vec<Value>,
    pub(super) volumes: Vec<Value>,
    /// Names of all the pod's volumes, in their order.
    pub(super) order: Vec<String>,
}

/// Of what we put in, without the configuration.
pub(super) fn sum<'a>(ours: impl IntoIterator<Item = &'a Value>) -> String {
    let text: String = ours.into_iter().map(Value::to_string).collect();
    format!("{:016x}", fusewire_resilience::balance::hash(text.as_bytes()))
}

impl Earlier {
    /// `fresh`, with what others did to the container of its name. `same`: it is what we put in then.
    pub(super) fn container(&self, mut fresh: Value, same: bool) -> Value {
        let Some(found) = self.containers.iter().find(|found| found["name"] == fresh["name"]) else { return fresh };
        if same {
            let mut kept = found.clone();
            configured(&mut kept, &fresh);
            return kept;
        }
        complete(object(&mut fresh), found);
        fresh
    }

    /// The same of a volume, which nobody has to share with us.
    pub(super) fn volume(&self, fresh: Value, same: bool) -> Value {
        let found = self.volumes.iter().find(|found| same && found["name"] == fresh["name"]);
        found.cloned().unwrap_or(fresh)
    }

    /// Volumes where they were, and new ones behind.
    pub(super) fn in_order(&self, volumes: &mut [Value]) {
        let place = |volume: &Value| self.order.iter().position(|name| volume["name"] == **name);
        volumes.sort_by_key(|volume| place(volume).unwrap_or(usize::MAX));
    }
}

/// Puts `fresh`'s configuration in the place of the one that is there.
fn configured(kept: &mut Value, fresh: &Value) {
    let variables = fresh["env"].as_array().into_iter().flatten();
    let Some(now) = variables.into_iter().find(|variable| variable["name"] == VARIABLE) else { return };
    for variable in list(kept, "env").iter_mut().filter(|variable| variable["name"] == VARIABLE) {
        *variable = now.clone();
    }
}

fn complete(fresh: &mut Map<String, Value>, found: &Value) {
    for (key, value) in found.as_object().into_iter().flatten() {
        match (key.as_str(), fresh.get_mut(key)) {
            (whole, _) if WHOLE.contains(&whole) => {}
            ("env", Some(ours)) => append(ours, value, |variable| {
                let name = &variable["name"];
                (name != LEVEL).then_some(name)
            }),
            ("volumeMounts", Some(ours)) => append(ours, value, |mount| {
                let is_ours = VOLUMES.iter().any(|name| mount["name"] == *name);
                (!is_ours).then_some(&mount["mountPath"])
            }),
            ("resources", Some(ours)) => resources(ours, value),
            ("securityContext", Some(Value::Object(ours))) => add(ours, value),
            // where all images are to be pulled, a pod that does not say so is refused
            ("imagePullPolicy", Some(ours)) if value == "Always" => *ours = value.clone(),
            (_, Some(_)) => {}
            (_, None) => drop(fresh.insert(key.clone(), value.clone())),
        }
    }
}

/// What `found` has and `ours` has not.
fn add(ours: &mut Map<String, Value>, found: &Value) {
    for (key, value) in found.as_object().into_iter().flatten() {
        ours.entry(key.clone()).or_insert_with(|| value.clone());
    }
}

/// The items of `found` of which `ours` has none with the same key. `key`: `None` of what is not to stay.
fn append(ours: &mut Value, found: &Value, key: impl Fn(&Value) -> Option<&Value>) {
    let (Value::Array(ours), Value::Array(found)) = (ours, found) else { return };
    for item in found {
        let Some(name) = key(item) else { continue };
        if !ours.iter().any(|known| key(known) == Some(name)) {
            ours.push(item.clone());
        }
    }
}

/// Quantities that we do not set. A limit that is found is no reason to be refused for a request of ours above it.
fn resources(ours: &mut Value, found: &Value) {
    let Value::Object(ours) = ours else { return };
    add(ours, found);
    for part in ["requests", "limits"] {
        if let Some(Value::Object(set)) = ours.get_mut(part) {
            add(set, &found[part]);
        }
    }
    let requests = ours.get("requests").cloned().unwrap_or_default();
    let of = |quantity: &Value| quantity.as_str().and_then(quantity::parse);
    for (name, limit) in ours.get_mut("limits").and_then(Value::as_object_mut).into_iter().flatten() {
        if let (Some(request), Some(most)) = (of(&requests[name.as_str()]), of(limit))
            && request > most
        {
            *limit = requests[name.as_str()].clone();
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::inject::{INTERCEPT, SIDECAR};
    use crate::{Injected, Namespace, Settings, inject};
    use serde_json::{Value, json};

    fn injected(pod: &Value, image: &str) -> Value {
        let labels = [("fusewire.io/inject".to_owned(), "enabled".to_owned())].into();
        let shop = Namespace { name: "shop".into(), labels, ..Namespace::default() };
        match inject(pod, &shop, &Settings::new(image, "fusewire-system", "cluster.local")) {
            Injected::Pod { pod, .. } => pod,
            other => panic!("{other:?}"),
        }
    }

    fn pod() -> Value {
        let probe = json!({"httpGet": {"path": "/ready", "port": 8080}});
        json!({"metadata": {"name": "web"}, "spec": {
            "containers": [{"name": "web", "image": "web:1", "readinessProbe": probe}]
        }})
    }

    fn ours<'a>(pod: &'a mut Value, name: &str) -> &'a mut Value {
        let all = pod["spec"]["initContainers"].as_array_mut().unwrap();
        all.iter_mut().find(|container| container["name"] == name).unwrap()
    }

    /// As the API server's own admission, and others' webhooks, leave a pod that came out of ours.
    fn admitted() -> Value {
        let mut pod = injected(&pod(), "fusewire:1");
        for name in [INTERCEPT, SIDECAR] {
            let container = ours(&mut pod, name);
            container["imagePullPolicy"] = "Always".into(); // AlwaysPullImages, which then refuses all else
            container["resources"]["limits"]["cpu"] = "500m".into(); // LimitRanger
            container["resources"]["requests"]["ephemeral-storage"] = "1Mi".into();
            container["terminationMessagePath"] = "/dev/termination-log".into();
            container["securityContext"]["seLinuxOptions"] = json!({"level": "s0:c1,c2"});
            let token = json!({"name": "kube-api-access-x", "mountPath": "/var/run/secrets/kubernetes.io/token"});
            super::list(container, "volumeMounts").push(token);
            super::list(container, "env").push(json!({"name": "CLUSTER", "value": "blue"}));
        }
        super::list(&mut pod["spec"], "volumes").push(json!({"name": "kube-api-access-x", "projected": {}}));
        pod
    }

    #[test]
    fn what_admission_did_to_our_containers_between_two_calls_stays() {
        let admitted = admitted();
        assert_eq!(injected(&admitted, "fusewire:1"), admitted);
        // also where somebody changed what we set ourselves
        let mut mirrored = admitted;
        ours(&mut mirrored, SIDECAR)["image"] = "mirror.example/fusewire:1".into();
        ours(&mut mirrored, SIDECAR)["resources"]["requests"]["memory"] = "48Mi".into();
        assert_eq!(injected(&mirrored, "fusewire:1"), mirrored);
    }

    /// The API server makes requests of the pod of what its containers ask for, ours among them, as soon as it has any limit.
    #[test]
    fn what_the_api_server_makes_of_our_requests_for_the_whole_pod_is_no_reason_to_change_them() {
        let mut pod = pod();
        pod["spec"]["resources"] = json!({"limits": {"cpu": "1"}});
        let mut admitted = injected(&pod, "fusewire:1");
        let asked = &ours(&mut admitted, SIDECAR)["resources"];
        assert_eq!(*asked, json!({"requests": {"memory": "32Mi"}, "limits": {"memory": "256Mi"}}));
        admitted["spec"]["resources"]["requests"] = json!({"cpu": "1", "memory": "32Mi"});
        ours(&mut admitted, SIDECAR)["image"] = "mirror.example/fusewire:1".into();
        assert_eq!(injected(&admitted, "fusewire:1"), admitted);
    }

    #[test]
    fn an_empty_list_that_was_there_before_us_stays() {
        let mut pod = pod();
        pod["metadata"]["annotations"] =
            json!({"fusewire.io/native-sidecar": "disabled", "fusewire.io/redirect": "disabled"});
        pod["spec"]["initContainers"] = json!([]);
        let once = injected(&pod, "fusewire:1");
        assert_eq!(once["spec"]["initContainers"], json!([]));
        assert_eq!(injected(&once, "fusewire:1"), once);
    }

    #[test]
    fn the_configuration_is_of_the_pod_as_it_is_and_the_rest_stays() {
        let mut admitted = admitted();
        let web = json!({"tcpSocket": {"port": 9999}});
        admitted["spec"]["containers"][0]["livenessProbe"] = web;
        let mut again = injected(&admitted, "fusewire:1");
        let mut wanted = admitted;
        let sidecar = ours(&mut wanted, SIDECAR);
        let made = ours(&mut again, SIDECAR);
        let configuration = |container: &mut Value| {
            let all = container["env"].as_array_mut().unwrap();
            all.iter_mut().find(|variable| variable["name"] == "FUSEWIRE_CONFIG").unwrap()["value"].take()
        };
        assert!(configuration(made).as_str().unwrap().contains("9999"));
        configuration(sidecar);
        assert_eq!(made, sidecar);
    }

    #[test]
    fn another_version_sets_what_it_sets_and_leaves_the_rest_as_it_was_found() {
        let mut again = injected(&admitted(), "fusewire:2");
        for name in [INTERCEPT, SIDECAR] {
            let container = ours(&mut again, name);
            assert_eq!((&container["image"], &container["imagePullPolicy"]), (&json!("fusewire:2"), &json!("Always")));
            assert_eq!(container["resources"]["limits"]["cpu"], "500m");
            assert_eq!(container["resources"]["requests"]["ephemeral-storage"], "1Mi");
            assert_eq!(container["securityContext"]["seLinuxOptions"]["level"], "s0:c1,c2");
            let paths = container["volumeMounts"].as_array().unwrap().iter();
            assert_eq!(paths.filter(|mount| mount["name"] == "kube-api-access-x").count(), 1);
            let names = container["env"].as_array().unwrap().iter();
            assert_eq!(names.filter(|variable| variable["name"] == "CLUSTER").count(), 1);
        }
        assert_eq!(injected(&again, "fusewire:2"), again);
    }

    #[test]
    fn an_annotation_that_came_after_us_counts_and_never_asks_for_more_than_a_limit() {
        let mut admitted = admitted();
        admitted["metadata"]["annotations"]["fusewire.io/proxy-cpu-request"] = "1".into();
        admitted["metadata"]["annotations"]["fusewire.io/native-sidecar"] = "disabled".into();
        admitted["metadata"]["annotations"]["fusewire.io/proxy-log-level"] = "debug".into();
        let again = injected(&admitted, "fusewire:1");
        let sidecar = &again["spec"]["containers"][0];
        assert_eq!((&sidecar["name"], sidecar.get("restartPolicy")), (&json!(SIDECAR), None));
        assert_eq!(
            (&sidecar["resources"]["requests"]["cpu"], &sidecar["resources"]["limits"]["cpu"]),
            (&json!("1"), &json!("1"))
        );
        let mut quiet = again.clone();
        quiet["metadata"]["annotations"].as_object_mut().unwrap().remove("fusewire.io/proxy-log-level");
        let quiet = injected(&quiet, "fusewire:1").to_string();
        assert!(again.to_string().contains("RUST_LOG") && !quiet.contains("RUST_LOG"));
    }
}
