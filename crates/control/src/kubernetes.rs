//! The cluster that this control plane runs in, where it was told to look there.
//!
//! It decides how what was found meets what was written: a file's word, or an object's, counts about a service, and what it does
//! not say is as found. It deliberately neither watches nor translates (`fusewire-kubernetes` does), and without
//! `--kubernetes` there is none of it.
//!
//! Invariant: what was found is in force only together with what was written, never instead of it.

use crate::ControlError;
use crate::assembly::Marks;
use crate::shared::{Shared, lock};
use crate::view::{Said, Source};
use fusewire_kubernetes::{
    Account, Age, Cluster, ClusterError, Discovery, Leader, LeaderTiming, Setting, TokenError, publish_bundle,
    review_token,
};
use fusewire_model::health::Health;
use fusewire_model::resource::Resource;
use fusewire_model::service::{Protocol, Service};
use fusewire_model::world::Mesh;
use fusewire_model::{ServiceName, TrustDomain};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::AbortHandle;

const LEASE: &str = "fusewire-leader";
/// In which everything must have been read once.
const FIRST: Duration = Duration::from_secs(60);

/// How the cluster is found and looked at.
#[derive(Clone, Debug)]
pub struct KubernetesSettings {
    /// Default: the pod's own configuration, or what `KUBECONFIG` names.
    pub kubeconfig: Option<PathBuf>,
    /// Where this control plane keeps what is its own. Default: the pod's namespace, else `fusewire`.
    pub namespace: Option<String>,
    /// What names of Services end in. Default `cluster.local`.
    pub cluster_domain: String,
}

impl Default for KubernetesSettings {
    fn default() -> Self {
        Self { kubeconfig: None, namespace: None, cluster_domain: "cluster.local".into() }
    }
}

impl KubernetesSettings {
    pub(crate) async fn cluster(&self) -> Result<Cluster, ClusterError> {
        let namespace = self.namespace.as_deref();
        let Some(path) = &self.kubeconfig else { return Cluster::connect(namespace).await };
        let text = std::fs::read_to_string(path);
        let text = text.map_err(|error| ClusterError::Configuration(format!("{}: {error}", path.display())))?;
        Cluster::by(&text, namespace).await
    }
}

#[derive(Debug)]
pub(crate) struct Kubernetes {
    cluster: Cluster,
    discovery: Arc<Discovery>,
    /// Begun with [`Kubernetes::first`], and then never begun anew: what it knows of its watches is of these watches.
    discovering: Mutex<Option<AbortOnDrop>>,
    leader: Leader,
    merged: Mutex<Option<Merged>>,
}

/// Ends with its owner.
#[derive(Debug)]
struct AbortOnDrop(AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What was written and found together, and what it was made of.
#[derive(Debug)]
struct Merged {
    written: Arc<Mesh>,
    found: Arc<BTreeMap<ServiceName, Service>>,
    mesh: Arc<Mesh>,
}

impl Kubernetes {
    pub(crate) async fn open(
        settings: &KubernetesSettings,
        domain: &TrustDomain,
        replica: &str,
        marks: Arc<Marks>,
    ) -> Result<Self, ControlError> {
        let cluster = settings.cluster().await?;
        let setting = Setting { trust_domain: domain.clone(), cluster_domain: settings.cluster_domain.clone() };
        let discovery = Discovery::new(cluster.clone(), setting, move |services| marks.mark(services));
        let leader = Leader::new(&cluster, LEASE, replica, LeaderTiming::default());
        let discovery = Arc::new(discovery);
        Ok(Self { cluster, discovery, discovering: Mutex::default(), leader, merged: Mutex::default() })
    }

    /// Begins to follow the cluster, until dropped, and waits until all there is was read once: sidecars that are told before
    /// would take what was not read yet for gone.
    pub(crate) async fn first(&self) -> Result<(), ControlError> {
        let discovery = self.discovery.clone();
        let running = tokio::spawn(async move { discovery.run().await });
        *lock(&self.discovering) = Some(AbortOnDrop(running.abort_handle()));
        tokio::time::timeout(FIRST, self.discovery.settled()).await.map_err(|_| {
            let why = self.discovery.age().failing.unwrap_or_else(|| "it answers too slowly".into());
            ClusterError::Unavailable(format!("what there is was not read within {FIRST:?}: {why}")).into()
        })
    }

    /// What is in force of both: the same allocation as before where neither changed.
    pub(crate) fn merge(&self, written: &Arc<Mesh>) -> Arc<Mesh> {
        let found = self.discovery.services();
        let mut merged = lock(&self.merged);
        if let Some(before) = &*merged
            && Arc::ptr_eq(&before.written, written)
            && Arc::ptr_eq(&before.found, &found)
        {
            return before.mesh.clone();
        }
        let mesh = if found.is_empty() { written.clone() } else { Arc::new(both(written, &found)) };
        *merged = Some(Merged { written: written.clone(), found, mesh: mesh.clone() });
        mesh
    }

    /// In the order in which it costs least to ask [`Self::said`] of many.
    pub(crate) fn grouped(&self, names: BTreeSet<ServiceName>) -> Vec<ServiceName> {
        self.discovery.grouped(names)
    }

    /// The instances of a service that was found.
    pub(crate) fn said(&self, service: &ServiceName) -> impl Iterator<Item = Said> {
        let one = |endpoint: fusewire_kubernetes::Endpoint| {
            let offered = endpoint.standing.is_offered();
            Said {
                source: Source::Kubernetes,
                instance: endpoint.instance,
                owner: None,
                // what is hidden is so for callers alone
                health: if offered { Health::Unchecked } else { Health::Starting },
                detail: endpoint.standing.as_str().into(),
                age: None,
            }
        };
        self.discovery.endpoints(service).into_iter().map(one)
    }

    pub(crate) fn age(&self) -> Age {
        self.discovery.age()
    }

    /// Whose a service account's token is.
    pub(crate) async fn account(&self, token: &str) -> Result<Account, TokenError> {
        review_token(&self.cluster, token).await
    }

    /// Writes where this replica leads; until dropped.
    pub(crate) async fn run(&self, shared: &Shared) {
        let (told, bundle) = watch::channel(Arc::<str>::from(""));
        tokio::join!(
            self.leader.run(),
            publish_bundle(&self.cluster, self.leader.leading(), bundle, self.discovery.namespaces()),
            roots(shared, &told),
        );
    }

    /// Follows no longer.
    pub(crate) fn end(&self) {
        drop(lock(&self.discovering).take());
    }

    /// Leaves what only one may do to the next.
    pub(crate) async fn leave(&self) {
        self.leader.resign().await;
    }
}

/// Tells the roots as they are now.
async fn roots(shared: &Shared, told: &watch::Sender<Arc<str>>) {
    let mut trust = shared.trust.subscribe();
    loop {
        if let Resource::Trust(now) = &trust.borrow_and_update().resource {
            told.send_if_modified(|before| {
                let differs = **before != *now.bundle;
                if differs {
                    *before = now.bundle.as_str().into();
                }
                differs
            });
        }
        if trust.changed().await.is_err() {
            return;
        }
    }
}

fn both(written: &Mesh, found: &BTreeMap<ServiceName, Service>) -> Mesh {
    let mut mesh = written.clone();
    for (name, found) in found {
        match mesh.services.get_mut(name) {
            None => drop(mesh.services.insert(name.clone(), found.clone())),
            Some(written) => complete(written, found),
        }
    }
    mesh
}

/// What was not written of a service is as found.
fn complete(written: &mut Service, found: &Service) {
    if written.protocol == Protocol::default() {
        written.protocol = found.protocol;
    }
    if written.authorities.is_empty() {
        written.authorities.clone_from(&found.authorities);
    }
    if written.addresses.is_empty() {
        written.addresses.clone_from(&found.addresses);
    }
    if written.dns.is_none() && written.instances.is_empty() {
        written.dns.clone_from(&found.dns);
    }
    written.plain = found.plain;
}

#[cfg(test)]
mod tests {
    use super::*;
    use fusewire_model::SpiffeId;
    use fusewire_model::policy::{Plain, PlainDefaults};
    use fusewire_model::yaml::{self, Source};

    #[test]
    fn what_is_written_of_a_service_counts_and_the_rest_is_as_found() {
        let source = Source { name: "mesh.yaml".into(), text: "services: {web.shop: {protocol: http2}, own: }".into() };
        let written = yaml::parse(&[source]).unwrap().mesh;
        let name = ServiceName::parse("web.shop").unwrap();
        let identity = SpiffeId::parse("spiffe://fusewire.local/ns/shop/svc/web").unwrap();
        let mut found = Service::new(name.clone(), identity);
        found.protocol = Protocol::Opaque;
        found.addresses = vec!["10.96.0.1:80".parse().unwrap()];
        found.plain = PlainDefaults { callers: Plain::Deny, instances: Plain::Allow };
        let mesh = both(&written, &BTreeMap::from([(name.clone(), found.clone())]));
        let merged = &mesh.services[&name];
        assert_eq!(
            (merged.protocol, &merged.addresses, merged.plain),
            (Protocol::Http2, &found.addresses, found.plain)
        );
        assert_eq!(merged.identity.path(), "web.shop");
        assert_eq!(mesh.services.len(), 2);
    }
}
