//! Talks to a cluster: what `fusewire install` puts in, and `fusewire uninstall` takes out.
//!
//! It decides nothing of its own: the manifests are those of `deploy/kubernetes`, as they are in this binary, rendered as
//! `kubectl kustomize` renders them. Another image, another namespace and the mesh's trust domain are the only changes.
//!
//! Invariants: what its operators set by themselves, the mesh's own settings and how many replicas run, is not undone by
//! installing again. What takes out takes the webhook out first, so that no pod waits for an injector that has gone.

mod render;

use crate::inject::TRUST;
use crate::injector::{InjectorError, WEBHOOK};
use fusewire_model::TrustDomain;
use k8s_openapi::api::core::v1;
use kube::Client;
use kube::api::{
    Api, ApiResource, DeleteParams, DynamicObject, GroupVersionKind, ListParams, Patch, PatchParams, PostParams,
};
use serde_json::{Value, json};

pub use render::{FILES, render};

/// Who the API server says wrote what is installed.
pub(crate) const MANAGER: &str = "fusewire";

/// The ConfigMap with the mesh's own settings, which are its operators' once it is there.
pub(crate) const MESH: &str = "fusewire-mesh";
/// Its key that names the trust domain.
const MESH_FILE: &str = "mesh.yaml";

/// Which manifests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Overlay {
    /// Two replicas of the control plane.
    #[default]
    None,
    /// One, for a cluster of one node.
    SingleReplica,
    /// Two, with alert rules, dashboards and a collector.
    Observability,
}

impl Overlay {
    /// Its folder below `deploy/kubernetes`.
    pub fn folder(self) -> &'static str {
        match self {
            Self::None => "",
            Self::SingleReplica => "overlays/single-replica",
            Self::Observability => "overlays/observability",
        }
    }
}

/// The manifests, with `image` in the place of the base's, for `namespace`.
pub fn manifests(overlay: Overlay, image: Option<&str>, namespace: &str) -> Result<Vec<Value>, String> {
    let mut documents = render(overlay.folder(), image)?;
    if namespace != crate::NAMESPACE {
        documents.iter_mut().for_each(|document| rename(document, namespace));
    }
    Ok(documents)
}

/// Wherever the namespace's name stands alone; a service's address in a text is `control`'s to find by its own.
fn rename(value: &mut Value, namespace: &str) {
    match value {
        Value::String(text) if text == crate::NAMESPACE => namespace.clone_into(text),
        Value::Array(items) => items.iter_mut().for_each(|item| rename(item, namespace)),
        Value::Object(entries) => entries.values_mut().for_each(|value| rename(value, namespace)),
        _ => {}
    }
}

/// Gives the mesh another trust domain than the manifests'.
pub fn set_trust_domain(documents: &mut [Value], domain: &TrustDomain) {
    for document in documents.iter_mut().filter(|document| is_mesh(document)) {
        document["data"][MESH_FILE] = crate::yaml::write(&[json!({"trust_domain": domain.as_str()})]).into();
    }
}

fn is_mesh(document: &Value) -> bool {
    document["kind"] == "ConfigMap" && document["metadata"]["name"] == MESH
}

/// What is asked of an installation beside its manifests.
#[derive(Clone, Debug, Default)]
pub struct Wishes {
    /// The mesh's, which it must have already where it is there.
    pub trust_domain: Option<TrustDomain>,
    /// As many replicas as the manifests say, also where somebody has scaled them.
    pub replicas: bool,
}

/// Puts everything in, or in place of what is there (server-side apply). `done` hears of each object, and what became of it.
///
/// # Errors
/// The first object that is refused; before any, a mesh that is there and has another trust domain.
pub async fn apply(
    client: &Client,
    documents: &[Value],
    wishes: &Wishes,
    mut done: impl FnMut(&str),
) -> Result<(), InjectorError> {
    if let Some(domain) = &wishes.trust_domain {
        for document in documents.iter().filter(|document| is_mesh(document)) {
            has_domain(&api(client, document), domain).await?;
        }
    }
    for document in documents {
        let api = api(client, document);
        let became = match is_mesh(document) {
            true => make(&api, document).await,
            false => put(&api, document, wishes.replicas).await,
        };
        let what = title(document);
        let became = became.map_err(|e| InjectorError::of(&what, &e))?;
        done(&format!("{what}: {became}"));
    }
    Ok(())
}

/// Only where there is none yet.
async fn make(api: &Api<DynamicObject>, document: &Value) -> kube::Result<String> {
    let parameters = PostParams { field_manager: Some(MANAGER.into()), ..PostParams::default() };
    let object = serde_json::from_value(document.clone()).map_err(kube::Error::SerdeError)?;
    match api.create(&parameters, &object).await {
        Ok(_) => Ok("made".into()),
        Err(kube::Error::Api(status)) if status.reason == "AlreadyExists" => {
            Ok("is there already, and left as it is".into())
        }
        Err(error) => Err(error),
    }
}

/// Whether a mesh that is there has this trust domain: every certificate has it, so that nothing changes it.
async fn has_domain(api: &Api<DynamicObject>, domain: &TrustDomain) -> Result<(), InjectorError> {
    let found = api.get_opt(MESH).await.map_err(|e| InjectorError::of(MESH, &e))?;
    let Some(text) = found.as_ref().and_then(|found| found.data["data"][MESH_FILE].as_str()) else { return Ok(()) };
    let documents = crate::yaml::read(text).unwrap_or_default();
    let named = documents.iter().find_map(|document| document["trust_domain"].as_str());
    let (there, asked) = (named.map_or_else(|| TrustDomain::default().to_string(), str::to_owned), domain.to_string());
    if there == asked { Ok(()) } else { Err(InjectorError::TrustDomain { there, asked }) }
}

async fn put(api: &Api<DynamicObject>, document: &Value, replicas: bool) -> kube::Result<String> {
    let name = document["metadata"]["name"].as_str().unwrap_or_default();
    let (mut document, mut became) = (document.clone(), "applied".to_owned());
    if document["kind"] == "Deployment"
        && !replicas
        && let Some(count) = api.get_opt(name).await?.as_ref().and_then(scaled)
    {
        document["spec"]["replicas"] = count.into();
        became = format!("applied, at the {count} replicas that it was scaled to");
    }
    api.patch(name, &PatchParams::apply(MANAGER).force(), &Patch::Apply(&document)).await?;
    Ok(became)
}

/// How many replicas somebody has scaled it to: `kubectl scale`, or an autoscaler. None is no number to install.
fn scaled(found: &DynamicObject) -> Option<i64> {
    let mut managers = found.metadata.managed_fields.iter().flatten();
    let is_scaled = managers.any(|entry| {
        let fields = entry.fields_v1.as_ref();
        entry.subresource.as_deref() == Some("scale")
            && fields.is_some_and(|fields| fields.0.pointer("/f:spec/f:replicas").is_some())
    });
    found.data["spec"]["replicas"].as_i64().filter(|count| is_scaled && *count > 0)
}

/// Takes everything out, the webhook first, and the roots out of every namespace. Custom resource definitions stay, since
/// what people have applied would go with them.
///
/// # Errors
/// The first object that cannot be taken out; what is not there is no error.
pub async fn delete(client: &Client, documents: &[Value], mut done: impl FnMut(&str)) -> Result<(), InjectorError> {
    let webhook = |document: &&Value| document["metadata"]["name"] == WEBHOOK && document["kind"] != "Service";
    let stays = |document: &&Value| document["kind"] == "CustomResourceDefinition";
    let first = documents.iter().filter(webhook);
    let rest = documents.iter().rev().filter(|document| !webhook(document) && !stays(document));
    for document in first.chain(rest) {
        let (what, name) = (title(document), document["metadata"]["name"].as_str().unwrap_or_default());
        remove(&api(client, document), name, &what).await?.then(|| done(&format!("{what}: deleted")));
    }
    let namespaces = Api::<v1::Namespace>::all(client.clone()).list_metadata(&ListParams::default()).await;
    for namespace in namespaces.map_err(|e| InjectorError::of("namespaces", &e))?.items {
        let name = namespace.metadata.name.unwrap_or_default();
        let what = format!("ConfigMap {name}/{TRUST}");
        let maps = Api::<v1::ConfigMap>::namespaced(client.clone(), &name);
        remove(&maps, TRUST, &what).await?.then(|| done(&format!("{what}: deleted")));
    }
    Ok(())
}

/// Whether it was there.
async fn remove<K>(api: &Api<K>, name: &str, what: &str) -> Result<bool, InjectorError>
where
    K: Clone + serde::de::DeserializeOwned + std::fmt::Debug,
{
    match api.delete(name, &DeleteParams::background()).await {
        Ok(_) => Ok(true),
        // also a kind that this cluster does not have
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(false),
        Err(error) => Err(InjectorError::of(what, &error)),
    }
}

fn api(client: &Client, document: &Value) -> Api<DynamicObject> {
    let version = document["apiVersion"].as_str().unwrap_or_default();
    let (group, version) = version.split_once('/').unwrap_or(("", version));
    let kind = GroupVersionKind::gvk(group, version, document["kind"].as_str().unwrap_or_default());
    let resource = ApiResource::from_gvk(&kind);
    match document["metadata"]["namespace"].as_str() {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    }
}

/// `Deployment fusewire-system/fusewire-control`.
fn title(document: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (kind, name) = (text(&document["kind"]), text(&document["metadata"]["name"]));
    match document["metadata"]["namespace"].as_str() {
        Some(namespace) => format!("{kind} {namespace}/{name}"),
        None => format!("{kind} {name}"),
    }
}
