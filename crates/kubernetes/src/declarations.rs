//! Objects of our own kinds and Gateway API's routes, as the cluster has them now.
//!
//! It decides what is watched for configuration, and that a kind which is not installed has no objects. It deliberately keeps
//! them as they were written, with their statuses: what they mean is [`crate::declared()`]'s.
//!
//! Invariant: a failure takes nothing out of force.

use crate::cluster::Cluster;
use crate::crd::{self, Kind, Object};
use crate::facts::Id;
use crate::follow::{Chosen, Health, Told, follow};
use crate::gateway::{GrpcRoute, HttpRoute, ReferenceGrant};
use crate::known::RouteKind;
use futures_util::future::join_all;
use kube::api::{Api, ApiResource, DynamicObject, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;
use tokio::time::Instant;

/// Of the Gateway API.
const GATEWAY: &str = "gateway.networking.k8s.io";

/// A kind that is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Watched {
    Ours(Kind),
    Route(RouteKind),
    Grant,
}

impl Watched {
    const ALL: [Self; 7] = [
        Self::Ours(Kind::ALL[0]),
        Self::Ours(Kind::ALL[1]),
        Self::Ours(Kind::ALL[2]),
        Self::Ours(Kind::ALL[3]),
        Self::Route(RouteKind::Http),
        Self::Route(RouteKind::Grpc),
        Self::Grant,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ours(kind) => kind.as_str(),
            Self::Route(kind) => kind.as_str(),
            Self::Grant => "ReferenceGrant",
        }
    }

    pub(crate) fn resource(self) -> ApiResource {
        let (group, version, plural) = match self {
            Self::Ours(kind) => (crd::GROUP, crd::VERSION, kind.plural()),
            Self::Route(kind) => (GATEWAY, "v1", kind.plural()),
            // the one that every release so far serves
            Self::Grant => (GATEWAY, "v1beta1", "referencegrants"),
        };
        ApiResource {
            group: group.into(),
            version: version.into(),
            api_version: format!("{group}/{version}"),
            kind: self.name().into(),
            plural: plural.into(),
        }
    }
}

/// All objects at one moment.
#[derive(Debug, Default)]
pub struct Snapshot {
    pub(crate) ours: Vec<Object>,
    pub(crate) http: Vec<HttpRoute>,
    pub(crate) grpc: Vec<GrpcRoute>,
    pub(crate) grants: Vec<ReferenceGrant>,
}

/// One object, as it was read.
#[derive(Clone, Debug)]
enum Declaration {
    Ours(Object),
    Http(HttpRoute),
    Grpc(GrpcRoute),
    Grant(ReferenceGrant),
}

/// An object, and the `status` that it has.
#[derive(Clone, Debug)]
struct Kept {
    declaration: Declaration,
    /// UID and generation: with both the same, its spec is.
    version: (String, i64),
    status: Value,
}

pub struct Declarations {
    pub(crate) cluster: Cluster,
    watches: [Health; 7],
    kept: Mutex<BTreeMap<(Watched, Id), Kept>>,
    /// Another allocation exactly when an object is another.
    now: Mutex<Option<Arc<Snapshot>>>,
    listed: watch::Sender<usize>,
    changed: watch::Sender<()>,
}

impl Declarations {
    pub(crate) fn new(cluster: Cluster) -> Self {
        Self {
            cluster,
            watches: Watched::ALL.map(|kind| Health::optional(kind.name())),
            kept: Mutex::default(),
            now: Mutex::default(),
            listed: watch::Sender::new(0),
            changed: watch::Sender::default(),
        }
    }

    /// Follows the cluster until dropped. `tell`: told when an object is another.
    pub(crate) async fn run(&self, tell: impl Fn()) {
        let all = Watched::ALL.into_iter().zip(&self.watches);
        join_all(all.map(|(kind, health)| self.follow(kind, health, &tell))).await;
    }

    async fn follow(&self, kind: Watched, health: &Health, tell: &impl Fn()) {
        let api = Api::<DynamicObject>::all_with(self.cluster.client.clone(), &kind.resource());
        let take = |told| {
            if self.take(kind, told) {
                tell();
            }
        };
        follow(&api, &Chosen::default(), health, |object| read(kind, object), take).await;
    }

    /// Waits until all there is has been read once. Somebody must [`run`](Self::run) it meanwhile.
    pub(crate) async fn settled(&self) {
        // it does not end before this does
        let _ = self.listed.subscribe().wait_for(|listed| *listed == Watched::ALL.len()).await;
    }

    /// What there is: the same allocation as before where nothing changed.
    pub fn now(&self) -> Arc<Snapshot> {
        // in this order everywhere
        let kept = lock(&self.kept);
        let mut now = lock(&self.now);
        now.get_or_insert_with(|| Arc::new(Snapshot::of(kept.values()))).clone()
    }

    /// The status that an object has, as far as is known.
    pub(crate) fn status(&self, kind: Watched, namespace: &str, name: &str) -> Option<Value> {
        lock(&self.kept).get(&(kind, Id::new(namespace, name))).map(|kept| kept.status.clone())
    }

    /// Those whose status is as asked: namespaces and names.
    pub(crate) fn with_status(&self, kind: Watched, is: impl Fn(&Value) -> bool) -> Vec<(String, String)> {
        let kept = lock(&self.kept);
        let these = kept.iter().filter(|((of, _), kept)| *of == kind && is(&kept.status));
        these.map(|((_, id), _)| (id.namespace.to_string(), id.name.to_string())).collect()
    }

    /// Since when a watch is failing, and why.
    pub(crate) fn failing(&self) -> Option<(Instant, String)> {
        self.watches.iter().filter_map(Health::failing).min_by_key(|(since, _)| *since)
    }

    /// The API server answers again, and watches from before may never.
    pub(crate) fn renew(&self) {
        self.watches.iter().for_each(Health::renew);
    }

    /// Whether an object is another.
    fn take(&self, kind: Watched, told: Told<Kept>) -> bool {
        let changed = {
            let mut kept = lock(&self.kept);
            let changed = apply(&mut kept, kind, told);
            if changed {
                *lock(&self.now) = None;
            }
            changed
        };
        let listed = self.watches.iter().filter(|health| health.is_listed()).count();
        self.listed.send_if_modified(|before| std::mem::replace(before, listed) != listed);
        self.changed.send_replace(());
        changed
    }

    /// Told after each change, of statuses too.
    pub fn changed(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }
}

/// Whether an object is another, its status aside.
fn apply(kept: &mut BTreeMap<(Watched, Id), Kept>, kind: Watched, told: Told<Kept>) -> bool {
    match told {
        Told::All(all) => {
            let there: std::collections::BTreeSet<&Id> = all.iter().map(|(id, _)| id).collect();
            let gone = |(of, id): &(Watched, Id)| *of == kind && !there.contains(id);
            let before = kept.len();
            kept.retain(|key, _| !gone(key));
            let mut changed = kept.len() != before;
            for (id, object) in all {
                changed |= put(kept, (kind, id), object);
            }
            changed
        }
        Told::Put(id, object) => put(kept, (kind, id), object),
        Told::Gone(id) => kept.remove(&(kind, id)).is_some(),
    }
}

fn put(kept: &mut BTreeMap<(Watched, Id), Kept>, key: (Watched, Id), object: Kept) -> bool {
    let version = object.version.clone();
    kept.insert(key, object).is_none_or(|before| before.version != version)
}

impl Snapshot {
    fn of<'a>(kept: impl Iterator<Item = &'a Kept>) -> Self {
        let mut all = Self::default();
        for Kept { declaration, .. } in kept {
            match declaration {
                Declaration::Ours(object) => all.ours.push(object.clone()),
                Declaration::Http(route) => all.http.push(route.clone()),
                Declaration::Grpc(route) => all.grpc.push(route.clone()),
                Declaration::Grant(grant) => all.grants.push(grant.clone()),
            }
        }
        all
    }
}

/// `None`: an object that this build cannot read, which no API server with the kind's schema lets in.
fn read(kind: Watched, object: DynamicObject) -> Option<(Id, Kept)> {
    let id = Id::new(&object.namespace().unwrap_or_default(), &object.name_any());
    let resource = kind.resource();
    let metadata = &object.metadata;
    let version = (metadata.uid.clone().unwrap_or_default(), metadata.generation.unwrap_or_default());
    let created = metadata.creation_timestamp.as_ref().map(|time| time.0.to_string());
    let mut document = json!({
        "apiVersion": resource.api_version, "kind": resource.kind,
        "metadata": {
            "namespace": id.namespace, "name": id.name, "uid": version.0, "generation": version.1,
            "creationTimestamp": created.unwrap_or_default(),
        },
    });
    let mut data = object.data;
    document["spec"] = data.get_mut("spec").map(Value::take).unwrap_or_default();
    let status = data.get_mut("status").map(Value::take).unwrap_or_default();
    let declaration = match kind {
        Watched::Ours(_) => Object::of(&document).map(Declaration::Ours),
        Watched::Route(RouteKind::Http) => whole(&document).map(Declaration::Http),
        Watched::Route(RouteKind::Grpc) => whole(&document).map(Declaration::Grpc),
        Watched::Grant => whole(&document).map(Declaration::Grant),
    };
    if declaration.is_none() {
        tracing::warn!(kind = resource.kind, namespace = %id.namespace, name = %id.name, "an object that cannot be read is left out");
    }
    Some((id, Kept { declaration: declaration?, version, status }))
}

fn whole<T: DeserializeOwned>(document: &Value) -> Option<T> {
    T::deserialize(document).ok()
}

impl std::fmt::Debug for Declarations {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Declarations").finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
