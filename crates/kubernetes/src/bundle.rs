//! The roots of the mesh, where every pod can mount them: a ConfigMap in each namespace.
//!
//! It decides where it should be (every namespace that is not on its way out, but `kube-system`) and that it is written only
//! where it is another. It deliberately never removes one: what mounts it would not start any more, and it holds no secret.

use crate::cluster::{Call, Cluster, ClusterError, call};
use crate::facts::Id;
use crate::follow::{Chosen, Health, Told, follow};
use crate::leader::Leader;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, ObjectMeta, Patch, PatchParams, PostParams};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, watch};

/// The ConfigMap's name.
pub const BUNDLE: &str = "fusewire-trust";
/// Its key: certificates, PEM.
pub const BUNDLE_KEY: &str = "ca.pem";
const NOT_IN: &str = "kube-system";
/// After a write that failed.
const RETRY: Duration = Duration::from_secs(1);

/// What each namespace has; `None` until it is known.
type Present = Mutex<Option<BTreeMap<Box<str>, Box<str>>>>;

/// Keeps the ConfigMaps as they should be while `leading` is true; until dropped.
pub async fn publish_bundle(
    cluster: &Cluster,
    leading: watch::Receiver<bool>,
    bundle: watch::Receiver<Arc<str>>,
    namespaces: watch::Receiver<Arc<BTreeSet<String>>>,
) {
    Leader::while_leading(leading, || lead(cluster, bundle.clone(), namespaces.clone())).await;
}

async fn lead(
    cluster: &Cluster,
    mut bundle: watch::Receiver<Arc<str>>,
    mut namespaces: watch::Receiver<Arc<BTreeSet<String>>>,
) {
    let present = Present::default();
    let (stirred, health) = (Notify::new(), Health::new("ConfigMaps"));
    let all = Api::<ConfigMap>::all(cluster.client.clone());
    let chosen = Chosen { labels: None, fields: Some(format!("metadata.name={BUNDLE}")) };
    let reduce = |map: ConfigMap| {
        let text = map.data.and_then(|mut data| data.remove(BUNDLE_KEY)).unwrap_or_default();
        Some((Id::new(map.metadata.namespace.as_deref()?, BUNDLE), Box::<str>::from(text)))
    };
    let tell = |told| {
        take(&present, told);
        stirred.notify_one();
    };
    let write = async {
        loop {
            let missing = missing(&present, &bundle.borrow_and_update(), &namespaces.borrow_and_update());
            let text = bundle.borrow().clone();
            let mut failed = false;
            for (namespace, is_new) in missing {
                if let Err(error) = put(cluster, &namespace, &text, is_new).await {
                    tracing::warn!(namespace, %error, "the roots cannot be written for the pods there; trying again");
                    failed = true;
                }
            }
            tokio::select! {
                () = stirred.notified() => {}
                _ = bundle.changed() => {}
                _ = namespaces.changed() => {}
                () = tokio::time::sleep(RETRY), if failed => {}
            }
        }
    };
    tokio::join!(follow(&all, &chosen, &health, reduce, tell), write);
}

fn take(present: &Present, told: Told<Box<str>>) {
    let mut present = present.lock().unwrap_or_else(PoisonError::into_inner);
    match told {
        Told::All(all) => *present = Some(all.into_iter().map(|(id, text)| (id.namespace, text)).collect()),
        Told::Put(id, text) => drop(present.get_or_insert_default().insert(id.namespace, text)),
        Told::Gone(id) => drop(present.get_or_insert_default().remove(&id.namespace)),
    }
}

/// Where it is to be written, and whether there is none. Nowhere, before it is known what is there, or what is to be.
fn missing(present: &Present, bundle: &Arc<str>, namespaces: &BTreeSet<String>) -> Vec<(String, New)> {
    let present = present.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(present) = present.as_ref().filter(|_| !bundle.is_empty()) else { return Vec::new() };
    let wanted = namespaces.iter().filter(|namespace| *namespace != NOT_IN);
    let missing = wanted.filter_map(|namespace| match present.get(namespace.as_str()) {
        None => Some((namespace.clone(), New::Yes)),
        Some(text) if **text != **bundle => Some((namespace.clone(), New::No)),
        Some(_) => None,
    });
    missing.collect()
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum New {
    Yes,
    No,
}

async fn put(cluster: &Cluster, namespace: &str, text: &str, new: New) -> Result<(), ClusterError> {
    let api = Api::<ConfigMap>::namespaced(cluster.client.clone(), namespace);
    let metadata = ObjectMeta { name: Some(BUNDLE.into()), ..ObjectMeta::default() };
    let data = Some(BTreeMap::from([(BUNDLE_KEY.to_owned(), text.to_owned())]));
    let map = ConfigMap { metadata, data, ..ConfigMap::default() };
    if new == New::Yes {
        match call(Call::Write, api.create(&PostParams::default(), &map)).await {
            Err(ClusterError::Conflict(_)) => {} // it is there after all
            made => return made.map(drop),
        }
    }
    call(Call::Write, api.patch(BUNDLE, &PatchParams::default(), &Patch::Merge(&map))).await.map(drop)
}
