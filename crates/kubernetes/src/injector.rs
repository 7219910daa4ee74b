//! Talks to a cluster: the few things that are asked of the Kubernetes API for injection.
//!
//! It decides how a cluster is found, as kubectl does, or by the pod's own service account; and in which words a failure is
//! told. It deliberately caches nothing: who is asked about a pod asks about its namespace as it is now.

use crate::inject::{Injected, Namespace, Settings, inject};
use crate::install::MANAGER;
use k8s_openapi::api::core::v1;
use kube::api::{Api, ApiResource, DynamicObject, GroupVersionKind, ListParams, Patch, PatchParams};
use kube::config::KubeConfigOptions;
use kube::{Client, Config};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::sync::watch;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// The webhooks that are ours, one object.
pub const WEBHOOK: &str = "fusewire-injector";
/// How often it is looked whether they still have our roots.
const LOOK: Duration = Duration::from_secs(5);
/// How often in a row somebody else may have been first.
const RACES: usize = 8;
/// Of one list; the API server gives the rest when asked again.
const PAGE: u32 = 500;

#[derive(Debug, thiserror::Error)]
pub enum InjectorError {
    #[error("no cluster is known: {0} (name one with KUBECONFIG or --context, or run it in a pod)")]
    Configuration(String),
    #[error(
        "ConfigMap fusewire-mesh is there with the trust domain {there}, and {asked} was asked for: nothing was changed (leave \
         --trust-domain out, or take the mesh out with its pods first)"
    )]
    TrustDomain { there: String, asked: String },
    #[error("{what}: {cause}")]
    Request { what: String, cause: String },
}

impl InjectorError {
    pub(crate) fn of(what: impl Into<String>, error: &kube::Error) -> Self {
        let cause = match error {
            kube::Error::Api(status) => status.message.clone(),
            other => other.to_string(),
        };
        Self::Request { what: what.into(), cause }
    }
}

/// A client of the cluster that kubectl would use, or that this pod is in. `context`: of the kubeconfig.
///
/// # Errors
/// Where there is neither.
pub async fn client(context: Option<&str>) -> Result<Client, InjectorError> {
    let config = match context {
        Some(context) => {
            let options = KubeConfigOptions { context: Some(context.into()), ..KubeConfigOptions::default() };
            Config::from_kubeconfig(&options).await.map_err(|e| InjectorError::Configuration(e.to_string()))?
        }
        None => Config::infer().await.map_err(|e| InjectorError::Configuration(e.to_string()))?,
    };
    Client::try_from(config).map_err(|e| InjectorError::Configuration(e.to_string()))
}

/// The namespace as it is now.
///
/// # Errors
/// Where it is not, or the API server does not answer.
pub async fn namespace(client: &Client, name: &str) -> Result<Namespace, InjectorError> {
    let found = Api::<v1::Namespace>::all(client.clone()).get_metadata(name).await;
    let metadata = found.map_err(|e| InjectorError::of(format!("namespace {name}"), &e))?.metadata;
    let (labels, annotations) = (metadata.labels.unwrap_or_default(), metadata.annotations.unwrap_or_default());
    Ok(Namespace { name: name.into(), labels, annotations })
}

/// The image of a pod's container.
///
/// # Errors
/// Where there is no such pod or container.
pub async fn image_of(client: &Client, namespace: &str, pod: &str, container: &str) -> Result<String, InjectorError> {
    let what = format!("the image of container {container} of pod {namespace}/{pod}");
    let found = Api::<v1::Pod>::namespaced(client.clone(), namespace).get(pod).await;
    let found = found.map_err(|e| InjectorError::of(&what, &e))?;
    let containers = found.spec.map(|spec| spec.containers).unwrap_or_default();
    let image = containers.into_iter().find(|c| c.name == container).and_then(|c| c.image);
    image.ok_or(InjectorError::Request { what, cause: "there is no such container".into() })
}

/// Keeps the webhooks' `caBundle` equal to `roots` (PEM), for ever: also after somebody made them anew. The API server calls
/// no webhook whose certificate it cannot verify.
pub async fn keep_ca_bundle(client: Client, mut roots: watch::Receiver<String>) {
    let api: Api<DynamicObject> = Api::all_with(client, &webhooks());
    let mut told = false;
    loop {
        let pem = roots.borrow_and_update().clone();
        match put_ca_bundle(&api, &pem).await {
            Ok(changed) => {
                if changed {
                    tracing::info!(webhook = WEBHOOK, "caBundle is our roots");
                }
                told = false;
            }
            Err(error) if !told => {
                tracing::warn!("the webhook's caBundle is not kept, trying again: {error}");
                told = true;
            }
            Err(_) => {}
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            changed = roots.changed() => if changed.is_err() { return },
        }
    }
}

async fn put_ca_bundle(api: &Api<DynamicObject>, pem: &str) -> Result<bool, InjectorError> {
    let what = format!("MutatingWebhookConfiguration {WEBHOOK}");
    let mut races = 0;
    loop {
        let Some(object) = api.get_opt(WEBHOOK).await.map_err(|e| InjectorError::of(&what, &e))? else {
            let cause = "it is not there: `fusewire install` makes it".into();
            return Err(InjectorError::Request { what, cause });
        };
        let version = object.metadata.resource_version.as_deref();
        let Some(patch) = with_ca_bundle(&object.data["webhooks"], version, pem) else { return Ok(false) };
        let parameters = PatchParams { field_manager: Some(MANAGER.into()), ..PatchParams::default() };
        match api.patch(WEBHOOK, &parameters, &Patch::Merge(&patch)).await {
            Ok(_) => return Ok(true),
            // most likely another replica, which wrote the same
            Err(kube::Error::Api(status)) if status.code == 409 && races < RACES => races += 1,
            Err(error) => return Err(InjectorError::of(&what, &error)),
        }
    }
}

/// The patch that gives every webhook these roots; `None`: they have them. With the version that was read, so that what
/// somebody else changed meanwhile is not undone.
fn with_ca_bundle(webhooks: &Value, version: Option<&str>, pem: &str) -> Option<Value> {
    let wanted = STANDARD.encode(pem);
    let mut webhooks = webhooks.as_array()?.clone();
    let mut changed = false;
    for webhook in &mut webhooks {
        let client = webhook.get_mut("clientConfig").and_then(Value::as_object_mut)?;
        changed |= client.insert("caBundle".into(), wanted.clone().into()).as_ref() != Some(&wanted.clone().into());
    }
    changed.then(|| json!({"metadata": {"resourceVersion": version}, "webhooks": webhooks}))
}

fn webhooks() -> ApiResource {
    let kind = GroupVersionKind::gvk("admissionregistration.k8s.io", "v1", "MutatingWebhookConfiguration");
    ApiResource::from_gvk(&kind)
}

/// A pod that should have a sidecar and has none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uninjected {
    pub namespace: String,
    pub pod: String,
    /// Why there is none, or what to do.
    pub why: String,
}

/// The running pods of `only`, or of all namespaces, that should have a sidecar by what their namespaces and they say now, and
/// have none, with what would become of them if they were made anew. `own`: where the control plane is.
///
/// # Errors
/// Where the API server does not answer, or does not tell.
pub async fn uninjected(client: &Client, only: Option<&str>, own: &str) -> Result<Vec<Uninjected>, InjectorError> {
    let mut found = Vec::new();
    // image and trust domain are in what is made, and not in whether it can be
    let settings = Settings::new("fusewire", own, "cluster.local");
    let names = match only {
        Some(name) => vec![namespace(client, name).await?],
        None => all_namespaces(client).await?,
    };
    for namespace in names {
        let pods = Api::<DynamicObject>::namespaced_with(client.clone(), &namespace.name, &pods());
        let mut page = ListParams::default().limit(PAGE);
        loop {
            let listed = pods.list(&page).await;
            let listed = listed.map_err(|e| InjectorError::of(format!("pods of {}", namespace.name), &e))?;
            for pod in &listed.items {
                let value = json!({"metadata": pod.metadata, "spec": pod.data["spec"], "status": pod.data["status"]});
                found.extend(missing(&value, &namespace, &settings));
            }
            match listed.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => page = page.continue_token(&token),
                None => break,
            }
        }
    }
    Ok(found)
}

fn pods() -> ApiResource {
    ApiResource::from_gvk(&GroupVersionKind::gvk("", "v1", "Pod"))
}

async fn all_namespaces(client: &Client) -> Result<Vec<Namespace>, InjectorError> {
    let listed = Api::<v1::Namespace>::all(client.clone()).list_metadata(&ListParams::default()).await;
    let listed = listed.map_err(|e| InjectorError::of("namespaces", &e))?;
    let of = |metadata: kube::core::ObjectMeta| Namespace {
        name: metadata.name.unwrap_or_default(),
        labels: metadata.labels.unwrap_or_default(),
        annotations: metadata.annotations.unwrap_or_default(),
    };
    Ok(listed.items.into_iter().map(|namespace| of(namespace.metadata)).collect())
}

fn missing(pod: &Value, namespace: &Namespace, settings: &Settings) -> Option<Uninjected> {
    let ended = matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
    if ended || crate::inject::has_sidecar(pod) {
        return None;
    }
    let why = match inject(pod, namespace, settings) {
        Injected::Pod { .. } => {
            "it was made before the namespace asked, or while no injector answered: make it anew".to_owned()
        }
        Injected::Skipped(_) => return None,
        // made anew now, it would not be made at all
        Injected::Refused(why) => why,
    };
    let name = pod["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    Some(Uninjected { namespace: namespace.name.clone(), pod: name, why })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Cluster;
    use fusewire_testkit::KubeApi;
    use futures_util::future::join_all;

    #[test]
    fn every_webhook_gets_the_roots_once_and_keeps_what_else_it_has() {
        let before = json!([
            {"name": "a", "clientConfig": {"service": {"name": "s"}}, "newField": 1},
            {"name": "b", "clientConfig": {"caBundle": STANDARD.encode("old")}}
        ]);
        let patch = with_ca_bundle(&before, Some("7"), "new").unwrap();
        assert_eq!(patch["metadata"]["resourceVersion"], "7");
        assert_eq!(
            (&patch["webhooks"][0]["newField"], &patch["webhooks"][0]["clientConfig"]["service"]["name"]),
            (&json!(1), &json!("s"))
        );
        for n in 0..2 {
            assert_eq!(patch["webhooks"][n]["clientConfig"]["caBundle"], STANDARD.encode("new"));
        }
        assert_eq!(with_ca_bundle(&patch["webhooks"], Some("8"), "new"), None);
        assert_eq!(with_ca_bundle(&json!(null), None, "new"), None);
    }

    #[test]
    fn a_running_pod_that_should_have_a_sidecar_and_has_none_is_named() {
        let labels = [("fusewire.io/inject".to_owned(), "enabled".to_owned())].into();
        let shop = Namespace { name: "shop".into(), labels, ..Namespace::default() };
        let pod = json!({"metadata": {"name": "web"}, "spec": {"containers": [{"name": "web"}]}});
        let settings = Settings::new("fusewire:test", "fusewire-system", "cluster.local");
        assert_eq!(missing(&pod, &shop, &settings).unwrap().pod, "web");
        let mut ended = pod.clone();
        ended["status"]["phase"] = "Succeeded".into();
        let mut out = pod.clone();
        out["metadata"]["labels"]["fusewire.io/inject"] = "disabled".into();
        let Injected::Pod { pod: injected, .. } = inject(&pod, &shop, &settings) else { panic!() };
        for fine in [ended, out, injected] {
            assert_eq!(missing(&fine, &shop, &settings), None);
        }
        assert_eq!(missing(&pod, &Namespace::default(), &settings), None);
    }

    /// Whoever makes it anew without another word would have no pod at all.
    #[test]
    fn a_pod_that_could_not_be_made_anew_is_named_with_what_stands_in_the_way() {
        let labels = [("fusewire.io/inject".to_owned(), "enabled".to_owned())].into();
        let shop = Namespace { name: "shop".into(), labels, ..Namespace::default() };
        let pod = json!({"metadata": {"name": "web"}, "spec": {"containers": [{"name": "web"}]}});
        let (mut host, mut unreadable, mut unasked) = (pod.clone(), pod.clone(), pod.clone());
        host["spec"]["hostNetwork"] = true.into();
        unreadable["metadata"]["annotations"]["fusewire.io/access-log"] = "yes".into();
        unasked["spec"]["containers"][0]["livenessProbe"] = json!({"httpGet": {"port": "web"}});
        let settings = Settings::new("fusewire:test", "fusewire-system", "cluster.local");
        for (pod, wanted) in [(host, "hostNetwork"), (unreadable, "access-log"), (unasked, "livenessProbe")] {
            let why = missing(&pod, &shop, &settings).unwrap().why;
            assert!(why.contains(wanted) && !why.contains("anew"), "{why}");
        }
    }

    #[tokio::test]
    async fn of_several_that_give_the_roots_at_once_one_does_and_no_other_complains() {
        let server = KubeApi::start();
        server.put(json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingWebhookConfiguration",
            "metadata": {"name": WEBHOOK}, "webhooks": [{"name": "a", "clientConfig": {}}],
        }));
        let cluster = Cluster::by(&server.kubeconfig(), None).await.unwrap();
        let api: Api<DynamicObject> = Api::all_with(cluster.client, &webhooks());
        server.freeze();
        let all = join_all((0..4).map(|_| put_ca_bundle(&api, "roots")));
        let thaw = async {
            while server.requests().len() < 4 {
                tokio::task::yield_now().await;
            }
            server.thaw();
        };
        let (all, ()) = tokio::join!(all, thaw);
        let changed: Vec<bool> = all.into_iter().map(Result::unwrap).collect();
        assert_eq!(changed.iter().filter(|changed| **changed).count(), 1);
        assert!(server.requests().len() > 8, "nobody was too late: {:?}", server.requests());
    }
}
