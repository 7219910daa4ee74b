//! Injection as people meet it: whole manifests in, whole manifests out, valid by Kubernetes' own schemas. And the Kubernetes
//! source against an API server in memory.

#![allow(clippy::unwrap_used)]

mod any_pod;
mod bundle;
mod custom;
mod declared;
mod discovery;
mod document;
mod golden;
mod installed;
mod leader;
mod objects;
mod resources;
mod schema;
mod token;
mod translate;

use fusewire_kubernetes::Cluster;
use fusewire_testkit::KubeApi;
use std::time::Duration;

async fn cluster(api: &KubeApi) -> Cluster {
    Cluster::by(&api.kubeconfig(), Some("fusewire")).await.unwrap()
}

/// Waits for a condition that holds soon.
async fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let looking = async {
        loop {
            if let Some(found) = look() {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(5)).await; // bounded wait
        }
    };
    tokio::time::timeout(Duration::from_secs(30), looking).await.unwrap_or_else(|_| panic!("not within 30 s: {what}"))
}
