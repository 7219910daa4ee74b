//! What the API server asks before it stores a pod, and what it is answered (`admission.k8s.io/v1`).
//!
//! It decides that what is no pod, and what cannot be read, is an answer all the same: only a request that is no
//! AdmissionReview has none. It deliberately does not look the namespace up: whoever serves does.
//!
//! <https://kubernetes.io/docs/reference/access-authn-authz/extensible-admission-controllers/>

use crate::inject::{Injected, Namespace, Settings, inject};
use crate::patch;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

/// The largest review that is read: the API server's own limit of an object, and its old form beside it.
pub const MAX_REVIEW: usize = 3 << 20;
/// Of one warning; the API server cuts them at 256 and drops what is beyond 4,096 in all.
const MAX_WARNING: usize = 250;
const MAX_WARNINGS: usize = 12;

/// Why there is nobody to answer to.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReviewError {
    #[error("the request is no JSON: {0}")]
    Json(String),
    #[error("the request is no AdmissionReview of admission.k8s.io/v1, but {0:?}")]
    Kind(String),
    #[error("the AdmissionReview has no request.uid")]
    Uid,
}

/// One question of the API server.
#[derive(Clone, Debug, PartialEq)]
pub struct Review {
    request: Value,
}

impl Review {
    /// # Errors
    /// What is no AdmissionReview.
    pub fn read(body: &[u8]) -> Result<Self, ReviewError> {
        let mut review: Value = serde_json::from_slice(body).map_err(|e| ReviewError::Json(e.to_string()))?;
        let (version, kind) = (review["apiVersion"].as_str(), review["kind"].as_str());
        if (version, kind) != (Some("admission.k8s.io/v1"), Some("AdmissionReview")) {
            let said = format!("{} {}", version.unwrap_or_default(), kind.unwrap_or_default());
            return Err(ReviewError::Kind(said.chars().take(100).collect()));
        }
        let request = review["request"].take();
        if !request["uid"].is_string() {
            return Err(ReviewError::Uid);
        }
        Ok(Self { request })
    }

    /// Where the pod is to be.
    pub fn namespace(&self) -> &str {
        self.request["namespace"].as_str().unwrap_or_default()
    }

    /// What the pod is called, as far as it is called anything yet.
    pub fn pod(&self) -> &str {
        let metadata = &self.request["object"]["metadata"];
        metadata["name"].as_str().or_else(|| metadata["generateName"].as_str()).unwrap_or_default()
    }

    /// The answer, with what was decided.
    pub fn answer(&self, namespace: &Namespace, settings: &Settings) -> (Value, Injected) {
        let pod = &self.request["object"];
        if self.request["operation"] != "CREATE" || self.request["kind"]["kind"] != "Pod" || !pod["spec"].is_object() {
            let skipped = Injected::Skipped("it is no pod that is being made".into());
            return (self.respond(json!({"allowed": true})), skipped);
        }
        let decided = inject(pod, namespace, settings);
        let response = match &decided {
            Injected::Skipped(_) => json!({"allowed": true}),
            Injected::Refused(why) => return (self.refuse(why), decided),
            Injected::Pod { pod: injected, warnings } => allowed(&patch::diff(pod, injected), warnings),
        };
        (self.respond(response), decided)
    }

    /// The answer that lets no pod in.
    pub fn refuse(&self, why: &str) -> Value {
        let message = format!("fusewire cannot inject its sidecar: {why}");
        self.respond(json!({"allowed": false, "status": {"code": 403, "reason": "Forbidden", "message": message}}))
    }

    fn respond(&self, mut response: Value) -> Value {
        response["uid"] = self.request["uid"].clone();
        json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response})
    }
}

fn allowed(operations: &[Value], warnings: &[String]) -> Value {
    let mut response = json!({"allowed": true});
    if !operations.is_empty() {
        response["patchType"] = "JSONPatch".into();
        response["patch"] = STANDARD.encode(Value::from(operations.to_vec()).to_string()).into();
    }
    if !warnings.is_empty() {
        let cut = |text: &String| text.chars().take(MAX_WARNING).collect::<String>();
        response["warnings"] = warnings.iter().take(MAX_WARNINGS).map(cut).collect();
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::patch::tests::apply;

    fn settings() -> Settings {
        Settings::new("fusewire:test", "fusewire-system", "cluster.local")
    }

    fn review(pod: Value) -> Review {
        let review = json!({
            "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
            "request": {
                "uid": "u-1", "operation": "CREATE", "namespace": "shop", "kind": {"group": "", "version": "v1", "kind": "Pod"},
                "object": pod
            }
        });
        Review::read(review.to_string().as_bytes()).unwrap()
    }

    fn namespace(word: &str) -> Namespace {
        let labels = [("fusewire.io/inject".to_owned(), word.to_owned())].into();
        Namespace { name: "shop".into(), labels, ..Namespace::default() }
    }

    fn pod() -> Value {
        json!({"metadata": {"generateName": "web-"}, "spec": {"containers": [{"name": "web", "image": "web:1"}]}})
    }

    /// What the API server has after the answer.
    fn applied(pod: &Value, answer: &Value) -> Value {
        match answer["response"]["patch"].as_str() {
            None => pod.clone(),
            Some(patch) => {
                assert_eq!(answer["response"]["patchType"], "JSONPatch");
                let operations: Vec<Value> = serde_json::from_slice(&STANDARD.decode(patch).unwrap()).unwrap();
                apply(pod.clone(), &operations)
            }
        }
    }

    #[test]
    fn the_answer_is_a_patch_to_the_injected_pod_and_to_nothing_the_second_time() {
        let (answer, decided) = review(pod()).answer(&namespace("enabled"), &settings());
        let Injected::Pod { pod: wanted, .. } = decided else { panic!("{decided:?}") };
        let injected = applied(&pod(), &answer);
        assert_eq!((injected.clone(), &answer["response"]["uid"]), (wanted, &json!("u-1")));
        let (again, _) = review(injected).answer(&namespace("enabled"), &settings());
        assert_eq!(again["response"], json!({"allowed": true, "uid": "u-1"}));
    }

    #[test]
    fn what_the_api_server_adds_between_two_calls_is_no_reason_to_change_anything() {
        let (answer, _) = review(pod()).answer(&namespace("enabled"), &settings());
        let injected = applied(&pod(), &answer);
        let mut defaulted = injected.clone();
        for container in defaulted["spec"]["initContainers"].as_array_mut().unwrap() {
            container["terminationMessagePath"] = "/dev/termination-log".into();
        }
        let (again, _) = review(defaulted).answer(&namespace("enabled"), &settings());
        assert_eq!(again["response"], json!({"allowed": true, "uid": "u-1"}));
    }

    #[test]
    fn a_pod_that_cannot_be_injected_is_refused_and_one_that_is_not_asked_for_let_in() {
        let mut host = pod();
        host["spec"]["hostNetwork"] = true.into();
        let (answer, _) = review(host).answer(&namespace("enabled"), &settings());
        assert_eq!(answer["response"]["allowed"], false);
        assert!(answer["response"]["status"]["message"].as_str().unwrap().contains("hostNetwork"));
        let (answer, _) = review(pod()).answer(&namespace("disabled"), &settings());
        assert_eq!(answer["response"], json!({"allowed": true, "uid": "u-1"}));
    }

    #[test]
    fn warnings_are_as_long_as_the_api_server_takes_them() {
        let mut odd = pod();
        for n in 0..40 {
            odd["metadata"]["annotations"][format!("fusewire.io/{}{n}", "x".repeat(300))] = "1".into();
        }
        let (answer, _) = review(odd).answer(&namespace("enabled"), &settings());
        let warnings = answer["response"]["warnings"].as_array().unwrap();
        assert!(warnings.len() == MAX_WARNINGS && warnings.iter().all(|w| w.as_str().unwrap().len() <= 256));
    }

    #[test]
    fn what_is_no_review_is_said_and_what_is_no_pod_let_in() {
        assert!(matches!(Review::read(b"{"), Err(ReviewError::Json(_))));
        assert!(matches!(Review::read(b"[]"), Err(ReviewError::Kind(_))));
        let old = json!({"apiVersion": "admission.k8s.io/v1beta1", "kind": "AdmissionReview", "request": {"uid": "1"}});
        assert!(matches!(Review::read(old.to_string().as_bytes()), Err(ReviewError::Kind(_))));
        let empty = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview"});
        assert_eq!(Review::read(empty.to_string().as_bytes()), Err(ReviewError::Uid));
        for object in [json!(null), json!({"spec": 1}), json!([])] {
            let (answer, _) = review(object).answer(&namespace("enabled"), &settings());
            assert_eq!(answer["response"]["allowed"], true);
        }
    }
}
