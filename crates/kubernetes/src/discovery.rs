//! Services and instances as the cluster has them now.
//!
//! It decides what has to be watched for them (Services, EndpointSlices, Namespaces, and the pods that have a sidecar) and when what was
//! read is to be believed: not before all four were listed, and not while the pods are not followed, since who does not know
//! of a pod's sidecar would speak to it in clear. For the same reason a pod that is in a slice and not among those with a
//! sidecar is asked for, once, before anybody is told of it. It deliberately keeps facts and not what becomes of them: instances are
//! translated when they are asked for.
//!
//! Invariants: a failure takes nothing out of force; nobody is called in clear because one watch was behind another.

use crate::cluster::{Call, Cluster, ClusterError, call};
use crate::declarations::Declarations;
use crate::facts::{INJECTED, Id, NamespaceFacts, PodFacts, ServiceFacts, ServicePort, SliceFacts};
use crate::follow::{Chosen, Health, follow};
use crate::index::{Facts, Other};
use crate::known::{KnownService, Port, ServiceId};
use crate::settle::Settled;
use crate::translate::{Endpoint, Setting, speaks};
use fusewire_model::ServiceName;
use fusewire_model::service::{Protocol, Service};
use futures_util::{StreamExt, future::ready, stream};
use k8s_openapi::api::core::v1::{Namespace, Pod, Service as ServiceObject};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Api, ResourceExt};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, MissedTickBehavior};

/// How often the API server is asked whether it is there.
const PULSE: Duration = Duration::from_secs(2);
/// After what could not be believed yet.
const AGAIN: Duration = Duration::from_millis(50);

/// Pods that are asked for at a time.
const ASKED: usize = 8;
/// After one that could not be told.
const ASK_AGAIN: Duration = Duration::from_millis(500);

type Tell = Box<dyn Fn(Change) + Send + Sync>;

/// What is another than before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Instances of these services, or these services themselves.
    Services(BTreeSet<ServiceName>),
    /// An object of our kinds, or a route.
    Declarations,
}

/// How old what is served may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Age {
    pub age: Duration,
    /// Why it grows.
    pub failing: Option<String>,
}

pub struct Discovery {
    cluster: Cluster,
    setting: Setting,
    declarations: Declarations,
    facts: Mutex<Facts>,
    /// Something in `facts` is to be looked at again.
    stirred: Notify,
    /// There are pods to be asked for.
    unasked: Notify,
    tell: Tell,
    /// The services there are, without instances; another allocation exactly when they differ.
    services: Mutex<Arc<BTreeMap<ServiceName, Service>>>,
    /// Namespaces that are not on their way out.
    namespaces: watch::Sender<Arc<BTreeSet<String>>>,
    watches: [Health; 4],
    settled: watch::Sender<bool>,
    /// When the API server last answered, and why not since.
    pulse: Mutex<(Instant, Option<String>)>,
}

const SERVICES: usize = 0;
const SLICES: usize = 1;
const PODS: usize = 2;
const NAMESPACES: usize = 3;
const KINDS: [&str; 4] = ["Services", "EndpointSlices", "Pods", "Namespaces"];

impl Discovery {
    /// `tell`: told of each change.
    pub fn new(cluster: Cluster, setting: Setting, tell: impl Fn(Change) + Send + Sync + 'static) -> Self {
        Self {
            declarations: Declarations::new(cluster.clone()),
            cluster,
            setting,
            facts: Mutex::default(),
            stirred: Notify::new(),
            unasked: Notify::new(),
            tell: Box::new(tell),
            services: Mutex::default(),
            namespaces: watch::Sender::default(),
            settled: watch::Sender::new(false),
            watches: KINDS.map(Health::new),
            pulse: Mutex::new((Instant::now(), None)),
        }
    }

    /// Follows the cluster until dropped.
    pub async fn run(&self) {
        let client = || self.cluster.client.clone();
        let (services, slices) = (Api::<ServiceObject>::all(client()), Api::<EndpointSlice>::all(client()));
        let (pods, namespaces) = (Api::<Pod>::all(client()), Api::<Namespace>::all(client()));
        let (all, injected) = (Chosen::default(), Chosen { labels: Some(format!("{INJECTED}=true")), fields: None });
        tokio::join!(
            follow(&pods, &injected, &self.watches[PODS], PodFacts::of, |told| self.stir(|f| f.pod(told))),
            follow(&namespaces, &all, &self.watches[NAMESPACES], NamespaceFacts::of, |t| self.stir(|f| f.namespace(t))),
            follow(&services, &all, &self.watches[SERVICES], ServiceFacts::of, |told| self.stir(|f| f.service(told))),
            follow(&slices, &all, &self.watches[SLICES], SliceFacts::of, |told| self.stir(|f| f.waiting.push(told))),
            self.declarations.run(|| (self.tell)(Change::Declarations)),
            self.beat(),
            self.ask(&pods),
            async {
                loop {
                    self.stirred.notified().await;
                    while !self.settle() {
                        tokio::time::sleep(AGAIN).await;
                    }
                }
            },
        );
    }

    /// Waits until all there is has been read once. Somebody must [`run`](Self::run) it meanwhile.
    pub async fn settled(&self) {
        // it does not end before this does
        let _ = self.settled.subscribe().wait_for(|settled| *settled).await;
        self.declarations.settled().await;
    }

    pub fn setting(&self) -> &Setting {
        &self.setting
    }

    /// Objects of our kinds and routes.
    pub fn declarations(&self) -> &Declarations {
        &self.declarations
    }

    /// Counts the times that a Service was another, instances aside.
    pub fn services_version(&self) -> u64 {
        lock(&self.facts).services_version
    }

    /// Every Service that there is, for what refers to it, with the instances of `pods` (as [`Self::pods`] gives them).
    pub fn known(&self, pods: &BTreeMap<ServiceId, BTreeMap<String, String>>) -> BTreeMap<ServiceId, KnownService> {
        let facts = lock(&self.facts);
        let one = |(id, service): (&Id, &ServiceFacts)| {
            let of: ServiceId = (id.namespace.to_string(), id.name.to_string());
            let namespace = facts.namespaces.get(&id.namespace);
            let port = |port: &ServicePort| {
                let is_opaque = speaks(service, namespace, port) == Protocol::Opaque;
                Port { name: port.name.to_string(), number: port.port, is_opaque }
            };
            let ports = service.ports.iter().map(port).collect();
            let instances = pods.get(&of).cloned().unwrap_or_default();
            let (is_headless, is_external) = (service.is_headless, service.external.is_some());
            (of, KnownService { ports, is_headless, is_external, instances })
        };
        facts.services.iter().map(one).collect()
    }

    /// Of these Services, the ids of their instances by the names of their pods.
    pub fn pods(&self, of: &BTreeSet<ServiceId>) -> BTreeMap<ServiceId, BTreeMap<String, String>> {
        let facts = lock(&self.facts);
        let one = |of: &ServiceId| (of.clone(), facts.pods_of(&Id::new(&of.0, &of.1)));
        of.iter().map(one).collect()
    }

    /// The Service that a service of the mesh is a port of, and its UID.
    pub fn service_of(&self, name: &ServiceName) -> Option<(ServiceId, String)> {
        let facts = lock(&self.facts);
        let id = facts.owner.get(name)?;
        let uid = facts.services.get(id).map(|service| service.uid.to_string()).unwrap_or_default();
        Some(((id.namespace.to_string(), id.name.to_string()), uid))
    }

    /// The name of the pod that an instance of a Service is. `None`: it has none such.
    pub fn pod_of(&self, service: &ServiceId, instance: &str) -> Option<String> {
        let facts = lock(&self.facts);
        let id = Id::new(&service.0, &service.1);
        let mut endpoints = facts.slices_of(&id).flat_map(|slice| &slice.endpoints);
        endpoints.find_map(|endpoint| {
            let pod = endpoint.pod.as_ref().filter(|pod| *pod.uid == *instance)?;
            Some(pod.name.to_string())
        })
    }

    /// The services that were found, without their instances: the same allocation as before where nothing changed.
    pub fn services(&self) -> Arc<BTreeMap<ServiceName, Service>> {
        lock(&self.services).clone()
    }

    /// The instances of one of them. Who asks for many asks in the order of [`Self::grouped`].
    pub fn endpoints(&self, name: &ServiceName) -> Vec<Endpoint> {
        lock(&self.facts).endpoints(&self.setting, name)
    }

    /// In an order in which those of one Service follow each other: what is looked at for one is kept until another is asked for.
    pub fn grouped(&self, names: BTreeSet<ServiceName>) -> Vec<ServiceName> {
        lock(&self.facts).grouped(names)
    }

    /// Namespaces that are not on their way out.
    pub fn namespaces(&self) -> watch::Receiver<Arc<BTreeSet<String>>> {
        self.namespaces.subscribe()
    }

    /// Of the oldest of what is served.
    pub fn age(&self) -> Age {
        let failing = self.watches.iter().filter_map(Health::failing).chain(self.declarations.failing());
        if let Some((since, why)) = failing.min_by_key(|(since, _)| *since) {
            return Age { age: since.elapsed(), failing: Some(why) };
        }
        let (heard, failing) = lock(&self.pulse).clone();
        Age { age: heard.elapsed(), failing }
    }

    fn stir(&self, change: impl FnOnce(&mut Facts)) {
        change(&mut lock(&self.facts));
        self.stirred.notify_one();
    }

    /// A watch that hears nothing does not know whether its server is there; this does.
    async fn beat(&self) {
        let mut ticks = tokio::time::interval(PULSE);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let answered = call(Call::Read, self.cluster.client.apiserver_version()).await;
            // the watches have their own words for theirs
            self.stirred.notify_one();
            let mut pulse = lock(&self.pulse);
            match answered {
                Ok(_) => {
                    let was_away = pulse.1.take().is_some();
                    pulse.0 = Instant::now();
                    if was_away {
                        self.watches.iter().for_each(Health::renew);
                        self.declarations.renew();
                    }
                }
                Err(error) => pulse.1 = Some(error.to_string()),
            }
        }
    }

    /// Asks for pods that are in slices and of which no watch tells, a few at a time.
    async fn ask(&self, pods: &Api<Pod>) {
        loop {
            self.unasked.notified().await;
            loop {
                let all = lock(&self.facts).others.unasked.clone();
                if all.is_empty() {
                    break;
                }
                let asked = stream::iter(all).map(|(uid, id)| self.ask_one(pods, uid, id)).buffer_unordered(ASKED);
                let unanswered = asked.filter(|answered| ready(!answered)).count().await;
                lock(&self.facts).forget_others();
                self.stirred.notify_one();
                if unanswered > 0 {
                    tokio::time::sleep(ASK_AGAIN).await;
                }
            }
        }
    }

    /// False: it has to be asked for again.
    async fn ask_one(&self, pods: &Api<Pod>, uid: Box<str>, id: Id) -> bool {
        let api = Api::<Pod>::namespaced(pods.clone().into_client(), &id.namespace);
        let is = match call(Call::Read, api.get(&id.name)).await {
            Ok(pod) if pod.metadata.uid.as_deref() != Some(&*uid) => Other::Gone,
            Ok(pod) if pod.labels().get(INJECTED).is_some_and(|is| is == "true") => return false, // the watch will tell
            Ok(pod) => Other::Plain(PodFacts::of(pod).map(|(_, pod)| pod.ips).unwrap_or_default()),
            Err(ClusterError::Absent(_)) => Other::Gone,
            Err(error) => {
                let (namespace, pod) = (&id.namespace, &id.name);
                tracing::warn!(%namespace, %pod, %error, "a pod that serves is not offered before it is known");
                return false;
            }
        };
        self.stir(|facts| facts.other(&id, &uid, is));
        true
    }

    /// Looks at what is dirty, and tells what became of it. False: what was read is not to be believed yet.
    fn settle(&self) -> bool {
        if !self.watches.iter().all(Health::is_listed) || !self.watches[PODS].is_steady() {
            return false;
        }
        let mut facts = lock(&self.facts);
        for told in std::mem::take(&mut facts.waiting) {
            facts.slice(told);
        }
        let before = self.services();
        let Settled { mut updates, changed } = facts.settle(&self.setting);
        let active = facts.namespaces.iter().filter(|(_, namespace)| namespace.is_active);
        let active: BTreeSet<String> = active.map(|(name, _)| name.to_string()).collect();
        let is_whole = facts.others.unasked.is_empty();
        drop(facts);
        if !is_whole {
            self.unasked.notify_one();
        }
        updates.retain(|name, now| before.get(name) != now.as_ref());
        if !updates.is_empty() {
            let mut services = BTreeMap::clone(&before);
            for (name, now) in updates {
                match now {
                    Some(service) => drop(services.insert(name, service)),
                    None => drop(services.remove(&name)),
                }
            }
            *lock(&self.services) = Arc::new(services);
        }
        self.namespaces.send_if_modified(|now| {
            let differs = **now != active;
            if differs {
                *now = Arc::new(active);
            }
            differs
        });
        if !changed.is_empty() {
            (self.tell)(Change::Services(changed));
        }
        self.settled.send_if_modified(|settled| is_whole && !std::mem::replace(settled, true));
        true
    }
}

impl std::fmt::Debug for Discovery {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Discovery").field("setting", &self.setting).finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
