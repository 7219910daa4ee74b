//! The cluster that this control plane runs in, where it was told to look there.
//!
//! It decides when what is found there is put together with what was written ([`merge`]), and what the replica that leads writes
//! there ([`Kubernetes::run`]). It deliberately neither watches nor translates (`fusewire-kubernetes` does), and without
//! `--kubernetes` there is none of it.
//!
//! Invariant: what was found is in force only together with what was written, never instead of it.

mod circuits;
mod enforcement;
mod merge;
mod statuses;

use crate::ControlError;
use crate::assembly::Marks;
use crate::shared::{Shared, lock};
use crate::view::{Said, Source};
pub(crate) use enforcement::here as enforcement;
use fusewire_kubernetes::{
    Account, Age, Change, Cluster, ClusterError, Discovery, Leader, LeaderTiming, Setting, TokenError, publish_bundle,
    review_token,
};
use fusewire_model::health::Health;
use fusewire_model::resource::Resource;
use fusewire_model::service::UnixTime;
use fusewire_model::world::Mesh;
use fusewire_model::{ServiceName, TrustDomain};
use jiff::Timestamp;
pub(crate) use merge::Standing;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::AbortHandle;

const LEASE: &str = "fusewire-leader";
/// A clock may be set, so that the end of a hold is looked for at least so often.
const LOOK: Duration = Duration::from_secs(60);
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
    merged: Mutex<Option<merge::Merged>>,
}

/// Ends with its owner.
#[derive(Debug)]
struct AbortOnDrop(AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
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
        let discovery = Discovery::new(cluster.clone(), setting, move |change| match change {
            Change::Services(services) => marks.mark(services),
            Change::Declarations => marks.mark_declared(),
        });
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

    /// What is in force of what was written and found: the same allocations as before where nothing changed.
    pub(crate) fn merge(&self, written: &Arc<Mesh>) -> (Arc<Mesh>, Arc<Standing>) {
        let mut merged = lock(&self.merged);
        let now = merge::Merged::of(&self.discovery, written, now(), merged.take());
        let both = (now.mesh.clone(), now.standing.clone());
        *merged = Some(now);
        both
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
            self.ends(shared),
            Leader::while_leading(self.leader.leading(), || statuses::run(self, shared)),
            Leader::while_leading(self.leader.leading(), || circuits::run(self, shared)),
        );
    }

    /// Looks again when the time of a hold is over; until dropped.
    async fn ends(&self, shared: &Shared) {
        let mut changed = self.discovery.declarations().changed();
        loop {
            changed.mark_unchanged();
            let now = now();
            let next = self.discovery.declarations().now().next_end(now);
            let wait = next.map_or(LOOK, |end| Duration::from_secs(end - now).min(LOOK));
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                // what ends ends with this
                _ = changed.changed() => {}
            }
            if next.is_some_and(|end| end <= self::now()) {
                shared.marks.mark_declared();
            }
        }
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

/// By the clock of the machine, as holds have it.
fn now() -> UnixTime {
    UnixTime::try_from(Timestamp::now().as_second()).unwrap_or_default()
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
